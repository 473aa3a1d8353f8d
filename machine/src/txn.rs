//! A shard's state as apply sees it: the stored rows under the writes made so far.
//!
//! Invariant: reads see every earlier write of the same transaction; nothing reaches storage until the caller takes the
//! batch. Keys are given without the node's prefix (kind, shard, state generation), so that digests leave it out.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use flotilla_storage::key::prefix_end;
use flotilla_storage::{Batch, Order, Read, StorageError};

pub struct Txn<'a> {
    base: &'a dyn Read,
    prefix: Vec<u8>,
    writes: BTreeMap<Vec<u8>, Option<Bytes>>,
    writes_made: u64,
}

impl<'a> Txn<'a> {
    pub fn new(base: &'a dyn Read, prefix: Vec<u8>) -> Self {
        Self { base, prefix, writes: BTreeMap::new(), writes_made: 0 }
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        match self.writes.get(key) {
            Some(written) => Ok(written.clone()),
            None => self.base.get(&self.full(key)),
        }
    }

    pub fn put(&mut self, key: Vec<u8>, value: Bytes) {
        self.writes_made += 1;
        self.writes.insert(key, Some(value));
    }

    pub fn delete(&mut self, key: Vec<u8>) {
        self.writes_made += 1;
        self.writes.insert(key, None);
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
        let mut written = self.writes.range(from.to_vec()..to.to_vec()).peekable();
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
        self.writes.is_empty()
    }

    /// The writes as one batch, under the prefix.
    pub fn into_batch(self) -> Batch {
        let mut batch = Batch::default();
        for (key, change) in self.writes {
            let mut full = self.prefix.clone();
            full.extend_from_slice(&key);
            match change {
                Some(value) => batch.put(full, value),
                None => batch.delete(full),
            }
        }
        batch
    }

    fn full(&self, key: &[u8]) -> Vec<u8> {
        [self.prefix.as_slice(), key].concat()
    }
}
