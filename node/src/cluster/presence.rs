//! Presence across nodes: who is here is read from the sessions at the shard of the user; changes come as hints.
//!
//! How: 1. a gateway whose client watches users asks the leaders of their shards; each leader remembers which gateway asked for
//!    whom, then reads; 2. apply says that a user came or went; the leader pushes a hint to those gateways, on the numbered
//!    stream; 3. the gateway gathers hints, asks again and tells whom it is news to.
//! Invariants: nothing is proposed for presence. A hint that is lost leaves a hole in the stream, and a new leader begins a
//! new one: after either the gateway asks for all it watches there. So what a watcher was told becomes true within a bound,
//! or "unknown" where no quorum answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flotilla_machine::query::PresenceView;
use flotilla_machine::{Answer, Query};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_proto::slots;
use tokio::time::Instant;

use super::Cluster;
use super::leader::Leader;
use super::serve::read_index;
use super::watchers::Seen;
use super::wire::{Failure, NodeCast, NodeReply, NodeRequest, PushItem};
use crate::backend::CallError;

/// One shard that cannot answer holds the others' news up for no longer than this.
const LOOK: Duration = Duration::from_millis(limits::PRESENCE_LOOK_MS);
const GATHER: Duration = Duration::from_millis(limits::PRESENCE_GATHER_MS);

/// Which gateways have asked for which users of one shard, in one term.
#[derive(Default)]
pub struct Interest(Mutex<BTreeMap<UserId, BTreeSet<NodeId>>>);

impl Interest {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<UserId, BTreeSet<NodeId>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False: too many users are watched; some of these are not remembered.
    fn add<'u>(&self, node: NodeId, users: impl Iterator<Item = &'u UserId>) -> bool {
        let mut interest = self.lock();
        for user in users {
            if interest.len() >= limits::WATCHED_MAX && !interest.contains_key(user) {
                return false;
            }
            interest.entry(user.clone()).or_default().insert(node);
        }
        true
    }

    pub fn remove(&self, node: NodeId, users: &[UserId]) {
        let mut interest = self.lock();
        for user in users {
            if let Some(nodes) = interest.get_mut(user) {
                nodes.remove(&node);
                if nodes.is_empty() {
                    interest.remove(user);
                }
            }
        }
    }

    pub fn of(&self, user: &UserId) -> Vec<NodeId> {
        self.lock().get(user).into_iter().flatten().copied().collect()
    }
}

impl Leader {
    /// A user of this shard came, went, or shows itself otherwise.
    pub fn presence_changed(&self, cluster: &Cluster, user: &UserId) {
        for node in self.interest.of(user) {
            cluster.push(self, node, vec![PushItem::Presence { users: vec![user.clone()] }]);
        }
    }
}

impl Cluster {
    /// For another gateway, or this one. It is remembered before the read: a change in between is told of.
    pub async fn serve_watch(
        &self,
        from: NodeId,
        shard: ShardId,
        pairs: Vec<(UserId, UserId)>,
    ) -> Result<NodeReply, Failure> {
        let leader = self.leading(shard)?;
        if !leader.interest.add(from, pairs.iter().map(|(_, user)| user)) {
            return Err(Failure::Overloaded);
        }
        read_index(&leader).await?;
        leader.group.query(&Query::Presence { pairs }).await.map(NodeReply::Answer).map_err(|_| Failure::Unknown)
    }

    /// What the first of each pair sees of the second, in order.
    async fn look_at(&self, pairs: Vec<(UserId, UserId)>, watch: bool) -> Vec<Seen> {
        let mut by_shard: BTreeMap<ShardId, Vec<usize>> = BTreeMap::new();
        let state = self.tables.current();
        for (i, (_, user)) in pairs.iter().enumerate() {
            if let Some(shard) = state.as_ref().and_then(|s| s.slots.shard(slots::of_user(user))) {
                by_shard.entry(shard).or_default().push(i);
            }
        }
        let parts = by_shard.into_iter().flat_map(|(shard, of_shard)| {
            let parts: Vec<Vec<usize>> = of_shard.chunks(limits::PRESENCE_PAIRS_MAX).map(<[usize]>::to_vec).collect();
            parts.into_iter().map(move |part| (shard, part))
        });
        let looks = parts.map(async |(shard, part)| {
            let asked = part.iter().filter_map(|i| pairs.get(*i).cloned()).collect();
            (part, self.look_at_shard(shard, asked, watch).await)
        });
        let mut seen = vec![None; pairs.len()];
        for (part, views) in futures::future::join_all(looks).await {
            for (i, view) in part.into_iter().zip(views.into_iter().flatten()) {
                if let Some(seen) = seen.get_mut(i) {
                    *seen = Some(view);
                }
            }
        }
        seen
    }

    async fn look_at_shard(
        &self,
        shard: ShardId,
        pairs: Vec<(UserId, UserId)>,
        watch: bool,
    ) -> Option<Vec<PresenceView>> {
        let request = match watch {
            true => NodeRequest::Watch { shard, pairs },
            false => NodeRequest::Query { shard, query: Query::Presence { pairs }, linearizable: true },
        };
        match self.at_leader(shard, request, Instant::now() + LOOK, true).await {
            Ok(NodeReply::Answer(Answer::Presence(views))) => Some(views),
            _ => None,
        }
    }

    /// A snapshot for one client; with `watcher`, these users are watched for it from now on, and no others.
    pub async fn presence_of(
        &self,
        by: UserId,
        users: Vec<UserId>,
        watcher: Option<u64>,
    ) -> Result<Vec<Seen>, CallError> {
        if let Some(watcher) = watcher
            && !self.sessions.watch(watcher, &by, &users)
        {
            return Err(CallError::Overloaded);
        }
        let pairs: Vec<_> = users.into_iter().map(|user| (by.clone(), user)).collect();
        let seen = self.look_at(pairs.clone(), watcher.is_some()).await;
        if watcher.is_some() {
            for ((by, user), seen) in pairs.into_iter().zip(&seen) {
                self.sessions.saw(&by, &user, *seen, watcher);
                if seen.is_none() {
                    self.hints.add(user, (), |(), ()| {});
                }
            }
        }
        Ok(seen)
    }

    /// The leader of a shard says that these users may have come or gone.
    pub fn on_presence(&self, from: NodeId, shard: ShardId, users: Vec<UserId>) {
        let (watched, others): (Vec<_>, Vec<_>) = users.into_iter().partition(|user| self.sessions.is_watched(user));
        for user in watched {
            self.hints.add(user, (), |(), ()| {});
        }
        if !others.is_empty() {
            self.cast(from, NodeCast::Unwatch { shard, users: others });
        }
    }

    /// Hints about this shard's users may have been lost, or its leader is a new one, who knows of no watcher.
    pub fn watch_again(&self, owned: impl Fn(Slot) -> bool) {
        for user in self.sessions.watched(|user| owned(slots::of_user(user))) {
            self.hints.add(user, (), |(), ()| {});
        }
    }
}

/// Looks at users that may have come or gone. Who comes back while hints are gathered has not been away.
pub async fn run(cluster: Arc<Cluster>) {
    loop {
        let taken = cluster.hints.take().await;
        tokio::time::sleep(GATHER).await;
        let users: Vec<UserId> = match taken.overflow {
            true => cluster.sessions.watched(|_| true),
            false => taken.items.into_keys().collect(),
        };
        let pairs = cluster.sessions.watch_pairs(&users);
        let seen = cluster.look_at(pairs.clone(), true).await;
        cluster.metrics.presence_looks.add(pairs.len() as u64);
        for ((by, user), seen) in pairs.into_iter().zip(seen) {
            let told = cluster.sessions.saw(&by, &user, seen, None);
            if seen.is_none() || !told {
                cluster.hints.add(user, (), |(), ()| {});
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_forgets_gateways_whose_watchers_have_gone() {
        let interest = Interest::default();
        let (ann, bob) = (UserId::parse("ann").expect("valid"), UserId::parse("bob").expect("valid"));
        assert!(interest.add(NodeId(1), [&ann, &bob].into_iter()) && interest.add(NodeId(2), [&ann].into_iter()));
        assert_eq!(interest.of(&ann), [NodeId(1), NodeId(2)]);
        interest.remove(NodeId(1), &[ann.clone(), bob.clone()]);
        assert_eq!(interest.of(&ann), [NodeId(2)]);
        assert!(interest.of(&bob).is_empty() && interest.lock().len() == 1);
    }
}
