//! When a leader hands its group to the replica that should lead it. Pure.
//!
//! Placement names the voters of a group in an order; the first that is live and caught up should lead. Orders rotate over the
//! shards, so leaders spread evenly at start and again after failures. Never flapping: the better one must have been good for
//! a while, and each transfer without lasting success doubles the wait before the next. It does not know Raft.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use flotilla_proto::ids::ReplicaId;
use flotilla_proto::limits;
use tokio::time::Instant;

/// What one group's leader remembers.
#[derive(Debug, Default)]
pub struct Spread {
    good_since: BTreeMap<ReplicaId, Instant>,
    /// (when, how many in a row)
    last: Option<(Instant, u32)>,
}

impl Spread {
    /// The replica to hand over to, if any. `good` are the voters that are live and caught up.
    pub fn decide(
        &mut self,
        now: Instant,
        me: ReplicaId,
        order: &[ReplicaId],
        good: &BTreeSet<ReplicaId>,
    ) -> Option<ReplicaId> {
        self.good_since.retain(|id, _| good.contains(id));
        for id in good {
            self.good_since.entry(*id).or_insert(now);
        }
        let steady = |id: &ReplicaId| {
            let since = self.good_since.get(id);
            since.is_some_and(|since| now.duration_since(*since) >= Duration::from_millis(limits::LEADER_STEADY_MS))
        };
        let better = order.iter().take_while(|id| **id != me).find(|id| steady(id)).copied()?;
        let tries = match self.last {
            Some((at, tries)) if now.duration_since(at) < wait(tries) => return None,
            Some((at, tries)) if now.duration_since(at) < 2 * wait(tries) => tries + 1,
            _ => 1,
        };
        self.last = Some((now, tries));
        Some(better)
    }
}

fn wait(tries: u32) -> Duration {
    let doubled = limits::LEADER_TRANSFER_MS.saturating_mul(1 << tries.saturating_sub(1).min(16));
    Duration::from_millis(doubled.min(limits::LEADER_TRANSFER_MS_MAX))
}

#[cfg(test)]
mod tests {
    use flotilla_proto::ids::{Generation, NodeId};

    use super::*;

    fn r(node: u16) -> ReplicaId {
        ReplicaId::new(NodeId(node), Generation(1))
    }

    /// Asks every 100 ms for a while; when and to whom leadership would be handed.
    fn run(me: u16, order: &[u16], seconds: u64, good: impl Fn(u64) -> Vec<u16>) -> Vec<(u64, u16)> {
        let order: Vec<_> = order.iter().map(|n| r(*n)).collect();
        let start = Instant::now();
        let mut spread = Spread::default();
        let mut handed = Vec::new();
        for ms in (0..seconds * 1000).step_by(100) {
            let good = good(ms).into_iter().map(r).collect();
            if let Some(to) = spread.decide(start + Duration::from_millis(ms), r(me), &order, &good) {
                handed.push((ms, to.node.0));
            }
        }
        handed
    }

    #[tokio::test]
    async fn preferred_replica_gets_the_group_once_it_has_been_good_for_a_while() {
        let handed = run(2, &[1, 2, 3], 20, |_| vec![1, 2, 3]);
        assert_eq!(handed.first(), Some(&(limits::LEADER_STEADY_MS, 1)));
        assert!(run(1, &[1, 2, 3], 60, |_| vec![1, 2, 3]).is_empty(), "the preferred one keeps it");
        assert!(run(2, &[1, 2, 3], 60, |_| vec![2, 3]).is_empty(), "the second keeps it while the first is dead");
        assert_eq!(run(3, &[1, 2, 3], 20, |_| vec![2, 3]).first(), Some(&(limits::LEADER_STEADY_MS, 2)));
    }

    #[tokio::test]
    async fn flapping_replica_never_gets_the_group() {
        let half = limits::LEADER_STEADY_MS / 2;
        assert!(run(2, &[1, 2], 600, |ms| if (ms / half).is_multiple_of(2) { vec![1, 2] } else { vec![2] }).is_empty());
    }

    #[tokio::test]
    async fn transfers_that_do_not_last_become_rarer() {
        let handed = run(2, &[1, 2], 3_600, |_| vec![1, 2]);
        let gaps: Vec<_> = handed.windows(2).map(|w| w[1].0 - w[0].0).collect();
        assert!(gaps[0] >= limits::LEADER_TRANSFER_MS);
        assert!(gaps.windows(2).all(|w| w[1] >= w[0]), "{gaps:?}");
        assert!(handed.len() < 30, "{handed:?}");
    }
}
