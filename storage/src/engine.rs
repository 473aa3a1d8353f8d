//! The seam between the product and its disk.
//!
//! Invariants of every engine, checked by the conformance suite:
//! - A batch is atomic: readers and crashes see all of it or nothing.
//! - A crash loses a suffix of the logged batches, and never one that a synced write or [`Engine::sync`] has covered.
//! - A crash loses a suffix of the unlogged batches, however much was synced, and never one that [`Engine::flush`] has covered.
//!   What survives of them is older than the logged batches that survive, or as old: their owner must be able to make them again.
//! - A view never changes, whatever is written after it.
//!
//! It does not know what the keys mean.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::StorageError;

/// Whether a write must survive power loss before it returns. Always an argument, never a default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// This batch and all earlier ones are durable when the call returns.
    Synced,
    /// Visible at once, durable with the next synced write or sync.
    Buffered,
    /// Visible at once, and not written ahead: durable with the next [`Engine::flush`], or sooner when the engine makes room. Until
    /// then a crash of the process takes it, and leaves later logged batches. Only for what logged batches can bring back.
    Unlogged,
}

/// Direction of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Forward,
    Reverse,
}

/// The number of the last write of a batch. Rises with every operation and survives restarts.
///
/// A buffered batch is durable once [`Engine::synced`] has reached its number. That of an unlogged batch may be given to another one
/// after a crash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteNo(pub u64);

/// One operation of a batch. Later operations of a batch win over earlier ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Put(Bytes, Bytes),
    Delete(Bytes),
    /// Deletes every key in `[from, to)`.
    DeleteRange {
        from: Bytes,
        to: Bytes,
    },
}

impl Op {
    /// Bytes of key and value.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Put(key, value) => key.len() + value.len(),
            Self::Delete(key) => key.len(),
            Self::DeleteRange { from, to } => from.len() + to.len(),
        }
    }
}

/// Operations that happen together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    ops: Vec<Op>,
    bytes: usize,
}

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.push(Op::Put(key.into(), value.into()));
    }

    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.push(Op::Delete(key.into()));
    }

    /// Deletes `[from, to)`. An empty or inverted range adds nothing to the batch.
    ///
    /// Meant for long ranges now and then: until RocksDB has flushed it, each one slows down every read. For
    /// a few keys that are known, delete them one by one.
    pub fn delete_range(&mut self, from: impl Into<Bytes>, to: impl Into<Bytes>) {
        self.push(Op::DeleteRange { from: from.into(), to: to.into() });
    }

    /// Adds one operation. Inverted ranges are dropped here because RocksDB does not define them.
    pub fn push(&mut self, op: Op) {
        if let Op::DeleteRange { from, to } = &op
            && from >= to
        {
            return;
        }
        self.bytes += op.bytes();
        self.ops.push(op);
    }

    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Number of operations.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Bytes of all keys and values, for callers that cut batches by size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Moves everything from `other` to the end of this batch, and leaves `other` empty.
    pub fn append(&mut self, other: &mut Batch) {
        self.ops.append(&mut other.ops);
        self.bytes += std::mem::take(&mut other.bytes);
    }

    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    pub fn into_ops(self) -> Vec<Op> {
        self.ops
    }
}

/// What a scan calls with each key and value, until it breaks.
pub type Visitor<'a> = &'a mut (dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a);

/// What can be read from an engine, or from a view of it.
pub trait Read: Send + Sync {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError>;

    /// Visits the keys of `[from, to)` in order until the visitor breaks.
    ///
    /// One scan sees one point in time, even if the visitor writes to the engine. An empty or
    /// inverted range visits nothing.
    fn scan(&self, from: &[u8], to: &[u8], order: Order, visit: Visitor<'_>) -> Result<(), StorageError>;
}

/// A durable, ordered map with one write-ahead log.
pub trait Engine: Read + 'static {
    /// Applies the batch. An empty buffered batch does nothing, an empty synced one is a [`sync`](Self::sync).
    ///
    /// When callers write at the same time, the number returned for a buffered batch may be that of a
    /// later one (waiting for it to be synced is then merely longer than needed).
    fn write(&self, batch: Batch, durability: Durability) -> Result<WriteNo, StorageError>;

    /// Makes all logged writes that returned before this call durable. Returns a number that covers them.
    fn sync(&self) -> Result<WriteNo, StorageError>;

    /// Makes all writes that returned before this call durable, unlogged ones too. Returns a number that covers them. A table is written
    /// for it, unless nothing unlogged was written since the last time.
    fn flush(&self) -> Result<WriteNo, StorageError>;

    /// The number of the newest write.
    fn last_write(&self) -> WriteNo;

    /// All logged writes up to this number are durable. Never above [`last_write`](Self::last_write).
    fn synced(&self) -> WriteNo;

    /// Why nothing can be written through this handle any more, whoever met the failure first. The process must end.
    fn failure(&self) -> Option<StorageError>;

    /// The state as of now, which later writes do not change. Cheap; but a view that is kept for long
    /// keeps old versions alive, and keeps the data directory locked.
    fn view(&self) -> Arc<dyn Read>;

    /// As [`view`](Self::view), for reads that must not wait for the disk: what would need it is answered with
    /// [`StorageError::NotResident`]. `None` if the engine cannot tell.
    fn resident(&self) -> Option<Arc<dyn Read>> {
        None
    }

    /// Writes a consistent copy into `dir`, which must not exist yet. It is verified by opening it.
    fn checkpoint(&self, dir: &Path) -> Result<(), StorageError>;

    /// Many rows that are written once begin to come in, or have come; so often as it began, it must end. A hint for sizes.
    fn bulk(&self, _begins: bool) {}

    /// How long the simulated disk wants the caller to wait before the next write or sync answers.
    /// This crate may not sleep; real engines stall by themselves and answer zero.
    fn stall(&self) -> Duration {
        Duration::ZERO
    }
}

/// A time of [`Engine::bulk`] writes; it ends when this is dropped.
pub struct Bulk(Arc<dyn Engine>);

impl Bulk {
    pub fn begin(engine: &Arc<dyn Engine>) -> Self {
        engine.bulk(true);
        Self(engine.clone())
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        self.0.bulk(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_counts_operations_and_bytes_across_append() {
        let mut first = Batch::new();
        first.put(&b"ab"[..], &b"cde"[..]);
        let mut second = Batch::new();
        second.delete(&b"f"[..]);
        second.delete_range(&b"a"[..], &b"b"[..]);
        first.append(&mut second);
        assert_eq!((first.len(), first.bytes()), (3, 8));
        assert!(second.is_empty());
        assert_eq!(second.bytes(), 0);
    }

    #[test]
    fn inverted_and_empty_ranges_add_nothing() {
        let mut batch = Batch::new();
        batch.delete_range(&b"b"[..], &b"a"[..]);
        batch.delete_range(&b"a"[..], &b"a"[..]);
        assert!(batch.is_empty());
    }
}
