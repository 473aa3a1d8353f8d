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
use tokio::time::Instant;

use super::Cluster;
use super::wire::{NodeReply, NodeRequest, StreamPosition, Subscription};

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
        let mut asks = asks.into_iter().peekable();
        while asks.peek().is_some() {
            let (mut part, mut users) = (Vec::new(), 0);
            while let Some(ask) = asks.next_if(|ask| {
                part.is_empty()
                    || (part.len() < limits::SUBSCRIPTIONS_PER_REQUEST_MAX
                        && users + ask.users.len() <= limits::STANDINGS_MAX)
            }) {
                users += ask.users.len();
                part.push(ask);
            }
            let request = NodeRequest::Subscribe { shard, subscriptions: part.clone() };
            let deadline = Instant::now() + Duration::from_millis(limits::REQUEST_DEADLINE_MS);
            let NodeReply::Subscribed { stream, standings } =
                self.at_leader(shard, request, deadline, true).await.ok()?
            else {
                return None;
            };
            for (ask, standing) in part.iter().zip(standings) {
                self.sessions.on_standing(ask, standing);
            }
            if lowest.is_some_and(|lowest| lowest.term != stream.term) {
                return None;
            }
            lowest = Some(lowest.map_or(stream, |lowest| lowest.min(stream)));
        }
        lowest
    }
}

/// Renews subscriptions, and asks for what was not answered.
pub async fn run(cluster: Arc<Cluster>) {
    let mut renewed = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(limits::SUBSCRIPTION_RETRY_MS)).await;
        if !cluster.sessions.has_subscriptions() {
            continue;
        }
        let renew = renewed.elapsed() >= Duration::from_millis(limits::SUBSCRIPTION_RENEW_MS);
        if renew {
            renewed = Instant::now();
        }
        let shards = cluster.data_shards().into_iter().filter_map(|shard| {
            let asks = cluster.sessions.subscriptions(cluster.owner_of(shard)?, false, renew);
            (!asks.is_empty()).then_some((shard, asks))
        });
        // A shard without a leader holds up its own only for a request's deadline, and the lease is several of them.
        let asks = shards.map(|(shard, asks)| cluster.subscribe(shard, asks));
        let asks: Vec<_> = asks.collect();
        let failed = futures::future::join_all(asks).await.iter().filter(|answer| answer.is_none()).count();
        if failed > 0 {
            tracing::debug!(failed, "shards that did not answer for conversations in pull mode, asking again");
        }
    }
}
