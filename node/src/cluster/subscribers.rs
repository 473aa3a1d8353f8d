//! The leader's side of conversations in pull mode: which gateways have subscribed, and the pump that tells them.
//!
//! Invariant: whoever subscribed before an entry was applied gets a numbered push with it, in the order of the log and without a
//! hole, or a hole in the numbers. Subscriptions live in memory, for one leadership: the gateway presents them again to the
//! next one. A gateway that renews none for a lease is forgotten. It does not know users: gateways apply membership.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flotilla_machine::{Answer, Query};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use tokio::time::Instant;

use super::Cluster;
use super::leader::Leader;
use super::wire::PushItem;

const LEASE: Duration = Duration::from_millis(limits::SUBSCRIPTION_MS);
/// Between two sweeps for places, when there are none.
const SWEEP_EVERY: Duration = Duration::from_millis(limits::SUBSCRIBED_SWEEP_MS);

#[derive(Default)]
struct Of {
    gateways: BTreeMap<NodeId, Instant>,
    /// The last entry that all of them were told. None: nothing yet.
    told: Option<Seq>,
}

#[derive(Default)]
struct All {
    convs: BTreeMap<ConvId, Of>,
    /// When those without a gateway were looked for last.
    swept: Option<Instant>,
}

impl All {
    /// Whether there is a place for one more. All of them are looked at for it, so not for each that asks: every push to the
    /// others waits meanwhile.
    fn has_room(&mut self, now: Instant) -> bool {
        let full = |convs: &BTreeMap<_, _>| convs.len() >= limits::SUBSCRIBED_CONVERSATIONS_MAX;
        if full(&self.convs) && self.swept.is_none_or(|at| now.saturating_duration_since(at) >= SWEEP_EVERY) {
            self.swept = Some(now);
            self.convs.retain(|_, of| of.gateways.values().any(|until| *until > now));
        }
        !full(&self.convs)
    }
}

#[derive(Default)]
pub struct Subscribers(Mutex<All>);

impl Subscribers {
    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For one lease from now. False: not all, for there are too many conversations; whoever had a place has it for as long.
    pub fn add<'c>(&self, gateway: NodeId, convs: impl Iterator<Item = &'c ConvId>, now: Instant) -> bool {
        let mut all = self.lock();
        let mut fit = true;
        for conv in convs {
            if all.convs.contains_key(conv) || all.has_room(now) {
                all.convs.entry(conv.clone()).or_default().gateways.insert(gateway, now + LEASE);
            } else {
                fit = false;
            }
        }
        fit
    }

    /// Who is to be told, and what they were told last. None: nobody.
    fn of(&self, conv: &ConvId, now: Instant) -> Option<(Vec<NodeId>, Option<Seq>)> {
        let mut all = self.lock();
        let of = all.convs.get_mut(conv)?;
        of.gateways.retain(|_, until| *until > now);
        if of.gateways.is_empty() {
            all.convs.remove(conv);
            return None;
        }
        Some((of.gateways.keys().copied().collect(), of.told))
    }

    fn set_told(&self, conv: &ConvId, seq: Seq) {
        if let Some(of) = self.lock().convs.get_mut(conv) {
            of.told = of.told.max(Some(seq));
        }
    }
}

pub async fn run(cluster: Arc<Cluster>, leader: Arc<Leader>) {
    loop {
        let taken = leader.pulled.take().await;
        if taken.overflow {
            // Whose news did not fit nobody knows: every gateway asks again.
            leader.hub.skip();
        }
        for (conv, head) in taken.items {
            feed(&cluster, &leader, &conv, head).await;
        }
    }
}

/// Entries from what was told up to the head, in frames of a bounded size.
async fn feed(cluster: &Cluster, leader: &Leader, conv: &ConvId, head: Seq) {
    let Some((gateways, told)) = leader.subscribers.of(conv, Instant::now()) else { return };
    let mut from = told.map_or(head, Seq::next);
    loop {
        let (conv, bytes_max) = (conv.clone(), limits::NOTIFY_BYTES_MAX as u32);
        let query = Query::Feed { conv: conv.clone(), from, to: Seq(u64::MAX), bytes_max };
        let Ok(Answer::Feed { entries, head, .. }) = leader.group.query(&query).await else {
            // Gateways shall look for themselves.
            return leader.hub.skip();
        };
        let Some(last) = entries.last().map(|entry| entry.seq) else { return };
        for gateway in &gateways {
            let item = PushItem::Pulled { conv: conv.clone(), entries: entries.clone() };
            cluster.push(leader, *gateway, vec![item]);
        }
        cluster.metrics.pulled_pushes.add(gateways.len() as u64);
        leader.subscribers.set_told(&conv, last);
        if last >= head {
            return;
        }
        from = last.next();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conv(n: u128) -> ConvId {
        ConvId::channel(&UserId::parse("ann").expect("valid"), Cid(n))
    }

    #[tokio::test]
    async fn a_gateway_that_does_not_renew_is_forgotten_and_with_the_last_one_the_place() {
        let subscribers = Subscribers::default();
        let now = Instant::now();
        assert!(subscribers.add(NodeId(1), [conv(1)].iter(), now));
        subscribers.set_told(&conv(1), Seq(7));
        let later = now + LEASE / 2;
        assert!(subscribers.add(NodeId(2), [conv(1)].iter(), later));
        assert_eq!(subscribers.of(&conv(1), later), Some((vec![NodeId(1), NodeId(2)], Some(Seq(7)))));
        assert_eq!(subscribers.of(&conv(1), now + LEASE), Some((vec![NodeId(2)], Some(Seq(7)))));
        assert_eq!(subscribers.of(&conv(1), later + LEASE), None);
        assert!(subscribers.add(NodeId(1), [conv(1)].iter(), later));
        assert_eq!(subscribers.of(&conv(1), later), Some((vec![NodeId(1)], None)), "told of nothing again");
        assert_eq!(subscribers.of(&conv(2), later), None);
    }

    #[tokio::test]
    async fn without_a_place_left_not_all_are_looked_at_for_each_that_asks() {
        let subscribers = Subscribers::default();
        let start = Instant::now();
        let many: Vec<ConvId> = (0..limits::SUBSCRIBED_CONVERSATIONS_MAX as u128).map(conv).collect();
        assert!(subscribers.add(NodeId(1), many.iter(), start));
        let new = conv(u128::MAX);
        let end = start + LEASE;
        let just_before = end.checked_sub(SWEEP_EVERY / 2).expect("later than the start");
        let among = [&many[0], &new, &many[1]];
        assert!(!subscribers.add(NodeId(2), among.into_iter(), just_before));
        for conv in [&many[0], &many[1]] {
            let (gateways, _) = subscribers.of(conv, just_before).expect("it has a place");
            assert_eq!(gateways, [NodeId(1), NodeId(2)], "who has a place keeps it, also behind one who finds none");
        }
        assert!(subscribers.add(NodeId(1), many.iter().take(1), just_before));
        assert!(!subscribers.add(NodeId(1), [&new].into_iter(), end), "all others are over, but nobody looks so soon");
        assert!(subscribers.add(NodeId(1), [&new].into_iter(), just_before + SWEEP_EVERY));
        assert_eq!(subscribers.lock().convs.len(), 3, "two of the many, and the new one");
    }
}
