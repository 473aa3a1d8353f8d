//! Fan-out: brings the heads of changed conversations, what is owed of memberships, and the entries to the shards of their
//! members' users.
//!
//! Invariant: a dirty row is cleared only up to what its target has durably answered for. One pump per target, so that a
//! lagging target delays no other; a new leader rescans all rows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_machine::command::ClearDirty;
use flotilla_machine::query::DirtyItem;
use flotilla_machine::{Answer, Command, Query, Reply};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_proto::plant::{self, Plant};
use flotilla_raft::{ProposeError, path};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Cluster;
use super::leader::Leader;
use super::wire::{NodeReply, NodeRequest};

const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(1_000);
/// Clears of this long ride together.
const CLEAR_GATHER: Duration = Duration::from_millis(100);
/// Before a clear that was not taken is proposed again, and how often.
const CLEAR_RETRY: Duration = Duration::from_millis(100);
const CLEAR_TRIES: usize = 50;

/// Starts a pump for every target that has dirty rows, and wakes it when an effect names it.
pub async fn run(cluster: Arc<Cluster>, leader: Arc<Leader>) {
    let mut pumps = Pumps(Vec::new());
    let mut wakes: BTreeMap<ShardId, Arc<Notify>> = BTreeMap::new();
    let mut targets = rescan(&leader).await;
    loop {
        for target in targets {
            let wake = wakes.entry(target).or_insert_with(|| {
                let wake = Arc::new(Notify::new());
                let pump = Pump::new(cluster.clone(), leader.clone(), target);
                pumps.0.push(cluster.spawn_vital("a pump of the fan-out", pump.run(wake.clone())));
                wake
            });
            wake.notify_one();
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

struct Pump {
    cluster: Arc<Cluster>,
    leader: Arc<Leader>,
    target: ShardId,
    /// Answered by the target, and not yet cleared in the log: head and parts.
    answered: BTreeMap<ConvId, (Seq, Seq)>,
    /// When the first of them was answered for.
    answered_at: Instant,
    clearing: Option<JoinHandle<(Vec<ClearDirty>, Cleared)>>,
    backoff: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cleared {
    Done,
    /// Or not known to be: the rows must be looked at again.
    NotDone,
}

impl Pump {
    fn new(cluster: Arc<Cluster>, leader: Arc<Leader>, target: ShardId) -> Self {
        let (answered, answered_at) = (BTreeMap::new(), Instant::now());
        Self { cluster, leader, target, answered, answered_at, clearing: None, backoff: BACKOFF_MIN }
    }

    /// Looks at the rows once for every wake-up, and again while a look did not reach their end or was not answered for.
    /// A row that rises while the target is asked has woken the pump by then, and the wake-up is kept.
    async fn run(mut self, wake: Arc<Notify>) {
        let mut look = true;
        loop {
            if let Some(task) = self.clearing.take_if(|task| task.is_finished()) {
                look |= self.on_cleared(ended(&mut Some(task)).await) == Cleared::NotDone;
            }
            self.start_clearing();
            if look {
                let (items, more) = self.next_items().await;
                look = more;
                if !items.is_empty() {
                    look |= !self.send(items).await;
                }
                continue;
            }
            let clear_at = self.clear_at();
            tokio::select! {
                biased;
                cleared = ended(&mut self.clearing) => look |= self.on_cleared(cleared) == Cleared::NotDone,
                () = wake.notified() => look = true,
                () = at(clear_at) => {}
            }
        }
    }

    /// The next rows that the target has not answered for, and whether there may be more behind them.
    async fn next_items(&self) -> (Vec<DirtyItem>, bool) {
        let mut after = None;
        loop {
            let query = Query::Dirty {
                target: self.target,
                after: after.take(),
                limit: limits::NOTIFY_CONVERSATIONS_MAX as u32,
                bytes_max: limits::NOTIFY_BYTES_MAX as u32,
            };
            let (items, more) = match self.leader.group.query(&query).await {
                Ok(Answer::Dirty { items, more }) => (items, more),
                other => {
                    tracing::warn!(shard = %self.leader.shard, target = %self.target, ?other, "cannot read dirty rows");
                    tokio::time::sleep(BACKOFF_MAX).await;
                    continue;
                }
            };
            after = items.last().map(|item| item.notify.conv.clone());
            let mut owed: Vec<_> = items.into_iter().filter(|item| !self.is_answered(item)).collect();
            owed.iter_mut().for_each(|item| self.trim(item));
            if !owed.is_empty() || !more || after.is_none() {
                return (owed, more && after.is_some());
            }
        }
    }

    fn is_answered(&self, item: &DirtyItem) -> bool {
        self.answered
            .get(&item.notify.conv)
            .is_some_and(|(head, parts)| item.notify.head <= *head && item.parts <= *parts)
    }

    /// Entries that the target has answered for were pushed: not again, only because their row is not cleared yet.
    fn trim(&self, item: &mut DirtyItem) {
        if let Some((head, _)) = self.answered.get(&item.notify.conv) {
            item.entries.retain(|entry| entry.seq > *head);
        }
    }

    /// When the next clear is due; none while one is in the log or nothing waits for it.
    fn clear_at(&self) -> Option<Instant> {
        if self.clearing.is_some() || self.answered.is_empty() {
            return None;
        }
        if self.answered.len() >= limits::COMMAND_ITEMS_MAX {
            return Some(Instant::now());
        }
        // All pumps of a leadership clear at the same times, so that their clears share an entry of the log.
        let since = self.answered_at.duration_since(self.leader.since).as_millis() as u64;
        let period = CLEAR_GATHER.as_millis() as u64;
        Some(self.leader.since + CLEAR_GATHER.saturating_mul((since / period) as u32 + 1))
    }

    /// Whether the target has answered for them.
    async fn send(&mut self, items: Vec<DirtyItem>) -> bool {
        stamp("notify", &items);
        let owed: Vec<_> = items.iter().map(|i| (i.notify.conv.clone(), (i.notify.head, i.parts))).collect();
        if plant::on(Plant::ClearDirtyEarly) {
            self.answered.extend(owed.clone());
        }
        if owed.len() == 1 && owed[0].1.0.0.is_multiple_of(16) && plant::on(Plant::SkipNotify) {
            self.answered.extend(owed);
            return true;
        }
        let request = NodeRequest::Notify { shard: self.target, items };
        let deadline = Instant::now() + Duration::from_millis(limits::REQUEST_DEADLINE_MS);
        match self.cluster.at_leader(self.target, request, deadline, true).await {
            Ok(NodeReply::Done) => {
                self.backoff = BACKOFF_MIN;
                if self.answered.is_empty() {
                    self.answered_at = Instant::now();
                }
                self.answered.extend(owed);
                true
            }
            _ if plant::on(Plant::ClearDirtyEarly) => true,
            other => {
                let why = other.err();
                tracing::debug!(shard = %self.leader.shard, target = %self.target, ?why, "target did not take its heads");
                self.cluster.metrics.fanout_retries.inc();
                tokio::time::sleep(self.backoff).await;
                self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
                false
            }
        }
    }

    /// At most one clear is in the log at a time; what is answered meanwhile rides with the next. Nobody waits for a clear,
    /// so many are gathered.
    fn start_clearing(&mut self) {
        if self.clear_at().is_none_or(|at| at > Instant::now()) {
            return;
        }
        let answered = self.answered.iter().take(limits::COMMAND_ITEMS_MAX);
        let items: Vec<_> = answered
            .map(|(conv, (head, parts))| ClearDirty { conv: conv.clone(), head: *head, parts: *parts })
            .collect();
        let (leader, target) = (self.leader.clone(), self.target);
        self.clearing = Some(tokio::spawn(async move {
            flotilla_raft::seam::fault::point("fanout.before_clear");
            let command = Command::ClearDirty { target, items: items.clone() };
            let Ok(bytes) = command.encode() else { return (items, Cleared::NotDone) };
            // A clear may come twice. Going back to the rows instead would ask the target again, without a pause, just when
            // this shard has too much to do.
            for _ in 0..CLEAR_TRIES {
                match leader.group.propose(bytes.clone()).await {
                    Err(ProposeError::Overloaded | ProposeError::Unknown) => tokio::time::sleep(CLEAR_RETRY).await,
                    Ok(Reply::Done) => return (items, Cleared::Done),
                    _ => break,
                }
            }
            // The rows come up again and the target is asked again, which is harmless.
            (items, Cleared::NotDone)
        }));
    }

    fn on_cleared(&mut self, (items, cleared): (Vec<ClearDirty>, Cleared)) -> Cleared {
        self.clearing = None;
        // What was answered while this clear was in the log waits for the next one from now on.
        self.answered_at = Instant::now();
        for item in items {
            if self.answered.get(&item.conv) == Some(&(item.head, item.parts)) {
                self.answered.remove(&item.conv);
            }
        }
        cleared
    }
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
