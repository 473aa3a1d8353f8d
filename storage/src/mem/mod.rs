//! The in-memory engine: a [`MemEngine`] is one process's handle to a [`MemDisk`].
//!
//! Invariant: a handle never touches the disk after its process was killed ([`MemDisk::crash`]), even if
//! destructors or forgotten tasks still hold it. One handle at a time, like the lock file of a real engine.
//!
//! Reads are O(log n); views cost the versions that they keep alive.

mod disk;
#[cfg(any(test, feature = "conformance"))]
mod subject;
#[cfg(test)]
mod tests;
mod versions;
mod watermark;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use disk::{Counters, Faults, MemDisk};
#[cfg(any(test, feature = "conformance"))]
pub use subject::MemSubject;
pub use watermark::MemWatermark;

use self::versions::Cut;
use crate::{Batch, Durability, Engine, Order, Read, StorageError, Visitor, WriteNo};

/// An engine on a simulated disk.
pub struct MemEngine {
    lease: Arc<Lease>,
}

/// The lock on the disk, held by the engine and all its views.
struct Lease {
    disk: MemDisk,
    generation: u64,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.disk.state().close(self.generation);
    }
}

impl MemEngine {
    /// Opens the disk as it is after the last crash or close.
    pub fn open(disk: &MemDisk) -> Result<Self, StorageError> {
        let generation = disk.state().open()?;
        Ok(Self { lease: Arc::new(Lease { disk: disk.clone(), generation }) })
    }

    /// An engine on a new disk of its own.
    pub fn new() -> Self {
        Self::open(&MemDisk::new()).expect("a new disk is neither locked nor faulty")
    }

    /// The disk below, which outlives this engine.
    pub fn disk(&self) -> &MemDisk {
        &self.lease.disk
    }

    /// Kills the process that holds this engine, see [`MemDisk::crash`].
    pub fn crash(&self, keep: usize) -> usize {
        self.disk().crash(keep)
    }

    fn new_view(&self) -> View {
        let at = self.disk().state().add_view(self.lease.generation);
        View { lease: self.lease.clone(), at }
    }
}

impl Default for MemEngine {
    fn default() -> Self {
        Self::new()
    }
}

impl Read for MemEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let state = self.disk().state();
        state.check_readable(self.lease.generation)?;
        Ok(state.versions.get(key, Cut::at(state.last)).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], order: Order, visit: Visitor<'_>) -> Result<(), StorageError> {
        self.new_view().scan(from, to, order, visit)
    }
}

impl Engine for MemEngine {
    fn write(&self, batch: Batch, durability: Durability) -> Result<WriteNo, StorageError> {
        let mut state = self.disk().state();
        state.check_alive(self.lease.generation)?;
        state.write(batch, durability).map(WriteNo)
    }

    fn sync(&self) -> Result<WriteNo, StorageError> {
        let mut state = self.disk().state();
        state.check_alive(self.lease.generation)?;
        state.sync().map(WriteNo)
    }

    fn flush(&self) -> Result<WriteNo, StorageError> {
        let mut state = self.disk().state();
        state.check_alive(self.lease.generation)?;
        state.flush().map(WriteNo)
    }

    fn last_write(&self) -> WriteNo {
        WriteNo(self.disk().state().last)
    }

    fn synced(&self) -> WriteNo {
        WriteNo(self.disk().state().synced)
    }

    fn failure(&self) -> Option<StorageError> {
        self.disk().state().check_alive(self.lease.generation).err()
    }

    fn view(&self) -> Arc<dyn Read> {
        Arc::new(self.new_view())
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), StorageError> {
        self.flush()?;
        if self.disk().state().has_checkpoint(dir) {
            let detail = format!("{} exists already", dir.display());
            return Err(StorageError::Io { doing: "a checkpoint", detail });
        }
        let copy = self.disk().copy_durable();
        let opened = MemEngine::open(&copy)?;
        assert_eq!(opened.last_write(), self.synced(), "a copy holds all that was synced");
        drop(opened);
        self.disk().state().add_checkpoint(dir, copy);
        Ok(())
    }

    fn stall(&self) -> Duration {
        self.disk().state().faults.stall
    }
}

/// The disk as of one write.
struct View {
    lease: Arc<Lease>,
    at: u64,
}

impl Drop for View {
    fn drop(&mut self) {
        self.lease.disk.state().drop_view(self.at, self.lease.generation);
    }
}

impl Read for View {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let state = self.lease.disk.state();
        state.check_readable(self.lease.generation)?;
        Ok(state.versions.get(key, Cut::at(self.at)).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], order: Order, visit: Visitor<'_>) -> Result<(), StorageError> {
        disk::scan_pages(from, to, order, visit, |range, limit| {
            let state = self.lease.disk.state();
            state.check_readable(self.lease.generation)?;
            Ok(state.versions.page(range, order, Cut::at(self.at), limit))
        })
    }
}
