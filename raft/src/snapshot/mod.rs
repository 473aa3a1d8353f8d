//! Snapshots: out as a consistent view that nothing copies, in as a state generation of its own.
//!
//! Invariants:
//! - A view holds the rows, the applied index and the membership of one instant.
//! - Chunks are taken in order, each with its checksum; a snapshot is installed only if row count, bytes and digest of
//!   the whole agree, so what is installed is what the sender's view held, or nothing.
//! - The state in use is never touched before the flip: a crash half-way leaves it whole.
//! - A damaged row of the sender stops the sending: corruption never spreads.
//!
//! The transport is not known here.

mod generations;
mod sink;
#[cfg(all(test, not(madsim)))]
mod tests;
mod view;

use bytes::Bytes;
use flotilla_storage::StorageError;
use serde::{Deserialize, Serialize};

pub use generations::{Generations, Lease};
pub use sink::{SnapshotSink, StagedSnapshot};
pub use view::{SnapshotChunks, SnapshotView};

/// Why a snapshot cannot be sent or taken. The caller starts over; the state in use is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("a row of this replica's own state is damaged: reinstall the state before sending it")]
    DamagedHere,
    #[error("chunk {found} came where {expected} was due: start the snapshot over")]
    OutOfOrder { expected: u64, found: u64 },
    #[error("chunk {0} was damaged on the way: start the snapshot over")]
    DamagedChunk(u64),
    #[error("the chunks do not add up to the snapshot that was announced ({what}): start it over")]
    Mismatch { what: &'static str },
    #[error("the snapshot ended without its last chunk: start it over")]
    Incomplete,
}

/// One piece of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotChunk {
    /// From 0, without holes.
    pub seq: u64,
    /// CRC-32 of `rows`.
    pub crc: u32,
    /// (key length u32, key, value length u32, value) again and again; keys without the sender's prefix.
    pub rows: Bytes,
    /// Present in the last chunk, and only there.
    pub total: Option<SnapshotTotal>,
}

/// What all chunks of a snapshot add up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotTotal {
    pub rows: u64,
    pub bytes: u64,
    /// CRC-32 over the `rows` of all chunks in order.
    pub digest: u32,
}

/// Adds up chunks on both sides.
#[derive(Debug, Clone, Default)]
struct Sum {
    rows: u64,
    bytes: u64,
    digest: crc32fast::Hasher,
}

impl Sum {
    fn add(&mut self, chunk: &[u8], rows: u64) {
        self.rows += rows;
        self.bytes += chunk.len() as u64;
        self.digest.update(chunk);
    }

    fn total(&self) -> SnapshotTotal {
        SnapshotTotal { rows: self.rows, bytes: self.bytes, digest: self.digest.clone().finalize() }
    }
}

fn put_row(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    for part in [key, value] {
        out.extend_from_slice(&(part.len() as u32).to_be_bytes());
        out.extend_from_slice(part);
    }
}

/// The rows of a chunk. `None` marks the place where the chunk is not well-formed.
fn rows(mut chunk: Bytes) -> impl Iterator<Item = Option<(Bytes, Bytes)>> {
    std::iter::from_fn(move || {
        if chunk.is_empty() {
            return None;
        }
        let row = take_part(&mut chunk).and_then(|key| Some((key, take_part(&mut chunk)?)));
        if row.is_none() {
            chunk = Bytes::new();
        }
        Some(row)
    })
}

fn take_part(rest: &mut Bytes) -> Option<Bytes> {
    let len = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?) as usize;
    let end = len.checked_add(4).filter(|end| *end <= rest.len())?;
    let part = rest.slice(4..end);
    *rest = rest.slice(end..);
    Some(part)
}
