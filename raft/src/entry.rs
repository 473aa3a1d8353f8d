//! A log entry as bytes, on disk and between nodes.
//!
//! Layout, all integers big-endian: term u64, index u64, tag u8, then by tag
//! 0 blank: nothing ·
//! 1 commands: age delta u64, display u64, count u32, then count times (length u32, bytes) ·
//! 2 membership: the codec's bytes.
//!
//! Hand-encoded so that decoding shares the buffer: a command is copied once when it is proposed, and never when it is
//! replicated, cached or applied. What the commands mean is not known here.

use bytes::Bytes;
use flotilla_machine::Stamp;
use flotilla_proto::codec;
use flotilla_proto::ids::TsMs;
use flotilla_proto::limits;
use openraft::EntryPayload;

use crate::types::{Entry, Proposal, log_id};

/// Version byte of the layout above: of the stored value's envelope, and in front of an entry on the wire.
pub const ENTRY_VERSION: u8 = 1;

const TAG_BLANK: u8 = 0;
const TAG_COMMANDS: u8 = 1;
const TAG_MEMBERSHIP: u8 = 2;

const MEMBERSHIP_BYTES_MAX: usize = 64 * 1024;

/// Bytes that are not an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    #[error("the entry ends in the middle of its {0}")]
    Short(&'static str),
    #[error("{0} bytes follow the end of the entry")]
    Trailing(usize),
    #[error("entry version {0} is not understood by this binary")]
    Version(u8),
    #[error("entry tag {0} is not understood by this binary")]
    Tag(u8),
    #[error("the membership cannot be decoded: {0}")]
    Membership(String),
}

/// The entry behind its version byte.
pub fn encode(entry: &Entry) -> Bytes {
    let mut out = Vec::with_capacity(encoded_len(entry) + 1);
    out.push(ENTRY_VERSION);
    encode_body(entry, &mut out);
    out.into()
}

/// The inverse of [`encode`]. Commands are slices of `bytes`.
pub fn decode(bytes: &Bytes) -> Result<Entry, EntryError> {
    match bytes.first() {
        Some(&ENTRY_VERSION) => decode_body(bytes.slice(1..)),
        Some(&other) => Err(EntryError::Version(other)),
        None => Err(EntryError::Short("version")),
    }
}

/// Bytes that [`encode_body`] will write (an estimate for membership entries).
pub fn encoded_len(entry: &Entry) -> usize {
    const HEAD: usize = 8 + 8 + 1;
    match &entry.payload {
        EntryPayload::Blank => HEAD,
        EntryPayload::Normal(proposal) => HEAD + 8 + 8 + 4 + proposal.bytes() + 4 * proposal.commands.len(),
        EntryPayload::Membership(_) => HEAD + 256,
    }
}

/// The entry without a version byte, for an envelope that has its own.
pub fn encode_body(entry: &Entry, out: &mut Vec<u8>) {
    out.extend_from_slice(&entry.log_id.committed_leader_id().term.to_be_bytes());
    out.extend_from_slice(&entry.log_id.index().to_be_bytes());
    match &entry.payload {
        EntryPayload::Blank => out.push(TAG_BLANK),
        EntryPayload::Normal(proposal) => {
            out.push(TAG_COMMANDS);
            out.extend_from_slice(&proposal.stamp.age_delta_ms.to_be_bytes());
            out.extend_from_slice(&proposal.stamp.display.0.to_be_bytes());
            out.extend_from_slice(&(proposal.commands.len() as u32).to_be_bytes());
            for command in proposal.commands.iter() {
                out.extend_from_slice(&(command.len() as u32).to_be_bytes());
                out.extend_from_slice(command);
            }
        }
        EntryPayload::Membership(membership) => {
            out.push(TAG_MEMBERSHIP);
            let encoded = codec::encode(ENTRY_VERSION, membership).expect("a membership is plain sets and maps");
            out.extend_from_slice(&encoded);
        }
    }
}

/// The inverse of [`encode_body`].
pub fn decode_body(bytes: Bytes) -> Result<Entry, EntryError> {
    let mut rest = Rest(bytes);
    let term = rest.u64("term")?;
    let index = rest.u64("index")?;
    let payload = match rest.take(1, "tag")?[0] {
        TAG_BLANK => EntryPayload::Blank,
        TAG_COMMANDS => EntryPayload::Normal(decode_proposal(&mut rest)?),
        TAG_MEMBERSHIP => {
            let encoded = std::mem::take(&mut rest.0);
            let membership = codec::decode(ENTRY_VERSION, &encoded, MEMBERSHIP_BYTES_MAX)
                .map_err(|error| EntryError::Membership(error.to_string()))?;
            EntryPayload::Membership(membership)
        }
        other => return Err(EntryError::Tag(other)),
    };
    if !rest.0.is_empty() {
        return Err(EntryError::Trailing(rest.0.len()));
    }
    Ok(Entry { log_id: log_id(term, index), payload })
}

fn decode_proposal(rest: &mut Rest) -> Result<Proposal, EntryError> {
    let age_delta_ms = rest.u64("age delta")?;
    let display = TsMs(rest.u64("display clock")?);
    let count = rest.u32("count")? as usize;
    // The count comes from outside: it reserves memory only for what can follow.
    let mut commands = Vec::with_capacity(count.min(limits::PROPOSAL_COMMANDS_MAX));
    for _ in 0..count {
        let len = rest.u32("command length")? as usize;
        commands.push(rest.take(len, "command")?);
    }
    Ok(Proposal::new(Stamp { age_delta_ms, display }, commands))
}

/// What is left to decode.
struct Rest(Bytes);

impl Rest {
    fn take(&mut self, len: usize, what: &'static str) -> Result<Bytes, EntryError> {
        if self.0.len() < len {
            return Err(EntryError::Short(what));
        }
        Ok(self.0.split_to(len))
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, EntryError> {
        let bytes = self.take(8, what)?;
        Ok(u64::from_be_bytes(bytes[..].try_into().expect("took 8 bytes")))
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, EntryError> {
        let bytes = self.take(4, what)?;
        Ok(u32::from_be_bytes(bytes[..].try_into().expect("took 4 bytes")))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::types::Membership;

    fn check(payload: EntryPayload<Proposal, u64, openraft::EmptyNode>) {
        let entry = Entry { log_id: log_id(3, 9), payload };
        let bytes = encode(&entry);
        assert_eq!(decode(&bytes), Ok(entry));
        for cut in 0..bytes.len() {
            assert!(decode(&bytes.slice(..cut)).is_err(), "a cut at {cut} must be noticed");
        }
        let longer: Bytes = [&bytes[..], &[0]].concat().into();
        assert!(decode(&longer).is_err(), "a trailing byte must be noticed");
    }

    #[test]
    fn every_kind_of_entry_round_trips_and_every_cut_is_noticed() {
        check(EntryPayload::Blank);
        let stamp = Stamp { age_delta_ms: 5, display: TsMs(7) };
        check(EntryPayload::Normal(Proposal::new(stamp, vec![])));
        check(EntryPayload::Normal(Proposal::new(stamp, vec![Bytes::from_static(b"one"), Bytes::new()])));
        let voters = BTreeSet::from([1, 2, 3]);
        check(EntryPayload::Membership(Membership::new_with_defaults(vec![voters], [4])));
    }

    #[test]
    fn a_huge_count_reserves_nothing() {
        let mut bytes = vec![ENTRY_VERSION];
        bytes.extend_from_slice(&[0; 16]);
        bytes.push(TAG_COMMANDS);
        bytes.extend_from_slice(&[0; 16]);
        bytes.extend_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(decode(&bytes.into()), Err(EntryError::Short("command length")));
    }

    #[test]
    fn decoded_commands_share_the_buffer() {
        let payload = EntryPayload::Normal(Proposal::new(Stamp::default(), vec![Bytes::from_static(b"shared")]));
        let bytes = encode(&Entry { log_id: log_id(1, 1), payload });
        let EntryPayload::Normal(proposal) = decode(&bytes).expect("just encoded").payload else {
            panic!("commands went in");
        };
        let command = proposal.commands[0].as_ptr() as usize;
        assert!((bytes.as_ptr() as usize..bytes.as_ptr() as usize + bytes.len()).contains(&command));
    }
}
