//! How far the applied state of a group is known to be durable.
//!
//! Applied state is written unlogged: it is durable once the engine has flushed it, which a snapshot does before anything
//! is purged behind it. Purging the log asks here, and nothing else may stand in: an entry purged too early could never be
//! applied again.

use std::sync::{Arc, Mutex, PoisonError};

#[derive(Clone, Default)]
pub struct AppliedMark {
    durable: Arc<Mutex<Option<u64>>>,
}

impl AppliedMark {
    /// State applied up to `index` is known to be durable.
    pub fn is_durable(&self, index: u64) {
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        *durable = (*durable).max(Some(index));
    }

    /// The highest applied index that is known to survive a power loss now.
    pub fn durable(&self) -> Option<u64> {
        *self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_never_goes_back() {
        let mark = AppliedMark::default();
        assert_eq!(mark.durable(), None);
        mark.is_durable(7);
        mark.is_durable(5);
        assert_eq!(mark.clone().durable(), Some(7));
    }
}
