//! Reading a RocksDB: from the newest state, or from a snapshot that owns its share of the database.
//!
//! Invariant: a view's snapshot is released before the database that it belongs to. `self_cell` keeps the
//! two together, so that no `unsafe` of ours is needed.

use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{DBAccess, DBPinnableSlice, DBRawIteratorWithThreadMode, Error, ReadOptions, ReadTier, Snapshot};
use self_cell::self_cell;

use super::Shared;
use super::error::translate;
use crate::{Order, Read, StorageError, Visitor};

self_cell!(
    struct Pinned {
        owner: Arc<Shared>,
        #[covariant]
        dependent: Snapshot,
    }
);

/// The database as of one write.
pub(super) struct View {
    pinned: Pinned,
    tier: Tier,
}

/// How far a read may go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tier {
    All,
    /// Memtables and the block cache.
    Memory,
}

impl View {
    pub(super) fn new(shared: Arc<Shared>, tier: Tier) -> Self {
        Self { pinned: Pinned::new(shared, |shared| shared.db.snapshot()), tier }
    }
}

impl Tier {
    fn limit(self, options: &mut ReadOptions) {
        if self == Tier::Memory {
            options.set_read_tier(ReadTier::BlockCache);
        }
    }
}

impl Read for View {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.pinned.borrow_owner().check_readable()?;
        let mut options = ReadOptions::default();
        self.tier.limit(&mut options);
        value(self.pinned.borrow_dependent().get_pinned_opt(key, options))
    }

    fn scan(&self, from: &[u8], to: &[u8], order: Order, visit: Visitor<'_>) -> Result<(), StorageError> {
        self.pinned.borrow_owner().check_readable()?;
        let Some(mut bounds) = bounds(from, to) else { return Ok(()) };
        self.tier.limit(&mut bounds);
        walk(self.pinned.borrow_dependent().raw_iterator_opt(bounds), order, visit)
    }
}

impl Read for Shared {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.check_readable()?;
        value(self.db.get_pinned(key))
    }

    /// RocksDB's iterators are consistent by themselves, as of their creation.
    fn scan(&self, from: &[u8], to: &[u8], order: Order, visit: Visitor<'_>) -> Result<(), StorageError> {
        self.check_readable()?;
        let Some(bounds) = bounds(from, to) else { return Ok(()) };
        walk(self.db.raw_iterator_opt(bounds), order, visit)
    }
}

fn value(found: Result<Option<DBPinnableSlice<'_>>, Error>) -> Result<Option<Bytes>, StorageError> {
    match found {
        Ok(value) => Ok(value.map(|value| Bytes::copy_from_slice(&value))),
        Err(error) => Err(translate("a read", &error)),
    }
}

/// `None` if nothing can lie between.
fn bounds(from: &[u8], to: &[u8]) -> Option<ReadOptions> {
    if from >= to {
        return None;
    }
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(from);
    options.set_iterate_upper_bound(to);
    Some(options)
}

fn walk<D: DBAccess>(
    mut pairs: DBRawIteratorWithThreadMode<'_, D>,
    order: Order,
    visit: Visitor<'_>,
) -> Result<(), StorageError> {
    match order {
        Order::Forward => pairs.seek_to_first(),
        Order::Reverse => pairs.seek_to_last(),
    }
    while let Some((key, value)) = pairs.item() {
        if visit(key, value).is_break() {
            return Ok(());
        }
        match order {
            Order::Forward => pairs.next(),
            Order::Reverse => pairs.prev(),
        }
    }
    // An iterator also ends where it cannot read on: that must not look like the end of the data.
    pairs.status().map_err(|error| translate("a scan", &error))
}
