//! The envelope of every stored value: one layout version byte, the payload, a CRC-32 of both.
//!
//! Invariant: what [`open`] returns is what [`seal`] was given; a value with any single bit flipped is
//! refused. The payload's codec belongs to the table's owner.

use bytes::Bytes;

const CHECKSUM_BYTES: usize = 4;

/// Bytes that [`seal`] adds to a payload.
pub const OVERHEAD_BYTES: usize = 1 + CHECKSUM_BYTES;

/// The value is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damaged {
    #[error("the value has {len} bytes, fewer than its envelope")]
    TooShort { len: usize },
    #[error("the value's checksum is {stored:08x}, its bytes give {computed:08x}")]
    Checksum { stored: u32, computed: u32 },
}

impl From<Damaged> for crate::StorageError {
    fn from(damaged: Damaged) -> Self {
        Self::Corrupt { what: damaged.to_string() }
    }
}

/// Wraps a payload for storage.
pub fn seal(version: u8, payload: &[u8]) -> Bytes {
    let mut sealed = Vec::with_capacity(payload.len() + OVERHEAD_BYTES);
    let written: Result<(), std::convert::Infallible> = seal_into(&mut sealed, version, |out| {
        out.extend_from_slice(payload);
        Ok(())
    });
    let Ok(()) = written;
    sealed.into()
}

/// The same around a payload that is written in its place, into a buffer that is emptied first.
pub fn seal_into<E>(
    sealed: &mut Vec<u8>,
    version: u8,
    payload: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    sealed.clear();
    sealed.push(version);
    payload(sealed)?;
    let checksum = crc32fast::hash(sealed);
    sealed.extend_from_slice(&checksum.to_be_bytes());
    Ok(())
}

/// Checks a stored value and returns its layout version and payload, without copying.
pub fn open(bytes: &Bytes) -> Result<(u8, Bytes), Damaged> {
    let (version, payload) = open_slice(bytes)?;
    Ok((version, bytes.slice_ref(payload)))
}

/// As [`open`], for values that a scan lends.
pub fn open_slice(bytes: &[u8]) -> Result<(u8, &[u8]), Damaged> {
    let too_short = Damaged::TooShort { len: bytes.len() };
    let (sealed, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(too_short)?;
    let (version, payload) = sealed.split_first().ok_or(too_short)?;
    let stored = u32::from_be_bytes(*checksum);
    let computed = crc32fast::hash(sealed);
    if stored != computed {
        return Err(Damaged::Checksum { stored, computed });
    }
    Ok((*version, payload))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn anything_shorter_than_the_envelope_is_damaged() {
        for len in 0..OVERHEAD_BYTES {
            assert_eq!(open(&vec![0; len].into()), Err(Damaged::TooShort { len }));
        }
    }

    #[test]
    fn stored_layout_does_not_change() {
        assert_eq!(&seal(1, b"payload")[..], b"\x01payload\x76\xc8\x6a\x9c");
    }

    proptest! {
        #[test]
        fn sealed_values_open_to_what_was_sealed(version: u8, payload: Vec<u8>) {
            let (got_version, got_payload) = open(&seal(version, &payload)).expect("just sealed");
            prop_assert_eq!(got_version, version);
            prop_assert_eq!(&got_payload[..], &payload[..]);
            let mut written = b"of an earlier value".to_vec();
            seal_into(&mut written, version, |out| {
                out.extend_from_slice(&payload);
                Ok::<_, ()>(())
            })
            .expect("writes");
            prop_assert_eq!(written, seal(version, &payload));
        }

        #[test]
        fn every_flipped_bit_is_noticed(version: u8, payload in prop::collection::vec(any::<u8>(), 0..64)) {
            let sealed = seal(version, &payload).to_vec();
            for bit in 0..sealed.len() * 8 {
                let mut flipped = sealed.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                prop_assert!(open(&flipped.into()).is_err(), "bit {} went unnoticed", bit);
            }
        }

        #[test]
        fn every_truncation_is_noticed(version: u8, payload in prop::collection::vec(any::<u8>(), 0..64), cut in 1usize..8) {
            let sealed = seal(version, &payload);
            let short = sealed.slice(..sealed.len().saturating_sub(cut));
            prop_assert!(open(&short).is_err());
        }
    }
}
