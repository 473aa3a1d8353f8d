//! A set of things to look at, with a wake-up: hints coalesce here instead of queueing.
//!
//! Invariant: bounded by `max`; what does not fit is reported as overflow exactly once, and the taker must then look at
//! everything.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

pub struct Pending<K, V> {
    max: usize,
    inner: Mutex<(BTreeMap<K, V>, bool)>,
    wake: Notify,
}

/// What was waiting.
pub struct Taken<K, V> {
    pub items: BTreeMap<K, V>,
    /// Some did not fit.
    pub overflow: bool,
}

impl<K: Ord, V> Pending<K, V> {
    pub fn new(max: usize) -> Self {
        Self { max, inner: Mutex::new((BTreeMap::new(), false)), wake: Notify::new() }
    }

    /// Adds or merges one thing.
    pub fn add(&self, key: K, value: V, merge: impl FnOnce(&mut V, V)) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (items, overflow) = &mut *inner;
        if let Some(known) = items.get_mut(&key) {
            merge(known, value);
        } else if items.len() < self.max {
            items.insert(key, value);
        } else {
            *overflow = true;
        }
        drop(inner);
        self.wake.notify_one();
    }

    /// Has the taker look at everything.
    pub fn overflow(&self) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.wake.notify_one();
    }

    /// Waits until there is something. One taker.
    pub async fn ready(&self) {
        loop {
            let woken = self.wake.notified();
            {
                let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
                if !inner.0.is_empty() || inner.1 {
                    return;
                }
            }
            woken.await;
        }
    }

    /// Waits until there is something, then takes all of it. One taker.
    pub async fn take(&self) -> Taken<K, V> {
        loop {
            let woken = self.wake.notified();
            if let Some(taken) = self.try_take() {
                return taken;
            }
            woken.await;
        }
    }

    /// All of it; None if there is nothing.
    pub fn try_take(&self) -> Option<Taken<K, V>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.0.is_empty() && !inner.1 {
            return None;
        }
        Some(Taken { items: std::mem::take(&mut inner.0), overflow: std::mem::take(&mut inner.1) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn hints_coalesce_and_an_overflow_is_told_once() {
        let pending = Pending::new(2);
        for key in [1, 1, 2, 3] {
            pending.add(key, 1, |sum, more| *sum += more);
        }
        let taken = pending.take().await;
        assert_eq!(taken.items.into_iter().collect::<Vec<_>>(), [(1, 2), (2, 1)]);
        assert!(taken.overflow);
        pending.add(9, 1, |_, _| {});
        assert!(!pending.take().await.overflow);
    }
}
