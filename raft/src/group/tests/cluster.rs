//! Replicas of one group in one process, over a network of function calls with links that can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use flotilla_machine::command::{Append, Register};
use flotilla_machine::{Answer, Command, Query, Reply};
use flotilla_proto::entry::What;
use flotilla_proto::ids::*;
use flotilla_proto::slots::SlotTable;
use flotilla_storage::MemDisk;
use openraft::error::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::*;
use openraft::{EmptyNode, RaftNetworkFactory, RaftNetworkV2};

use crate::config::Timings;
use crate::group::{Group, GroupOptions, ProposeError, StartError};
use crate::seam::clock;
use crate::testkit::{GENERATION, Node, eventually};
use crate::types::{Snapshot, SnapshotData, TypeConfig, Vote};

/// Owns all slots of `SlotTable::even(1)`.
pub const SHARD: ShardId = ShardId(1);

pub fn replica(node: u16) -> ReplicaId {
    ReplicaId { node: NodeId(node), generation: GENERATION }
}

pub fn timings() -> Timings {
    Timings {
        heartbeat: Duration::from_millis(50),
        election_min: Duration::from_millis(300),
        election_max: Duration::from_millis(600),
        snapshot_timeout: Duration::from_secs(10),
        ..Timings::default()
    }
}

/// Who can reach whom.
#[derive(Default)]
pub struct Wire {
    groups: Mutex<BTreeMap<u64, Group>>,
    /// Nodes that nobody reaches and that reach nobody.
    isolated: Mutex<BTreeSet<u16>>,
}

impl Wire {
    fn isolated(&self) -> MutexGuard<'_, BTreeSet<u16>> {
        self.isolated.lock().expect("no test panics inside")
    }

    pub fn isolate(&self, node: u16) {
        self.isolated().insert(node);
    }

    pub fn heal(&self) {
        self.isolated().clear();
    }

    fn set(&self, node: u16, group: Option<Group>) {
        let mut groups = self.groups.lock().expect("no test panics inside");
        match group {
            Some(group) => groups.insert(replica(node).to_raft(), group),
            None => groups.remove(&replica(node).to_raft()),
        };
    }
}

#[derive(Clone)]
struct Links {
    wire: Arc<Wire>,
    from: u16,
}

struct Link {
    links: Links,
    to: u64,
}

impl RaftNetworkFactory<TypeConfig> for Links {
    type Network = Link;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Link {
        Link { links: self.clone(), to: target }
    }
}

fn unreachable() -> Unreachable<TypeConfig> {
    Unreachable::from_string("cut")
}

impl Link {
    fn target(&self) -> Result<Group, Unreachable<TypeConfig>> {
        let isolated = self.links.wire.isolated();
        let to = ReplicaId::from_raft(self.to).node.0;
        if isolated.contains(&self.links.from) || isolated.contains(&to) {
            return Err(unreachable());
        }
        self.links.wire.groups.lock().expect("no test panics inside").get(&self.to).cloned().ok_or_else(unreachable)
    }
}

type Rpc<T> = Result<T, RPCError<TypeConfig>>;

fn answer<T, E>(result: Result<T, E>) -> Rpc<T> {
    result.map_err(|_| RPCError::Unreachable(unreachable()))
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        answer(self.target()?.raft().append_entries(rpc).await)
    }

    async fn vote(&mut self, rpc: VoteRequest<TypeConfig>, _: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        answer(self.target()?.raft().vote(rpc).await)
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<TypeConfig>, _: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        answer(self.target()?.raft().pre_vote(rpc).await)
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        _: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        answer(self.target()?.raft().handle_transfer_leader(rpc).await)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        _cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let target = self.target()?;
        let failed = |error: &dyn ToString| StreamingError::Unreachable(Unreachable::from_string(error.to_string()));
        let SnapshotData::Live(view) = snapshot.snapshot else { panic!("a leader sends views") };
        let mut sink = target.begin_snapshot(snapshot.meta.clone()).await.map_err(|e| failed(&e))?;
        let mut chunks = view.chunks();
        while let Some(chunk) = chunks.next().await.map_err(|e| failed(&e))? {
            sink.write(chunk).await.map_err(|e| failed(&e))?;
        }
        let staged = sink.finish().map_err(|e| failed(&e))?;
        let snapshot = Snapshot { meta: snapshot.meta, snapshot: SnapshotData::Staged(staged) };
        target.raft().install_full_snapshot(vote, snapshot).await.map_err(|e| failed(&e))
    }
}

/// Replicas on nodes 1..=n, each with a disk that survives it.
pub struct Cluster {
    pub wire: Arc<Wire>,
    pub disks: BTreeMap<u16, MemDisk>,
    pub nodes: BTreeMap<u16, Node>,
    pub groups: BTreeMap<u16, Group>,
    pub timings: Timings,
}

impl Cluster {
    /// Starts and initializes the group, and gives it all slots.
    pub async fn start(nodes: u16, timings: Timings) -> Self {
        let mut cluster = Self {
            wire: Arc::default(),
            disks: BTreeMap::new(),
            nodes: BTreeMap::new(),
            groups: BTreeMap::new(),
            timings,
        };
        for node in 1..=nodes {
            cluster.open(node).await.expect("an empty disk opens");
        }
        let voters = (1..=nodes).map(replica).collect();
        cluster.groups[&1].initialize(&voters).await.expect("nobody did before");
        cluster.leader().await;
        cluster.propose(Command::SetSlots(SlotTable::even(1))).await;
        cluster
    }

    pub async fn open(&mut self, node: u16) -> Result<(), StartError> {
        let process = Node::open(self.disks.entry(node).or_default());
        let options = GroupOptions {
            shard: SHARD,
            replica: replica(node),
            cluster: "test".into(),
            timings: self.timings,
            engine: process.engine.clone(),
            writer: process.writer.clone(),
            lanes: process.lanes.clone(),
            hooks: process.hooks.clone(),
            display: clock::local(),
            beat: tokio::time::Instant::now(),
            log_cache_bytes: 4_096,
        };
        let group = Group::open(options, Links { wire: self.wire.clone(), from: node }).await?;
        self.wire.set(node, Some(group.clone()));
        self.nodes.insert(node, process);
        self.groups.insert(node, group);
        Ok(())
    }

    /// Power loss: unsynced writes of the node are gone.
    pub async fn crash(&mut self, node: u16) {
        self.wire.set(node, None);
        self.disks[&node].crash(0);
        if let Some(group) = self.groups.remove(&node) {
            group.shutdown().await;
        }
        self.nodes.remove(&node);
    }

    /// A leader that has applied the first entry of its term.
    pub async fn leader(&self) -> Group {
        let mut found = None;
        eventually("somebody leads", || {
            let isolated = self.wire.isolated().clone();
            let mut reachable = self.groups.iter().filter(|(node, _)| !isolated.contains(node));
            found = reachable.find(|(_, group)| group.leadership().ready).map(|(_, group)| group.clone());
            found.is_some()
        })
        .await;
        found.expect("just found")
    }

    /// Proposes until there is a reply; the command is one that may be repeated.
    pub async fn propose(&self, command: Command) -> Reply {
        let bytes = command.encode().expect("commands encode");
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let leader = self.leader().await;
            let patience = Duration::from_secs(2);
            if let Ok(Ok(reply)) = tokio::time::timeout(patience, leader.propose(bytes.clone())).await {
                return reply;
            }
            assert!(tokio::time::Instant::now() < deadline, "no reply to {command:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until all replicas have applied the same and hold the same. A new leader may write its first stamp between two
    /// looks, so a difference counts once it lasts: replicas that really differ never agree again by themselves.
    pub async fn converge(&self) {
        let applied = || self.groups.values().map(Group::applied_index).collect::<BTreeSet<_>>();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            eventually("all replicas apply the same", || applied().len() == 1).await;
            let mut digests = BTreeSet::new();
            for group in self.groups.values() {
                let view = group.view().await.expect("readable");
                digests.insert(flotilla_machine::digest(view.read(), &view.prefix()).expect("readable"));
            }
            if digests.len() == 1 {
                return;
            }
            let late = tokio::time::Instant::now() > deadline;
            assert!(!late, "replicas that applied the same hold the same: {digests:?} at {:?}", applied());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

pub fn user(n: u32) -> UserId {
    UserId::parse(&format!("user{n}")).expect("a valid name")
}

pub fn register(n: u32) -> Command {
    Command::Register(Register { user: user(n), phc: String::new(), request: Cid(u128::from(n)) })
}

pub fn send() -> Command {
    Command::Append(Append {
        conv: ConvId::direct(&user(1), &user(2)),
        sender: user(1),
        device: DeviceId(1),
        cid: Cid(1),
        age_ms: 0,
        after: None,
        checked: vec![],
        what: What::Delete { target: Seq(1) },
    })
}

pub fn encoded(command: &Command) -> Bytes {
    command.encode().expect("commands encode")
}

/// Whether the group's applied state knows the user.
pub async fn knows(group: &Group, n: u32) -> bool {
    match group.query(&Query::Account { user: user(n) }).await.expect("readable") {
        Answer::Account(account) => account.is_some(),
        other => panic!("not an answer to the question: {other:?}"),
    }
}

/// A proposal whose outcome was given within two seconds.
pub async fn outcome(group: &Group, n: u32) -> Option<Result<Reply, ProposeError>> {
    tokio::time::timeout(Duration::from_secs(2), group.propose(encoded(&register(n)))).await.ok()
}
