//! What the replicas of a stopped node have stored, for people. Reads only, and goes on after damage: it reports it.
//!
//! It knows the rows of this crate; of the state it knows the first byte of each key, the table's kind.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use bytes::Bytes;
use flotilla_proto::codec;
use flotilla_proto::ids::{Generation, ReplicaId, ShardId};
use flotilla_storage::{Order, Read, StorageError, value};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::entry::{self, ENTRY_VERSION};
use crate::keys::{self, StateGeneration};
use crate::log::ROW_VERSION;
use crate::replicas;
use crate::state::Pointer;
use crate::types::{LogId, Vote};

const ROW_BYTES_MAX: usize = 1024;
/// Sentences about damage kept for one replica.
const DAMAGE_MAX: usize = 16;

/// One replica as its disk shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ReplicaFacts {
    pub shard: ShardId,
    pub generation: Generation,
    /// This directory holds it; otherwise it was retired, or never belonged here.
    pub held: bool,
    pub vote: Option<String>,
    pub purged: Option<u64>,
    pub log: Option<LogFacts>,
    pub state: Option<StateFacts>,
    /// What is not as it was written, at most a few sentences. Rows are looked into only when asked for.
    pub damage: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogFacts {
    pub first: u64,
    pub last: u64,
    pub entries: u64,
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StateFacts {
    /// Raised by every snapshot that was installed.
    pub generation: u64,
    /// A snapshot taken from this state ends here.
    pub applied: Option<u64>,
    pub voters: Vec<ReplicaId>,
    pub learners: Vec<ReplicaId>,
    /// Found damaged while the node ran: it is rebuilt at the next start.
    pub marked_damaged: bool,
    /// By the first byte of the machine's keys.
    pub tables: BTreeMap<u8, Rows>,
    /// Rows of other state generations, deleted at the next start.
    pub leftover: Rows,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Rows {
    pub rows: u64,
    pub bytes: u64,
}

impl Rows {
    fn add(&mut self, key: &[u8], stored: &[u8]) {
        self.rows += 1;
        self.bytes += (key.len() + stored.len()) as u64;
    }
}

/// All replicas that have anything stored. `verify`: every checksum is computed and every log entry decoded.
pub fn replicas(read: &dyn Read, verify: bool) -> Result<Vec<ReplicaFacts>, StorageError> {
    let mut ids = BTreeSet::new();
    for kind in [keys::REPLICA, keys::VOTE, keys::PURGED, keys::LOG] {
        ids.extend(ids_of(read, kind)?);
    }
    ids.into_iter().map(|(shard, generation)| replica(read, shard, generation, verify)).collect()
}

/// The replicas that have rows of a kind: one step for each, however many rows it has.
fn ids_of(read: &dyn Read, kind: u8) -> Result<Vec<(ShardId, Generation)>, StorageError> {
    let mut ids = Vec::new();
    let (mut from, to) = (vec![kind], keys::end(vec![kind]));
    loop {
        let mut found = None;
        read.scan(&from, &to, Order::Forward, &mut |key, _| {
            found = key.get(..7).map(<[u8]>::to_vec);
            ControlFlow::Break(())
        })?;
        let Some(prefix) = found else { return Ok(ids) };
        ids.extend(keys::parse_replica(&prefix));
        from = keys::end(prefix);
    }
}

fn replica(
    read: &dyn Read,
    shard: ShardId,
    generation: Generation,
    verify: bool,
) -> Result<ReplicaFacts, StorageError> {
    let mut facts = ReplicaFacts { shard, generation, ..ReplicaFacts::default() };
    match replicas::is_here(read, shard, generation) {
        Ok(held) => facts.held = held,
        Err(StorageError::Corrupt { what }) => facts.note(format!("the mark of the replica: {what}")),
        Err(error) => return Err(error),
    }
    let vote: Option<Vote> = facts.row(read, &keys::vote(shard, generation), "the vote")?;
    facts.vote = vote.map(|vote| vote.to_string());
    let purged: Option<LogId> = facts.row(read, &keys::purged(shard, generation), "the purge position")?;
    facts.purged = purged.map(|id| id.index());
    facts.read_log(read, verify)?;
    match Pointer::load(read, shard) {
        Ok(Some(pointer)) if pointer.replica == generation => facts.read_state(read, pointer, verify)?,
        Ok(_) => {}
        Err(crate::state::StateError::Storage(error)) => return Err(error),
        Err(crate::state::StateError::Damaged { what }) => facts.note(what),
    }
    Ok(facts)
}

impl ReplicaFacts {
    fn note(&mut self, damage: String) {
        if self.damage.len() < DAMAGE_MAX {
            self.damage.push(damage);
        }
    }

    fn row<T: DeserializeOwned>(&mut self, read: &dyn Read, key: &[u8], what: &str) -> Result<Option<T>, StorageError> {
        let Some(stored) = read.get(key)? else { return Ok(None) };
        let opened = value::open(&stored).map_err(|error| error.to_string());
        let row = opened.and_then(|(_, payload)| {
            codec::decode(ROW_VERSION, &payload, ROW_BYTES_MAX).map_err(|error| error.to_string())
        });
        Ok(row.map_err(|why| self.note(format!("{what}: {why}"))).ok())
    }

    fn read_log(&mut self, read: &dyn Read, verify: bool) -> Result<(), StorageError> {
        let (from, to) = (keys::log(self.shard, self.generation, 0), keys::log_end(self.shard, self.generation));
        let mut expected = self.purged.map_or(0, |purged| purged + 1);
        let mut log: Option<LogFacts> = None;
        read.scan(&from, &to, Order::Forward, &mut |key, stored| {
            let index = keys::log_index(key).unwrap_or(u64::MAX);
            // Entries up to the purge position are on their way out.
            if index > expected {
                self.note(format!("log entries {expected} to {} are missing", index - 1));
            }
            expected = expected.max(index.saturating_add(1));
            let log = log.get_or_insert(LogFacts { first: index, last: index, entries: 0, bytes: 0 });
            log.last = index;
            log.entries += 1;
            log.bytes += (key.len() + stored.len()) as u64;
            if verify && let Err(why) = check_entry(index, stored) {
                self.note(format!("log entry {index}: {why}"));
            }
            ControlFlow::Continue(())
        })?;
        self.log = log;
        Ok(())
    }

    fn read_state(&mut self, read: &dyn Read, pointer: Pointer, verify: bool) -> Result<(), StorageError> {
        let membership = pointer.membership.membership();
        let mut facts = StateFacts {
            generation: pointer.generation.0,
            applied: pointer.applied.map(|id| id.index()),
            voters: membership.voter_ids().map(ReplicaId::from_raft).collect(),
            learners: membership.learner_ids().map(ReplicaId::from_raft).collect(),
            marked_damaged: read.get(&keys::state_damaged(self.shard))?.is_some(),
            tables: BTreeMap::new(),
            leftover: Rows::default(),
        };
        let prefix = keys::state(self.shard, StateGeneration(facts.generation)).len();
        let (from, to) = (keys::state_start(self.shard), keys::state_end(self.shard));
        read.scan(&from, &to, Order::Forward, &mut |key, stored| {
            if keys::parse_state(key) != Some(StateGeneration(facts.generation)) {
                facts.leftover.add(key, stored);
                return ControlFlow::Continue(());
            }
            let kind = key.get(prefix).copied().unwrap_or(0);
            facts.tables.entry(kind).or_default().add(key, stored);
            if verify && let Err(error) = value::open_slice(stored) {
                self.note(format!("a row of table kind {kind:#04x}: {error}"));
            }
            ControlFlow::Continue(())
        })?;
        self.state = Some(facts);
        Ok(())
    }
}

fn check_entry(index: u64, stored: &[u8]) -> Result<(), String> {
    let (version, body) = value::open(&Bytes::copy_from_slice(stored)).map_err(|error| error.to_string())?;
    if version != ENTRY_VERSION {
        return Err(format!("version {version} is not understood by this binary"));
    }
    let entry = entry::decode_body(body).map_err(|error| error.to_string())?;
    if entry.log_id.index() != index {
        return Err(format!("it says it is entry {}", entry.log_id.index()));
    }
    Ok(())
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use flotilla_storage::{Batch, Durability, MemDisk};

    use super::*;
    use crate::testkit::{GENERATION, Node, SHARD, append, entries};

    #[tokio::test]
    async fn log_and_state_are_counted_and_damage_is_told_without_stopping() {
        let node = Node::open(&MemDisk::new());
        let engine = &*node.engine;
        replicas::add(engine, SHARD, GENERATION).expect("added");
        let mut log = node.log(SHARD).await.expect("an empty log opens");
        append(&mut log, entries(1, 0..5)).await;
        drop(node.applier().expect("an empty state opens"));
        let facts = super::replicas(engine, true).expect("readable").remove(0);
        assert_eq!((facts.shard, facts.generation, facts.held), (SHARD, GENERATION, true));
        let log = facts.log.expect("there is a log");
        assert_eq!((log.first, log.last, log.entries), (0, 4, 5));
        assert_eq!(facts.state.expect("there is a state").applied, None);
        assert!(facts.damage.is_empty(), "{:?}", facts.damage);

        let mut batch = Batch::new();
        batch.put(keys::log(SHARD, GENERATION, 1), &b"not an entry"[..]);
        batch.delete(keys::log(SHARD, GENERATION, 3));
        engine.write(batch, Durability::Synced).expect("written");
        let quick = super::replicas(engine, false).expect("readable").remove(0);
        assert_eq!(quick.damage, ["log entries 3 to 3 are missing"]);
        let whole = super::replicas(engine, true).expect("readable").remove(0);
        assert!(whole.damage.iter().any(|what| what.starts_with("log entry 1: ")), "{:?}", whole.damage);
    }
}
