//! Three nodes of the real code, each on a simulated machine with a disk that survives it, and the tool that asks them.
//!
//! Invariant: a disk is crashed before its node is killed, so that nothing which still runs while the node goes down, a
//! destructor or a forgotten task, reaches what the next life of the node will find.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use flotilla_node::cli::ask::{NodeAddr, ask};
use flotilla_node::cli::init::{self, InitArgs};
use flotilla_node::cluster::Cluster as Node;
use flotilla_node::cluster::wire::{AdminReply, AdminRequest};
use flotilla_proto::ids::{Hash32, NodeId, ShardId};
use flotilla_storage::MemDisk;
use madsim::net::NetSim;
use madsim::runtime::{Handle, NodeHandle};

use crate::boot;
use crate::checkers::{Facts, Watch};
use crate::options::{Disk, Options};
use crate::trace::Trace;

pub const CLIENT_PORT: u16 = 4000;
pub const PEER_PORT: u16 = 5000;

thread_local! {
    // Names of the simulated machines; the simulator runs everything on one thread.
    static PLACES: RefCell<BTreeMap<String, String>> = const { RefCell::new(BTreeMap::new()) };
}

/// The name of the simulated machine that runs this.
pub fn place() -> String {
    let id = madsim::plugin::node().to_string();
    PLACES.with(|places| places.borrow().get(&id).cloned()).unwrap_or_else(|| "run".into())
}

/// A simulated machine of the given name and address.
pub fn machine(name: &str, ip: Ipv4Addr) -> NodeHandle {
    let node = Handle::current().create_node().name(name).ip(IpAddr::V4(ip)).build();
    call_it(&node, name);
    node
}

fn call_it(node: &NodeHandle, name: &str) {
    PLACES.with(|places| places.borrow_mut().insert(node.id().to_string(), name.to_owned()));
}

/// How often the groups of running nodes are asked where they stand.
const TICK: Duration = Duration::from_millis(50);

fn tell_facts(node: &Node, watch: &Watch) {
    for group in node.groups.all() {
        let leadership = group.leadership();
        let vote = group.vote();
        let facts = Facts {
            node: node.node,
            shard: group.shard(),
            replica: group.replica(),
            leadership,
            vote,
            group: group.facts(),
        };
        watch.on_facts(&facts);
    }
}

/// What a node is started with, every time.
#[derive(Clone)]
pub struct Seat {
    pub number: u16,
    pub ip: Ipv4Addr,
    pub disk: MemDisk,
    pub trace: Trace,
    pub watch: Watch,
    /// Why a node ended by itself.
    pub fatal: Arc<Mutex<Vec<String>>>,
    /// The running process.
    life: Arc<Mutex<Option<Weak<Node>>>>,
}

impl Seat {
    pub fn client_url(&self) -> String {
        format!("http://{}:{CLIENT_PORT}", self.ip)
    }

    pub fn peer_addr(&self) -> String {
        format!("{}:{PEER_PORT}", self.ip)
    }

    /// Told by each life of the node.
    pub fn lives(&self, node: Option<Weak<Node>>) {
        *self.life.lock().unwrap_or_else(PoisonError::into_inner) = node;
    }

    /// None while it does not run.
    pub fn running(&self) -> Option<Arc<Node>> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.upgrade()
    }

    pub fn ended(&self, reason: String) {
        self.trace.say(format!("node{:<6} ends: {reason}", self.number));
        self.fatal.lock().unwrap_or_else(PoisonError::into_inner).push(format!("node {}: {reason}", self.number));
    }
}

pub struct Cluster {
    pub seats: Vec<Seat>,
    machines: Vec<NodeHandle>,
    tool: NodeHandle,
    pub watch: Watch,
    pub trace: Trace,
}

impl Cluster {
    /// Starts the nodes; they wait to be initialised.
    pub fn start(options: &Options, trace: &Trace) -> Self {
        let fatal = Arc::default();
        let disks: Vec<MemDisk> = (0..options.nodes).map(|_| MemDisk::new()).collect();
        let watch = Watch::new(disks.clone(), trace);
        let seats: Vec<Seat> = disks
            .into_iter()
            .zip(1..)
            .map(|(disk, n)| Seat {
                number: u16::from(n),
                ip: Ipv4Addr::new(10, 0, 0, n),
                disk,
                trace: trace.clone(),
                watch: watch.clone(),
                fatal: Arc::clone(&fatal),
                life: Arc::default(),
            })
            .collect();
        let machines = seats.iter().map(|seat| {
            let (name, run) = (format!("node{}", seat.number), seat.clone());
            let world = Handle::current();
            let builder = world.create_node().name(&name).ip(IpAddr::V4(seat.ip));
            let node = builder.init(move || boot::run(run.clone())).build();
            call_it(&node, &name);
            node
        });
        let machines = machines.collect();
        let tool = machine("tool", Ipv4Addr::new(10, 0, 2, 1));
        Self { seats, machines, tool, watch, trace: trace.clone() }
    }

    pub fn urls(&self) -> Vec<String> {
        self.seats.iter().map(Seat::client_url).collect()
    }

    /// Asks the groups of all running nodes, for ever.
    pub fn look(&self) -> impl Future<Output = ()> + Send + 'static {
        let (seats, watch) = (self.seats.clone(), self.watch.clone());
        async move {
            loop {
                tokio::time::sleep(TICK).await;
                seats.iter().filter_map(Seat::running).for_each(|node| tell_facts(&node, &watch));
            }
        }
    }

    fn addrs(&self) -> Vec<NodeAddr> {
        self.seats.iter().map(|s| NodeAddr { node: NodeId(s.number), addr: s.peer_addr() }).collect()
    }

    /// As `flotilla init` does it; returns when every node serves.
    pub async fn init(&self, shards: u16) -> anyhow::Result<()> {
        let args = InitArgs { nodes: self.addrs(), shards, insecure_peers: true, wait: 60 };
        tokio::spawn(self.look());
        self.on_tool(async move { init::init(&args).await.map(|_| ()) }).await
    }

    async fn on_tool<T: Send + 'static>(
        &self,
        work: impl Future<Output = anyhow::Result<T>> + Send + 'static,
    ) -> anyhow::Result<T> {
        self.tool.spawn(work).await?
    }

    /// Kills a node; returns the line that says what its disk lost.
    pub fn kill(&self, node: usize, disk: Disk, keep_permille: u32) {
        let tail = self.seats[node].disk.tail_batches();
        let keep = match disk {
            Disk::Kept => tail,
            Disk::Lost => tail * keep_permille as usize / 1_000,
        };
        let before = self.seats[node].disk.counters().unsynced_bytes_lost;
        let lost = self.seats[node].disk.crash(keep);
        let bytes = self.seats[node].disk.counters().unsynced_bytes_lost - before;
        self.seats[node].lives(None);
        Handle::current().kill(self.machines[node].id());
        let number = self.seats[node].number;
        self.trace.say(format!("nemesis    kills node{number}: {lost} of {tail} unsynced batches lost, {bytes} bytes"));
    }

    pub fn say(&self, what: String) {
        self.trace.say(format!("nemesis    {what}"));
    }

    /// The node hears nobody (`inward`), nobody hears it (`outward`), or both.
    pub fn isolate(&self, node: usize, inward: bool, outward: bool) {
        let id = self.machines[node].id();
        self.say(format!("isolates node{} (inward {inward}, outward {outward})", self.seats[node].number));
        if inward {
            NetSim::current().clog_node_in(id);
        }
        if outward {
            NetSim::current().clog_node_out(id);
        }
    }

    pub fn rejoin(&self, node: usize) {
        let id = self.machines[node].id();
        self.say(format!("lets node{} back in", self.seats[node].number));
        NetSim::current().unclog_node_in(id);
        NetSim::current().unclog_node_out(id);
    }

    pub fn cut(&self, from: usize, to: usize) {
        self.say(format!("cuts node{} to node{}", self.seats[from].number, self.seats[to].number));
        NetSim::current().clog_link(self.machines[from].id(), self.machines[to].id());
    }

    pub fn mend(&self, from: usize, to: usize) {
        self.say(format!("mends node{} to node{}", self.seats[from].number, self.seats[to].number));
        NetSim::current().unclog_link(self.machines[from].id(), self.machines[to].id());
    }

    pub fn loss(&self, part: f64) {
        self.say(format!("makes packets get lost: {part}"));
        NetSim::current().update_config(|config| config.packet_loss_rate = part);
    }

    pub fn restart(&self, node: usize) {
        self.trace.say(format!("nemesis    restarts node{}", self.seats[node].number));
        Handle::current().restart(self.machines[node].id());
    }

    /// Why nodes ended by themselves, so far.
    pub fn fatal(&self) -> Vec<String> {
        self.seats.iter().take(1).flat_map(|s| s.fatal.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect()
    }

    /// The digest of one shard on each node, with the log index that it stands for.
    pub async fn digests(&self, shard: ShardId) -> anyhow::Result<Vec<(u64, Hash32)>> {
        let mut digests = Vec::new();
        for at in self.addrs() {
            let asked = async move { ask(&at.addr, Some(at.node), &AdminRequest::Digest { shard }, true).await };
            match self.on_tool(asked).await? {
                AdminReply::Digest { index, digest } => digests.push((index, digest)),
                other => anyhow::bail!("an answer of another kind: {other:?}"),
            }
        }
        Ok(digests)
    }

    /// Waits until all replicas of a shard stand at the same index; none if they do not in time.
    pub async fn agreed(&self, shard: ShardId, patience: Duration) -> anyhow::Result<Option<Vec<(u64, Hash32)>>> {
        let end = tokio::time::Instant::now() + patience;
        loop {
            if let Ok(digests) = self.digests(shard).await
                && digests.windows(2).all(|pair| pair[0].0 == pair[1].0)
            {
                return Ok(Some(digests));
            }
            if tokio::time::Instant::now() > end {
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
