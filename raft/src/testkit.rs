//! What the tests of this crate share: hooks that remember, a node on an engine, entries, callbacks to wait for.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use flotilla_machine::{Command, Effect, Stamp};
use flotilla_proto::ids::{Generation, ShardId, TsMs};
use flotilla_storage::{Batch, Durability, Engine, MemDisk, MemEngine, value};
use futures::stream;
use openraft::EntryPayload;
use openraft::storage::{IOFlushed, RaftLogStorage as _, RaftStateMachine as _};
use openraft::type_config::TypeConfigExt as _;
use openraft::type_config::alias::OneshotReceiverOf;

use crate::hooks::Hooks;
use crate::keys::{self, StateGeneration};
use crate::log::{LogStore, LogWriter, OpenError};
use crate::snapshot::Generations;
use crate::state::{self, AppliedMark, Applier, ApplyLanes, StateError};
use crate::types::{Entry, Proposal, TypeConfig, log_id};

pub const SHARD: ShardId = ShardId(3);
pub const GENERATION: Generation = Generation(1);

/// Remembers what the node would have been told.
#[derive(Default)]
pub struct Recorder {
    pub fatals: Mutex<Vec<String>>,
    pub installed: Mutex<Vec<ShardId>>,
}

impl Recorder {
    pub fn fatals(&self) -> Vec<String> {
        self.fatals.lock().expect("no test panics inside").clone()
    }
}

impl Hooks for Recorder {
    fn on_applied(&self, _shard: ShardId, _effects: Vec<Effect>) {}

    fn on_installed(&self, shard: ShardId) {
        self.installed.lock().expect("no test panics inside").push(shard);
    }

    fn on_fatal(&self, _shard: Option<ShardId>, reason: String) {
        self.fatals.lock().expect("no test panics inside").push(reason);
    }
}

/// One process on one disk. Dropping it and opening another on the same disk is a restart.
pub struct Node {
    pub engine: Arc<dyn Engine>,
    pub hooks: Arc<Recorder>,
    pub writer: LogWriter,
    pub lanes: ApplyLanes,
}

impl Node {
    pub fn on(engine: Arc<dyn Engine>) -> Self {
        let hooks = Arc::new(Recorder::default());
        let writer = LogWriter::start(engine.clone(), hooks.clone());
        let lanes = ApplyLanes::start(engine.clone(), hooks.clone(), 1 << 20);
        Self { engine, hooks, writer, lanes }
    }

    pub fn open(disk: &MemDisk) -> Self {
        Self::on(Arc::new(MemEngine::open(disk).expect("the disk is free")))
    }

    pub async fn log(&self, shard: ShardId) -> Result<LogStore, OpenError> {
        self.log_with(shard, AppliedMark::default(), 1 << 20).await
    }

    pub async fn log_with(&self, shard: ShardId, mark: AppliedMark, cache_bytes: usize) -> Result<LogStore, OpenError> {
        LogStore::open(self.writer.clone(), self.engine.clone(), shard, GENERATION, mark, cache_bytes).await
    }

    pub fn generations(&self) -> Generations {
        Generations::new(self.engine.clone(), SHARD)
    }

    pub fn applier(&self) -> Result<Applier, StateError> {
        self.applier_with(&self.generations(), AppliedMark::default())
    }

    pub fn applier_with(&self, generations: &Generations, mark: AppliedMark) -> Result<Applier, StateError> {
        let pointer = state::open(generations, GENERATION, &mark)?;
        Ok(Applier::new(generations.clone(), pointer, mark, self.lanes.clone(), self.hooks.clone()))
    }

    /// Puts rows under a state generation, as a machine would have.
    pub fn put_rows(&self, generation: StateGeneration, rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) {
        let prefix = keys::state(SHARD, generation);
        let mut batch = Batch::new();
        for (key, value) in rows {
            batch.put([&prefix[..], &key[..]].concat(), value::seal(1, &value));
        }
        self.engine.write(batch, Durability::Buffered).expect("no fault is injected");
    }
}

pub fn tick() -> Bytes {
    Command::Tick.encode().expect("a tick encodes")
}

/// An entry with one tick and some ballast in its stamp.
pub fn entry(term: u64, index: u64) -> Entry {
    let stamp = Stamp { age_delta_ms: index, display: TsMs(1_600_000_000_000 + index) };
    Entry { log_id: log_id(term, index), payload: EntryPayload::Normal(Proposal::new(stamp, vec![tick()])) }
}

pub fn entries(term: u64, range: std::ops::Range<u64>) -> Vec<Entry> {
    range.map(|index| entry(term, index)).collect()
}

/// Appends, and returns what waits for the callback.
pub async fn submit(log: &mut LogStore, entries: Vec<Entry>) -> OneshotReceiverOf<TypeConfig, std::io::Result<()>> {
    let (tx, rx) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(tx)).await.expect("the writer is alive");
    rx
}

/// Appends and waits until it is durable.
pub async fn append(log: &mut LogStore, entries: Vec<Entry>) {
    submit(log, entries).await.await.expect("answered").expect("written");
}

pub async fn apply(applier: &mut Applier, entries: Vec<Entry>) {
    applier.apply(stream::iter(entries.into_iter().map(|entry| Ok((entry, None))))).await.expect("applies");
}

/// Waits for a condition; fails the test if it does not come true in time.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
