//! The leader's side of live receipts: which gateways have watchers of which conversations, and the pump that tells them whose marks
//! have moved.
//!
//! How: 1. a gateway whose client watches a conversation asks its leader, which remembers (gateway, watcher) for a lease and then
//! reads; 2. receipts that were proposed here for a watched conversation are noted; 3. what was noted is gathered, read and cast
//! to the gateways, each with those of its watchers who are members now.
//! Invariants: soft state of one leadership, nothing is proposed and no numbered stream carries it. What is told was read from
//! applied state, so it is never more than what is registered. Anything may be lost: with its next renewal a gateway is told all
//! marks again. Where nobody watches, a receipt costs one look at a number.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use flotilla_machine::query::MarksView;
use flotilla_machine::{Answer, Command, Query};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use tokio::time::Instant;

use super::Cluster;
use super::leader::Leader;
use super::serve::read_index;
use super::wire::{Failure, NodeCast, NodeReply, Subscription};

const LEASE: Duration = Duration::from_millis(limits::RECEIPT_INTEREST_MS);
const GATHER: Duration = Duration::from_millis(limits::RECEIPT_GATHER_MS);
/// Between two sweeps for places, when there are none.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

#[derive(Default)]
struct All {
    /// Until when.
    convs: BTreeMap<ConvId, BTreeMap<(NodeId, UserId), Instant>>,
    count: usize,
    swept: Option<Instant>,
}

/// (conversation, gateway, watcher), in one term of one shard.
#[derive(Default)]
pub struct Interest {
    all: Mutex<All>,
    /// As many as `All::count`: looked at for every receipt.
    count: AtomicUsize,
}

impl Interest {
    /// What was changed is counted when it is done.
    fn with<R>(&self, f: impl FnOnce(&mut All) -> R) -> R {
        let mut all: MutexGuard<'_, All> = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let result = f(&mut all);
        self.count.store(all.count, Ordering::Relaxed);
        result
    }

    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// For one lease from now. False: not all, for there are too many.
    fn add(&self, gateway: NodeId, conv: &ConvId, users: &[UserId], now: Instant) -> bool {
        self.with(|all| users.iter().all(|user| all.add(gateway, conv, user, now)))
    }

    /// Of these watchers only the members are kept; of a conversation in pull mode nobody.
    fn keep(&self, gateway: NodeId, conv: &ConvId, asked: &[UserId], view: &MarksView) {
        self.with(|all| {
            if view.pulled {
                all.drop_if(conv, |_, _| true);
            } else {
                let gone = |user: &UserId| asked.contains(user) && !view.watchers.contains(user);
                all.drop_if(conv, |(node, user), _| *node == gateway && gone(user));
            }
        });
    }

    fn is_watched(&self, conv: &ConvId) -> bool {
        self.with(|all| all.convs.contains_key(conv))
    }

    /// Who watches now, by gateway.
    fn of(&self, conv: &ConvId, now: Instant) -> BTreeMap<NodeId, Vec<UserId>> {
        self.with(|all| {
            all.drop_if(conv, |_, until| until <= now);
            let mut by_gateway: BTreeMap<NodeId, Vec<UserId>> = BTreeMap::new();
            for (node, user) in all.convs.get(conv).into_iter().flat_map(BTreeMap::keys) {
                by_gateway.entry(*node).or_default().push(user.clone());
            }
            by_gateway
        })
    }
}

impl All {
    fn add(&mut self, gateway: NodeId, conv: &ConvId, user: &UserId, now: Instant) -> bool {
        let key = (gateway, user.clone());
        let known = self.convs.get(conv).is_some_and(|watchers| watchers.contains_key(&key));
        if !known && !self.has_room(now) {
            return false;
        }
        self.count += usize::from(!known);
        self.convs.entry(conv.clone()).or_default().insert(key, now + LEASE);
        true
    }

    /// All of them are looked at for it, so not for each that asks.
    fn has_room(&mut self, now: Instant) -> bool {
        let full = |count| count >= limits::RECEIPT_INTERESTS_MAX;
        if full(self.count) && self.swept.is_none_or(|at| now.saturating_duration_since(at) >= SWEEP_EVERY) {
            self.swept = Some(now);
            let convs: Vec<ConvId> = self.convs.keys().cloned().collect();
            convs.iter().for_each(|conv| self.drop_if(conv, |_, until| until <= now));
        }
        !full(self.count)
    }

    fn drop_if(&mut self, conv: &ConvId, over: impl Fn(&(NodeId, UserId), Instant) -> bool) {
        let Some(watchers) = self.convs.get_mut(conv) else { return };
        let before = watchers.len();
        watchers.retain(|key, until| !over(key, *until));
        self.count -= before - watchers.len();
        if watchers.is_empty() {
            self.convs.remove(conv);
        }
    }
}

impl Leader {
    /// Whose marks a command may move in conversations that somebody watches. Receipts are the cluster's own work: they come without
    /// a lane.
    pub fn watched_receipts(&self, lane: Option<Slot>, command: &Bytes) -> BTreeMap<ConvId, BTreeSet<UserId>> {
        let mut moved: BTreeMap<ConvId, BTreeSet<UserId>> = BTreeMap::new();
        if lane.is_some() || self.receipt_interest.is_empty() {
            return moved;
        }
        if let Ok(Command::Receipts(items)) = Command::decode(command) {
            for receipt in items.into_iter().filter(|receipt| self.receipt_interest.is_watched(&receipt.conv)) {
                moved.entry(receipt.conv).or_default().insert(receipt.user);
            }
        }
        moved
    }

    /// They were proposed. Whether they have changed anything the state says; if nobody knows whether they were applied, they may be
    /// later, and the next renewal tells.
    pub fn receipts_proposed(&self, moved: BTreeMap<ConvId, BTreeSet<UserId>>) {
        for (conv, users) in moved {
            self.receipts_moved.add(conv, users, |known, more| known.extend(more));
        }
    }
}

impl Cluster {
    /// For another gateway, or this one. Watchers are remembered before the read: what moves in between is told of.
    pub async fn serve_watch_receipts(
        &self,
        from: NodeId,
        shard: ShardId,
        watched: Vec<Subscription>,
    ) -> Result<NodeReply, Failure> {
        let leader = self.leading(shard)?;
        let now = Instant::now();
        let mut fit = true;
        for Subscription { conv, users } in &watched {
            fit &= leader.receipt_interest.add(from, conv, users, now);
        }
        if !fit {
            return Err(Failure::Overloaded);
        }
        read_index(&leader).await?;
        let mut views = Vec::with_capacity(watched.len());
        for Subscription { conv, users } in watched {
            let query = Query::Marks { conv: conv.clone(), of: None, watchers: users.clone() };
            let view = match leader.group.query(&query).await {
                Ok(Answer::Marks(view)) => Some(view),
                Ok(Answer::NotFound) => None,
                Ok(Answer::Moved) => return Err(Failure::NotReady),
                _ => return Err(Failure::Unknown),
            };
            leader.receipt_interest.keep(from, &conv, &users, view.as_ref().unwrap_or(&MarksView::default()));
            views.push(view);
        }
        Ok(NodeReply::Marks { views })
    }
}

pub async fn run(cluster: Arc<Cluster>, leader: Arc<Leader>) {
    loop {
        leader.receipts_moved.ready().await;
        tokio::time::sleep(GATHER).await;
        // What did not fit the next renewals tell.
        for (conv, users) in leader.receipts_moved.take().await.items {
            tell(&cluster, &leader, conv, users).await;
        }
    }
}

/// What cannot be read now the next renewals tell.
async fn tell(cluster: &Cluster, leader: &Leader, conv: ConvId, users: BTreeSet<UserId>) {
    let gateways = leader.receipt_interest.of(&conv, Instant::now());
    if gateways.is_empty() {
        return;
    }
    let watchers: BTreeSet<UserId> = gateways.values().flatten().cloned().collect();
    let watchers = watchers.into_iter().collect();
    let query = Query::Marks { conv: conv.clone(), of: Some(users.into_iter().collect()), watchers };
    let Ok(Answer::Marks(MarksView { watchers: members, marks, .. })) = leader.group.query(&query).await else {
        return;
    };
    if marks.is_empty() {
        return;
    }
    for (gateway, watchers) in gateways {
        // Whoever is no member any more is told nothing.
        let watchers: Vec<UserId> = watchers.into_iter().filter(|user| members.contains(user)).collect();
        if !watchers.is_empty() {
            cluster.metrics.receipt_pushes.inc();
            cluster.cast(gateway, NodeCast::Receipts { conv: conv.clone(), watchers, marks: marks.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conv(n: u128) -> ConvId {
        ConvId::group(&user("ann"), Cid(n))
    }

    fn user(name: &str) -> UserId {
        UserId::parse(name).expect("valid")
    }

    fn of(interest: &Interest, n: u128, now: Instant) -> Vec<(u16, Vec<String>)> {
        let names = |users: Vec<UserId>| users.iter().map(|user| user.to_string()).collect();
        interest.of(&conv(n), now).into_iter().map(|(node, users)| (node.0, names(users))).collect()
    }

    #[tokio::test]
    async fn a_watcher_that_is_not_renewed_is_forgotten_and_with_the_last_one_the_conversation() {
        let interest = Interest::default();
        let (now, ann, bob) = (Instant::now(), user("ann"), user("bob"));
        assert!(interest.is_empty() && !interest.is_watched(&conv(1)));
        assert!(interest.add(NodeId(1), &conv(1), &[ann.clone(), bob.clone()], now));
        let later = now + LEASE / 2;
        assert!(interest.add(NodeId(2), &conv(1), std::slice::from_ref(&bob), later));
        assert_eq!(of(&interest, 1, later), [(1, vec!["ann".into(), "bob".into()]), (2, vec!["bob".into()])]);
        assert_eq!(of(&interest, 1, now + LEASE), [(2, vec!["bob".into()])]);
        assert!(!interest.is_empty());
        assert!(of(&interest, 1, later + LEASE).is_empty());
        assert!(interest.is_empty() && !interest.is_watched(&conv(1)));
    }

    #[tokio::test]
    async fn of_a_gateway_s_watchers_members_are_kept_and_in_pull_mode_nobody() {
        let interest = Interest::default();
        let (now, ann, bob) = (Instant::now(), user("ann"), user("bob"));
        let both = [ann.clone(), bob.clone()];
        assert!(interest.add(NodeId(1), &conv(1), &both, now) && interest.add(NodeId(2), &conv(1), &both, now));
        let view = MarksView { watchers: vec![bob], ..MarksView::default() };
        interest.keep(NodeId(1), &conv(1), &both, &view);
        assert_eq!(of(&interest, 1, now), [(1, vec!["bob".into()]), (2, vec!["ann".into(), "bob".into()])]);
        interest.keep(NodeId(1), &conv(1), &[], &MarksView { pulled: true, ..view });
        assert!(interest.is_empty());
    }

    #[tokio::test]
    async fn there_is_a_bound_and_places_of_the_dead_are_given_again() {
        let interest = Interest::default();
        let start = Instant::now();
        let users: Vec<UserId> = (0..limits::RECEIPT_INTERESTS_MAX).map(|n| user(&format!("u{n}"))).collect();
        assert!(interest.add(NodeId(1), &conv(1), &users, start));
        assert!(!interest.add(NodeId(1), &conv(2), &users[..1], start));
        assert!(interest.add(NodeId(1), &conv(1), &users[..1], start + LEASE / 2), "who has a place keeps it");
        assert!(interest.add(NodeId(1), &conv(2), &users[..1], start + LEASE));
        assert_eq!(interest.with(|all| all.count), 2, "all others are over");
    }
}
