//! An ordered map that keeps the versions of a key which a view or a crash may still ask for.
//!
//! Invariant: for every number at or above the floor of the last [`Versions::collect`], reading at that
//! number gives what the map held right after that write. It knows of every write whether it was logged, for a crash may take
//! unlogged ones from under logged ones; it knows nothing of batches, syncs or views.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;

use crate::{Op, Order};

/// Versions of one key, oldest first.
type History = Vec<Version>;

#[derive(Clone)]
struct Version {
    no: u64,
    is_logged: bool,
    /// `None` is a deletion.
    value: Option<Bytes>,
}

/// The writes that a reader sees, or that a crash leaves: logged and unlogged ones up to these numbers.
#[derive(Clone, Copy)]
pub(super) struct Cut {
    pub logged: u64,
    pub unlogged: u64,
}

impl Cut {
    pub(super) fn at(no: u64) -> Self {
        Self { logged: no, unlogged: no }
    }

    fn covers(self, version: &Version) -> bool {
        version.no <= if version.is_logged { self.logged } else { self.unlogged }
    }
}

#[derive(Clone, Default)]
pub(super) struct Versions {
    map: BTreeMap<Bytes, History>,
    /// (number, key) of each write that made an older version, or itself, superfluous. Numbers rise.
    garbage: VecDeque<(u64, Bytes)>,
}

impl Versions {
    pub(super) fn apply(&mut self, no: u64, is_logged: bool, op: Op) {
        match op {
            Op::Put(key, value) => self.set(no, is_logged, key, Some(value)),
            Op::Delete(key) => self.set(no, is_logged, key, None),
            Op::DeleteRange { from, to } => self.delete_range(no, is_logged, &from, &to),
        }
    }

    fn set(&mut self, no: u64, is_logged: bool, key: Bytes, value: Option<Bytes>) {
        if value.is_none() && !self.map.contains_key(&key) {
            return;
        }
        let history = self.map.entry(key.clone()).or_default();
        if !history.is_empty() {
            self.garbage.push_back((no, key));
        }
        history.push(Version { no, is_logged, value });
    }

    fn delete_range(&mut self, no: u64, is_logged: bool, from: &[u8], to: &[u8]) {
        if from >= to {
            return;
        }
        let range = (Bound::Included(from), Bound::Excluded(to));
        for (key, history) in self.map.range_mut::<[u8], _>(range) {
            // What an unlogged deletion hides comes back if a crash takes that one away.
            if history.last().is_some_and(|newest| newest.value.is_some() || !newest.is_logged) {
                history.push(Version { no, is_logged, value: None });
                self.garbage.push_back((no, key.clone()));
            }
        }
    }

    pub(super) fn get(&self, key: &[u8], at: Cut) -> Option<&Bytes> {
        visible(self.map.get(key)?, at)
    }

    /// Up to `limit` pairs between the bounds, in order, as of `at`.
    pub(super) fn page(
        &self,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        order: Order,
        at: Cut,
        limit: usize,
    ) -> Vec<(Bytes, Bytes)> {
        let histories = self.map.range::<[u8], _>(range);
        let pair = |(key, history): (&Bytes, &History)| Some((key.clone(), visible(history, at)?.clone()));
        match order {
            Order::Forward => histories.filter_map(pair).take(limit).collect(),
            Order::Reverse => histories.rev().filter_map(pair).take(limit).collect(),
        }
    }

    /// Forgets what no reader at `floor` or above can see. No crash may take a write up to there.
    pub(super) fn collect(&mut self, floor: u64) {
        while self.garbage.front().is_some_and(|(no, _)| *no <= floor) {
            if let Some((_, key)) = self.garbage.pop_front() {
                self.prune(&key, floor);
            }
        }
    }

    fn prune(&mut self, key: &[u8], floor: u64) {
        let Some(history) = self.map.get_mut(key) else { return };
        let newer = history.iter().position(|version| version.no > floor).unwrap_or(history.len());
        let mut superfluous = newer.saturating_sub(1);
        // The oldest version that stays would be a deletion: nothing is left for it to hide.
        if newer > 0 && history[newer - 1].value.is_none() {
            superfluous = newer;
        }
        history.drain(..superfluous);
        if history.is_empty() {
            self.map.remove(key);
        }
    }

    /// Undoes every write behind `cut`, which must not be below the floor of the last collect.
    pub(super) fn truncate(&mut self, cut: Cut) {
        self.map.retain(|_, history| {
            history.retain(|version| cut.covers(version));
            !history.is_empty()
        });
        self.garbage.retain(|(no, _)| *no <= cut.logged.max(cut.unlogged));
    }

    /// Changes the newest value of `key` in place, in all readers' eyes. False if there is none.
    pub(super) fn damage(&mut self, key: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let newest = self.map.get_mut(key).and_then(|history| history.last_mut());
        let Some(Version { value: Some(value), .. }) = newest else { return false };
        let mut bytes = value.to_vec();
        change(&mut bytes);
        *value = bytes.into();
        true
    }

    /// Number of versions kept, for tests and for bounds on memory.
    pub(super) fn len(&self) -> usize {
        self.map.values().map(Vec::len).sum()
    }
}

fn visible(history: &History, at: Cut) -> Option<&Bytes> {
    history.iter().rev().find(|version| at.covers(version)).and_then(|version| version.value.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str, value: &'static str) -> Op {
        Op::Put(key.into(), value.into())
    }

    #[test]
    fn old_versions_stay_until_collected_and_not_longer() {
        let mut versions = Versions::default();
        for no in 1..=100 {
            versions.apply(no, true, put("k", "v"));
        }
        assert_eq!(versions.len(), 100);
        versions.collect(60);
        assert_eq!(versions.len(), 41);
        assert!(versions.get(b"k", Cut::at(60)).is_some());
        versions.collect(100);
        assert_eq!(versions.len(), 1);
    }

    #[test]
    fn deleted_keys_vanish_once_nobody_can_see_them() {
        let mut versions = Versions::default();
        versions.apply(1, true, put("a", "1"));
        versions.apply(2, true, put("b", "2"));
        versions.apply(3, true, Op::DeleteRange { from: "a".into(), to: "c".into() });
        versions.apply(4, true, Op::Delete("never there".into()));
        assert_eq!(versions.get(b"a", Cut::at(2)), Some(&"1".into()));
        versions.collect(4);
        assert_eq!(versions.len(), 0);
        assert!(versions.garbage.is_empty());
    }

    #[test]
    fn truncate_brings_back_what_was_overwritten_or_deleted() {
        let mut versions = Versions::default();
        versions.apply(1, true, put("a", "old"));
        versions.apply(2, true, put("b", "old"));
        versions.collect(2);
        versions.apply(3, true, put("a", "new"));
        versions.apply(4, true, Op::Delete("b".into()));
        versions.apply(5, true, put("c", "new"));
        versions.truncate(Cut::at(2));
        assert_eq!(versions.get(b"a", Cut::at(9)), Some(&"old".into()));
        assert_eq!(versions.get(b"b", Cut::at(9)), Some(&"old".into()));
        assert_eq!(versions.get(b"c", Cut::at(9)), None);
        assert!(versions.garbage.is_empty());
    }

    #[test]
    fn a_crash_takes_unlogged_writes_from_under_logged_ones() {
        let mut versions = Versions::default();
        versions.apply(1, true, put("a", "logged"));
        versions.apply(2, false, Op::Delete("a".into()));
        versions.apply(3, false, put("b", "unlogged"));
        versions.apply(4, true, Op::DeleteRange { from: "a".into(), to: "b".into() });
        versions.apply(5, true, put("c", "logged"));
        versions.truncate(Cut { logged: 5, unlogged: 1 });
        assert_eq!(versions.get(b"a", Cut::at(5)), None, "the logged deletion is still there");
        assert_eq!(versions.get(b"a", Cut::at(3)), Some(&"logged".into()));
        assert_eq!(versions.get(b"b", Cut::at(5)), None);
        assert_eq!(versions.get(b"c", Cut::at(5)), Some(&"logged".into()));
    }
}
