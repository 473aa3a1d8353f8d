//! Nodes of the real code, each on a simulated machine with a disk that survives it, and the tool that asks them.
//!
//! - `seat` what a node is started with · `disks` slow, full and failing ones · `members` operators at work
//!   · `links` what keeps machines from hearing each other
//!
//! Invariant: a disk is crashed before its node is killed, so that nothing which still runs while the node goes down, a
//! destructor or a forgotten task, reaches what the next life of the node will find.

mod disks;
mod links;
mod members;
mod seat;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use flotilla_machine::command::{PullRule, Settings};
use flotilla_machine::{Command, Reply};
use flotilla_node::cli::ask::{NodeAddr, ask};
use flotilla_node::cli::init::{self, InitArgs};
use flotilla_node::cluster::Cluster as Node;
use flotilla_node::cluster::wire::{AdminReply, AdminRequest};
use flotilla_proto::ids::{Hash32, NodeId, ShardId};
use flotilla_proto::limits;
use flotilla_raft::Timings;
use flotilla_raft::peer::PeerStatus;
use flotilla_storage::MemDisk;
use madsim::runtime::{Handle, NodeHandle};

use crate::boot;
use crate::checkers::bounded::Figures;
use crate::checkers::{Facts, Watch};
use crate::options::{Disk, Options};
use crate::trace::Trace;
pub use seat::Seat;

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

/// A node keeps so many times as much in memory of rows as of a group's log.
const HOT_ROWS_PART: usize = 16;

fn timings(options: &Options) -> Timings {
    Timings {
        heartbeat: options.election / 5,
        election_min: options.election,
        election_max: options.election * 2,
        snapshot_entries: options.snapshot_entries,
        kept_entries: options.snapshot_entries,
        log_cache_bytes: options.log_cache_bytes,
        hot_rows_bytes: HOT_ROWS_PART * options.log_cache_bytes,
        ..Timings::default()
    }
}

/// How often the groups of running nodes are asked where they stand.
pub const TICK: Duration = Duration::from_millis(50);

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

fn tell_figures(node: &Node, tasks: &BTreeMap<String, usize>, watch: &Watch) {
    let peers = node.peers.status();
    let most = |of: fn(&PeerStatus) -> usize| peers.iter().map(of).max().unwrap_or(0);
    let tasks = tasks.get(&format!("node{}", node.node)).copied().unwrap_or(0);
    let (queued, open) = (most(|peer| peer.queued), most(|peer| peer.open));
    watch.on_figures(&Figures { node: node.node, queued, open, sessions: node.sessions.len(), tasks });
}

/// What several faults may hold at once; it heals when the last lets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Hold {
    Down(usize),
    Paused(usize),
    Inward(usize),
    Outward(usize),
    Link(usize, usize),
    Slow(usize),
    Full(usize),
}

pub struct Cluster {
    pub seats: Vec<Seat>,
    machines: Vec<NodeHandle>,
    tool: NodeHandle,
    /// How many faults hold a thing at this moment: lanes do not know of each other.
    holds: RefCell<BTreeMap<Hold, u32>>,
    pub seed: u64,
    pub shards: u16,
    latency: std::ops::Range<Duration>,
    sync: Duration,
    pub watch: Watch,
    pub trace: Trace,
}

impl Cluster {
    /// Starts the nodes; they wait to be initialised.
    pub fn start(options: &Options, trace: &Trace) -> Self {
        links::keep_doors();
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
                stop: Arc::default(),
                disk_low: Arc::default(),
                excused: Arc::default(),
                vain_starts: Arc::default(),
                damaged: Arc::default(),
                over: Arc::default(),
                paused: Arc::default(),
                timings: timings(options),
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
        let (holds, latency, sync) = (RefCell::default(), options.latency.clone(), options.sync);
        for seat in &seats {
            seat.disk.inject(|faults| faults.stall = sync);
            seat.disk.set_table_bytes(options.table_bytes);
        }
        Self {
            seats,
            machines,
            tool,
            holds,
            seed: options.seed,
            shards: options.shards,
            latency,
            sync,
            watch,
            trace: trace.clone(),
        }
    }

    pub fn urls(&self) -> Vec<String> {
        self.seats.iter().map(Seat::client_url).collect()
    }

    /// Asks the groups of all running nodes, for ever.
    pub fn look(&self) -> impl Future<Output = ()> + Send + 'static {
        let (seats, watch) = (self.seats.clone(), self.watch.clone());
        async move {
            let mut ticks = 0_u64;
            loop {
                tokio::time::sleep(TICK).await;
                let awake = seats.iter().filter(|seat| !seat.paused.load(Ordering::Relaxed));
                awake.filter_map(Seat::running).for_each(|node| tell_facts(&node, &watch));
                ticks += 1;
                // It costs more, and a queue that grows does not shrink in between.
                if ticks.is_multiple_of(20) {
                    let tasks = Handle::current().metrics().num_tasks_by_node();
                    seats.iter().filter_map(Seat::running).for_each(|node| tell_figures(&node, &tasks, &watch));
                }
            }
        }
    }

    fn addrs(&self) -> Vec<NodeAddr> {
        self.seats.iter().map(|s| NodeAddr { node: NodeId(s.number), addr: s.peer_addr() }).collect()
    }

    /// As `flotilla init` does it; returns when every node serves.
    pub async fn init(&self, options: &Options) -> anyhow::Result<()> {
        let args = InitArgs {
            nodes: self.addrs(),
            shards: options.shards,
            insecure_peers: true,
            wait: 60,
            feature_level: options.level.unwrap_or(limits::FEATURE_LEVEL),
        };
        tokio::spawn(self.look());
        self.on_tool(async move { init::init(&args).await.map(|_| ()) }).await
    }

    /// Shortens the time for which what was sent is remembered, and has groups in pull mode early, where the options say so.
    pub async fn remember_for(&self, options: &Options) -> anyhow::Result<()> {
        if !options.dedup_window.is_zero() {
            let dedup_window_ms = u64::try_from(options.dedup_window.as_millis()).unwrap_or(u64::MAX);
            // Above every version that the cluster makes of its own.
            let settings = Settings { version: u64::MAX, dedup_window_ms, ..Settings::default() };
            self.tell_all(options, &Command::SetSettings(settings)).await?;
        }
        if let Some((above, below)) = options.pull {
            self.tell_all(options, &Command::SetPullRule(PullRule { version: 1, above, below })).await?;
        }
        Ok(())
    }

    /// A command to every shard.
    async fn tell_all(&self, options: &Options, command: &Command) -> anyhow::Result<()> {
        let command = command.encode().context("settings can be encoded")?;
        for shard in (1..=options.shards).map(ShardId) {
            let end = tokio::time::Instant::now() + Duration::from_secs(20);
            loop {
                let node = self.leader_of(shard).and_then(|node| self.seats[node].running());
                let group = node.and_then(|node| node.groups.get(shard));
                if let Some(group) = group
                    && group.propose(command.clone()).await == Ok(Reply::Done)
                {
                    break;
                }
                anyhow::ensure!(tokio::time::Instant::now() < end, "shard {shard} takes no settings");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    async fn on_tool<T: Send + 'static>(
        &self,
        work: impl Future<Output = anyhow::Result<T>> + Send + 'static,
    ) -> anyhow::Result<T> {
        self.tool.spawn(work).await?
    }

    /// True if nobody held it before.
    fn hold(&self, what: Hold) -> bool {
        let mut holds = self.holds.borrow_mut();
        let count = holds.entry(what).or_default();
        *count += 1;
        *count == 1
    }

    /// True if nobody holds it any more.
    fn release(&self, what: Hold) -> bool {
        let mut holds = self.holds.borrow_mut();
        let Some(count) = holds.get_mut(&what) else { return false };
        *count -= 1;
        let free = *count == 0;
        if free {
            holds.remove(&what);
        }
        free
    }

    fn is_held(&self, what: Hold) -> bool {
        self.holds.borrow().contains_key(&what)
    }

    /// The numbers of the nodes that no fault holds down.
    pub fn core(&self) -> Vec<u16> {
        let alive = self.seats.iter().enumerate().filter(|(node, _)| !self.is_down(*node));
        alive.map(|(_, seat)| seat.number).collect()
    }

    pub fn is_down(&self, node: usize) -> bool {
        self.is_held(Hold::Down(node))
    }

    /// Kills a node, if it is not dead already; [`Cluster::restart`] once for each kill.
    pub fn kill(&self, node: usize, disk: Disk, keep_permille: u32) {
        if !self.hold(Hold::Down(node)) {
            return;
        }
        let (tail, unlogged) = (self.seats[node].disk.tail_batches(), self.seats[node].disk.unlogged_batches());
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
        let what = format!("{lost} of {tail} unsynced batches and {unlogged} unlogged ones");
        self.trace.say(format!("nemesis    kills node{number}: {what} lost, {bytes} bytes"));
    }

    /// Starts a node again, unless another fault holds it down.
    pub fn restart(&self, node: usize) {
        if !self.release(Hold::Down(node)) {
            return;
        }
        self.trace.say(format!("nemesis    restarts node{}", self.seats[node].number));
        Handle::current().restart(self.machines[node].id());
        if self.is_held(Hold::Paused(node)) {
            Handle::current().pause(self.machines[node].id());
        }
    }

    /// The node stands still.
    pub fn pause(&self, node: usize) {
        if self.hold(Hold::Paused(node)) {
            self.say(format!("pauses node{}", self.seats[node].number));
            self.seats[node].paused.store(true, Ordering::Relaxed);
            Handle::current().pause(self.machines[node].id());
        }
    }

    pub fn resume(&self, node: usize) {
        if self.release(Hold::Paused(node)) {
            self.say(format!("resumes node{}", self.seats[node].number));
            self.seats[node].paused.store(false, Ordering::Relaxed);
            Handle::current().resume(self.machines[node].id());
        }
    }

    /// A good end: it hands over what it leads. Returns when it has ended, or after `patience`; then it starts again.
    pub async fn stop(&self, node: usize, patience: Duration) {
        self.say(format!("asks node{} to stop", self.seats[node].number));
        if self.seats[node].running().is_some() {
            self.seats[node].stop.notify_one();
        }
        let end = tokio::time::Instant::now() + patience;
        while self.seats[node].running().is_some() && tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The node that leads a shard now, if one says so.
    pub fn leader_of(&self, shard: ShardId) -> Option<usize> {
        let leads =
            |seat: &Seat| seat.running().and_then(|n| n.groups.get(shard)).is_some_and(|g| g.leadership().leads);
        self.seats.iter().position(leads)
    }

    /// Asks whoever leads the shard to hand over.
    pub async fn transfer(&self, shard: ShardId, to: usize) {
        let Some(from) = self.leader_of(shard) else { return };
        let Some(group) = self.seats[from].running().and_then(|node| node.groups.get(shard)) else { return };
        let number = self.seats[to].number;
        let Some(to) = group.facts().voters.into_iter().find(|voter| voter.node.0 == number) else { return };
        self.say(format!("moves the leadership of shard {shard} from node{} to {to}", self.seats[from].number));
        let asked = self.machines[from].spawn(async move { group.transfer_leader(to).await });
        // It may die while it is asked.
        let _ = tokio::time::timeout(Duration::from_secs(2), asked).await;
    }

    /// A supervisor's work: a node that ended by itself for a reason that it is excused for starts again.
    pub fn revive(&self, node: usize) {
        let seat = &self.seats[node];
        if seat.over.swap(false, Ordering::Relaxed) && !self.is_down(node) {
            self.kill(node, Disk::Lost, 0);
            self.restart(node);
        }
    }

    pub fn say(&self, what: String) {
        self.trace.say(format!("nemesis    {what}"));
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
