//! The newest entries of one group's log, in memory.
//!
//! Invariants: indexes are consecutive and end at the log's last; an entry that is not durable yet is always here, so
//! the disk is asked only for entries that it has.

use std::collections::VecDeque;

use crate::entry;
use crate::types::Entry;

pub(super) struct Cache {
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
    bytes_max: usize,
    /// The first index that is not known to be durable.
    durable_end: u64,
}

impl Cache {
    pub fn new(bytes_max: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, bytes_max, durable_end: 0 }
    }

    /// Index of the oldest entry here.
    pub fn first(&self) -> Option<u64> {
        self.entries.front().map(|(entry, _)| entry.log_id.index())
    }

    pub fn push(&mut self, entry: Entry) {
        let bytes = entry::encoded_len(&entry);
        if let Some((last, _)) = self.entries.back() {
            assert_eq!(entry.log_id.index(), last.log_id.index() + 1, "a log has no holes");
        }
        self.entries.push_back((entry, bytes));
        self.bytes += bytes;
    }

    /// Entries up to this index are on disk.
    pub fn mark_durable(&mut self, index: u64) {
        self.durable_end = self.durable_end.max(index + 1);
        self.evict();
    }

    fn evict(&mut self) {
        while self.bytes > self.bytes_max && self.first().is_some_and(|first| first < self.durable_end) {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some((_, bytes)) = self.entries.pop_front() {
            self.bytes -= bytes;
        }
    }

    /// Forgets entries from `from` on.
    pub fn truncate(&mut self, from: u64) {
        while self.entries.back().is_some_and(|(entry, _)| entry.log_id.index() >= from) {
            let (_, bytes) = self.entries.pop_back().expect("there is a last entry");
            self.bytes -= bytes;
        }
        self.durable_end = self.durable_end.min(from);
    }

    /// Forgets entries up to and including `upto`.
    pub fn purge(&mut self, upto: u64) {
        while self.first().is_some_and(|first| first <= upto) {
            self.pop_front();
        }
    }

    /// The entries of `[from, to)` that are here, until their bytes pass `bytes_max` (one comes in any case).
    pub fn range(&self, from: u64, to: u64, bytes_max: usize) -> Vec<Entry> {
        let Some(first) = self.first() else { return Vec::new() };
        let skip = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
        let mut budget = bytes_max;
        let mut taken = Vec::new();
        for (entry, bytes) in self.entries.iter().skip(skip) {
            if entry.log_id.index() >= to || (*bytes > budget && !taken.is_empty()) {
                break;
            }
            budget = budget.saturating_sub(*bytes);
            taken.push(entry.clone());
        }
        taken
    }

    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;

    use super::*;
    use crate::types::log_id;

    fn cache(bytes_max: usize, entries: u64) -> Cache {
        let mut cache = Cache::new(bytes_max);
        for index in 0..entries {
            cache.push(Entry { log_id: log_id(1, index), payload: EntryPayload::Blank });
        }
        cache
    }

    fn indexes(entries: &[Entry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.log_id.index()).collect()
    }

    #[test]
    fn an_entry_that_is_not_durable_stays_whatever_the_bound() {
        let mut cache = cache(0, 10);
        assert_eq!(cache.first(), Some(0));
        cache.mark_durable(6);
        assert_eq!(cache.first(), Some(7));
        cache.mark_durable(9);
        assert_eq!((cache.first(), cache.bytes()), (None, 0));
    }

    #[test]
    fn a_truncated_index_is_not_durable_any_more() {
        let mut cache = cache(40, 3);
        cache.mark_durable(2);
        cache.truncate(1);
        for index in 1..4 {
            cache.push(Entry { log_id: log_id(2, index), payload: EntryPayload::Blank });
        }
        cache.evict();
        assert_eq!(cache.first(), Some(1), "the new entries are not on disk yet");
    }

    #[test]
    fn a_range_is_bounded_by_bytes_but_never_empty() {
        let cache = cache(usize::MAX, 5);
        assert_eq!(indexes(&cache.range(1, 4, usize::MAX)), [1, 2, 3]);
        assert_eq!(indexes(&cache.range(1, 4, 0)), [1]);
        assert_eq!(indexes(&cache.range(1, 4, 40)), [1, 2]);
        assert_eq!(indexes(&cache.range(9, 12, 40)), Vec::<u64>::new());
    }
}
