//! Who watches whom from this gateway, and what it was told last.
//!
//! Pure: the caller looks at the shards and says what it saw; [`Watches::on_views`] says whom to tell. Invariant: a watcher is
//! told a view once, and again only after another one.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_machine::query::PresenceView;
use flotilla_proto::ids::UserId;

/// None: unknown, for the shard cannot answer now.
pub type Seen = Option<PresenceView>;

/// One watcher to be told of one user.
#[derive(Debug, PartialEq, Eq)]
pub struct Tell {
    pub watcher: u64,
    pub user: UserId,
    pub seen: Seen,
}

struct Watcher {
    user: UserId,
    /// None: not told yet.
    told: BTreeMap<UserId, Option<Seen>>,
}

#[derive(Default)]
pub struct Watches {
    watchers: BTreeMap<u64, Watcher>,
    by_user: BTreeMap<UserId, BTreeSet<u64>>,
    pairs: usize,
}

impl Watches {
    /// Watches these users and no others. False: more than `max` pairs in all, and nothing has changed.
    pub fn set(&mut self, watcher: u64, by: &UserId, users: &[UserId], max: usize) -> bool {
        let before = self.watchers.get(&watcher).map_or(0, |w| w.told.len());
        if self.pairs - before + users.len() > max {
            return false;
        }
        self.forget(watcher);
        if users.is_empty() {
            return true;
        }
        for user in users {
            self.by_user.entry(user.clone()).or_default().insert(watcher);
        }
        let told: BTreeMap<_, _> = users.iter().map(|user| (user.clone(), None)).collect();
        self.pairs += told.len();
        self.watchers.insert(watcher, Watcher { user: by.clone(), told });
        true
    }

    pub fn forget(&mut self, watcher: u64) {
        let Some(gone) = self.watchers.remove(&watcher) else { return };
        self.pairs -= gone.told.len();
        for user in gone.told.keys() {
            if let Some(watchers) = self.by_user.get_mut(user) {
                watchers.remove(&watcher);
                if watchers.is_empty() {
                    self.by_user.remove(user);
                }
            }
        }
    }

    pub fn is_watched(&self, user: &UserId) -> bool {
        self.by_user.contains_key(user)
    }

    pub fn users(&self, wanted: impl Fn(&UserId) -> bool) -> Vec<UserId> {
        self.by_user.keys().filter(|user| wanted(user)).cloned().collect()
    }

    /// (who watches, user) for all who watch these users, each once.
    pub fn pairs_of<'u>(&self, users: impl Iterator<Item = &'u UserId>) -> BTreeSet<(UserId, UserId)> {
        let mut pairs = BTreeSet::new();
        for user in users {
            let watchers = self.by_user.get(user).into_iter().flatten().filter_map(|id| self.watchers.get(id));
            pairs.extend(watchers.map(|w| (w.user.clone(), user.clone())));
        }
        pairs
    }

    /// Notes what `by` sees of `user`; gives the watchers to whom this is news.
    pub fn on_view(&mut self, by: &UserId, user: &UserId, seen: Seen) -> Vec<Tell> {
        let mut tell = Vec::new();
        for watcher in self.by_user.get(user).into_iter().flatten() {
            let Some(w) = self.watchers.get_mut(watcher).filter(|w| w.user == *by) else { continue };
            if let Some(told) = w.told.get_mut(user).filter(|told| **told != Some(seen)) {
                *told = Some(seen);
                tell.push(Tell { watcher: *watcher, user: user.clone(), seen });
            }
        }
        tell
    }

    /// It could not be told after all.
    pub fn untold(&mut self, watcher: u64, user: &UserId) {
        if let Some(told) = self.watchers.get_mut(&watcher).and_then(|w| w.told.get_mut(user)) {
            *told = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::parse(name).expect("valid")
    }

    const HERE: Seen = Some(PresenceView::Online);
    const GONE: Seen = Some(PresenceView::Offline { last_seen: None });

    #[test]
    fn a_watcher_is_told_what_is_news_to_it() {
        let mut watches = Watches::default();
        let (ann, bob, eve) = (user("ann"), user("bob"), user("eve"));
        assert!(
            watches.set(1, &ann, std::slice::from_ref(&bob), 10)
                && watches.set(2, &eve, std::slice::from_ref(&bob), 10)
        );
        let pairs = watches.pairs_of([&bob].into_iter());
        assert_eq!(pairs.into_iter().collect::<Vec<_>>(), [(ann.clone(), bob.clone()), (eve.clone(), bob.clone())]);
        let told = |tells: Vec<Tell>| tells.into_iter().map(|t| t.watcher).collect::<Vec<_>>();
        assert_eq!(told(watches.on_view(&ann, &bob, HERE)), [1]);
        assert!(watches.on_view(&ann, &bob, HERE).is_empty());
        assert_eq!(told(watches.on_view(&eve, &bob, GONE)), [2], "each sees what it may");
        assert_eq!(told(watches.on_view(&ann, &bob, None)), [1]);
        watches.untold(1, &bob);
        assert_eq!(told(watches.on_view(&ann, &bob, None)), [1]);
        watches.forget(1);
        assert!(watches.on_view(&ann, &bob, HERE).is_empty() && watches.is_watched(&bob));
    }

    #[test]
    fn a_new_list_replaces_the_old_one_and_pairs_are_bounded() {
        let mut watches = Watches::default();
        let (ann, bob, eve) = (user("ann"), user("bob"), user("eve"));
        assert!(watches.set(1, &ann, &[bob.clone(), bob.clone()], 2));
        assert!(watches.set(1, &ann, std::slice::from_ref(&eve), 2));
        assert!(!watches.is_watched(&bob));
        assert!(!watches.set(2, &ann, &[bob.clone(), ann.clone()], 2));
        assert!(watches.set(1, &ann, &[bob.clone(), ann.clone()], 2));
        assert!(watches.set(1, &ann, &[], 2));
        assert!(watches.users(|_| true).is_empty());
        assert_eq!(watches.pairs, 0);
    }
}
