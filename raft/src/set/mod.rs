//! All groups of a node.
//!
//! - [`router`] incoming Raft traffic to the right replica · [`tend`] what leaders do for their groups
//! - [`plan`] the next step of a membership change, pure · [`spread`] when to hand leadership over, pure
//! - [`succession`] what followers do when their leader's node refuses connections
//!
//! Invariants: one replica per shard and node runs at a time; a membership changes only towards the placement, one step at a time, by
//! the group's own leader. It does not know where placements come from, nor what the groups hold.

pub mod plan;
pub mod router;
pub mod spread;
pub mod succession;
mod tend;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flotilla_proto::ids::{NodeId, ReplicaId, ShardId};
use flotilla_proto::limits;
use flotilla_storage::Engine;
use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config::Timings;
use crate::group::{Damaged, Group, GroupOptions, Leadership, MembershipError, StartError};
use crate::hooks::Hooks;
use crate::log::LogWriter;
use crate::network::Network;
use crate::peer::Peers;
use crate::seam::clock::DisplayClock;
use crate::seam::fault;
use crate::state::ApplyLanes;
use plan::Wish;
pub use router::Router;
use router::{Member, Table};

/// Where the replicas of a group shall be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// The voters; the first that is live and caught up should lead.
    pub order: Vec<ReplicaId>,
    pub learners: BTreeSet<ReplicaId>,
}

impl Placement {
    pub fn of_voters(order: impl IntoIterator<Item = ReplicaId>) -> Self {
        Self { order: order.into_iter().collect(), learners: BTreeSet::new() }
    }

    fn wish(&self) -> Wish {
        Wish { voters: self.order.iter().copied().collect(), learners: self.learners.clone() }
    }
}

/// How a replica starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// With what is on disk; a new replica waits until its group's leader adds it.
    Resume,
    /// As one of these first voters of a new group. Without effect if the replica holds anything.
    Found(BTreeSet<ReplicaId>),
}

/// What all groups of a node are started with.
#[derive(Clone)]
pub struct SetOptions {
    /// For openraft's log lines.
    pub cluster: String,
    pub timings: Timings,
    pub engine: Arc<dyn Engine>,
    pub hooks: Arc<dyn Hooks>,
    pub display: DisplayClock,
    /// Per group.
    pub log_cache_bytes: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("shard {0} runs here already as {1}")]
    Running(ShardId, ReplicaId),
    #[error("shard {0} is being opened already")]
    Busy(ShardId),
    #[error("replica {0} belongs to another node")]
    Foreign(ReplicaId),
    #[error("this node is stopping")]
    Stopping,
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("the group cannot be founded: {0}")]
    Found(#[from] MembershipError),
}

/// One group, for operators.
#[derive(Debug, Clone)]
pub struct GroupStatus {
    pub shard: ShardId,
    pub replica: ReplicaId,
    pub leadership: Leadership,
    pub last_log_index: Option<u64>,
    pub applied_index: Option<u64>,
    /// On the leader: the membership and who is live and caught up.
    pub seen: Option<plan::Seen>,
}

/// The groups of this node.
pub struct Groups {
    options: SetOptions,
    /// See [`GroupOptions::beat`].
    beat: Instant,
    peers: Arc<Peers>,
    table: Arc<Table>,
    writer: LogWriter,
    lanes: ApplyLanes,
    stop: watch::Sender<bool>,
    /// The tender and the succession. They end with `stop`.
    tasks: Mutex<Vec<JoinHandle<()>>>,
    campaigns: Arc<AtomicU64>,
    /// Held to read while a group opens or closes, to write when the node stops.
    moving: tokio::sync::RwLock<()>,
    /// Shards that are opening right now.
    busy: Mutex<BTreeSet<ShardId>>,
}

impl Groups {
    /// `router` is what `peers` was started with.
    pub fn start(options: SetOptions, peers: Arc<Peers>, router: &Router) -> Arc<Self> {
        let table = router.table.clone();
        let stop = watch::Sender::new(false);
        let alive = options.timings.silence_max();
        let tender = tokio::spawn(
            tend::Tender { table: table.clone(), alive, peers: peers.clone(), stop: stop.subscribe() }.run(),
        );
        let campaigns = Arc::new(AtomicU64::new(0));
        let refusals = peers.refusals();
        let succession = tokio::spawn(
            succession::Succession {
                table: table.clone(),
                refusals,
                campaigns: campaigns.clone(),
                stop: stop.subscribe(),
            }
            .run(),
        );
        let writer = LogWriter::start(options.engine.clone(), options.hooks.clone());
        let lanes = ApplyLanes::start(options.engine.clone(), options.hooks.clone(), options.timings.hot_rows_bytes);
        let (tasks, moving, busy) = (Mutex::new(vec![tender, succession]), Default::default(), Mutex::default());
        let beat = Instant::now();
        Arc::new(Self { options, beat, peers, table, writer, lanes, stop, tasks, campaigns, moving, busy })
    }

    pub fn node(&self) -> NodeId {
        self.peers.node()
    }

    /// Snapshots that are being taken in, of all groups.
    pub fn snapshots_taken_now(&self) -> usize {
        self.table.taking()
    }

    /// How often a replica here has asked for votes because its leader's node refused connections.
    pub fn campaigns(&self) -> u64 {
        self.campaigns.load(Ordering::Relaxed)
    }

    /// The one writer of all logs, for its figures.
    pub fn writer(&self) -> &LogWriter {
        &self.writer
    }

    /// Starts this node's replica of a shard; different shards may open at the same time. Damage is also told to the hooks, which ask
    /// for a new generation.
    pub async fn open(&self, shard: ShardId, replica: ReplicaId, start: Start) -> Result<Group, OpenError> {
        let _moving = self.moving.read().await;
        let _busy = Busy::claim(&self.busy, shard).ok_or(OpenError::Busy(shard))?;
        if *self.stop.borrow() {
            return Err(OpenError::Stopping);
        }
        if replica.node != self.node() {
            return Err(OpenError::Foreign(replica));
        }
        if let Some(running) = self.get(shard) {
            return Err(OpenError::Running(shard, running.replica()));
        }
        let options = self.group_options(shard, replica);
        let (engine, hooks) = (options.engine.clone(), options.hooks.clone());
        let network = Network::new(self.peers.clone(), shard, replica, self.beat, engine, hooks);
        let group = Group::open(options, network).await.inspect_err(|error| self.on_refused(shard, replica, error))?;
        if let Start::Found(voters) = start
            && let Err(error) = found(&group, &voters).await
        {
            group.shutdown().await;
            return Err(error);
        }
        let member = Member { group: group.clone(), placement: None, receiving: Arc::new(Semaphore::new(1)) };
        self.table.lock().insert(shard, member);
        Ok(group)
    }

    fn group_options(&self, shard: ShardId, replica: ReplicaId) -> GroupOptions {
        let SetOptions { cluster, timings, engine, hooks, display, log_cache_bytes } = self.options.clone();
        GroupOptions {
            shard,
            replica,
            cluster,
            timings,
            engine,
            writer: self.writer.clone(),
            lanes: self.lanes.clone(),
            hooks,
            display,
            beat: self.beat,
            log_cache_bytes,
        }
    }

    fn on_refused(&self, shard: ShardId, replica: ReplicaId, error: &StartError) {
        if let StartError::Damaged(Damaged::Log { what } | Damaged::State { what }) = error {
            tracing::error!(%shard, %replica, %what, "the replica is damaged and must come back under a new generation");
            self.options.hooks.on_damaged(shard, replica, what.clone());
        }
    }

    pub fn get(&self, shard: ShardId) -> Option<Group> {
        self.table.get(shard).map(|member| member.group)
    }

    /// All groups, by shard.
    pub fn all(&self) -> Vec<Group> {
        self.table.all().into_iter().map(|member| member.group).collect()
    }

    /// What the membership and the leadership of a group that runs here shall be.
    pub fn place(&self, shard: ShardId, placement: Placement) {
        if let Some(member) = self.table.lock().get_mut(&shard) {
            member.placement = Some(Arc::new(placement));
        }
    }

    pub fn status(&self) -> Vec<GroupStatus> {
        let status = |group: Group| GroupStatus {
            shard: group.shard(),
            replica: group.replica(),
            leadership: group.leadership(),
            last_log_index: group.metrics().borrow_watched().last_log_index,
            applied_index: group.applied_index(),
            seen: tend::look_at(&group, self.options.timings.silence_max(), &self.peers),
        };
        self.all().into_iter().map(status).collect()
    }

    /// Stops this node's replica of a shard; what it has stored stays.
    pub async fn close(&self, shard: ShardId) {
        let _moving = self.moving.read().await;
        let member = self.table.lock().remove(&shard);
        if let Some(member) = member {
            member.group.shutdown().await;
        }
    }

    /// Hands all leaderships over, waits a bounded time for it, then stops all groups.
    pub async fn shutdown(&self) {
        self.stop.send_replace(true);
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        futures::future::join_all(tasks).await;
        let deadline = Instant::now() + Duration::from_millis(limits::HAND_OVER_MS);
        fault::point("shutdown.before_hand_over");
        let _moving = self.moving.write().await;
        let members = self.table.all();
        futures::future::join_all(members.iter().map(|member| self.retire(member, deadline))).await;
        fault::point("shutdown.handed_over");
        self.table.lock().clear();
        futures::future::join_all(members.iter().map(|member| member.group.shutdown())).await;
    }

    /// Asks the best voter to take over until one has, or time is up.
    async fn retire(&self, member: &Member, deadline: Instant) {
        let group = &member.group;
        let own = group.replica();
        let mut leadership = group.watch_leadership();
        let mut alone = 0;
        while leadership.borrow().leads && Instant::now() < deadline {
            let Some(seen) = tend::look_at(group, self.options.timings.silence_max(), &self.peers) else { return };
            let voters = seen.configs.last().cloned().unwrap_or_default();
            let able = |id: &ReplicaId| *id != own && voters.contains(id) && seen.good.contains(id);
            let preferred = member.placement.iter().flat_map(|p| &p.order).find(|id| able(id));
            if let Some(to) = preferred.or_else(|| voters.iter().find(|id| able(id))) {
                let _ = group.transfer_leader(*to).await;
            } else {
                // Nobody is there to take it: the whole cluster stops, perhaps.
                alone += 1;
                if alone > 2 || voters.len() <= 1 {
                    return;
                }
            }
            let gone = leadership.wait_for(|l| !l.leads);
            let _ = tokio::time::timeout(Duration::from_millis(limits::TEND_MS), gone).await;
        }
    }
}

/// A shard that nobody else opens meanwhile.
struct Busy<'a>(&'a Mutex<BTreeSet<ShardId>>, ShardId);

impl<'a> Busy<'a> {
    fn claim(busy: &'a Mutex<BTreeSet<ShardId>>, shard: ShardId) -> Option<Self> {
        busy.lock().unwrap_or_else(PoisonError::into_inner).insert(shard).then_some(Self(busy, shard))
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

async fn found(group: &Group, voters: &BTreeSet<ReplicaId>) -> Result<(), OpenError> {
    match group.raft().is_initialized().await {
        Ok(true) => Ok(()),
        Ok(false) => Ok(group.initialize(voters).await?),
        Err(_) => Err(MembershipError::Stopped.into()),
    }
}
