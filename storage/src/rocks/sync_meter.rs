//! How often and how long the disk was synced. The clock is the real one: RocksDB never runs in a simulation.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::options::OnSync;

#[derive(Default)]
pub(super) struct SyncMeter {
    on_sync: Option<OnSync>,
    syncs: AtomicU64,
    last_micros: AtomicU64,
    total_micros: AtomicU64,
}

impl SyncMeter {
    pub(super) fn new(on_sync: Option<OnSync>) -> Self {
        Self { on_sync, ..Self::default() }
    }

    pub(super) fn measure<T>(&self, sync: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = sync();
        self.record(started.elapsed());
        result
    }

    fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.last_micros.store(micros, Ordering::Relaxed);
        self.total_micros.fetch_add(micros, Ordering::Relaxed);
        if let Some(on_sync) = &self.on_sync {
            on_sync(took);
        }
    }

    pub(super) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    pub(super) fn last_micros(&self) -> u64 {
        self.last_micros.load(Ordering::Relaxed)
    }

    pub(super) fn total_micros(&self) -> u64 {
        self.total_micros.load(Ordering::Relaxed)
    }
}
