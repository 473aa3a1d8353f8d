//! Opening a replica's log: every entry is read and checked before the replica may vote.
//!
//! A damaged vote or entry means that this replica may have promised something that it no longer knows. It must not
//! vote: the caller leaves the group and comes back under a new replica id.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use flotilla_proto::codec;
use flotilla_proto::ids::{Generation, ShardId};
use flotilla_proto::plant::{self, Plant};
use flotilla_storage::{Engine, Order, Read, StorageError, value};
use serde::de::DeserializeOwned;

use super::cache::Cache;
use super::reader::{EntryDamage, decode_row};
use super::store::{LogStore, Shared, State};
use super::writer::LogWriter;
use crate::keys;
use crate::runtime::blocking;
use crate::state::AppliedMark;

const ROW_BYTES_MAX: usize = 1024;

/// Why a log cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("{what}: this replica must not vote; it leaves the group and comes back under a new id")]
    Damaged { what: String },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl LogStore {
    /// Reads and checks the whole log of one replica.
    pub async fn open(
        writer: LogWriter,
        engine: Arc<dyn Engine>,
        shard: ShardId,
        generation: Generation,
        applied: AppliedMark,
        cache_bytes: usize,
    ) -> Result<Self, OpenError> {
        let log = blocking(move || load(engine, shard, generation, cache_bytes)).await?;
        Ok(Self { log: Arc::new(log), writer, applied })
    }
}

fn load(
    engine: Arc<dyn Engine>,
    shard: ShardId,
    generation: Generation,
    cache_bytes: usize,
) -> Result<Shared, OpenError> {
    let vote = load_row(&*engine, &keys::vote(shard, generation), "the vote")?;
    let vote = vote.filter(|_| !plant::on(Plant::DropVote));
    let purged = load_row(&*engine, &keys::purged(shard, generation), "the purge position")?;
    let state = State { vote, purged, last: purged, begin: 0, cache: Cache::new(cache_bytes) };
    let log = Shared { engine, shard, generation, state: Mutex::new(state) };
    load_entries(&log)?;
    Ok(log)
}

fn load_row<T: DeserializeOwned>(read: &dyn Read, key: &[u8], what: &str) -> Result<Option<T>, OpenError> {
    let Some(stored) = read.get(key)? else { return Ok(None) };
    let damaged = |why: String| OpenError::Damaged { what: format!("{what} is damaged ({why})") };
    let (_, payload) = value::open(&stored).map_err(|error| damaged(error.to_string()))?;
    let row = codec::decode(super::ROW_VERSION, &payload, ROW_BYTES_MAX).map_err(|error| damaged(error.to_string()))?;
    Ok(Some(row))
}

fn load_entries(log: &Shared) -> Result<(), OpenError> {
    let from = log.lock().first_index();
    let first = keys::log(log.shard, log.generation, from);
    let end = keys::log_end(log.shard, log.generation);
    let mut expected = from;
    let mut damage = None;
    log.engine.scan(&first, &end, Order::Forward, &mut |key, stored| match decode_row(log, key, stored, expected) {
        Ok(entry) => {
            let mut state = log.lock();
            let index = entry.log_id.index();
            let newest = state.last;
            if newest.is_some_and(|last| entry.log_id.committed_leader_id() < last.committed_leader_id()) {
                let what = format!("its term {} is below the one before", entry.log_id);
                damage = Some(EntryDamage::Entry { shard: log.shard.0, index, what });
                return ControlFlow::Break(());
            }
            state.last = Some(entry.log_id);
            state.cache.push(entry);
            state.cache.mark_durable(index);
            expected = index + 1;
            ControlFlow::Continue(())
        }
        Err(found) => {
            damage = Some(found);
            ControlFlow::Break(())
        }
    })?;
    match damage {
        None => Ok(()),
        Some(EntryDamage::Storage(error)) => Err(error.into()),
        Some(damage) => Err(OpenError::Damaged { what: damage.to_string() }),
    }
}
