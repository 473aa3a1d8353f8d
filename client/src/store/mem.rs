//! A store in memory: for the simulator, for tests, and for clients that keep nothing. It outlives its device: a clone is
//! the same store, so a test can crash a device and start it again on what it had.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::{self, BoxFuture, FutureExt};

use super::{Change, Saved, Store, StoreError};

/// Entries are dropped, positions kept: the application sees every entry as an event.
#[derive(Debug, Clone, Default)]
pub struct MemStore {
    saved: Arc<Mutex<Saved>>,
}

impl MemStore {
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Saved> {
        // A holder cannot panic half-way: it only applies changes to collections.
        self.saved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemStore {
    fn load(&self) -> Saved {
        self.lock().clone()
    }

    fn commit(&mut self, changes: Vec<Change>) -> BoxFuture<'_, Result<(), StoreError>> {
        let mut saved = self.lock();
        for change in &changes {
            saved.apply(change);
        }
        future::ready(Ok(())).boxed()
    }
}
