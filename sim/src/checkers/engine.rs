//! A node's engine that tells the checkers of every write, right after it was made.
//!
//! It changes nothing: a failed write is passed on untold, and what it may have left on the disk is read at the next start.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flotilla_storage::{Batch, Durability, Engine, MemEngine, Order, Read, StorageError, Visitor, WriteNo};

use super::{Watch, decode};

pub struct WatchedEngine {
    inner: MemEngine,
    node: u16,
    watch: Watch,
}

impl WatchedEngine {
    pub fn new(inner: MemEngine, node: u16, watch: Watch) -> Self {
        watch.on_opened(node, &inner);
        Self { inner, node, watch }
    }
}

impl Read for WatchedEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.inner.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], order: Order, visit: Visitor<'_>) -> Result<(), StorageError> {
        self.inner.scan(from, to, order, visit)
    }
}

impl Engine for WatchedEngine {
    fn write(&self, batch: Batch, durability: Durability) -> Result<WriteNo, StorageError> {
        if batch.is_empty() {
            return self.inner.write(batch, durability);
        }
        let before = decode::before(&self.inner, &batch);
        let number = self.inner.write(batch.clone(), durability)?;
        self.watch.on_written(self.node, &self.inner, &batch, &before, durability);
        Ok(number)
    }

    fn sync(&self) -> Result<WriteNo, StorageError> {
        self.inner.sync()
    }

    fn flush(&self) -> Result<WriteNo, StorageError> {
        self.inner.flush()
    }

    fn last_write(&self) -> WriteNo {
        self.inner.last_write()
    }

    fn synced(&self) -> WriteNo {
        self.inner.synced()
    }

    fn failure(&self) -> Option<StorageError> {
        self.inner.failure()
    }

    fn view(&self) -> Arc<dyn Read> {
        self.inner.view()
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), StorageError> {
        self.inner.checkpoint(dir)
    }

    fn stall(&self) -> Duration {
        self.inner.stall()
    }
}
