//! The live sessions of a shard's users as its leader remembers them, so that they are not read for every message.
//!
//! Invariant: what is remembered of a user was read after the last change of that user's sessions that this leadership has
//! applied. Applied changes are told here in the order of the log, before anything that is applied later, so a look that a
//! later entry causes never misses a session that opened before that entry. It does not know what is pushed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flotilla_machine::query::LiveSession;
use flotilla_proto::ids::UserId;
use flotilla_proto::limits::LIVE_USERS_REMEMBERED_MAX;

/// The sessions of one user.
pub type Sessions = Arc<[LiveSession]>;

#[derive(Default)]
pub struct Live {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    users: BTreeMap<UserId, Sessions>,
    /// Counts changes. What was read before one may not be remembered after it.
    changes: u64,
}

/// What is remembered, and what must be read.
pub struct Found {
    pub known: BTreeMap<UserId, Sessions>,
    pub missing: Vec<UserId>,
    /// For [`Live::remember`].
    pub at: u64,
}

impl Live {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn find(&self, users: &[UserId]) -> Found {
        let inner = self.lock();
        let mut found = Found { known: BTreeMap::new(), missing: Vec::new(), at: inner.changes };
        for user in users {
            match inner.users.get(user) {
                Some(sessions) => drop(found.known.insert(user.clone(), sessions.clone())),
                None => found.missing.push(user.clone()),
            }
        }
        found
    }

    /// `sessions` of `users` were read after [`Live::find`] gave `at`. Forgotten at once if something has changed since.
    pub fn remember(&self, at: u64, sessions: &BTreeMap<UserId, Sessions>) {
        let mut inner = self.lock();
        if inner.changes != at {
            return;
        }
        if inner.users.len() + sessions.len() > LIVE_USERS_REMEMBERED_MAX {
            inner.users.clear();
        }
        inner.users.extend(sessions.iter().map(|(user, sessions)| (user.clone(), sessions.clone())));
    }

    pub fn forget(&self, user: &UserId) {
        let mut inner = self.lock();
        inner.changes += 1;
        inner.users.remove(user);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> UserId {
        UserId::parse("alice").expect("valid")
    }

    #[test]
    fn what_was_read_before_a_change_is_not_remembered_after_it() {
        let live = Live::default();
        let nobody = BTreeMap::from([(user(), Sessions::from(vec![]))]);
        let before = live.find(&[user()]);
        assert_eq!(before.missing, [user()]);
        live.forget(&user());
        live.remember(before.at, &nobody);
        let after = live.find(&[user()]);
        assert_eq!(after.missing, [user()], "a session may have opened between the read and now");
        live.remember(after.at, &nobody);
        assert!(live.find(&[user()]).missing.is_empty());
        live.forget(&user());
        assert_eq!(live.find(&[user()]).missing, [user()]);
    }
}
