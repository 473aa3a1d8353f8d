//! Sessions that may be open in the rows and have no connection: opens and closes whose outcome nobody knows.
//!
//! Invariant: an attempt handed in here is withdrawn at its user's shard until that has answered, however long the shard
//! has no leader. So a row without a connection does not live as long as this node does. At most `WITHDRAWALS_MAX` wait;
//! for each one above, one is given up and counted: its row is left to the device's next session and to the sweep of this
//! node's incarnation.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flotilla_machine::Command;
use flotilla_proto::ids::*;
use flotilla_proto::limits;

use crate::backend::{Backend, CallError, Route};
use crate::metrics::Counter;

const RETRY: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub user: UserId,
    pub device: DeviceId,
    pub instance: Instance,
    pub attempt: u64,
}

#[derive(Default)]
struct Inner {
    /// The newest of each device's instance stands for the older ones.
    owed: BTreeMap<(DeviceId, Instance), (UserId, u64)>,
    running: bool,
}

#[derive(Clone)]
pub struct Withdrawals {
    inner: Arc<Mutex<Inner>>,
    given_up: Arc<Counter>,
}

impl Withdrawals {
    pub fn new(given_up: Arc<Counter>) -> Self {
        Self { inner: Arc::default(), given_up }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns at once; a task that ends with the last of them does the work.
    pub fn put(&self, backend: &Arc<dyn Backend>, attempt: Attempt) {
        let mut inner = self.lock();
        let Attempt { user, device, instance, attempt } = attempt;
        let key = (device, instance);
        if inner.owed.len() >= limits::WITHDRAWALS_MAX && !inner.owed.contains_key(&key) {
            // Which one is all the same: keys are random.
            inner.owed.pop_first();
            if self.given_up.get() == 0 {
                tracing::warn!(
                    max = limits::WITHDRAWALS_MAX,
                    "too many sessions of unknown outcome wait for their shards: some are left to the next session of their device"
                );
            }
            self.given_up.inc();
        }
        let newest = inner.owed.get(&key).map_or(attempt, |(_, known)| attempt.max(*known));
        inner.owed.insert(key, (user, newest));
        if !std::mem::replace(&mut inner.running, true) {
            tokio::spawn(self.clone().run(backend.clone()));
        }
    }

    async fn run(self, backend: Arc<dyn Backend>) {
        let mut last = None;
        while let Some((key, (user, attempt))) = self.after(last) {
            let (device, instance) = key;
            let command = Command::WithdrawSession { user: user.clone(), device, instance, attempt };
            match backend.execute(Route::User(user), command).await {
                Ok(_) | Err(CallError::Rejected(_)) => self.done(key, attempt),
                Err(CallError::Unavailable | CallError::Overloaded | CallError::Unknown) => {
                    tokio::time::sleep(RETRY).await;
                }
            }
            last = Some(key);
        }
    }

    /// In turn, so that a shard without a leader does not hold up the others. None: the task ends.
    fn after(&self, last: Option<(DeviceId, Instance)>) -> Option<((DeviceId, Instance), (UserId, u64))> {
        use std::ops::Bound::{Excluded, Unbounded};
        let mut inner = self.lock();
        let next = last.and_then(|last| inner.owed.range((Excluded(last), Unbounded)).next());
        let found = next.or_else(|| inner.owed.first_key_value()).map(|(key, owed)| (*key, owed.clone()));
        inner.running = found.is_some();
        found
    }

    fn done(&self, key: (DeviceId, Instance), attempt: u64) {
        let mut inner = self.lock();
        if inner.owed.get(&key).is_some_and(|(_, newest)| *newest <= attempt) {
            inner.owed.remove(&key);
        }
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.lock().owed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fake;

    #[tokio::test]
    async fn what_is_above_the_bound_is_given_up_and_counted() {
        let fake = Fake::new();
        fake.faults().hold = true;
        let backend: Arc<dyn Backend> = fake;
        let given_up = Arc::new(Counter::default());
        let withdrawals = Withdrawals::new(given_up.clone());
        let attempt = |number: u64| Attempt {
            user: UserId::parse("alice").expect("a user"),
            device: DeviceId(u128::from(number)),
            instance: Instance(1),
            attempt: 1,
        };
        (0..limits::WITHDRAWALS_MAX as u64).for_each(|number| withdrawals.put(&backend, attempt(number)));
        // Once more for one that waits: not a new one.
        withdrawals.put(&backend, attempt(0));
        assert_eq!(given_up.get(), 0);
        withdrawals.put(&backend, attempt(limits::WITHDRAWALS_MAX as u64));
        assert_eq!((given_up.get(), withdrawals.lock().owed.len()), (1, limits::WITHDRAWALS_MAX));
    }
}
