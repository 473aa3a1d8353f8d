//! The one module that names bincode: node-to-node messages, commands and rows.
//!
//! Invariant: fixed-width integers, little-endian, a size limit, no trailing bytes, and a version byte in front.
//! Never used on the client wire.

use bincode::Options;
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    #[error("empty input: a version byte is required")]
    Empty,
    #[error("version {found} is not understood here (newest known: {known})")]
    Version { found: u8, known: u8 },
    #[error("cannot decode: {0}")]
    Malformed(#[source] bincode::Error),
    #[error("cannot encode: {0}")]
    Encode(#[source] bincode::Error),
}

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().reject_trailing_bytes()
}

/// `version` byte, then the value.
pub fn encode<T: Serialize>(version: u8, value: &T) -> Result<Bytes, CodecError> {
    let mut out = Vec::with_capacity(128);
    encode_into(version, value, &mut out)?;
    Ok(out.into())
}

/// The same, behind what `out` holds.
pub fn encode_into<T: Serialize>(version: u8, value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
    out.push(version);
    // No limit: with one, all of it would be measured before it is written.
    options().with_no_limit().serialize_into(out, value).map_err(CodecError::Encode)
}

/// Which variant of an enum was encoded, without decoding the rest. None for another version.
pub fn variant(version: u8, bytes: &[u8]) -> Option<u32> {
    let (found, rest) = bytes.split_first()?;
    let variant = rest.first_chunk().filter(|_| *found == version)?;
    Some(u32::from_le_bytes(*variant))
}

/// Accepts exactly `version`; `bytes` beyond `limit` are refused before anything is allocated.
pub fn decode<T: DeserializeOwned>(version: u8, bytes: &[u8], limit: usize) -> Result<T, CodecError> {
    let (found, rest) = bytes.split_first().ok_or(CodecError::Empty)?;
    if *found != version {
        return Err(CodecError::Version { found: *found, known: version });
    }
    options().with_limit(limit as u64).deserialize(rest).map_err(CodecError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailing_bytes_other_versions_and_huge_lengths_are_refused() {
        let good = encode(3, &(7u32, "x".to_string())).expect("encodes");
        assert_eq!(decode::<(u32, String)>(3, &good, 1024).expect("decodes"), (7, "x".into()));
        assert!(matches!(decode::<(u32, String)>(4, &good, 1024), Err(CodecError::Version { found: 3, known: 4 })));
        let mut trailing = good.to_vec();
        trailing.push(0);
        assert!(decode::<(u32, String)>(3, &trailing, 1024).is_err());
        let huge = [vec![3u8], 7u32.to_le_bytes().to_vec(), u64::MAX.to_le_bytes().to_vec()].concat();
        assert!(decode::<(u32, String)>(3, &huge, 1024).is_err());
        assert!(matches!(decode::<u8>(3, &[], 16), Err(CodecError::Empty)));
    }
}
