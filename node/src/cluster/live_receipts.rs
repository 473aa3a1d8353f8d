//! The gateway's side of live receipts: asks leaders how far members are, renews, hands over what comes.
//!
//! A renewal is answered with all marks. So whatever was lost on the way, with a leader or with a cast, a watcher is told of it when
//! the shard has a leader that can be reached: at once when the leader is a new one, or within `RECEIPT_RENEW_MS` and the time of a
//! round and an answer. The rules are in [`super::receipt_watches`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use flotilla_machine::Rejection;
use flotilla_machine::query::MarksView;
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_proto::plant::{self, Plant};
use flotilla_proto::slots;
use tokio::time::Instant;

use super::Cluster;
use super::pulls::{in_parts, in_rounds};
use super::wire::{NodeReply, NodeRequest, Subscription};
use crate::backend::{CallError, MarksOfEach};

/// What was answered for one conversation; none: there is no such one.
type Looked = (ConvId, Option<MarksView>);

impl Cluster {
    /// The session watches these conversations, and no others. How far members are now, in order; none: nobody can tell now.
    pub async fn watch_receipts(
        &self,
        session: u64,
        user: &UserId,
        convs: &[ConvId],
    ) -> Result<MarksOfEach, CallError> {
        let list: BTreeSet<ConvId> = convs.iter().cloned().collect();
        let asks = self.sessions.watch_receipts(session, user, &list).ok_or(CallError::Overloaded)?;
        let mut by_shard: BTreeMap<ShardId, Vec<Subscription>> = BTreeMap::new();
        let state = self.tables.current();
        for ask in asks {
            let shard = state.as_ref().and_then(|state| state.slots.shard(slots::of_conversation(&ask.conv)));
            if let Some(shard) = shard {
                by_shard.entry(shard).or_default().push(ask);
            }
        }
        let looks = by_shard.into_iter().map(|(shard, asks)| self.look_at_receipts(shard, asks, Some(session)));
        let mut looked: BTreeMap<_, _> = futures::future::join_all(looks).await.into_iter().flatten().collect();
        let refusal = looked.values().find_map(|view| match view {
            None => Some(Rejection::NotFound),
            Some(view) => (!view.watchers.contains(user)).then_some(Rejection::NotMember),
        });
        if let Some(refusal) = refusal {
            self.sessions.unwatch_receipts(session, &list);
            return Err(CallError::Rejected(refusal));
        }
        Ok(convs.iter().map(|conv| Some(looked.remove(conv)??.marks)).collect())
    }

    /// Whatever was answered, and told to whoever watches.
    async fn look_at_receipts(&self, shard: ShardId, asks: Vec<Subscription>, answered: Option<u64>) -> Vec<Looked> {
        let mut looked = Vec::new();
        for part in in_parts(asks, limits::RECEIPT_WATCHES_PER_REQUEST_MAX) {
            let deadline = Instant::now() + Duration::from_millis(limits::RECEIPT_LOOK_MS);
            let request = NodeRequest::WatchReceipts { shard, watched: part.clone() };
            match self.at_leader(shard, request, deadline, true).await {
                Ok(NodeReply::Marks { views }) => {
                    for (ask, view) in part.into_iter().zip(views) {
                        self.sessions.on_receipts_answer(&ask, view.as_ref(), answered);
                        looked.push((ask.conv, view));
                    }
                }
                // Some of them found no place; the others are to keep theirs.
                Err(CallError::Overloaded) => {}
                _ => return looked,
            }
        }
        looked
    }
}

/// Renews what is watched, and asks for what was not answered.
pub async fn run(cluster: Arc<Cluster>) {
    let shards = || if cluster.sessions.receipts_watched() > 0 { cluster.data_shards() } else { Vec::new() };
    let ask = |shard, renew| {
        let asks = cluster.sessions.receipt_asks(cluster.owner_of(shard)?, renew);
        if asks.is_empty() || plant::on(Plant::WatchersForgotten) {
            return None;
        }
        let look = look(cluster.clone(), shard, asks);
        Some(cluster.spawn_vital("asking how far members are", look))
    };
    let (every, renew) = (limits::RECEIPT_RETRY_MS, limits::RECEIPT_RENEW_MS);
    in_rounds(Duration::from_millis(every), Duration::from_millis(renew), shards, ask).await;
}

async fn look(cluster: Arc<Cluster>, shard: ShardId, asks: Vec<Subscription>) {
    let asked = asks.len();
    let answered = cluster.look_at_receipts(shard, asks, None).await.len();
    if answered < asked {
        tracing::debug!(%shard, asked, answered, "not all was answered about receipts, asking again");
    }
}
