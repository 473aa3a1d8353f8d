//! Raft RPCs as bytes: `shard u16 | replica generation u32` of the target in front, big-endian, then the RPC.
//!
//! Entries are written by [`crate::entry`] and decoded as slices of the frame; everything else goes through the codec.
//! Every decoder is total: bytes of a peer are refused, never trusted.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flotilla_proto::codec::{self, CodecError};
use flotilla_proto::ids::{Generation, ShardId};
use flotilla_proto::limits;
use openraft::raft::AppendEntriesRequest;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::entry;
use crate::types::{LogId, SnapshotMeta, TypeConfig, Vote};

/// Message kinds of Raft (see [`crate::peer::kind`]).
pub mod kind {
    pub const APPEND: u8 = 1;
    pub const VOTE: u8 = 2;
    pub const PRE_VOTE: u8 = 3;
    pub const TRANSFER_LEADER: u8 = 4;
    /// A transfer, not a request.
    pub const SNAPSHOT: u8 = 5;
    /// To a replica that has forgotten what it acknowledged: see [`super::super::acked`].
    pub const FORGOTTEN: u8 = 6;
}

const LAYOUT: u8 = 1;
const ROUTE_BYTES: usize = 6;
/// Entries of one append; the rest goes with the next one.
const APPEND_BYTES: usize = limits::PEER_FRAME_BYTES_MAX / 2;
const RPC_BYTES_MAX: usize = 256 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("the message is too short")]
    Short,
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error(transparent)]
    Entry(#[from] entry::EntryError),
}

/// Which replica an RPC is for, on the node that it was sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    pub shard: ShardId,
    pub generation: Generation,
}

impl Route {
    fn put(self, out: &mut BytesMut) {
        out.put_u16(self.shard.0);
        out.put_u32(self.generation.0);
    }

    /// Takes the route off the front.
    pub fn take(payload: &mut Bytes) -> Result<Self, WireError> {
        if payload.len() < ROUTE_BYTES {
            return Err(WireError::Short);
        }
        Ok(Self { shard: ShardId(payload.get_u16()), generation: Generation(payload.get_u32()) })
    }
}

/// What opens a snapshot's transfer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SnapshotOpen {
    pub vote: Vote,
    pub meta: SnapshotMeta,
}

/// How a snapshot's transfer ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum SnapshotEnd {
    /// Installed, or refused because of this higher vote.
    Vote(Vote),
    Failed(String),
}

pub fn encode<T: Serialize>(route: Route, rpc: &T) -> Result<Bytes, CodecError> {
    let body = codec::encode(LAYOUT, rpc)?;
    let mut out = BytesMut::with_capacity(ROUTE_BYTES + body.len());
    route.put(&mut out);
    out.put_slice(&body);
    Ok(out.freeze())
}

pub fn encode_answer<T: Serialize>(answer: &T) -> Result<Bytes, CodecError> {
    codec::encode(LAYOUT, answer)
}

/// An RPC behind its route, or an answer.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    Ok(codec::decode(LAYOUT, bytes, RPC_BYTES_MAX)?)
}

/// A chunk of a snapshot, whose size is bounded by the frame that it came in.
pub fn decode_chunk<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    Ok(codec::decode(LAYOUT, bytes, limits::PEER_FRAME_BYTES_MAX)?)
}

#[derive(Serialize, Deserialize)]
struct AppendHead {
    vote: Vote,
    prev: Option<LogId>,
    commit: Option<LogId>,
    entries: u32,
}

/// An append as bytes, and the last entry in it if they did not all fit.
pub fn encode_append(
    route: Route,
    rpc: &AppendEntriesRequest<TypeConfig>,
) -> Result<(Bytes, Option<LogId>), CodecError> {
    let mut fit = 0;
    let mut bytes = 0;
    for entry in &rpc.entries {
        let len = 4 + 1 + entry::encoded_len(entry);
        // One entry goes always: the limits of a proposal make sure that it fits a frame.
        if fit > 0 && bytes + len > APPEND_BYTES {
            break;
        }
        (fit, bytes) = (fit + 1, bytes + len);
    }
    let head = AppendHead { vote: rpc.vote, prev: rpc.prev_log_id, commit: rpc.leader_commit, entries: fit as u32 };
    let head = codec::encode(LAYOUT, &head)?;
    let mut out = BytesMut::with_capacity(ROUTE_BYTES + 2 + head.len() + bytes);
    route.put(&mut out);
    out.put_u16(head.len() as u16);
    out.put_slice(&head);
    for entry in &rpc.entries[..fit] {
        let entry = entry::encode(entry);
        out.put_u32(entry.len() as u32);
        out.put_slice(&entry);
    }
    let cut = (fit < rpc.entries.len()).then(|| rpc.entries[fit - 1].log_id);
    Ok((out.freeze(), cut))
}

/// The inverse of [`encode_append`], behind the route.
pub fn decode_append(mut bytes: Bytes) -> Result<AppendEntriesRequest<TypeConfig>, WireError> {
    if bytes.len() < 2 {
        return Err(WireError::Short);
    }
    let head_len = bytes.get_u16() as usize;
    let head: AppendHead = decode(&take(&mut bytes, head_len)?)?;
    // Every entry takes at least its length field, so the count cannot reserve more than came.
    let mut entries = Vec::with_capacity((head.entries as usize).min(bytes.len() / 4));
    for _ in 0..head.entries {
        if bytes.len() < 4 {
            return Err(WireError::Short);
        }
        let len = bytes.get_u32() as usize;
        entries.push(entry::decode(&take(&mut bytes, len)?)?);
    }
    if !bytes.is_empty() {
        return Err(WireError::Short);
    }
    Ok(AppendEntriesRequest { vote: head.vote, prev_log_id: head.prev, leader_commit: head.commit, entries })
}

fn take(bytes: &mut Bytes, len: usize) -> Result<Bytes, WireError> {
    if bytes.len() < len { Err(WireError::Short) } else { Ok(bytes.split_to(len)) }
}

#[cfg(test)]
mod tests {
    use flotilla_machine::Stamp;
    use openraft::EntryPayload;

    use super::*;
    use crate::types::{Entry, Proposal, log_id};

    const ROUTE: Route = Route { shard: ShardId(7), generation: Generation(3) };

    fn append(sizes: &[usize]) -> AppendEntriesRequest<TypeConfig> {
        let entry = |(i, size): (usize, &usize)| Entry {
            log_id: log_id(2, 10 + i as u64),
            payload: EntryPayload::Normal(Proposal::new(Stamp::default(), vec![Bytes::from(vec![i as u8; *size])])),
        };
        AppendEntriesRequest {
            vote: Vote::new_committed(2, 1),
            prev_log_id: Some(log_id(1, 9)),
            entries: sizes.iter().enumerate().map(entry).collect(),
            leader_commit: Some(log_id(1, 8)),
        }
    }

    fn check(rpc: &AppendEntriesRequest<TypeConfig>, expected: usize) {
        let (mut bytes, cut) = encode_append(ROUTE, rpc).expect("encodes");
        assert!(bytes.len() <= crate::peer::frame::PAYLOAD_BYTES_MAX);
        assert_eq!(Route::take(&mut bytes).expect("a route"), ROUTE);
        let decoded = decode_append(bytes.clone()).expect("decodes");
        assert_eq!(decoded.entries, rpc.entries[..expected]);
        assert_eq!(
            (decoded.vote, decoded.prev_log_id, decoded.leader_commit),
            (rpc.vote, rpc.prev_log_id, rpc.leader_commit)
        );
        assert_eq!(cut, (expected < rpc.entries.len()).then(|| rpc.entries[expected - 1].log_id));
        for len in (0..bytes.len()).step_by(bytes.len() / 50 + 1) {
            assert!(decode_append(bytes.slice(..len)).is_err(), "a cut at {len} must be noticed");
        }
    }

    #[test]
    fn append_round_trips_and_stops_where_a_frame_is_full() {
        check(&append(&[]), 0);
        check(&append(&[10, 0, 1000]), 3);
        let big = limits::PROPOSAL_BYTES_MAX;
        check(&append(&[big; 20]), 7);
    }

    #[test]
    fn huge_counts_reserve_nothing() {
        let (mut bytes, _) = encode_append(ROUTE, &append(&[])).expect("encodes");
        Route::take(&mut bytes).expect("a route");
        let mut bent = bytes.to_vec();
        let end = bent.len();
        bent[end - 4..].copy_from_slice(&[0xff; 4]);
        assert!(decode_append(bent.into()).is_err());
    }
}
