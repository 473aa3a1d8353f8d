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
use flotilla_machine::{Answer, Command, Query};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_raft::{ProposeError, path};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Cluster;
use super::leader::Leader;
use super::wire::{NodeReply, NodeRequest};

const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(1_000);
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
    clearing: Option<JoinHandle<Vec<ClearDirty>>>,
    backoff: Duration,
}

impl Pump {
    fn new(cluster: Arc<Cluster>, leader: Arc<Leader>, target: ShardId) -> Self {
        Self { cluster, leader, target, answered: BTreeMap::new(), clearing: None, backoff: BACKOFF_MIN }
    }

    async fn run(mut self, wake: Arc<Notify>) {
        loop {
            self.reap().await;
            self.start_clearing();
            let items = self.next_items().await;
            if !items.is_empty() {
                self.send(items).await;
                continue;
            }
            match &mut self.clearing {
                None => wake.notified().await,
                Some(clearing) => tokio::select! {
                    biased;
                    cleared = clearing => self.on_cleared(cleared.unwrap_or_default()),
                    () = wake.notified() => {}
                },
            }
        }
    }

    /// The next rows that the target has not answered for.
    async fn next_items(&self) -> Vec<DirtyItem> {
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
            let owed: Vec<_> = items.into_iter().filter(|item| !self.is_answered(item)).collect();
            if !owed.is_empty() || !more || after.is_none() {
                return owed;
            }
        }
    }

    fn is_answered(&self, item: &DirtyItem) -> bool {
        self.answered
            .get(&item.notify.conv)
            .is_some_and(|(head, parts)| item.notify.head <= *head && item.parts <= *parts)
    }

    async fn send(&mut self, items: Vec<DirtyItem>) {
        stamp("notify", &items);
        let owed: Vec<_> = items.iter().map(|i| (i.notify.conv.clone(), (i.notify.head, i.parts))).collect();
        let request = NodeRequest::Notify { shard: self.target, items };
        let deadline = Instant::now() + Duration::from_millis(limits::REQUEST_DEADLINE_MS);
        match self.cluster.at_leader(self.target, request, deadline, true).await {
            Ok(NodeReply::Done) => {
                self.backoff = BACKOFF_MIN;
                self.answered.extend(owed);
            }
            other => {
                let why = other.err();
                tracing::debug!(shard = %self.leader.shard, target = %self.target, ?why, "target did not take its heads");
                self.cluster.metrics.fanout_retries.inc();
                tokio::time::sleep(self.backoff).await;
                self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
            }
        }
    }

    /// At most one clear is in the log at a time; what is answered meanwhile rides with the next.
    fn start_clearing(&mut self) {
        if self.clearing.is_some() {
            return;
        }
        if self.answered.is_empty() {
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
            let Ok(bytes) = command.encode() else { return items };
            // A clear may come twice. Going back to the rows instead would ask the target again, without a pause, just when
            // this shard has too much to do.
            for _ in 0..CLEAR_TRIES {
                match leader.group.propose(bytes.clone()).await {
                    Err(ProposeError::Overloaded | ProposeError::Unknown) => tokio::time::sleep(CLEAR_RETRY).await,
                    _ => return items,
                }
            }
            // Not cleared, or not known to be: the rows come up again and the target is asked again, which is harmless.
            items
        }));
    }

    /// Takes the result of a clear that has ended, without waiting for one that has not.
    async fn reap(&mut self) {
        if let Some(clearing) = self.clearing.take_if(|c| c.is_finished()) {
            let items = clearing.await.unwrap_or_default();
            self.on_cleared(items);
        }
    }

    fn on_cleared(&mut self, items: Vec<ClearDirty>) {
        self.clearing = None;
        for item in items {
            if self.answered.get(&item.conv) == Some(&(item.head, item.parts)) {
                self.answered.remove(&item.conv);
            }
        }
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
