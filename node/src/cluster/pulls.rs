//! The gateway's side of conversations in pull mode: subscribes at their leaders, renews, hands over what comes.
//!
//! Invariant: what a session wants to hear of is asked for until it was answered; a subscription is renewed well within its lease;
//! a hole in the stream of a shard makes all of them be asked for again (see [`super::push::receiver`]). The rules are in
//! [`super::subscriptions`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_machine::query::Standing;
use flotilla_proto::entry::Entry;
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_proto::slots;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Cluster;
use super::wire::{NodeReply, NodeRequest, StreamPosition, Subscription};
use crate::backend::CallError;

/// An answer that was older than what is known here is asked for again at once, this often.
const ROUNDS: usize = 3;

impl Cluster {
    /// The session hears of these conversations from now on; each with the seq of the part that its row has. Where its user
    /// stands in each; none: nobody can tell now, and a push will.
    pub async fn pulled(&self, session: u64, user: &UserId, convs: &[(ConvId, Seq)]) -> Vec<Option<Standing>> {
        let mut missing: Vec<ConvId> = Vec::new();
        for (conv, mseq) in convs {
            if self.sessions.want(session, user, conv, *mseq).is_none() {
                missing.push(conv.clone());
            }
        }
        for _ in 0..ROUNDS {
            if missing.is_empty() {
                break;
            }
            let ask = |conv: &ConvId| Subscription { conv: conv.clone(), users: vec![user.clone()] };
            let mut by_shard: BTreeMap<ShardId, Vec<Subscription>> = BTreeMap::new();
            for conv in &missing {
                let shard = self.tables.current().and_then(|state| state.slots.shard(slots::of_conversation(conv)));
                if let Some(shard) = shard {
                    by_shard.entry(shard).or_default().push(ask(conv));
                }
            }
            let asks = by_shard.into_iter().map(|(shard, asks)| self.subscribe(shard, asks));
            let answered = futures::future::join_all(asks).await;
            // Whoever is no member any more hears it from its own row.
            missing.retain(|conv| self.sessions.awaits(session, conv));
            if answered.iter().any(Option::is_none) {
                break;
            }
        }
        convs.iter().map(|(conv, _)| self.sessions.standing(session, conv)).collect()
    }

    pub fn on_pulled(&self, conv: &ConvId, entries: Vec<Entry>) {
        let entries: Vec<_> = entries.into_iter().map(Arc::new).collect();
        if self.sessions.on_pulled(conv, &entries) {
            self.metrics.pulled_holes.inc();
        }
    }

    /// Subscribes to all of a shard's conversations again, for their parts may be wrong. The outer none: it failed; the
    /// inner: there are none.
    pub async fn subscribe_again(
        &self,
        shard: ShardId,
        owned: impl Fn(Slot) -> bool,
    ) -> Option<Option<StreamPosition>> {
        let asks = self.sessions.subscriptions(owned, true, false);
        if asks.is_empty() {
            return Some(None);
        }
        self.subscribe(shard, asks).await.map(Some)
    }

    /// None: not all was answered. The position is the lowest, of one leader.
    async fn subscribe(&self, shard: ShardId, asks: Vec<Subscription>) -> Option<StreamPosition> {
        let mut lowest: Option<StreamPosition> = None;
        let mut all = true;
        for part in in_parts(asks, limits::SUBSCRIPTIONS_PER_REQUEST_MAX) {
            let request = NodeRequest::Subscribe { shard, subscriptions: part.clone() };
            let deadline = Instant::now() + Duration::from_millis(limits::REQUEST_DEADLINE_MS);
            let (stream, standings) = match self.at_leader(shard, request, deadline, true).await {
                Ok(NodeReply::Subscribed { stream, standings }) => (stream, standings),
                // One of them found no place. The others are to keep theirs: they are renewed by what follows.
                Err(CallError::Overloaded) => {
                    all = false;
                    continue;
                }
                _ => return None,
            };
            for (ask, standing) in part.iter().zip(standings) {
                self.sessions.on_standing(ask, standing);
            }
            if lowest.is_some_and(|lowest| lowest.term != stream.term) {
                return None;
            }
            lowest = Some(lowest.map_or(stream, |lowest| lowest.min(stream)));
        }
        lowest.filter(|_| all)
    }
}

/// What fits one request each, and its answer.
pub(super) fn in_parts(asks: Vec<Subscription>, convs_max: usize) -> Vec<Vec<Subscription>> {
    let (mut parts, mut part, mut users) = (Vec::new(), Vec::new(), 0);
    for ask in asks {
        if !part.is_empty() && (part.len() >= convs_max || users + ask.users.len() > limits::STANDINGS_MAX) {
            parts.push(std::mem::take(&mut part));
            users = 0;
        }
        users += ask.users.len();
        part.push(ask);
    }
    parts.extend((!part.is_empty()).then_some(part));
    parts
}

/// Renews subscriptions, and asks for what was not answered.
pub async fn run(cluster: Arc<Cluster>) {
    let shards = || if cluster.sessions.has_subscriptions() { cluster.data_shards() } else { Vec::new() };
    let ask = |shard, renew| {
        let asks = cluster.sessions.subscriptions(cluster.owner_of(shard)?, false, renew);
        if asks.is_empty() {
            return None;
        }
        Some(cluster.spawn_vital("asking for conversations in pull mode", ask_one(cluster.clone(), shard, asks)))
    };
    let (every, renew) = (limits::SUBSCRIPTION_RETRY_MS, limits::SUBSCRIPTION_RENEW_MS);
    in_rounds(Duration::from_millis(every), Duration::from_millis(renew), shards, ask).await;
}

async fn ask_one(cluster: Arc<Cluster>, shard: ShardId, asks: Vec<Subscription>) {
    if cluster.subscribe(shard, asks).await.is_none() {
        tracing::debug!(%shard, "the shard did not answer for conversations in pull mode, asking again");
    }
}

/// Asks each shard again and again, with `true` when it is time to renew; one task per shard at a time. A shard without a leader
/// holds up its own only: they wait for as long as a request may take, and the lease is several of them.
pub(super) async fn in_rounds(
    every: Duration,
    renew_every: Duration,
    shards: impl Fn() -> Vec<ShardId>,
    mut ask: impl FnMut(ShardId, bool) -> Option<JoinHandle<()>>,
) {
    let mut running: BTreeMap<ShardId, JoinHandle<()>> = BTreeMap::new();
    let mut renewed: BTreeMap<ShardId, Instant> = BTreeMap::new();
    loop {
        tokio::time::sleep(every).await;
        running.retain(|_, task| !task.is_finished());
        for shard in shards() {
            if running.contains_key(&shard) {
                continue;
            }
            let last = renewed.entry(shard).or_insert_with(Instant::now);
            let renew = last.elapsed() >= renew_every;
            if renew {
                *last = Instant::now();
            }
            running.extend(ask(shard, renew).map(|task| (shard, task)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn a_shard_that_does_not_answer_holds_up_no_other() {
        let asked: Mutex<BTreeMap<ShardId, Vec<bool>>> = Mutex::default();
        let enough = tokio::sync::Notify::new();
        let (healthy, sick) = (ShardId(1), ShardId(2));
        let ask = |shard, renew| {
            let mut asked = asked.lock().expect("no panic");
            asked.entry(shard).or_default().push(renew);
            if asked.get(&healthy).is_some_and(|of| of.len() > 4 && of.contains(&true)) {
                enough.notify_one();
            }
            Some(tokio::spawn(async move {
                if shard == sick {
                    std::future::pending::<()>().await;
                }
            }))
        };
        let ms = Duration::from_millis;
        let rounds = in_rounds(ms(2), ms(20), || vec![sick, healthy], ask);
        tokio::select! {
            biased;
            () = enough.notified() => {}
            () = rounds => {}
            () = tokio::time::sleep(ms(30_000)) => panic!("nobody asks: {asked:?}"),
        }
        assert_eq!(asked.lock().expect("no panic")[&sick], [false], "one question at a time");
    }
}
