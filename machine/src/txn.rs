//! A shard's state as apply sees it: the stored rows under the writes made so far.
//!
//! Invariant: reads see every earlier write of the same transaction; nothing reaches storage until the caller takes the
//! batch. Keys are given without the node's prefix (kind, shard, state generation), so that digests leave it out.

use std::cell::RefCell;
use std::ops::ControlFlow;

use bytes::Bytes;
use flotilla_storage::key::prefix_end;
use flotilla_storage::{Batch, Order, Read, StorageError};

use crate::hot::HotRows;
use crate::lookup::Places;
use crate::meta::Kept;

/// A row that is put, or deleted.
type Change = (Vec<u8>, Option<Bytes>);

/// The writes, looked up by key all the time and listed in key order now and then.
#[derive(Default)]
struct Writes {
    /// In the order in which their keys were first written.
    changes: Vec<Change>,
    /// Where in `changes` a key stands.
    places: Places,
    /// The places in key order; those that have come since the last listing are missing.
    sorted: RefCell<Vec<usize>>,
}

impl Writes {
    fn get(&self, key: &[u8]) -> Option<&Option<Bytes>> {
        self.place(key).map(|place| &self.changes[place].1)
    }

    fn insert(&mut self, key: Vec<u8>, change: Option<Bytes>) {
        match self.place(&key) {
            Some(place) => self.changes[place].1 = change,
            None => {
                self.places.insert(&key, self.changes.len(), |place| &self.changes[place].0);
                self.changes.push((key, change));
            }
        }
    }

    fn place(&self, key: &[u8]) -> Option<usize> {
        self.places.get(key, |place| &self.changes[place].0)
    }

    /// Those of [from, to), in key order.
    fn range(&self, from: &[u8], to: &[u8]) -> Vec<&Change> {
        if self.changes.is_empty() || from >= to {
            return Vec::new();
        }
        let key = |place: &usize| self.changes[*place].0.as_slice();
        let mut sorted = self.sorted.borrow_mut();
        if sorted.len() < self.changes.len() {
            let known = sorted.len();
            sorted.extend(known..self.changes.len());
            // Nearly in order already, which this sort is quick at.
            sorted.sort_by(|a, b| key(a).cmp(key(b)));
        }
        let low = sorted.partition_point(|place| key(place) < from);
        let high = sorted.partition_point(|place| key(place) < to);
        sorted[low..high].iter().map(|place| &self.changes[*place]).collect()
    }
}

pub struct Txn<'a> {
    base: &'a dyn Read,
    prefix: Vec<u8>,
    writes: Writes,
    writes_made: u64,
    /// Of the rows in `base`; knows of the writes only once they are taken.
    hot: RefCell<HotRows>,
}

impl<'a> Txn<'a> {
    pub fn new(base: &'a dyn Read, prefix: Vec<u8>) -> Self {
        Self::keeping(base, prefix, &mut Kept::default())
    }

    /// As [`Txn::new`], with what an earlier transaction on the same rows left; [`Txn::into_batch_keeping`] gives it back.
    pub fn keeping(base: &'a dyn Read, prefix: Vec<u8>, kept: &mut Kept) -> Self {
        let hot = RefCell::new(std::mem::take(&mut kept.hot));
        Self { base, prefix, writes: Writes::default(), writes_made: 0, hot }
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        if let Some(written) = self.writes.get(key) {
            return Ok(written.clone());
        }
        let hot = self.hot.borrow_mut().get(key);
        if let Some(row) = hot {
            if cfg!(debug_assertions) {
                assert_eq!(row, self.base.get(&self.full(key))?, "what is kept is what the rows say");
            }
            return Ok(row);
        }
        if self.hot.borrow_mut().is_above_all(key) {
            if cfg!(debug_assertions) {
                assert_eq!(None, self.base.get(&self.full(key))?, "nothing is above the highest key");
            }
            return Ok(None);
        }
        let row = self.base.get(&self.full(key))?;
        let mut hot = self.hot.borrow_mut();
        hot.on_read(key, row.as_ref());
        if row.is_none()
            && let Some(prefix) = hot.on_missed(key)
            && let Some(end) = prefix_end(prefix)
        {
            hot.on_highest(prefix, self.highest(prefix, &end)?.as_deref());
        }
        Ok(row)
    }

    /// The highest key of [from, to) in `base`.
    fn highest(&self, from: &[u8], to: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        let (cut, mut highest) = (self.prefix.len(), None);
        self.base.scan(&self.full(from), &self.full(to), Order::Reverse, &mut |key, _| {
            highest = Some(key[cut..].to_vec());
            ControlFlow::Break(())
        })?;
        Ok(highest)
    }

    pub fn put(&mut self, key: Vec<u8>, value: Bytes) {
        self.write(key, Some(value));
    }

    pub fn delete(&mut self, key: Vec<u8>) {
        self.write(key, None);
    }

    fn write(&mut self, key: Vec<u8>, change: Option<Bytes>) {
        self.writes_made += 1;
        self.hot.borrow_mut().on_touched(&key);
        self.writes.insert(key, change);
    }

    /// The keys that start with a prefix, of a table where few do (see [`crate::hot`]).
    pub fn keys(&self, prefix: &[u8]) -> Result<Vec<Vec<u8>>, StorageError> {
        let known = self.hot.borrow_mut().list(prefix);
        if known.is_some() && !cfg!(debug_assertions) {
            return Ok(known.unwrap_or_default());
        }
        let mut keys = Vec::new();
        self.scan_prefix(prefix, &mut |key, _| {
            keys.push(key.to_vec());
            ControlFlow::Continue(())
        })?;
        assert!(known.is_none_or(|known| known == keys), "what is kept is what the rows say");
        self.hot.borrow_mut().on_listed(prefix, &keys);
        Ok(keys)
    }

    /// Puts and deletes so far. A rejected command leaves it as it was.
    pub fn writes_made(&self) -> u64 {
        self.writes_made
    }

    /// Visits the rows of [from, to) in key order until the visitor breaks. The visitor gets keys without the prefix.
    pub fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        let cut = self.prefix.len();
        let mut written = self.writes.range(from, to).into_iter().peekable();
        let mut stopped = false;
        self.base.scan(&self.full(from), &self.full(to), Order::Forward, &mut |key, value| {
            let key = &key[cut..];
            while let Some((newer, change)) = written.next_if(|(k, _)| k.as_slice() < key) {
                if let Some(value) = change
                    && visit(newer, value).is_break()
                {
                    stopped = true;
                    return ControlFlow::Break(());
                }
            }
            let flow = match written.next_if(|(k, _)| k.as_slice() == key) {
                Some((_, None)) => ControlFlow::Continue(()),
                Some((_, Some(value))) => visit(key, value),
                None => visit(key, value),
            };
            stopped = flow.is_break();
            flow
        })?;
        if stopped {
            return Ok(());
        }
        for (key, change) in written {
            if let Some(value) = change
                && visit(key, value).is_break()
            {
                break;
            }
        }
        Ok(())
    }

    /// All rows below one key prefix.
    pub fn scan_prefix(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        match prefix_end(prefix) {
            Some(end) => self.scan(prefix, &end, visit),
            None => Ok(()),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.writes.changes.is_empty()
    }

    /// The writes as one batch, under the prefix.
    pub fn into_batch(self) -> Batch {
        self.into_batch_keeping(&mut Kept::default())
    }

    /// The same; `kept` is then of the state with that batch in it.
    pub fn into_batch_keeping(self, kept: &mut Kept) -> Batch {
        let mut batch = Batch::default();
        let mut hot = self.hot.into_inner();
        for (key, change) in self.writes.changes {
            let mut full = Vec::with_capacity(self.prefix.len() + key.len());
            full.extend_from_slice(&self.prefix);
            full.extend_from_slice(&key);
            hot.on_written(key, change.as_ref());
            match change {
                Some(value) => batch.put(full, value),
                None => batch.delete(full),
            }
        }
        kept.hot = hot;
        batch
    }

    fn full(&self, key: &[u8]) -> Vec<u8> {
        [self.prefix.as_slice(), key].concat()
    }
}
