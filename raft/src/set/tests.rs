//! Three nodes in one process: real peers over loopback, real groups, disks in memory.

use bytes::Bytes;
use flotilla_machine::command::Register;
use flotilla_machine::{Command, Reply};
use flotilla_proto::ids::{Cid, ClusterId, Generation, Incarnation, UserId};
use flotilla_proto::slots::SlotTable;
use flotilla_storage::Order;
use flotilla_storage::mem::{MemDisk, MemEngine};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::*;
use crate::group::ProposeError;
use crate::peer::{self, BulkStream, PeerInfo, PeerRefusal, PeerService, PeersConfig};
use crate::seam::clock;
use crate::snapshot::SnapshotView;

const SHARDS: u16 = 3;
const NODES: u16 = 3;

struct Nothing;

impl PeerService for Nothing {
    fn request(&self, _: PeerInfo, kind: u8, _: Bytes) -> BoxFuture<'static, Result<Bytes, PeerRefusal>> {
        async move { Err(PeerRefusal::Unsupported(kind)) }.boxed()
    }

    fn cast(&self, _: PeerInfo, _: u8, _: Bytes) {}

    fn bulk(&self, _: PeerInfo, _: u8, _: Bytes, _: BulkStream) -> BoxFuture<'static, ()> {
        async {}.boxed()
    }
}

/// Remembers what must not happen.
#[derive(Default)]
struct Watch {
    fatal: Mutex<Vec<String>>,
    installed: Mutex<BTreeSet<ShardId>>,
    forgotten: Mutex<BTreeSet<ShardId>>,
}

impl Hooks for Watch {
    fn on_applied(&self, _: ShardId, _: Vec<flotilla_machine::Effect>) {}

    fn on_installed(&self, shard: ShardId) {
        self.installed.lock().expect("not poisoned").insert(shard);
    }

    fn on_forgotten(&self, shard: ShardId, _: ReplicaId, _: String) {
        self.forgotten.lock().expect("not poisoned").insert(shard);
    }

    fn on_fatal(&self, _: Option<ShardId>, reason: String) {
        self.fatal.lock().expect("not poisoned").push(reason);
    }
}

struct Node {
    id: u16,
    addr: String,
    peers: Arc<Peers>,
    groups: Arc<Groups>,
    watch: Arc<Watch>,
}

/// Nodes by id; a killed one leaves its disk.
struct Cluster {
    timings: Timings,
    nodes: Vec<Option<Node>>,
    disks: Vec<MemDisk>,
    incarnation: u64,
    users: u64,
    accepted: Vec<(ShardId, UserId)>,
}

fn r(node: u16, generation: u32) -> ReplicaId {
    ReplicaId::new(NodeId(node), Generation(generation))
}

fn first_voters() -> BTreeSet<ReplicaId> {
    (1..=NODES).map(|node| r(node, 1)).collect()
}

fn shards() -> impl Iterator<Item = ShardId> {
    (1..=SHARDS).map(ShardId)
}

/// Shard 1 prefers node 1, shard 2 node 2, and so on.
fn order(shard: ShardId) -> Placement {
    Placement::of_voters((0..NODES).map(|i| r((shard.0 - 1 + i) % NODES + 1, 1)))
}

fn timings() -> Timings {
    Timings {
        heartbeat: Duration::from_millis(50),
        election_min: Duration::from_millis(300),
        election_max: Duration::from_millis(600),
        ..Timings::default()
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Cluster {
    async fn start(timings: Timings) -> Self {
        let disks = (0..NODES).map(|_| MemDisk::new()).collect();
        let mut cluster = Self { timings, nodes: Vec::new(), disks, incarnation: 0, users: 0, accepted: Vec::new() };
        cluster.nodes.resize_with(usize::from(NODES), || None);
        for id in 1..=NODES {
            cluster.start_node(id, 1).await;
        }
        for shard in shards() {
            cluster.propose(shard, Command::SetSlots(SlotTable::even(SHARDS))).await;
        }
        cluster
    }

    async fn start_node(&mut self, id: u16, generation: u32) {
        self.incarnation += 1;
        let disk = &self.disks[usize::from(id) - 1];
        let engine: Arc<dyn Engine> = Arc::new(MemEngine::open(disk).expect("opens"));
        // In the simulator all addresses belong to one machine, too.
        let listener = peer::bind("127.0.0.1:0", false).await.expect("a free port");
        let addr = listener.local_addr().expect("bound").to_string();
        let config = PeersConfig {
            node: NodeId(id),
            incarnation: Incarnation(self.incarnation),
            cluster: Some(ClusterId(1)),
            insecure_peers: false,
        };
        let router = Router::new(Arc::new(Nothing));
        let peers = Peers::start(config, listener, router.clone());
        let watch = Arc::new(Watch::default());
        let options = SetOptions {
            cluster: "test".into(),
            timings: self.timings,
            engine,
            hooks: watch.clone(),
            display: clock::local(),
            log_cache_bytes: 1024 * 1024,
        };
        let groups = Groups::start(options, peers.clone(), &router);
        for other in self.nodes.iter().flatten() {
            other.peers.set_address(NodeId(id), &addr);
            peers.set_address(NodeId(other.id), &other.addr);
        }
        let mut opening = Vec::new();
        for shard in shards() {
            let start = if generation == 1 { Start::Found(first_voters()) } else { Start::Resume };
            opening.push(groups.open(shard, r(id, generation), start));
        }
        for opened in futures::future::join_all(opening).await {
            let shard = opened.expect("opens").shard();
            groups.place(shard, order(shard));
        }
        self.nodes[usize::from(id) - 1] = Some(Node { id, addr, peers, groups, watch });
    }

    /// As a power loss: what was not synced is gone.
    async fn kill(&mut self, id: u16) {
        let Some(node) = self.nodes[usize::from(id) - 1].take() else { panic!("node {id} is dead already") };
        assert_eq!(*node.watch.fatal.lock().expect("not poisoned"), Vec::<String>::new(), "before the kill of {id}");
        self.disks[usize::from(id) - 1].crash(0);
        node.peers.shutdown().await;
        for shard in shards() {
            node.groups.close(shard).await;
        }
    }

    fn live(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().flatten()
    }

    fn leader(&self, shard: ShardId) -> Option<Group> {
        self.live().filter_map(|n| n.groups.get(shard)).find(|g| g.leadership().ready)
    }

    async fn propose(&self, shard: ShardId, command: Command) {
        let command = command.encode().expect("encodes");
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            assert!(Instant::now() < deadline, "no leader takes a command of shard {shard}");
            if let Some(leader) = self.leader(shard) {
                match leader.propose(command.clone()).await {
                    Ok(Reply::Rejected(rejection)) => panic!("rejected: {rejection:?}"),
                    Ok(_) => return,
                    Err(ProposeError::Stopped) => panic!("a live group has stopped"),
                    Err(_) => {}
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Registers `count` users in each shard.
    async fn write(&mut self, count: u64) {
        self.write_large(count, 0).await;
    }

    /// As `write`, with a password hash of so many bytes.
    async fn write_large(&mut self, count: u64, phc_bytes: usize) {
        let table = SlotTable::even(SHARDS);
        for shard in shards() {
            let mut made = 0;
            while made < count {
                self.users += 1;
                let user = UserId::parse(&format!("u{:06}", self.users)).expect("a valid name");
                if table.shard_of_user(&user) == Some(shard) {
                    made += 1;
                    let register = Register {
                        user: user.clone(),
                        phc: "x".repeat(phc_bytes),
                        request: Cid(u128::from(self.users)),
                    };
                    self.propose(shard, Command::Register(register)).await;
                    self.accepted.push((shard, user));
                }
            }
        }
    }

    /// Waits until all live replicas have applied the same, and compares every row.
    async fn agree(&self) {
        for shard in shards() {
            let deadline = Instant::now() + Duration::from_secs(30);
            let views = loop {
                let views = self.views(shard).await;
                // The views say up to where they are applied; openraft's metrics lag behind them.
                if views.windows(2).all(|pair| pair[0].applied() == pair[1].applied()) {
                    break views;
                }
                assert!(Instant::now() < deadline, "replicas of shard {shard} do not catch up: {views:?}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            };
            let states: Vec<_> = views.iter().map(rows).collect();
            assert!(!states[0].is_empty());
            assert!(states.windows(2).all(|pair| pair[0] == pair[1]), "replicas of shard {shard} differ");
        }
        for node in self.live() {
            assert_eq!(*node.watch.fatal.lock().expect("not poisoned"), Vec::<String>::new(), "node {}", node.id);
        }
    }

    async fn views(&self, shard: ShardId) -> Vec<SnapshotView> {
        let groups = self.live().filter_map(|node| node.groups.get(shard));
        let views = futures::future::join_all(groups.map(|group| async move { group.view().await })).await;
        views.into_iter().map(|view| view.expect("a state")).collect()
    }

    async fn stop(self) {
        for node in self.nodes.into_iter().flatten() {
            node.groups.shutdown().await;
            node.peers.shutdown().await;
        }
    }
}

/// The machine's keys and values.
fn rows(view: &SnapshotView) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (prefix, mut rows) = (view.prefix(), Vec::new());
    let end = flotilla_storage::key::prefix_end(&prefix).expect("not the last prefix");
    let scanned = view.read().scan(&prefix, &end, Order::Forward, &mut |key, row| {
        rows.push((key[prefix.len()..].to_vec(), row.to_vec()));
        std::ops::ControlFlow::Continue(())
    });
    scanned.expect("reads");
    rows
}

fn leads(cluster: &Cluster, shard: ShardId, node: u16) -> bool {
    cluster.leader(shard).is_some_and(|g| g.replica().node.0 == node)
}

#[tokio::test]
async fn groups_elect_write_lose_a_node_go_on_and_catch_up_by_the_log() {
    let mut cluster = Cluster::start(timings()).await;
    cluster.write(20).await;
    cluster.agree().await;
    cluster.kill(1).await;
    cluster.write(20).await;
    cluster.start_node(1, 1).await;
    cluster.write(5).await;
    cluster.agree().await;
    let back = cluster.nodes[0].as_ref().expect("alive");
    assert!(back.watch.installed.lock().expect("not poisoned").is_empty(), "the log was enough");
    cluster.stop().await;
}

#[tokio::test]
async fn node_that_was_away_for_long_catches_up_by_snapshot() {
    let timings = Timings { snapshot_entries: 50, kept_entries: 10, ..timings() };
    let mut cluster = Cluster::start(timings).await;
    cluster.write(5).await;
    cluster.kill(2).await;
    cluster.write(200).await;
    let purged = |g: &Group| g.metrics().borrow_watched().purged.map_or(0, |id| id.index());
    eventually("logs are purged", || shards().all(|s| cluster.leader(s).is_some_and(|g| purged(&g) > 50))).await;
    cluster.start_node(2, 1).await;
    cluster.agree().await;
    let back = cluster.nodes[1].as_ref().expect("alive");
    assert_eq!(back.watch.installed.lock().expect("not poisoned").len(), usize::from(SHARDS));
    cluster.write(5).await;
    cluster.agree().await;
    cluster.stop().await;
}

#[tokio::test]
async fn leader_whose_own_state_is_damaged_ends_instead_of_failing_to_send_it_for_ever() {
    let timings = Timings { snapshot_entries: 50, kept_entries: 10, ..timings() };
    let mut cluster = Cluster::start(timings).await;
    cluster.write(5).await;
    cluster.kill(2).await;
    cluster.write(200).await;
    let purged = |g: &Group| g.metrics().borrow_watched().purged.map_or(0, |id| id.index());
    eventually("logs are purged", || shards().all(|s| cluster.leader(s).is_some_and(|g| purged(&g) > 50))).await;
    let leader = cluster.leader(ShardId(1)).expect("just seen").replica().node.0;
    let disk = cluster.disks[usize::from(leader) - 1].clone();
    let rows = crate::keys::state_start(ShardId(1));
    let mut first = None;
    let _ = disk.written().scan(&rows, &crate::keys::state_end(ShardId(1)), Order::Forward, &mut |key, _| {
        first = Some(key.to_vec());
        std::ops::ControlFlow::Break(())
    });
    assert!(disk.corrupt(&first.expect("a state has rows"), 99));
    cluster.start_node(2, 1).await;
    let fatal = |cluster: &Cluster| {
        let node = cluster.nodes[usize::from(leader) - 1].as_ref().expect("runs");
        node.watch.fatal.lock().expect("not poisoned").clone()
    };
    eventually("it says so", || fatal(&cluster).iter().any(|why| why.contains("damaged"))).await;
    let mark = disk.written().get(&crate::keys::state_damaged(ShardId(1)));
    assert!(mark.expect("readable").is_some(), "the next start rebuilds it");
}

#[tokio::test]
async fn snapshot_that_is_cut_by_the_death_of_either_side_is_started_over() {
    let timings = Timings { snapshot_entries: 50, kept_entries: 10, ..timings() };
    let mut cluster = Cluster::start(timings).await;
    cluster.kill(2).await;
    cluster.write_large(1_200, limits::PHC_BYTES_MAX).await;
    let receiving = |cluster: &Cluster| {
        let node = cluster.nodes[1].as_ref().expect("alive");
        shards().find(|s| node.groups.table.get(*s).is_some_and(|m| m.receiving.available_permits() == 0))
    };
    // A slow disk keeps the transfer going long enough to be cut.
    cluster.disks[1].inject(|faults| faults.stall = Duration::from_millis(100));
    cluster.start_node(2, 1).await;
    eventually("a snapshot is on its way", || receiving(&cluster).is_some()).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert!(receiving(&cluster).is_some(), "still on its way");
    cluster.kill(2).await;
    cluster.start_node(2, 1).await;
    eventually("a snapshot is on its way again", || receiving(&cluster).is_some()).await;
    let shard = receiving(&cluster).expect("just seen");
    let sender = cluster.leader(shard).expect("somebody sends").replica().node.0;
    cluster.kill(sender).await;
    cluster.disks[1].inject(|faults| faults.stall = Duration::ZERO);
    cluster.write(5).await;
    cluster.agree().await;
    cluster.start_node(sender, 1).await;
    cluster.agree().await;
    cluster.stop().await;
}

#[tokio::test]
async fn snapshots_of_many_shards_are_taken_a_few_at_a_time() {
    let timings = Timings { snapshot_entries: 50, kept_entries: 10, ..timings() };
    let mut cluster = Cluster::start(timings).await;
    cluster.kill(2).await;
    cluster.write_large(1_200, limits::PHC_BYTES_MAX).await;
    cluster.disks[1].inject(|faults| faults.stall = Duration::from_millis(100));
    cluster.start_node(2, 1).await;
    let groups = cluster.nodes[1].as_ref().expect("alive").groups.clone();
    let offered = || groups.table.all().iter().filter(|m| m.receiving.available_permits() == 0).count();
    let most = limits::SNAPSHOTS_TAKEN_AT_ONCE;
    eventually("more are offered than may come", || {
        assert!(groups.snapshots_taken_now() <= most);
        offered() > most && groups.snapshots_taken_now() == most
    })
    .await;
    cluster.disks[1].inject(|faults| faults.stall = Duration::ZERO);
    cluster.agree().await;
    // The states agree before the last transfer has said its end.
    eventually("none is left", || groups.snapshots_taken_now() == 0).await;
    cluster.stop().await;
}

#[tokio::test]
async fn leaders_spread_by_placement_again_after_a_failure() {
    let mut cluster = Cluster::start(timings()).await;
    let spread = |cluster: &Cluster| shards().all(|s| leads(cluster, s, s.0));
    eventually("every shard is led by its first choice", || spread(&cluster)).await;
    cluster.kill(3).await;
    eventually("another leads shard 3", || cluster.leader(ShardId(3)).is_some()).await;
    cluster.start_node(3, 1).await;
    eventually("node 3 has its shard back", || spread(&cluster)).await;
    cluster.write(3).await;
    cluster.agree().await;
    cluster.stop().await;
}

#[tokio::test]
async fn replica_of_a_new_generation_replaces_a_wiped_one() {
    let mut cluster = Cluster::start(timings()).await;
    cluster.write(10).await;
    cluster.kill(3).await;
    cluster.disks[2] = MemDisk::new();
    cluster.start_node(3, 2).await;
    for shard in shards() {
        let mut placement = order(shard);
        placement.order.iter_mut().filter(|id| id.node.0 == 3).for_each(|id| *id = r(3, 2));
        cluster.live().for_each(|node| node.groups.place(shard, placement.clone()));
    }
    let wished: BTreeSet<_> = [r(1, 1), r(2, 1), r(3, 2)].into();
    eventually("the new generation votes and the old one is gone", || {
        shards().all(|s| {
            let seen = cluster.leader(s).and_then(|g| {
                tend::look_at(
                    &g,
                    Duration::from_secs(1),
                    &cluster.nodes[usize::from(g.replica().node.0) - 1].as_ref()?.peers,
                )
            });
            seen.is_some_and(|seen| seen.configs == vec![wished.clone()] && seen.learners.is_empty())
        })
    })
    .await;
    cluster.write(5).await;
    cluster.agree().await;
    // With the new replica the group survives the loss of another one.
    cluster.kill(1).await;
    cluster.write(5).await;
    cluster.agree().await;
    cluster.stop().await;
}

#[tokio::test]
async fn stopping_node_hands_its_leaderships_over_before_it_goes() {
    let mut cluster = Cluster::start(timings()).await;
    eventually("every shard is led by its first choice", || shards().all(|s| leads(&cluster, s, s.0))).await;
    let node = cluster.nodes[0].take().expect("alive");
    let before = Instant::now();
    node.groups.shutdown().await;
    eventually("another leads shard 1", || cluster.leader(ShardId(1)).is_some_and(|g| g.replica().node.0 != 1)).await;
    assert!(before.elapsed() < timings().election_min, "handed over, not timed out: {:?}", before.elapsed());
    node.peers.shutdown().await;
    cluster.write(3).await;
    cluster.agree().await;
    cluster.stop().await;
}

#[tokio::test]
async fn shards_of_a_node_whose_port_refuses_go_on_under_the_next_in_order_without_any_time_out() {
    let mut cluster = Cluster::start(timings()).await;
    eventually("every shard is led by its first choice", || shards().all(|s| leads(&cluster, s, s.0))).await;
    for group in cluster.live().flat_map(|node| node.groups.all()) {
        // No time-out makes anybody campaign from here on.
        group.raft().runtime_config().elect(false);
    }
    cluster.write(5).await;
    let campaigns = |cluster: &Cluster| cluster.live().map(|node| node.groups.campaigns()).collect::<Vec<_>>();
    assert_eq!(campaigns(&cluster), [0, 0, 0], "nobody has died");
    cluster.kill(1).await;
    eventually("the second choice leads shard 1", || leads(&cluster, ShardId(1), 2)).await;
    assert!(campaigns(&cluster)[0] >= 1, "node 2 was the next in order");
    cluster.write(5).await;
    cluster.agree().await;
    cluster.stop().await;
}

#[tokio::test]
async fn replica_whose_node_has_just_died_is_not_good_though_it_answered_lately() {
    // It counts as answering for as long as this test runs.
    let mut cluster = Cluster::start(timings()).await;
    let patient = Duration::from_secs(600);
    eventually("leaders are spread", || shards().all(|shard| leads(&cluster, shard, shard.0))).await;
    cluster.agree().await;
    let good = |cluster: &Cluster| {
        let node = cluster.nodes[0].as_ref().expect("runs");
        let group = node.groups.get(ShardId(1)).expect("runs");
        tend::look_at(&group, patient, &node.peers).map(|seen| seen.good.contains(&r(2, 1)))
    };
    eventually("node 2 is good", || good(&cluster) == Some(true)).await;
    cluster.kill(2).await;
    eventually("its connection is gone", || !cluster.nodes[0].as_ref().expect("runs").peers.is_connected(NodeId(2)))
        .await;
    assert_eq!(good(&cluster), Some(false));
}

#[tokio::test]
async fn replica_that_lost_synced_entries_is_told_and_its_leader_goes_on() {
    let mut cluster = Cluster::start(timings()).await;
    eventually("leaders are spread", || shards().all(|shard| leads(&cluster, shard, shard.0))).await;
    cluster.write(10).await;
    cluster.agree().await;
    let old = cluster.disks[2].copy_durable();
    cluster.write(20).await;
    cluster.agree().await;
    cluster.kill(3).await;
    cluster.disks[2] = old;
    cluster.start_node(3, 1).await;
    eventually("node 3 learns what it has lost", || {
        let told = cluster.nodes[2].as_ref().expect("runs").watch.forgotten.lock().expect("not poisoned").clone();
        told.contains(&ShardId(1)) && told.contains(&ShardId(2))
    })
    .await;
    cluster.write(10).await;
    for node in cluster.live() {
        assert_eq!(*node.watch.fatal.lock().expect("not poisoned"), [""; 0], "node {}", node.id);
    }
}

#[tokio::test]
async fn rpc_for_another_generation_is_refused() {
    let cluster = Cluster::start(timings()).await;
    let node = cluster.nodes[0].as_ref().expect("alive");
    let route = crate::network::wire::Route { shard: ShardId(1), generation: Generation(9) };
    let rpc = crate::network::wire::encode(route, &()).expect("encodes");
    let deadline = Instant::now() + Duration::from_secs(5);
    eventually("1 connects to 2", || node.peers.is_connected(NodeId(2))).await;
    let outcome = node.peers.request(NodeId(2), crate::network::wire::kind::VOTE, rpc, deadline).await;
    assert!(matches!(outcome, peer::Outcome::Refused(PeerRefusal::NotReady(_))), "{outcome:?}");
    cluster.stop().await;
}

/// Accepted users, after any number of deaths, are there on every replica, whoever died when.
#[tokio::test]
async fn nothing_accepted_is_lost_when_nodes_die_again_and_again() {
    let timings = Timings { snapshot_entries: 20, kept_entries: 5, ..timings() };
    let mut cluster = Cluster::start(timings).await;
    for round in 0..if cfg!(madsim) { 20 } else { 6 } {
        let victims = if round % 4 == 3 { NODES } else { 1 };
        let mut down = Vec::new();
        for _ in 0..victims {
            let up: Vec<u16> = cluster.live().map(|node| node.id).collect();
            let victim = up[rand::random_range(0..up.len())];
            cluster.kill(victim).await;
            down.push(victim);
        }
        if victims == 1 {
            cluster.write(rand::random_range(0..20)).await;
        }
        for id in down {
            cluster.start_node(id, 1).await;
        }
        cluster.write(rand::random_range(0..5)).await;
    }
    cluster.agree().await;
    for shard in shards() {
        let rows = rows(&cluster.views(shard).await[0]);
        for (_, user) in cluster.accepted.iter().filter(|(at, _)| *at == shard) {
            let name = user.as_str().as_bytes();
            let is_there = rows.iter().any(|(key, _)| key.windows(name.len()).any(|bytes| bytes == name));
            assert!(is_there, "{user} was accepted and is gone");
        }
    }
    cluster.stop().await;
}
