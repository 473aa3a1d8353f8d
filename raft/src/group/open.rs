//! Starting a replica: state, log, checks between the two, core, tasks.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use flotilla_proto::ids::{ReplicaId, ShardId};
use flotilla_proto::limits::{PROPOSER_QUEUE_MAX, READ_QUEUE_MAX};
use flotilla_storage::Engine;
use openraft::RaftNetworkFactory;
use openraft::network::NetSnapshot;
use openraft::storage::RaftLogStorage as _;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::Instant;

use super::admission::Admission;
use super::error::StartError;
use super::forsaken::Forsaken;
use super::proposer::Proposer;
use super::reads::Reads;
use super::watcher::Watcher;
use super::{Group, Inner, Leadership};
use crate::config::Timings;
use crate::hooks::{Hooks, supervise};
use crate::log::{LogStore, LogWriter};
use crate::runtime::blocking_write;
use crate::seam::clock::DisplayClock;
use crate::snapshot::Generations;
use crate::state::{self, AppliedMark, Applier, ApplyLanes, Pointer, StateError};
use crate::types::{Raft, SnapshotData, TypeConfig};

/// What a replica is started with.
#[derive(Clone)]
pub struct GroupOptions {
    pub shard: ShardId,
    pub replica: ReplicaId,
    /// For openraft's log lines.
    pub cluster: String,
    pub timings: Timings,
    pub engine: Arc<dyn Engine>,
    /// The node's one writer.
    pub writer: LogWriter,
    /// The node's appliers.
    pub lanes: ApplyLanes,
    pub hooks: Arc<dyn Hooks>,
    pub display: DisplayClock,
    /// Groups of one node hand in what may wait at the same times, counted from this one.
    pub beat: Instant,
    /// Newest entries kept in memory, `limits::LOG_CACHE_BYTES_MAX` or less.
    pub log_cache_bytes: usize,
}

impl Group {
    /// Starts the replica with what is on disk. A damaged state is rebuilt from the log if the log reaches back far
    /// enough; other damage is reported, and nothing has been started then.
    pub async fn open<N>(options: GroupOptions, network: N) -> Result<Self, StartError>
    where
        N: RaftNetworkFactory<TypeConfig>,
        N::Network: NetSnapshot<TypeConfig, SnapshotData = SnapshotData>,
    {
        let generations = Generations::new(options.engine.clone(), options.shard);
        let mark = AppliedMark::default();
        let mut log = open_log(&options, mark.clone()).await?;
        let log_state = log.get_log_state().await.map_err(|error| StartError::Raft(error.to_string()))?;
        let purged = log_state.last_purged_log_id.map(|id| id.index());
        let pointer = open_state(&options, &generations, &mark, purged).await?;
        let config = options.timings.config(&options.cluster).map_err(|error| StartError::Config(error.to_string()))?;
        let applier = Applier::new(generations.clone(), pointer, mark, options.lanes.clone(), options.hooks.clone());
        let raft = Raft::new(options.replica.to_raft(), config, network, log, applier)
            .await
            .map_err(|fatal| StartError::Raft(fatal.to_string()))?;
        Ok(start(options, generations, raft))
    }
}

async fn open_log(options: &GroupOptions, mark: AppliedMark) -> Result<LogStore, StartError> {
    let generation = options.replica.generation;
    let (writer, engine) = (options.writer.clone(), options.engine.clone());
    let opened = LogStore::open(writer, engine, options.shard, generation, mark, options.log_cache_bytes).await;
    opened.map_err(StartError::from)
}

async fn open_state(
    options: &GroupOptions,
    generations: &Generations,
    mark: &AppliedMark,
    purged: Option<u64>,
) -> Result<Pointer, StartError> {
    let (owned, replica, shared) = (generations.clone(), options.replica.generation, mark.clone());
    let opened = blocking_write(&*options.engine, move || {
        let opened = state::open(&owned, replica, &shared).and_then(|pointer| covers(pointer, purged));
        match opened {
            // The log holds every entry since the first, so it brings the whole state back.
            Err(StateError::Damaged { what }) if purged.is_none() => {
                tracing::warn!(shard = %owned.shard(), %what, "rebuilding the state from the log");
                state::wipe(&owned, replica)
            }
            other => other,
        }
    })
    .await;
    opened.map_err(StartError::from)
}

/// Checks that no entry between the state and the log is gone (I8: purged <= applied).
fn covers(pointer: Pointer, purged: Option<u64>) -> Result<Pointer, StateError> {
    let applied = pointer.applied.map(|id| id.index());
    if purged <= applied {
        return Ok(pointer);
    }
    Err(StateError::Damaged { what: format!("applied up to {applied:?}, but the log is purged up to {purged:?}") })
}

fn start(options: GroupOptions, generations: Generations, raft: Raft) -> Group {
    let GroupOptions { shard, replica: own, timings, hooks, display, beat, .. } = options;
    let (proposals, queue) = mpsc::channel(PROPOSER_QUEUE_MAX);
    let (reads, read_queue) = mpsc::channel(READ_QUEUE_MAX);
    let (publish, leadership) = watch::channel(Leadership::default());
    let stopping = Arc::new(AtomicBool::new(false));

    let watcher =
        Watcher { raft: raft.clone(), shard, leadership: publish, hooks: hooks.clone(), stopping: stopping.clone() };
    supervise(hooks.clone(), Some(shard), "the watcher of a group", watcher.run());
    let admission = Arc::new(Admission::new(Instant::now()));
    let proposer = Proposer {
        raft: raft.clone(),
        shard,
        own,
        queue,
        leadership: leadership.clone(),
        tick: timings.tick,
        display,
        beat,
        admission: admission.clone(),
    };
    supervise(hooks.clone(), Some(shard), "the proposer of a group", proposer.run());
    let timeout = timings.election_max * 2;
    let reader = Reads { raft: raft.clone(), own, queue: read_queue, timeout };
    supervise(hooks.clone(), Some(shard), "the reader of a group", reader.run());

    let inner = Inner {
        shard,
        own,
        raft,
        generations,
        hooks,
        proposals,
        reads,
        leadership,
        changing: Mutex::new(()),
        // openraft's lease of a leader.
        forsaken: Forsaken::new(timings.election_max),
        admission,
        stopping,
    };
    Group { inner: Arc::new(inner) }
}
