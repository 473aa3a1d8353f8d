//! The stage of a story: a cluster, its people, who leads what, and faults at points.
//!
//! Invariant: nothing here happens at a time. What a story waits for has a name and a bound; when the bound is over the
//! story ends with that name.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use flotilla_client::history::{Record, Recorder};
use flotilla_client::oracle::{self, Demand};
use flotilla_node::cli::ask::ask;
use flotilla_node::cluster::wire::{AdminReply, AdminRequest, NodeStatus};
use flotilla_proto::ids::{ConvId, Hash32, NodeId, Seq, ShardId, UserId};
use flotilla_proto::slots::{self, SlotTable};
use flotilla_raft::seam::{clock, fault};
use madsim::runtime::{Handle as Machines, NodeHandle};
use tokio::time::{Instant, sleep};

use super::person::{Person, url_of};
use crate::checkers::{World, finished};
use crate::cluster::{Cluster, machine, place};
use crate::options::{Disk, Options};
use crate::trace::Trace;

/// For anything that a story waits for.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

/// Why a story ends.
#[derive(Debug)]
pub enum Fail {
    /// A promise was broken.
    Broken(String),
    /// It did not come to what it is about.
    NotShown(String),
}

impl From<anyhow::Error> for Fail {
    fn from(error: anyhow::Error) -> Self {
        Fail::Broken(format!("the story could not go on: {error:#}"))
    }
}

/// A promise of the story itself.
pub fn must(holds: bool, promise: impl Into<String>) -> Result<(), Fail> {
    if holds { Ok(()) } else { Err(Fail::Broken(promise.into())) }
}

/// Without this the story shows nothing.
pub fn shown(happened: bool, what: impl Into<String>) -> Result<(), Fail> {
    if happened { Ok(()) } else { Err(Fail::NotShown(what.into())) }
}

/// A fault that waits for its point.
pub struct Pending {
    happened: Rc<Cell<bool>>,
    what: String,
}

impl Pending {
    pub fn has_happened(&self) -> bool {
        self.happened.get()
    }

    /// Waits until it has happened.
    pub async fn happens(&self) -> Result<(), Fail> {
        let end = Instant::now() + PATIENCE;
        while !self.happened.get() {
            if Instant::now() > end {
                return Err(Fail::NotShown(format!("{}: never", self.what)));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }
}

pub struct Stage {
    pub cluster: Rc<Cluster>,
    pub trace: Trace,
    options: Options,
    slots: SlotTable,
    probe: NodeHandle,
    recorder: Recorder,
    records: RefCell<Vec<Record>>,
    people: RefCell<Vec<Rc<Person>>>,
    clocks: Rc<RefCell<BTreeMap<String, i64>>>,
}

impl Stage {
    pub async fn open(options: &Options, trace: &Trace, recorder: &Recorder) -> Result<Self, Fail> {
        let cluster = Rc::new(Cluster::start(options, trace));
        let watch = cluster.watch.clone();
        recorder.tap(move |record| watch.on_record(record));
        cluster.init(options).await?;
        cluster.remember_for(options).await?;
        trace.say("run        the cluster serves");
        let clocks: Rc<RefCell<BTreeMap<String, i64>>> = Rc::default();
        let off = clocks.clone();
        clock::skew(move |ms| ms.saturating_add_signed(off.borrow().get(&place()).copied().unwrap_or(0)));
        let stage = Self {
            cluster,
            trace: trace.clone(),
            slots: SlotTable::even(options.shards),
            options: options.clone(),
            probe: machine("probe", Ipv4Addr::new(10, 0, 2, 9)),
            recorder: recorder.clone(),
            records: RefCell::default(),
            people: RefCell::default(),
            clocks,
        };
        stage.spread().await?;
        Ok(stage)
    }

    /// Waits until every data shard is led by another node, as placement wants it: no story has one hand over meanwhile.
    async fn spread(&self) -> Result<(), Fail> {
        let promise = "liveness: leaders spread over the nodes";
        self.until(promise, async || {
            for shard in 1..=self.options.shards {
                let wished = (usize::from(shard) - 1) % self.options.nodes;
                if self.leader(ShardId(shard)).await.ok() != Some(wished) {
                    return false;
                }
            }
            true
        })
        .await
    }

    pub fn say(&self, what: &str) {
        self.trace.say(format!("story      {what}"));
    }

    // People.

    /// Registered and connected.
    pub async fn person(&self, name: &str) -> Result<Rc<Person>, Fail> {
        let person = self.stranger(name).await?;
        person.opens().await?;
        self.is_connected(&person).await?;
        Ok(person)
    }

    /// The same user with another device, whose app is not open yet.
    pub async fn second(&self, person: &Person) -> Result<Rc<Person>, Fail> {
        let second = Rc::new(person.second().await?);
        self.people.borrow_mut().push(second.clone());
        Ok(second)
    }

    /// Registered; the app is not open yet.
    pub async fn stranger(&self, name: &str) -> Result<Rc<Person>, Fail> {
        let number = u8::try_from(self.people.borrow().len() + 1).unwrap_or(u8::MAX);
        let urls = self.cluster.seats.iter().map(|seat| url_of(seat.ip)).collect();
        let person = Rc::new(Person::register(name, number, urls, self.recorder.clone()).await?);
        self.people.borrow_mut().push(person.clone());
        Ok(person)
    }

    pub async fn is_connected(&self, person: &Person) -> Result<usize, Fail> {
        self.until(&format!("liveness: {} is caught up", person.user), async || person.node().await.is_some()).await?;
        person.node().await.ok_or_else(|| Fail::Broken(format!("liveness: {} has lost its node", person.user)))
    }

    /// Lets a person reach only this node, and waits until it is served there.
    pub async fn moves(&self, person: &Person, node: usize) -> Result<(), Fail> {
        person.sees_only(&[node]);
        if person.node().await != Some(node) {
            person.app_dies();
            person.opens().await?;
        }
        let promise = format!("liveness: {} is served by the only node that it reaches", person.user);
        self.until(&promise, async || person.node().await == Some(node)).await
    }

    /// Names such that the conversation of the two and the inbox of the second live in different shards.
    pub fn apart(&self) -> (String, String) {
        let name = |text: String| UserId::parse(&text).ok();
        let alice = "alice".to_owned();
        let bob = (0..100).map(|n| format!("bob{n}")).find(|bob| {
            let (Some(a), Some(b)) = (name(alice.clone()), name(bob.clone())) else { return false };
            self.shard_of(&ConvId::direct(&a, &b)) != self.shard_of_user(&b)
        });
        (alice, bob.unwrap_or_else(|| "bob".into()))
    }

    /// Two of them, connected, who have said hello: seq 1 of their conversation.
    pub async fn talk_apart(&self) -> Result<(Rc<Person>, Rc<Person>, ConvId), Fail> {
        let (alice, bob) = self.apart();
        let (alice, bob) = (self.person(&alice).await?, self.person(&bob).await?);
        let conv = ConvId::direct(&alice.user, &bob.user);
        alice.sends(&conv, "hello").await?;
        Ok((alice, bob, conv))
    }

    /// A group of both that does not live in the shard of the second one's inbox.
    pub async fn group_apart(&self, owner: &Person, member: &Person) -> Result<ConvId, Fail> {
        self.elsewhere(member, async || owner.makes_group(&[member]).await).await
    }

    /// Made again until it does not live in the shard of the member's inbox.
    pub async fn elsewhere(
        &self,
        member: &Person,
        make: impl AsyncFn() -> Result<ConvId, Fail>,
    ) -> Result<ConvId, Fail> {
        loop {
            let conv = make().await?;
            if self.shard_of(&conv) != self.shard_of_user(&member.user) {
                return Ok(conv);
            }
        }
    }

    /// Puts the second on a node that leads neither the conversation nor its inbox, and the first elsewhere. Gives that node.
    pub async fn part(&self, alice: &Person, bob: &Person, conv: &ConvId) -> Result<usize, Fail> {
        let gateway = self.other(&[self.leader_of(conv).await?, self.inbox_leader_of(bob).await?]);
        self.moves(bob, gateway).await?;
        self.moves(alice, self.other(&[gateway])).await?;
        Ok(gateway)
    }

    // Who leads.

    pub fn shard_of(&self, conv: &ConvId) -> ShardId {
        self.slots.shard(slots::of_conversation(conv)).unwrap_or(ShardId::CONTROL)
    }

    pub fn shard_of_user(&self, user: &UserId) -> ShardId {
        self.slots.shard(slots::of_user(user)).unwrap_or(ShardId::CONTROL)
    }

    /// As an operator's tool would, from a machine that nothing happens to.
    pub async fn on_probe<T: Send + 'static>(
        &self,
        work: impl Future<Output = anyhow::Result<T>> + Send + 'static,
    ) -> anyhow::Result<T> {
        self.probe.spawn(work).await?
    }

    pub async fn status(&self, node: usize) -> Option<NodeStatus> {
        let (addr, id) = (self.cluster.seats[node].peer_addr(), NodeId(self.cluster.seats[node].number));
        let asked = self.probe.spawn(async move { ask(&addr, Some(id), &AdminRequest::Status, true).await });
        match tokio::time::timeout(Duration::from_secs(2), asked).await {
            Ok(Ok(Ok(AdminReply::Status(status)))) => Some(*status),
            _ => None,
        }
    }

    /// The node that says of itself that it leads the shard, in the highest term that anybody says it of.
    pub async fn leader(&self, shard: ShardId) -> Result<usize, Fail> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let mut best = None;
            for node in 0..self.cluster.seats.len() {
                let Some(status) = self.status(node).await else { continue };
                let group = status.groups.iter().find(|group| group.shard == shard);
                if let Some(group) = group.filter(|group| group.leader == Some(group.replica)) {
                    best = best.max(Some((group.term, node)));
                }
            }
            if let Some((_, node)) = best {
                return Ok(node);
            }
            sleep(Duration::from_millis(100)).await;
        }
        Err(Fail::Broken(format!("liveness: shard {shard} has no leader within {PATIENCE:?}")))
    }

    /// Of the conversation's shard, as this node knows it.
    pub async fn term_at(&self, node: usize, conv: &ConvId) -> Result<u64, Fail> {
        let (shard, status) = (self.shard_of(conv), self.status(node).await);
        let group = status.and_then(|status| status.groups.into_iter().find(|group| group.shard == shard));
        group.map(|group| group.term).ok_or_else(|| Fail::Broken(format!("liveness: node{} says nothing", node + 1)))
    }

    pub async fn leader_of(&self, conv: &ConvId) -> Result<usize, Fail> {
        self.leader(self.shard_of(conv)).await
    }

    /// Of the shard that holds the user's inbox.
    pub async fn inbox_leader_of(&self, person: &Person) -> Result<usize, Fail> {
        self.leader(self.shard_of_user(&person.user)).await
    }

    /// The leaders of a conversation and of somebody's inbox: two nodes, or the story shows nothing.
    pub async fn two_leaders(&self, conv: &ConvId, reader: &Person) -> Result<(usize, usize), Fail> {
        let (log, inbox) = (self.leader_of(conv).await?, self.inbox_leader_of(reader).await?);
        shown(log != inbox, "both shards have the same leader")?;
        Ok((log, inbox))
    }

    /// From now on these two leaders do not hear each other; who writes is served by the third node.
    pub async fn cut_between(&self, conv: &ConvId, writer: &Person, reader: &Person) -> Result<(usize, usize), Fail> {
        let (log, inbox) = self.two_leaders(conv, reader).await?;
        self.moves(writer, self.other(&[log, inbox])).await?;
        self.cut_both(log, inbox);
        Ok((log, inbox))
    }

    /// Another node than these.
    pub fn other(&self, than: &[usize]) -> usize {
        (0..self.cluster.seats.len()).find(|node| !than.contains(node)).unwrap_or(0)
    }

    // Faults.

    pub fn kill(&self, node: usize, disk: Disk) {
        self.cluster.kill(node, disk, 0);
    }

    /// The node dies, without what it had not synced, at the instant at which it passes the point for the n-th time.
    pub fn dies_at(&self, node: usize, point: &'static str, nth: u32) -> Pending {
        let (cluster, left) = (self.cluster.clone(), Cell::new(nth));
        self.at(node, point, move || {
            left.set(left.get().saturating_sub(1));
            if left.get() == 0 {
                cluster.kill(node, Disk::Lost, 0);
            }
            left.get() == 0
        })
    }

    /// Runs `act` whenever the node passes the point, until it says that this was it.
    pub fn at(&self, node: usize, point: &'static str, act: impl Fn() -> bool + 'static) -> Pending {
        let happened = Rc::new(Cell::new(false));
        let (done, name) = (happened.clone(), format!("node{}", self.cluster.seats[node].number));
        let trace = self.trace.clone();
        let what = format!("{name} passes {point}");
        let said = what.clone();
        fault::hook(move |at| {
            if at == point && !done.get() && place() == name && act() {
                done.set(true);
                trace.say(format!("story      {said}"));
            }
        });
        Pending { happened, what }
    }

    pub fn restart(&self, node: usize) {
        self.cluster.restart(node);
    }

    /// Nothing of it runs, and its connections stay.
    pub fn stop(&self, node: usize) {
        self.say(&format!("stops node{}", node + 1));
        Machines::current().pause(format!("node{}", node + 1));
    }

    pub fn go_on(&self, node: usize) {
        self.say(&format!("lets node{} go on", node + 1));
        Machines::current().resume(format!("node{}", node + 1));
    }

    pub fn cut_both(&self, a: usize, b: usize) {
        self.cluster.cut(a, b);
        self.cluster.cut(b, a);
    }

    pub fn mend_both(&self, a: usize, b: usize) {
        self.cluster.mend(a, b);
        self.cluster.mend(b, a);
    }

    /// Both directions between one node and all others of the cluster; clients still reach it.
    pub fn cut_off(&self, node: usize) {
        for other in (0..self.cluster.seats.len()).filter(|other| *other != node) {
            self.cut_both(node, other);
        }
    }

    pub fn heal(&self, node: usize) {
        for other in (0..self.cluster.seats.len()).filter(|other| *other != node) {
            self.mend_both(node, other);
        }
    }

    pub fn set_clock(&self, node: usize, off: i64) {
        self.say(&format!("sets the clock of node{} off by {off} ms", node + 1));
        self.clocks.borrow_mut().insert(format!("node{}", node + 1), off);
    }

    pub fn stall_disks(&self, by: Duration) {
        self.say(&format!("every sync takes {by:?} from now on"));
        for seat in &self.cluster.seats {
            seat.disk.inject(|faults| faults.stall = by);
        }
    }

    // Looking.

    /// Waits for a condition, which is the promise that is broken if it does not come true.
    pub async fn until(&self, promise: &str, holds: impl AsyncFn() -> bool) -> Result<(), Fail> {
        let end = Instant::now() + PATIENCE;
        loop {
            if holds().await {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(Fail::Broken(format!("{promise}: not within {} s", PATIENCE.as_secs())));
            }
            sleep(LOOK).await;
        }
    }

    /// Waits until a person has stored a conversation up to here.
    pub async fn gets(&self, person: &Person, conv: &ConvId, seq: Seq) -> Result<(), Fail> {
        let promise = format!("I3 no-loss: {} gets {conv} up to {seq}", person.user);
        self.until(&promise, async || person.has(conv).await >= seq).await
    }

    /// The history so far.
    pub fn records(&self) -> Vec<Record> {
        self.records.borrow_mut().extend(self.recorder.take());
        self.records.borrow().clone()
    }

    /// Of one person, in order.
    pub fn seen<T>(&self, person: &Person, what: impl Fn(&Record) -> Option<T>) -> Vec<T> {
        self.records().iter().filter(|record| record.user == person.user).filter_map(what).collect()
    }

    // The verdict.

    /// What holds of every run once everything is healed.
    pub async fn judge(&self) -> Result<(), Fail> {
        fault::clear();
        let people = self.people.borrow().clone();
        for person in people.iter().filter(|person| !person.runs()) {
            person.sees_all();
            person.opens().await?;
        }
        for person in &people {
            self.is_connected(person).await?;
        }
        self.oracle_holds().await?;
        if let [first, second, ..] = &people[..] {
            let conv = ConvId::direct(&first.user, &second.user);
            let accepted = first.sends(&conv, "is anybody there?").await?;
            self.gets(second, &conv, accepted.seq).await?;
        }
        if let Some(why) = self.cluster.fatal().first() {
            return Err(Fail::Broken(format!("a node ended by itself: {why}")));
        }
        for shard in (0..=self.options.shards).map(ShardId) {
            self.replicas_agree(shard).await?;
        }
        let nodes: Vec<u16> = self.cluster.seats.iter().map(|seat| seat.number).collect();
        let ask = |look: &dyn Fn(&World, u16) -> Option<String>| {
            self.cluster.watch.with_world(|world| nodes.iter().find_map(|node| look(world, *node)))
        };
        self.stays_met("liveness: nothing is owed", || ask(&finished::owed)).await?;
        self.sessions_point_at_the_living().await?;
        self.oracle_holds().await?;
        let records = self.records();
        // Where every node has a replica of every shard.
        let forgotten = (nodes.len() == 3)
            .then(|| self.cluster.watch.with_world(|world| finished::forgotten(world, &nodes, &records)))
            .flatten();
        match self.cluster.watch.violations().into_iter().next().or(forgotten) {
            Some(violation) => Err(Fail::Broken(violation)),
            None => Ok(()),
        }
    }

    /// I7: no session row points for ever at a dead node incarnation.
    pub async fn sessions_point_at_the_living(&self) -> Result<(), Fail> {
        self.stays_met("I7 one-session: sessions point at living nodes", || {
            let running: Vec<_> = self.cluster.seats.iter().filter_map(|seat| seat.running()).collect();
            let alive = running.iter().map(|node| (node.node, *node.incarnation.borrow())).collect();
            self.cluster.watch.with_world(|world| {
                self.cluster.seats.iter().find_map(|seat| finished::lost_session(world, seat.number, &alive))
            })
        })
        .await
    }

    /// Waits until nothing is wrong any more.
    async fn stays_met(&self, promise: &str, wrong: impl Fn() -> Option<String>) -> Result<(), Fail> {
        let end = Instant::now() + PATIENCE;
        while let Some(why) = wrong() {
            if Instant::now() > end {
                return Err(Fail::Broken(format!("{promise}: {why}")));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// I6: replicas at one index hold one state.
    async fn replicas_agree(&self, shard: ShardId) -> Result<(), Fail> {
        let digests = RefCell::new(Vec::new());
        let promise = format!("liveness: the replicas of shard {shard} reach one index");
        self.until(&promise, async || {
            let found = self.digests(shard).await;
            let equal = found.len() >= 3 && found.windows(2).all(|pair| pair[0].0 == pair[1].0);
            *digests.borrow_mut() = found;
            equal
        })
        .await?;
        let digests = digests.into_inner();
        let promise = format!("I6 agreement: shard {shard} differs between nodes: {digests:?}");
        must(digests.windows(2).all(|pair| pair[0].1 == pair[1].1), promise)
    }

    /// Of every node that has a replica of the shard and answers.
    async fn digests(&self, shard: ShardId) -> Vec<(u64, Hash32)> {
        let mut digests = Vec::new();
        for seat in &self.cluster.seats {
            let (addr, id) = (seat.peer_addr(), NodeId(seat.number));
            let asked =
                self.probe.spawn(async move { ask(&addr, Some(id), &AdminRequest::Digest { shard }, true).await });
            if let Ok(Ok(AdminReply::Digest { index, digest })) = asked.await {
                digests.push((index, digest));
            }
        }
        digests
    }

    /// Waits until the oracle finds nothing; what it finds in the end otherwise.
    async fn oracle_holds(&self) -> Result<(), Fail> {
        let end = Instant::now() + PATIENCE;
        loop {
            let verdict = oracle::judge(&self.records(), Demand { healed: true, ..Demand::default() });
            let found = match verdict {
                oracle::Verdict::Violated(violation, _) => Fail::Broken(violation.to_string()),
                oracle::Verdict::Unknown(why, _) => Fail::NotShown(why),
                oracle::Verdict::Holds(_) => return Ok(()),
            };
            if Instant::now() > end {
                return Err(found);
            }
            sleep(Duration::from_millis(500)).await;
        }
    }
}
