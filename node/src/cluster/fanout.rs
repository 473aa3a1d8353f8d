//! Fan-out: brings the heads of changed conversations, what is owed of memberships, and the entries to the shards of their
//! members' users.
//!
//! Invariant: a dirty row is cleared only up to what its target has durably answered for. One pump per target, so that a
//! lagging target delays no other; a new leader rescans all rows.
//!
//! A target pushes the entries at once and answers when the heads are durable, which it does not hurry with. So a pump asks
//! again before it has an answer, but not for every entry: see [`Pump::pace`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flotilla_machine::command::ClearDirty;
use flotilla_machine::query::DirtyItem;
use flotilla_machine::{Answer, Command, Query, Reply};
use flotilla_proto::entry::Entry;
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_proto::plant::{self, Plant};
use flotilla_raft::{ProposeError, path};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Cluster;
use super::fresh::{Fresh, Given, Run, Wake};
use super::leader::Leader;
use super::pending::Taken;
use super::told::{Parcel, Told};
use super::wire::{NodeReply, NodeRequest};

const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(1_000);
/// Clears of this long ride together.
const CLEAR_GATHER: Duration = Duration::from_millis(100);
/// Before a clear that was not taken is proposed again.
const CLEAR_RETRY: Duration = Duration::from_millis(100);
/// Requests within the time of a gathering of heads, and within what a target takes beyond it.
const GATHERED_ASKED: u32 = 64;
const BUSY_ASKED: u32 = 8;

/// Conversations whose rows were made or raised, by target. A pump that was told their names asks for these rows only, and not
/// even for these where it was given all that they would say (see [`super::fresh`]).
#[derive(Default)]
pub struct Wakes(Mutex<BTreeMap<ShardId, Arc<Wake>>>);

impl Wakes {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ShardId, Arc<Wake>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False if the target has no pump yet.
    pub fn wake(&self, target: ShardId, conv: ConvId, entry: Option<Arc<Entry>>) -> bool {
        let wakes = self.lock();
        if let Some(wake) = wakes.get(&target) {
            wake.add(conv, entry);
        }
        wakes.contains_key(&target)
    }
}

/// Starts a pump for every target that has dirty rows.
pub async fn run(cluster: Arc<Cluster>, leader: Arc<Leader>) {
    let mut pumps = Pumps(Vec::new());
    let mut targets = rescan(&leader).await;
    loop {
        for target in targets {
            let mut wakes = leader.wakes.lock();
            // One that runs already was not told what for: it looks at everything, as a new one does.
            let wake = wakes.entry(target).or_insert_with(|| {
                let wake = Arc::new(Wake::default());
                let pump = Pump::new(cluster.clone(), leader.clone(), target);
                pumps.0.push(cluster.spawn_vital("a pump of the fan-out", pump.run(wake.clone())));
                wake
            });
            wake.overflow();
        }
        let taken = leader.dirty.take().await;
        targets = if taken.overflow { rescan(&leader).await } else { taken.items.into_keys().collect() };
    }
}

/// Ends its pumps when the leadership does.
struct Pumps(Vec<JoinHandle<()>>);

impl Drop for Pumps {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// Asks the rows until they answer: a leadership without its dirty targets would deliver nothing.
async fn rescan(leader: &Leader) -> Vec<ShardId> {
    loop {
        match leader.group.query(&Query::DirtyTargets).await {
            Ok(Answer::Targets(targets)) => return targets,
            other => {
                tracing::warn!(shard = %leader.shard, ?other, "cannot list the targets of dirty rows, trying again")
            }
        }
        tokio::time::sleep(BACKOFF_MAX).await;
    }
}

struct Asked {
    parcel: Parcel,
    at: Instant,
    taken: bool,
}

struct Pump {
    cluster: Arc<Cluster>,
    leader: Arc<Leader>,
    target: ShardId,
    asked: FuturesUnordered<BoxFuture<'static, Asked>>,
    /// How long the target took for its last answer.
    took: Duration,
    /// No request before.
    next_ask: Instant,
    told: Told,
    /// When the first of those that wait for a clear was answered for.
    answered_at: Instant,
    clearing: Option<JoinHandle<(Vec<ClearDirty>, Cleared)>>,
    backoff: Duration,
    look: Look,
    fresh: Fresh,
}

/// A walk over the rows of one target, page by page.
///
/// Why it does not begin again at the first page: 1. the conversations of that page are busy, so some row in it is always
/// owed, 2. every look ends there, 3. the rows behind wait for as long as that lasts.
#[derive(Debug, Default)]
struct Look {
    looking: bool,
    /// Where the next page begins.
    after: Option<ConvId>,
    /// Something behind this walk must be seen again: one more follows.
    again: bool,
}

impl Look {
    fn wanted(&mut self) {
        self.again = self.looking;
        self.looking = true;
    }

    /// `last`: the last row of the page. What the page brought is done, or [`Look::wanted`] follows.
    fn on_page(&mut self, last: Option<ConvId>, more: bool) {
        self.after = last.filter(|_| more);
        if self.after.is_none() {
            self.looking = std::mem::take(&mut self.again);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cleared {
    Done,
    /// Or not known to be: the rows must be looked at again.
    NotDone,
}

impl Pump {
    fn new(cluster: Arc<Cluster>, leader: Arc<Leader>, target: ShardId) -> Self {
        let now = Instant::now();
        Self {
            cluster,
            leader,
            target,
            asked: FuturesUnordered::new(),
            took: Duration::ZERO,
            next_ask: now,
            told: Told::default(),
            answered_at: now,
            clearing: None,
            backoff: BACKOFF_MIN,
            look: Look::default(),
            fresh: Fresh::default(),
        }
    }

    /// Looks at the rows that it is told of, and at all of them at first and where some were not answered for.
    /// A row that rises while the target is asked is named by then, and the name is kept.
    async fn run(mut self, wake: Arc<Wake>) {
        loop {
            if let Some(task) = self.clearing.take_if(|task| task.is_finished()) {
                let cleared = ended(&mut Some(task)).await;
                self.on_cleared(cleared);
            }
            self.start_clearing();
            let ask_at = self.ask_at();
            if ask_at.is_some_and(|at| at <= Instant::now()) {
                // The newest first: an entry that has been emptied since it was named is not told as it was.
                if let Some(taken) = wake.try_take() {
                    self.on_woken(taken);
                }
                let items = if self.look.looking { self.next_items().await } else { self.named_items().await };
                if !items.is_empty() {
                    self.ask(items);
                }
                continue;
            }
            let clear_at = self.clear_at();
            tokio::select! {
                biased;
                Some(asked) = self.asked.next() => self.on_answer(asked),
                cleared = ended(&mut self.clearing) => self.on_cleared(cleared),
                taken = wake.take() => self.on_woken(taken),
                () = at(clear_at) => {}
                () = at(ask_at) => {}
            }
        }
    }

    /// When the target may be asked for more; none while there is nothing to ask for, or enough on its way.
    fn ask_at(&self) -> Option<Instant> {
        let room = self.asked.len() < limits::NOTIFIES_IN_FLIGHT_MAX && self.told.bytes_max() > 0;
        let wanted = self.look.looking || !self.fresh.is_empty();
        (room && wanted).then_some(self.next_ask)
    }

    /// Between two requests a part of the time that the target takes to answer: what comes meanwhile rides with the second.
    /// So a target with little to do has its entries at once, and one that is busy is asked seldom.
    fn pace(&self) -> Duration {
        if self.asked.is_empty() { Duration::ZERO } else { spread(self.took) }
    }

    fn on_woken(&mut self, taken: Taken<ConvId, Run>) {
        if taken.overflow {
            self.fresh.on_overflow();
            self.look.wanted();
        } else {
            self.fresh.on_named(taken.items);
        }
    }

    /// What the target has not answered for of named conversations, as many as go at once.
    async fn named_items(&mut self) -> Vec<DirtyItem> {
        let Given { items, missed, bytes_left } = self.fresh.give(self.told.bytes_max());
        self.cluster.metrics.fanout_spared.add(items.len() as u64);
        let mut owed = self.told.owed(items);
        if !missed.is_empty() {
            owed.extend(self.read_named(missed, bytes_left).await);
        }
        owed
    }

    async fn read_named(&mut self, named: Vec<ConvId>, bytes_max: usize) -> Vec<DirtyItem> {
        self.cluster.metrics.fanout_reads.add(named.len() as u64);
        // From what it has answered for, not from what is on its way: that may be lost, and each request must hold all that
        // heads say of the entries between.
        let convs = named.iter().map(|conv| (conv.clone(), self.told.answered_head(conv))).collect();
        let query = Query::DirtyOf { target: self.target, convs, bytes_max: bytes_max as u32 };
        let (items, more) = self.read(&query).await;
        // Names are answered for in order, until the bytes are full.
        if let Some(last) = items.last().filter(|_| more) {
            named.into_iter().filter(|conv| *conv > last.notify.conv).for_each(|conv| self.fresh.again(conv));
        }
        self.fresh.on_read(&items);
        self.told.owed(items)
    }

    async fn read(&mut self, query: &Query) -> (Vec<DirtyItem>, bool) {
        loop {
            match self.leader.group.query(query).await {
                Ok(Answer::Dirty { items, more }) => return (items, more),
                other => {
                    tracing::warn!(shard = %self.leader.shard, target = %self.target, ?other, "cannot read dirty rows");
                    tokio::time::sleep(BACKOFF_MAX).await;
                }
            }
        }
    }

    /// The next rows of the walk that the target has not answered for; none at its end.
    async fn next_items(&mut self) -> Vec<DirtyItem> {
        loop {
            let query = Query::Dirty {
                target: self.target,
                after: self.look.after.clone(),
                limit: limits::NOTIFY_CONVERSATIONS_MAX as u32,
                bytes_max: self.told.bytes_max() as u32,
            };
            let (items, more) = self.read(&query).await;
            self.look.on_page(items.last().map(|item| item.notify.conv.clone()), more);
            self.fresh.on_read(&items);
            let owed = self.told.owed(items);
            if !owed.is_empty() || self.look.after.is_none() {
                return owed;
            }
        }
    }

    /// When the next clear is due; none while one is in the log or nothing waits for it.
    fn clear_at(&self) -> Option<Instant> {
        if self.clearing.is_some() || self.told.answered.is_empty() {
            return None;
        }
        if self.told.answered.len() >= limits::COMMAND_ITEMS_MAX {
            return Some(Instant::now());
        }
        // All pumps of a leadership clear at the same times, so that their clears share an entry of the log.
        let since = self.answered_at.duration_since(self.leader.since).as_millis() as u64;
        let period = CLEAR_GATHER.as_millis() as u64;
        Some(self.leader.since + CLEAR_GATHER.saturating_mul((since / period) as u32 + 1))
    }

    fn ask(&mut self, items: Vec<DirtyItem>) {
        stamp("notify", &items);
        let parcel = Parcel::of(&items);
        self.told.goes(&parcel);
        if plant::on(Plant::SkipNotify) && items.len() == 1 && items[0].notify.head.0.is_multiple_of(16) {
            return self.on_answer(Asked { parcel, at: Instant::now(), taken: true });
        }
        let request = NodeRequest::Notify { shard: self.target, items };
        let (cluster, target, now) = (self.cluster.clone(), self.target, Instant::now());
        let deadline = now + Duration::from_millis(limits::REQUEST_DEADLINE_MS);
        if plant::on(Plant::ClearDirtyEarly) {
            tokio::spawn(async move { cluster.at_leader(target, request, deadline, true).await.ok() });
            return self.on_answer(Asked { parcel, at: now, taken: true });
        }
        let shard = self.leader.shard;
        self.asked.push(Box::pin(async move {
            let answer = cluster.at_leader(target, request, deadline, true).await;
            let taken = matches!(answer, Ok(NodeReply::Done));
            if !taken {
                let why = answer.err();
                tracing::debug!(%shard, %target, ?why, "target did not take its heads");
                cluster.metrics.fanout_retries.inc();
            }
            Asked { parcel, at: now, taken }
        }));
        self.next_ask = now + self.pace();
    }

    fn on_answer(&mut self, Asked { parcel, at, taken }: Asked) {
        let now = Instant::now();
        if taken && self.told.answered.is_empty() {
            self.answered_at = now;
        }
        self.told.ended(&parcel, taken);
        if taken {
            (self.took, self.backoff) = (smoothed(self.took, now - at), BACKOFF_MIN);
            if self.asked.is_empty() {
                self.next_ask = now;
            }
        } else {
            self.look.wanted();
            parcel.upto.keys().for_each(|conv| self.fresh.forget(conv));
            // Others that fail beside it are of the same kind.
            if self.next_ask <= now {
                self.next_ask = now + self.backoff;
                self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
            }
        }
    }

    /// At most one clear is in the log at a time; what is answered meanwhile rides with the next. Nobody waits for a clear,
    /// so many are gathered.
    fn start_clearing(&mut self) {
        if self.clear_at().is_none_or(|at| at > Instant::now()) {
            return;
        }
        let answered = self.told.answered.iter().take(limits::COMMAND_ITEMS_MAX);
        let items: Vec<_> = answered
            .map(|(conv, (head, parts))| ClearDirty { conv: conv.clone(), head: *head, parts: *parts })
            .collect();
        let (leader, target) = (self.leader.clone(), self.target);
        let work = async move {
            flotilla_raft::seam::fault::point("fanout.before_clear");
            let command = Command::ClearDirty { target, items: items.clone() };
            let Ok(bytes) = command.encode() else { return (items, Cleared::NotDone) };
            // A clear may come twice. Going back to the rows instead would ask the target again, without a pause, just when
            // this shard has too much to do.
            for _ in 0..limits::CLEAR_TRIES_MAX {
                match leader.group.propose(bytes.clone()).await {
                    Err(ProposeError::Overloaded | ProposeError::Unknown) => tokio::time::sleep(CLEAR_RETRY).await,
                    Ok(Reply::Done) => return (items, Cleared::Done),
                    _ => break,
                }
            }
            // The rows come up again and the target is asked again, which is harmless.
            (items, Cleared::NotDone)
        };
        self.clearing = Some(self.cluster.spawn_vital("a clear of the fan-out", work));
    }

    fn on_cleared(&mut self, (items, cleared): (Vec<ClearDirty>, Cleared)) {
        self.clearing = None;
        // What was answered while this clear was in the log waits for the next one from now on.
        self.answered_at = Instant::now();
        for item in items {
            self.told.cleared(&item.conv, (item.head, item.parts));
        }
        if cleared == Cleared::NotDone {
            self.look.wanted();
        }
    }
}

/// Heads that were gathered are answered for together: the last of them was on its way for the shortest time, and says little of how
/// long the next one's answer takes.
fn smoothed(took: Duration, last: Duration) -> Duration {
    last.max(took * 7 / 8)
}

/// What a target takes beyond the gathering it takes because it is busy: then it is asked seldom. Those that may be on their way
/// last for as long as an answer takes, or what came when they are all gone would wait for it.
fn spread(took: Duration) -> Duration {
    let gather = Duration::from_millis(limits::HEADS_GATHER_MS);
    (took.saturating_sub(gather) / BUSY_ASKED).max(gather / GATHERED_ASKED)
}

/// How a clear ended; waits for ever while there is none.
async fn ended(clearing: &mut Option<JoinHandle<(Vec<ClearDirty>, Cleared)>>) -> (Vec<ClearDirty>, Cleared) {
    match clearing {
        Some(task) => task.await.unwrap_or((vec![], Cleared::NotDone)),
        None => std::future::pending().await,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// For the table of hops.
pub fn stamp(stage: &'static str, items: &[DirtyItem]) {
    if !path::is_on() {
        return;
    }
    for item in items {
        for entry in &item.entries {
            item.notify.users.iter().for_each(|named| path::to(stage, entry.cid, &named.user));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_last_for_as_long_as_an_answer_takes() {
        let all = limits::NOTIFIES_IN_FLIGHT_MAX as u32;
        for took in (0..5_000).map(Duration::from_millis) {
            assert!(spread(took) * all >= took, "{took:?}");
        }
        let quiet = spread(Duration::from_millis(limits::HEADS_GATHER_MS));
        assert!(quiet < Duration::from_millis(3) && spread(Duration::from_secs(3)) > quiet * 50);
        // All that were gathered are answered at once, the oldest first.
        let oldest = Duration::from_millis(180);
        let took = (0..all).fold(Duration::ZERO, |took, n| smoothed(took, oldest - oldest / all * n));
        assert!(spread(took) * all >= Duration::from_millis(limits::HEADS_GATHER_MS), "{took:?}");
    }

    #[test]
    fn busy_conversations_of_the_first_page_do_not_hold_up_the_rows_behind_them() {
        let conv = |n: u128| ConvId::parse(&format!("g{n:032x}")).expect("valid");
        let mut look = Look::default();
        look.wanted();
        look.on_page(Some(conv(5)), true);
        assert_eq!((look.looking, look.after.clone()), (true, Some(conv(5))));
        look.wanted();
        assert_eq!(look.after, Some(conv(5)), "a row of the first page that is owed again waits for its turn");
        look.on_page(Some(conv(9)), false);
        assert_eq!((look.looking, look.after.clone()), (true, None), "which is now");
        look.on_page(None, true);
        assert!(!look.looking, "an empty page is the end");
    }
}
