//! One group's log and vote, as openraft's log storage.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flotilla_proto::codec;
use flotilla_proto::ids::{Generation, ShardId};
use flotilla_proto::plant::{self, Plant};
use flotilla_storage::{Batch, Durability, Engine, value};
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};

use super::ROW_VERSION;
use super::cache::Cache;
use super::reader::LogReader;
use super::writer::{LogWriter, Then};
use crate::entry::{self, ENTRY_VERSION};
use crate::keys;
use crate::path;
use crate::seam::fault;
use crate::state::AppliedMark;
use crate::types::{Entry, LogId, TypeConfig, Vote};

/// The log of one replica. Opened by [`LogStore::open`](super::open).
pub struct LogStore {
    pub(super) log: Arc<Shared>,
    pub(super) writer: LogWriter,
    /// How far the applied state is durable: the bound of every purge.
    pub(super) applied: AppliedMark,
}

/// What the store, its readers and the writer share.
pub(super) struct Shared {
    pub engine: Arc<dyn Engine>,
    pub shard: ShardId,
    pub generation: Generation,
    pub state: Mutex<State>,
}

pub(super) struct State {
    pub vote: Option<Vote>,
    pub purged: Option<LogId>,
    pub last: Option<LogId>,
    /// Where a log begins that nothing was purged from: 0, but for openraft's test suite.
    pub begin: u64,
    pub cache: Cache,
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        // Only broken invariants panic under this lock, and the process ends with them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The lowest index that may exist.
    pub fn first_index(&self) -> u64 {
        self.purged.map_or(self.begin, |id| id.index() + 1)
    }

    /// One above the highest index that exists.
    pub fn end_index(&self) -> u64 {
        self.last.map_or(0, |id| id.index() + 1)
    }
}

impl LogStore {
    fn key(&self, index: u64) -> Vec<u8> {
        keys::log(self.log.shard, self.log.generation, index)
    }

    fn put_entry(&self, entry: &Entry, batch: &mut Batch) {
        let mut body = Vec::with_capacity(entry::encoded_len(entry));
        entry::encode_body(entry, &mut body);
        batch.put(self.key(entry.log_id.index()), value::seal(ENTRY_VERSION, &body));
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.log.lock();
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader { log: self.log.clone() }
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let payload = codec::encode(ROW_VERSION, vote).expect("a vote is plain integers");
        let mut batch = Batch::new();
        batch.put(keys::vote(self.log.shard, self.log.generation), value::seal(ROW_VERSION, &payload));
        self.writer.write_synced(batch).await?;
        self.log.lock().vote = Some(*vote);
        fault::point("vote.saved");
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut batch = Batch::new();
        let from = self.log.lock().end_index();
        let index = {
            let mut state = self.log.lock();
            for entry in entries {
                let end = state.end_index();
                assert!(end == 0 || entry.log_id.index() == end, "a log has no holes: {} after {end}", entry.log_id);
                if end == 0 {
                    state.begin = entry.log_id.index();
                }
                self.put_entry(&entry, &mut batch);
                state.last = Some(entry.log_id);
                state.cache.push(entry);
            }
            state.end_index().saturating_sub(1)
        };
        if path::is_on() {
            (from..=index).for_each(|index| path::index("append", self.log.shard, index));
        }
        let then = Then::Flushed { log: self.log.clone(), index, callback };
        let durability = if plant::on(Plant::AnswerBeforeSync) { Durability::Buffered } else { Durability::Synced };
        self.writer.submit(batch, durability, then).await
    }

    /// Waits for the write: entries that replace truncated ones must not be taken for durable by an earlier sync.
    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let from = last.map_or(0, |id| id.index() + 1);
        {
            let mut state = self.log.lock();
            assert!(
                state.purged.is_none_or(|purged| from > purged.index()),
                "purged entries are committed and cannot be truncated"
            );
            if state.end_index() > from {
                state.last = last;
            }
            state.cache.truncate(from);
        }
        let mut batch = Batch::new();
        batch.delete_range(self.key(from), keys::log_end(self.log.shard, self.log.generation));
        self.writer.write_synced(batch).await?;
        // An append that was queued before may have raised the mark meanwhile.
        self.log.lock().cache.truncate(from);
        fault::point("log.truncated");
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let durable = self.applied.durable();
        let last = self.log.lock().last;
        let upto = if plant::on(Plant::PurgePastDurable) { upto.max(last.unwrap_or(upto)) } else { upto };
        assert!(
            durable.is_some_and(|index| upto.index() <= index) || plant::on(Plant::PurgePastDurable),
            "shard {}: purging up to {upto}, but applied state is durable only up to {durable:?}",
            self.log.shard
        );
        let mut batch = Batch::new();
        {
            let mut state = self.log.lock();
            if state.purged.is_some_and(|purged| purged.index() >= upto.index()) {
                return Ok(());
            }
            batch.delete_range(self.key(state.first_index()), self.key(upto.index() + 1));
            state.purged = Some(upto);
            if state.end_index() <= upto.index() {
                state.last = Some(upto);
            }
            state.cache.purge(upto.index());
        }
        let payload = codec::encode(ROW_VERSION, &upto).expect("a log id is plain integers");
        batch.put(keys::purged(self.log.shard, self.log.generation), value::seal(ROW_VERSION, &payload));
        self.writer.submit(batch, Durability::Buffered, Then::Nothing).await
    }
}
