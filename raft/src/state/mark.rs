//! How far the applied state of a group is durable.
//!
//! Applied state is written buffered: it is durable once the engine has synced up to the write that carried it. Purging
//! the log asks here, and nothing else may stand in: an entry purged too early could never be applied again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use flotilla_proto::limits::APPLIED_MARKS_MAX;
use flotilla_storage::{Engine, WriteNo};

#[derive(Clone, Default)]
pub struct AppliedMark {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    durable: Option<u64>,
    /// (write, log index applied by it), both rising.
    buffered: VecDeque<(WriteNo, u64)>,
}

impl AppliedMark {
    /// State applied up to `index` went out with this write.
    pub fn wrote(&self, write: WriteNo, index: u64) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.buffered.len() >= APPLIED_MARKS_MAX {
            // Forgetting an older mark makes the answer lower, never higher.
            inner.buffered.pop_front();
        }
        inner.buffered.push_back((write, index));
    }

    /// State applied up to `index` is known to be durable.
    pub fn is_durable(&self, index: u64) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.durable = inner.durable.max(Some(index));
    }

    /// The highest applied index that would survive a power loss now.
    pub fn durable(&self, engine: &dyn Engine) -> Option<u64> {
        let synced = engine.synced();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((write, index)) = inner.buffered.front().copied() {
            if write > synced {
                break;
            }
            inner.durable = inner.durable.max(Some(index));
            inner.buffered.pop_front();
        }
        inner.durable
    }
}

#[cfg(test)]
mod tests {
    use flotilla_storage::{Batch, Durability, MemEngine};

    use super::*;

    fn write(engine: &MemEngine) -> WriteNo {
        let mut batch = Batch::new();
        batch.put(&b"k"[..], &b"v"[..]);
        engine.write(batch, Durability::Buffered).expect("no fault is injected")
    }

    #[test]
    fn buffered_state_counts_only_after_a_sync() {
        let engine = MemEngine::new();
        let mark = AppliedMark::default();
        assert_eq!(mark.durable(&engine), None);
        mark.wrote(write(&engine), 7);
        assert_eq!(mark.durable(&engine), None);
        engine.sync().expect("no fault is injected");
        mark.wrote(write(&engine), 9);
        assert_eq!(mark.durable(&engine), Some(7));
    }
}
