//! `typing`, from the gateway of who types to the gateways of the other members. In memory only; any hop may lose it.
//!
//! How: 1. the gateway casts to the leader of the conversation's shard, which knows the members; 2. it casts the names to the
//! leaders of their shards, which know the sessions; 3. those cast to the gateways. Nothing is proposed, nothing waits for a
//! quorum, and no numbered stream carries it: a lost one is not worth a resync.
//! Invariant: one per sender and conversation in 3 s, decided at the conversation's leader, whatever devices and gateways
//! the sender uses.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_machine::query::LiveSession;
use flotilla_machine::{Answer, Query};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use tokio::time::Instant;

use super::Cluster;
use super::pending::Pending;
use super::wire::{NodeCast, PushTo};

const PASSED_ON_EVERY: Duration = Duration::from_millis(limits::TYPING_MS);

/// What waits for this node's task.
pub struct Typing {
    /// For the conversation's leader.
    typed: Pending<(ShardId, ConvId, UserId), ()>,
    /// For the leader of some members' shard.
    spread: Pending<(ShardId, ConvId, UserId), Vec<UserId>>,
}

impl Default for Typing {
    fn default() -> Self {
        Self { typed: Pending::new(limits::TYPING_PENDING_MAX), spread: Pending::new(limits::TYPING_PENDING_MAX) }
    }
}

/// When each sender's `typing` was passed on last.
#[derive(Default)]
struct Passed(BTreeMap<(ConvId, UserId), Instant>);

impl Passed {
    /// May this one be passed on?
    fn allow(&mut self, conv: &ConvId, user: &UserId, now: Instant) -> bool {
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < PASSED_ON_EVERY;
        if self.0.len() >= limits::TYPING_KEYS_MAX {
            self.0.retain(|_, at| is_recent(at));
        }
        let key = (conv.clone(), user.clone());
        if self.0.len() >= limits::TYPING_KEYS_MAX || self.0.get(&key).is_some_and(is_recent) {
            return false;
        }
        self.0.insert(key, now);
        true
    }
}

impl Cluster {
    /// A client of this gateway types.
    pub fn type_in(&self, conv: ConvId, user: UserId) {
        let route = crate::backend::Route::Conv(conv.clone());
        if let Some(shard) = self.shard_of(&route)
            && let Some(node) = self.leader_of(shard, 0)
        {
            self.cast(node, NodeCast::Typing { shard, conv, user });
        }
    }

    pub fn on_typing(&self, cast: NodeCast) {
        match cast {
            NodeCast::Typing { shard, conv, user } => self.typing.typed.add((shard, conv, user), (), |(), ()| {}),
            NodeCast::TypingFor { shard, conv, user, members } => {
                self.typing.spread.add((shard, conv, user), members, |old, new| *old = new);
            }
            NodeCast::Typed { conv, user, sessions } => {
                let push = crate::backend::Push::Typing { conv, user };
                sessions.iter().for_each(|to| self.sessions.deliver(to, &push));
            }
            _ => {}
        }
    }
}

/// At the leader of the conversation: who is to know.
pub async fn run(cluster: Arc<Cluster>) {
    let mut passed = Passed::default();
    loop {
        // What does not fit is lost.
        let taken = cluster.typing.typed.take().await;
        for (shard, conv, user) in taken.items.into_keys() {
            let Ok(leader) = cluster.leading(shard) else { continue };
            if !passed.allow(&conv, &user, Instant::now()) {
                continue;
            }
            let query = Query::Audience { conv: conv.clone(), user: user.clone() };
            let Ok(Answer::Audience(targets)) = leader.group.query(&query).await else { continue };
            for (target, mut members) in targets {
                members.retain(|member| *member != user);
                if let Some(node) = cluster.leader_of(target, 0).filter(|_| !members.is_empty()) {
                    let (conv, user) = (conv.clone(), user.clone());
                    cluster.cast(node, NodeCast::TypingFor { shard: target, conv, user, members });
                }
            }
        }
    }
}

/// At the leader of members' shard: where they are.
pub async fn run_spread(cluster: Arc<Cluster>) {
    loop {
        let taken = cluster.typing.spread.take().await;
        for ((shard, conv, user), members) in taken.items {
            let Ok(leader) = cluster.leading(shard) else { continue };
            let query = Query::LiveSessions { users: members };
            let Ok(Answer::LiveSessions(live)) = leader.group.query(&query).await else { continue };
            for (node, sessions) in by_node(live) {
                cluster.cast(node, NodeCast::Typed { conv: conv.clone(), user: user.clone(), sessions });
            }
        }
    }
}

fn by_node(live: Vec<LiveSession>) -> BTreeMap<NodeId, Vec<PushTo>> {
    let mut by_node: BTreeMap<NodeId, Vec<PushTo>> = BTreeMap::new();
    for session in live {
        let to = PushTo { device: session.device, number: session.number };
        by_node.entry(session.node).or_default().push(to);
    }
    by_node
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_in_three_seconds_per_sender_and_conversation() {
        let (ann, bob) = (UserId::parse("ann").expect("valid"), UserId::parse("bob").expect("valid"));
        let conv = ConvId::direct(&ann, &bob);
        let mut passed = Passed::default();
        let t0 = Instant::now();
        assert!(passed.allow(&conv, &ann, t0) && passed.allow(&conv, &bob, t0));
        assert!(!passed.allow(&conv, &ann, t0 + Duration::from_millis(2_999)));
        assert!(passed.allow(&conv, &ann, t0 + Duration::from_millis(3_000)));
        for n in 0..limits::TYPING_KEYS_MAX as u128 {
            passed.allow(&ConvId::group(&ann, Cid(n)), &ann, t0);
        }
        assert!(passed.0.len() <= limits::TYPING_KEYS_MAX);
    }
}
