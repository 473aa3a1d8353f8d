//! From a batch of bytes to what it means: log entries, votes, purges, applied rows.
//!
//! Only rows of the state generation that counts are looked at; those of a snapshot on its way in are read when the pointer
//! flips to them.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use flotilla_machine::table::{self, Rows, Table};
use flotilla_proto::codec;
use flotilla_proto::ids::{Generation, ShardId};
use flotilla_raft::keys::{self, StateGeneration};
use flotilla_raft::state::Pointer;
use flotilla_raft::{Entry, LogId, Vote, entry};
use flotilla_storage::{Batch, Durability, Op, Order, Read, StorageError, value};
use serde::de::DeserializeOwned;

use super::world::{Held, Site, World};

const ROW_VERSION: u8 = 1;
const ROW_BYTES_MAX: usize = 64 * 1024;

/// One row of a shard's state: the machine's own key, without the node's prefix.
#[derive(Debug, Clone)]
pub struct RowChange {
    pub key: Bytes,
    pub old: Option<Bytes>,
    pub new: Option<Bytes>,
}

impl RowChange {
    pub fn kind(&self) -> u8 {
        self.key.first().copied().unwrap_or(0)
    }

    /// The row's key, and the row before and after, if it is one of table `T`.
    pub fn of<T: Table>(&self) -> Option<(T::Key, Option<T::Row>, Option<T::Row>)> {
        if self.kind() != T::KIND {
            return None;
        }
        let old = self.old.as_ref().and_then(|bytes| row::<T>(&self.key, bytes));
        let new = self.new.as_ref().and_then(|bytes| row::<T>(&self.key, bytes));
        let (old_key, old) = old.unzip();
        let (new_key, new) = new.unzip();
        Some((new_key.or(old_key)?, old, new))
    }
}

/// What happened on a node's disk.
pub enum Event {
    /// `durable`: synced with the write, or found after a start (`found`).
    Vote {
        shard: ShardId,
        generation: Generation,
        old: Option<Vote>,
        new: Vote,
        durable: bool,
        found: bool,
    },
    /// `over`: another entry stood there, and nobody had cut the log.
    Log {
        shard: ShardId,
        generation: Generation,
        hash: u64,
        over: bool,
        entry: Box<Entry>,
    },
    Purged {
        shard: ShardId,
        generation: Generation,
        upto: LogId,
    },
    /// Entries `from + 1 ..= pointer.applied` were applied in one batch.
    Applied {
        shard: ShardId,
        from: Option<u64>,
        pointer: Arc<Pointer>,
        rows: Vec<RowChange>,
        digest: u64,
    },
    /// A start, or a snapshot: the whole state as it stands.
    State {
        shard: ShardId,
        pointer: Arc<Pointer>,
        digest: u64,
        installed: bool,
    },
}

/// The rows that a batch is about to change, as they are.
#[derive(Default)]
pub struct Before {
    rows: BTreeMap<Bytes, Option<Bytes>>,
    votes: BTreeMap<Bytes, Option<Bytes>>,
    /// Entries of logs that the batch writes although they are there.
    logs: BTreeSet<Bytes>,
}

pub fn before(read: &dyn Read, batch: &Batch) -> Before {
    let mut before = Before::default();
    let mut cut: Vec<(&Bytes, &Bytes)> = Vec::new();
    for op in batch.ops() {
        match op {
            Op::Put(key, _) if key.first() == Some(&keys::LOG) => {
                let is_cut = cut.iter().any(|(from, to)| (*from..*to).contains(&key));
                if !is_cut && read.get(key).ok().flatten().is_some() {
                    before.logs.insert(key.clone());
                }
            }
            Op::DeleteRange { from, to } if from.first() == Some(&keys::LOG) => cut.push((from, to)),
            Op::Put(key, _) | Op::Delete(key) => {
                let kept = match key.first() {
                    Some(&keys::STATE) => &mut before.rows,
                    Some(&keys::VOTE) => &mut before.votes,
                    _ => continue,
                };
                if !kept.contains_key(key) {
                    kept.insert(key.clone(), read.get(key).ok().flatten());
                }
            }
            // Old state generations go this way, which nobody counts any more.
            Op::DeleteRange { .. } => {}
        }
    }
    before
}

pub fn hash_of(parts: &[&[u8]]) -> u64 {
    // With fixed keys, the same in every process.
    let mut hasher = DefaultHasher::new();
    parts.iter().for_each(|part| part.hash(&mut hasher));
    hasher.finish()
}

/// Rows add up in any order, so that a digest can be kept while they change.
fn weight(key: &[u8], stored: &[u8]) -> u64 {
    hash_of(&[key, stored])
}

fn digest_of_state(world: &World, site: &Site<'_>, shard: ShardId, generation: StateGeneration) -> u64 {
    let prefix = keys::state(shard, generation);
    let mut sum = 0u64;
    // A read that fails ends the node's life, and with it this check.
    let _ = site.read.scan(&prefix, &keys::end(prefix.clone()), Order::Forward, &mut |key, stored| {
        sum = sum.wrapping_add(weight(&key[prefix.len()..], world.as_written(site.node, key, stored)));
        ControlFlow::Continue(())
    });
    sum
}

pub fn shard_of(key: &[u8]) -> Option<ShardId> {
    Some(ShardId(u16::from_be_bytes(key.get(1..3)?.try_into().ok()?)))
}

fn sealed<T: DeserializeOwned>(stored: &Bytes) -> Option<T> {
    let (_, payload) = value::open(stored).ok()?;
    codec::decode(ROW_VERSION, &payload, ROW_BYTES_MAX).ok()
}

pub fn vote_of(stored: &Bytes) -> Option<Vote> {
    sealed(stored)
}

pub fn log_id_of(stored: &Bytes) -> Option<LogId> {
    sealed(stored)
}

pub fn entry_of(stored: &Bytes) -> Option<Entry> {
    entry::decode_body(value::open(stored).ok()?.1).ok()
}

/// One row as all rows, for the table's own codec.
struct One<'a>(&'a [u8], &'a [u8]);

impl Rows for One<'_> {
    fn get_raw(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        Ok((key == self.0).then(|| Bytes::copy_from_slice(self.1)))
    }

    fn scan_raw(
        &self,
        _: &[u8],
        _: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        let _ = visit(self.0, self.1);
        Ok(())
    }
}

pub fn row<T: Table>(key: &[u8], stored: &[u8]) -> Option<(T::Key, T::Row)> {
    let mut found = None;
    table::scan::<T>(&One(key, stored), &[], &[], &mut |key, row| {
        found = Some((key, row));
        ControlFlow::Break(())
    })
    .ok()?;
    found
}

/// What a node found when it started.
pub fn opened(world: &mut World, site: &Site<'_>) -> Vec<Event> {
    let mut events = Vec::new();
    world.held.retain(|(node, _), _| *node != site.node);
    let from = vec![keys::POINTER];
    let mut shards = Vec::new();
    let _ = site.read.scan(&from, &keys::end(from.clone()), Order::Forward, &mut |key, _| {
        shards.extend(shard_of(key));
        ControlFlow::Continue(())
    });
    for shard in shards {
        // A damaged pointer is the product's to find.
        let Ok(Some(pointer)) = Pointer::load(site.read, shard) else { continue };
        let digest = digest_of_state(world, site, shard, pointer.generation);
        world.held.insert((site.node, shard), Held { pointer: Arc::new(pointer), digest });
    }
    let from = vec![keys::VOTE];
    let _ = site.read.scan(&from, &keys::end(from.clone()), Order::Forward, &mut |key, stored| {
        if let (Some((shard, generation)), Some(new)) =
            (keys::parse_replica(key), vote_of(&Bytes::copy_from_slice(stored)))
        {
            events.push(Event::Vote { shard, generation, old: None, new, durable: true, found: true });
        }
        ControlFlow::Continue(())
    });
    let node = site.node;
    events.extend(world.held.range((node, ShardId(0))..=(node, ShardId(u16::MAX))).map(|((_, shard), held)| {
        Event::State { shard: *shard, pointer: held.pointer.clone(), digest: held.digest, installed: false }
    }));
    events
}

/// What a batch has done.
pub fn written(
    world: &mut World,
    site: &Site<'_>,
    batch: &Batch,
    before: &Before,
    durability: Durability,
) -> Vec<Event> {
    let mut events = Vec::new();
    let mut state: BTreeMap<ShardId, (bool, BTreeMap<&Bytes, Option<&Bytes>>)> = BTreeMap::new();
    for op in batch.ops() {
        let (key, stored) = match op {
            Op::Put(key, stored) => (key, Some(stored)),
            Op::Delete(key) => (key, None),
            Op::DeleteRange { .. } => continue,
        };
        let Some(shard) = shard_of(key) else { continue };
        match (key[0], stored) {
            (keys::LOG, Some(stored)) => events.extend(log_event(before, key, stored)),
            (keys::VOTE, Some(stored)) => {
                let old = before.votes.get(key).and_then(|old| old.as_ref()).and_then(vote_of);
                if let (Some((shard, generation)), Some(new)) = (keys::parse_replica(key), vote_of(stored)) {
                    let durable = durability == Durability::Synced;
                    events.push(Event::Vote { shard, generation, old, new, durable, found: false });
                }
            }
            (keys::PURGED, Some(stored)) => {
                if let (Some((shard, generation)), Some(upto)) = (keys::parse_replica(key), log_id_of(stored)) {
                    events.push(Event::Purged { shard, generation, upto });
                }
            }
            (keys::POINTER, Some(_)) => state.entry(shard).or_default().0 = true,
            (keys::POINTER, None) => drop(world.held.remove(&(site.node, shard))),
            (keys::STATE, stored) => drop(state.entry(shard).or_default().1.insert(key, stored)),
            _ => {}
        }
    }
    events.extend(state.into_iter().filter_map(|(shard, rows)| take(world, site, before, shard, rows)));
    events
}

fn log_event(before: &Before, key: &Bytes, stored: &Bytes) -> Option<Event> {
    let (shard, generation) = keys::parse_replica(key)?;
    let entry = Box::new(entry_of(stored)?);
    Some(Event::Log { shard, generation, hash: hash_of(&[stored]), over: before.logs.contains(key), entry })
}

/// Brings what is held of one shard up to date.
fn take(
    world: &mut World,
    site: &Site<'_>,
    before: &Before,
    shard: ShardId,
    (moved, rows): (bool, BTreeMap<&Bytes, Option<&Bytes>>),
) -> Option<Event> {
    let place = (site.node, shard);
    if !moved {
        // Rows of the generation that counts change only together with the pointer.
        return None;
    }
    let pointer = Arc::new(Pointer::load(site.read, shard).ok()??);
    let old = world.held.remove(&place).filter(|held| held.pointer.generation == pointer.generation);
    let Some(old) = old else {
        let digest = digest_of_state(world, site, shard, pointer.generation);
        world.held.insert(place, Held { pointer: pointer.clone(), digest });
        return Some(Event::State { shard, pointer, digest, installed: true });
    };
    let prefix = keys::state(shard, pointer.generation);
    let mut digest = old.digest;
    let mut changes = Vec::new();
    for (key, new) in rows {
        if !key.starts_with(&prefix) {
            continue;
        }
        let was = before.rows.get(key).cloned().flatten();
        let own = key.slice(prefix.len()..);
        digest = digest
            .wrapping_sub(was.as_ref().map_or(0, |stored| weight(&own, world.as_written(site.node, key, stored))));
        digest = digest.wrapping_add(new.map_or(0, |stored| weight(&own, stored)));
        changes.push(RowChange { key: own, old: was, new: new.cloned() });
    }
    let from = old.pointer.applied.map(|id| id.index());
    world.held.insert(place, Held { pointer: pointer.clone(), digest });
    Some(Event::Applied { shard, from, pointer, rows: changes, digest })
}
