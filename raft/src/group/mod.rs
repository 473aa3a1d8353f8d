//! The handle of one group on this node: propose, read, watch the leadership, change the membership.
//!
//! Invariants:
//! - A reply is given only after its entry is committed and applied here; an outcome that is not known is never
//!   reported as a failure.
//! - Reads for clients go through [`Group::read_index`], never by lease.
//! - After a start the state may have rolled back: no local read before a ReadIndex taken after the start is applied.
//!
//! Where replicas live and who should lead is not known here.

mod admission;
mod batch;
mod error;
mod facts;
mod forsaken;
mod open;
mod patience;
mod proposer;
mod reads;
mod stamp;
#[cfg(all(test, not(madsim)))]
mod tests;
mod watcher;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use flotilla_machine::{self as machine, Answer, Query, Reply};
use flotilla_proto::ids::{NodeId, ReplicaId, ShardId, Slot};
use flotilla_proto::limits::COMMAND_BYTES_MAX;
use flotilla_proto::plant::{self, Plant};
use flotilla_storage::{Engine, StorageError};
use openraft::async_runtime::WatchReceiver as _;
use openraft::metrics::RaftMetrics;
use openraft::raft::{TransferLeaderRequest, VoteResponse};
use openraft::{ChangeMembers, EmptyNode};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::hooks::Hooks;
use crate::path;
use crate::runtime::blocking;
use crate::snapshot::{Generations, SnapshotError, SnapshotSink, SnapshotView};
use crate::state::{StateError, is_damage, mark_damaged};
use crate::types::{Raft, SnapshotMeta, TypeConfig, Vote};

pub use error::{Damaged, MembershipError, ProposeError, ReadError, StartError};
pub use facts::Facts;
pub use open::GroupOptions;
pub(crate) use patience::next_beat;

/// openraft's metrics of one group, as a watch.
pub type Metrics = openraft::type_config::alias::WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>;

/// Who leads, as far as this replica knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leadership {
    pub term: u64,
    pub leader: Option<ReplicaId>,
    /// This replica leads.
    pub leads: bool,
    /// It leads and has applied the first entry of its own term, so its state holds everything ever accepted.
    pub ready: bool,
}

/// A handle to one replica. Clones share it.
#[derive(Clone)]
pub struct Group {
    inner: Arc<Inner>,
}

struct Inner {
    shard: ShardId,
    own: ReplicaId,
    raft: Raft,
    generations: Generations,
    hooks: Arc<dyn Hooks>,
    proposals: mpsc::Sender<proposer::Queued>,
    reads: mpsc::Sender<reads::Waiter>,
    leadership: watch::Receiver<Leadership>,
    /// One membership change at a time.
    changing: Mutex<()>,
    forsaken: forsaken::Forsaken,
    admission: Arc<admission::Admission>,
    stopping: Arc<AtomicBool>,
}

impl Group {
    pub fn shard(&self) -> ShardId {
        self.inner.shard
    }

    pub fn replica(&self) -> ReplicaId {
        self.inner.own
    }

    /// For the transport: openraft's own rpc handlers.
    pub fn raft(&self) -> &Raft {
        &self.inner.raft
    }

    /// Replicates one command and returns its reply. Dropping the future does not take the command back.
    pub async fn propose(&self, command: Bytes) -> Result<Reply, ProposeError> {
        self.propose_in(None, command).await
    }

    /// The same for a command that concerns one slot: a hot one fills at most half of a proposal while others wait.
    pub async fn propose_in(&self, lane: Option<Slot>, command: Bytes) -> Result<Reply, ProposeError> {
        // Before the watcher has noticed: what is put into the queue of a stopping group has an unknown outcome.
        if self.inner.stopping.load(Ordering::Acquire) {
            return Err(ProposeError::Stopped);
        }
        let leadership = self.leadership();
        if !leadership.leads {
            return Err(ProposeError::NotLeader {
                leader: leadership.leader.filter(|leader| *leader != self.inner.own),
            });
        }
        if command.len() > COMMAND_BYTES_MAX {
            tracing::error!(shard = %self.inner.shard, bytes = command.len(), "a command is larger than any may be");
            return Err(ProposeError::Overloaded);
        }
        let at = Instant::now();
        if machine::Command::is_append(&command) && !self.inner.admission.admits_send(at) {
            return Err(ProposeError::Overloaded);
        }
        path::commands("queued", [&command]);
        let (answer, reply) = oneshot::channel();
        let is_patient = machine::Command::is_patient(&command);
        let queued = proposer::Queued { command, lane, is_patient, at, answer };
        self.inner.proposals.try_send(queued).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ProposeError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => ProposeError::Stopped,
        })?;
        // A proposer that is gone may have handed the command on before.
        reply.await.unwrap_or(Err(ProposeError::Unknown))
    }

    /// How long the oldest command of the newest proposal here had waited.
    pub fn waited(&self) -> Duration {
        self.inner.admission.waited()
    }

    /// Returns once this node has applied everything that was committed before the call, as the leader of a quorum.
    pub async fn read_index(&self) -> Result<(), ReadError> {
        self.read_barrier().await.map(|_| ())
    }

    /// As [`read_index`](Self::read_index), with the log index: for a follower that waits until it has applied it.
    pub async fn read_barrier(&self) -> Result<u64, ReadError> {
        let (waiter, round) = oneshot::channel();
        self.inner.reads.try_send(waiter).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ReadError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => ReadError::Stopped,
        })?;
        round.await.unwrap_or(Err(ReadError::Stopped))
    }

    /// Waits until this replica, leader or not, has applied `index`. False if it takes longer.
    pub async fn wait_applied(&self, index: u64, timeout: Duration) -> bool {
        self.inner.raft.wait(Some(timeout)).applied_index_at_least(Some(index), "a local read").await.is_ok()
    }

    /// The highest index applied here.
    pub fn applied_index(&self) -> Option<u64> {
        self.metrics().borrow_watched().last_applied.map(|id| id.index())
    }

    /// The applied state of this instant. How new it is depends on the caller's ReadIndex.
    pub async fn view(&self) -> Result<SnapshotView, StateError> {
        let (engine, shard) = (self.engine().clone(), self.inner.shard);
        let view = blocking(move || SnapshotView::take(&*engine, shard)).await?;
        view.ok_or_else(|| StateError::Damaged { what: format!("the pointer of shard {shard} is gone") })
    }

    /// Answers a query from the applied state of this instant.
    pub async fn query(&self, query: &Query) -> Result<Answer, machine::Fatal> {
        let (engine, shard) = (self.engine().clone(), self.inner.shard);
        // A thread that may block costs more than most answers do, and what is asked for message by message is in memory.
        let answered = if query.is_short() { from_memory(&*engine, shard, query) } else { None };
        let result = match answered {
            Some(result) => result,
            None => {
                let query = query.clone();
                blocking(move || ask(SnapshotView::take(&*engine, shard), shard, &query)).await
            }
        };
        if let Err(fatal) = &result {
            self.on_query_failed(fatal).await;
        }
        result
    }

    async fn on_query_failed(&self, fatal: &machine::Fatal) {
        let shard = self.inner.shard;
        if is_damage(fatal) {
            let engine = self.engine().clone();
            blocking(move || mark_damaged(&*engine, shard)).await;
        }
        self.inner.hooks.on_fatal(Some(shard), format!("shard {shard} cannot be read: {fatal}"));
    }

    /// The leader on `node` holds this replica's acknowledgement of more than it has.
    pub(crate) fn on_forgotten(&self, node: NodeId, upto: u64) {
        let (shard, own) = (self.inner.shard, self.inner.own);
        let what = format!("entries up to {upto}, acknowledged to node {node}");
        self.inner.hooks.on_forgotten(shard, own, what);
    }

    fn engine(&self) -> &Arc<dyn Engine> {
        self.inner.generations.engine()
    }

    pub fn is_leader(&self) -> bool {
        self.leadership().leads
    }

    pub fn leader(&self) -> Option<ReplicaId> {
        self.leadership().leader
    }

    pub fn term(&self) -> u64 {
        self.leadership().term
    }

    pub fn leadership(&self) -> Leadership {
        *self.inner.leadership.borrow()
    }

    /// Changes of the leadership; the newest value wins, values in between may be skipped.
    pub fn watch_leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    pub fn metrics(&self) -> Metrics {
        self.inner.raft.metrics()
    }

    /// When a quorum has last confirmed this node's leadership: the send time of the rpcs that it answered.
    /// A leader that is the only voter is its own quorum at any time; openraft counts answers, and it gets none.
    pub fn last_quorum_ack(&self) -> Option<tokio::time::Instant> {
        let metrics = self.metrics();
        let metrics = metrics.borrow_watched();
        let own = self.inner.own.to_raft();
        let membership = metrics.membership_config.membership();
        let is_alone = |voters: &BTreeSet<u64>| voters.len() == 1 && voters.contains(&own);
        if metrics.state.is_leader() && membership.get_joint_config().iter().all(is_alone) {
            return Some(tokio::time::Instant::now());
        }
        metrics.last_quorum_acked.map(|stamp| stamp.into_inner().0)
    }

    /// Asks another voter to take over. Returns before it has; watch the leadership.
    ///
    /// To itself it does nothing: openraft would refuse all writes from then on, waiting for an election that nobody begins if
    /// there is no other voter.
    pub async fn transfer_leader(&self, to: ReplicaId) -> Result<(), ProposeError> {
        if to == self.inner.own {
            return Ok(());
        }
        self.inner.raft.trigger().transfer_leader(to.to_raft()).await.map_err(|_| ProposeError::Stopped)
    }

    /// If a replica on `node` leads this one: its lease is void from now on, and with `campaign` the others are asked for a pre-vote.
    /// False if it does not lead. See [`crate::set::succession`].
    pub(crate) async fn forsake(&self, node: NodeId, campaign: bool) -> bool {
        let vote = self.metrics().borrow_watched().vote;
        let leader = vote.leader_id().voted_for;
        if !vote.is_committed() || ReplicaId::from_raft(leader).node != node || node == self.inner.own.node {
            return false;
        }
        self.inner.forsaken.forsake(vote);
        // As if the leader had handed over to itself: the lease ends, and nobody is made to campaign.
        let told = self.inner.raft.handle_transfer_leader(TransferLeaderRequest::new(vote, leader, None)).await;
        let asked = match campaign {
            true => self.inner.raft.trigger().elect(!plant::on(Plant::UnseatOnRefusal)).await,
            false => Ok(()),
        };
        // A core that has stopped follows nobody.
        told.is_ok() && asked.is_ok()
    }

    /// An RPC of the leader of this vote came in.
    pub(crate) fn on_heard(&self, leader: &Vote) {
        self.inner.forsaken.heard(leader, Instant::now());
    }

    /// The answer to whoever asks for a pre-vote although the leader lives, where openraft does not know it.
    pub(crate) fn refuses_pre_vote(&self) -> Option<VoteResponse<TypeConfig>> {
        let vote = self.metrics().borrow_watched().vote;
        let refuses = self.inner.forsaken.is_back(&vote, Instant::now());
        refuses.then(|| VoteResponse::new(vote, None, false))
    }

    /// Forms the group from its first voters. Done on one of them, once; refused if the replica holds anything.
    pub async fn initialize(&self, voters: &BTreeSet<ReplicaId>) -> Result<(), MembershipError> {
        let _one = self.inner.changing.lock().await;
        let members: BTreeSet<u64> = voters.iter().map(|voter| voter.to_raft()).collect();
        let nodes: std::collections::BTreeMap<u64, EmptyNode> =
            members.into_iter().map(|id| (id, EmptyNode::new())).collect();
        self.inner.raft.initialize(nodes).await.map_err(|error| match error {
            openraft::errors::RaftError::Fatal(_) => MembershipError::Stopped,
            openraft::errors::RaftError::APIError(error) => MembershipError::Refused(error.to_string()),
        })
    }

    /// Adds a replica that does not vote. Returns when the change is committed, not when the learner has caught up.
    pub async fn add_learner(&self, replica: ReplicaId) -> Result<(), MembershipError> {
        let _one = self.inner.changing.lock().await;
        let added = self.inner.raft.add_learner(replica.to_raft(), EmptyNode::new(), false).await;
        added.map(|_| ()).map_err(|error| error::membership_error(&error, self.inner.own))
    }

    /// Makes these the voters (each must be a learner or voter already). Others become learners or, without `retain`, go.
    pub async fn change_membership(&self, voters: &BTreeSet<ReplicaId>, retain: bool) -> Result<(), MembershipError> {
        let _one = self.inner.changing.lock().await;
        let members: BTreeSet<u64> = voters.iter().map(|voter| voter.to_raft()).collect();
        let changed = self.inner.raft.change_membership(members, retain).await;
        changed.map(|_| ()).map_err(|error| error::membership_error(&error, self.inner.own))
    }

    /// Removes replicas that do not vote.
    pub async fn remove_learners(&self, learners: &BTreeSet<ReplicaId>) -> Result<(), MembershipError> {
        let _one = self.inner.changing.lock().await;
        let members: BTreeSet<u64> = learners.iter().map(|learner| learner.to_raft()).collect();
        let changed = self.inner.raft.change_membership(ChangeMembers::RemoveNodes(members), false).await;
        changed.map(|_| ()).map_err(|error| error::membership_error(&error, self.inner.own))
    }

    /// Starts to receive a snapshot of this shard; the staged result goes to openraft's `install_full_snapshot`.
    pub async fn begin_snapshot(&self, meta: SnapshotMeta) -> Result<SnapshotSink, SnapshotError> {
        SnapshotSink::begin(&self.inner.generations, meta).await
    }

    /// Builds a snapshot now, so that the log below it may be purged. Returns before it is built.
    pub async fn trigger_snapshot(&self) -> Result<(), ProposeError> {
        self.inner.raft.trigger().snapshot().await.map_err(|_| ProposeError::Stopped)
    }

    /// Stops the replica and waits for its core. Nothing that it has stored changes.
    pub async fn shutdown(&self) {
        self.inner.stopping.store(true, Ordering::Release);
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(shard = %self.inner.shard, %error, "the core ended badly while stopping");
        }
    }
}

fn ask(
    view: Result<Option<SnapshotView>, StateError>,
    shard: ShardId,
    query: &Query,
) -> Result<Answer, machine::Fatal> {
    match view {
        Ok(Some(view)) => machine::query(view.read(), &view.prefix(), shard, query),
        Ok(None) | Err(StateError::Damaged { .. }) => Err(machine::Fatal::Damaged { table: "pointer" }),
        Err(StateError::Storage(error)) => Err(error.into()),
    }
}

/// None if the disk would have to be asked.
fn from_memory(engine: &dyn Engine, shard: ShardId, query: &Query) -> Option<Result<Answer, machine::Fatal>> {
    let result = ask(SnapshotView::of(engine.resident()?, shard), shard, query);
    (!matches!(result, Err(machine::Fatal::Storage(StorageError::NotResident)))).then_some(result)
}
