//! Nodes that should lead nothing while others can: their disks are nearly full.
//!
//! Invariant: all nodes that heard the same put them last in the order of preferred leaders, so a leadership that is handed away is
//! not handed back. A word lasts for a few keepalives. It changes who leads, never who replicates.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use flotilla_proto::ids::{NodeId, ReplicaId};
use tokio::time::Instant;

/// Five keepalives.
const FORGET: Duration = Duration::from_secs(10);

#[derive(Default)]
pub struct Strained(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    heard: BTreeMap<NodeId, Instant>,
    known: BTreeSet<NodeId>,
}

impl Strained {
    /// A node says how its disk is.
    pub fn note(&self, node: NodeId, low: bool, now: Instant) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if low {
            inner.heard.insert(node, now);
        } else {
            inner.heard.remove(&node);
        }
    }

    /// Forgets old words; whether the set is another one than at the last look.
    pub fn look(&self, now: Instant) -> bool {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.heard.retain(|_, at| now.duration_since(*at) < FORGET);
        let known = inner.heard.keys().copied().collect();
        let changed = inner.known != known;
        inner.known = known;
        changed
    }

    /// The order in which replicas should lead.
    pub fn order(&self, replicas: impl Iterator<Item = ReplicaId>) -> Vec<ReplicaId> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut order: Vec<_> = replicas.collect();
        order.sort_by_key(|replica| inner.known.contains(&replica.node));
        order
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::ids::Generation;

    use super::*;

    #[tokio::test]
    async fn a_node_with_a_full_disk_is_the_last_that_should_lead_until_it_has_room() {
        let strained = Strained::default();
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let order = || {
            let replicas = [1, 2, 3].map(|node| ReplicaId::new(NodeId(node), Generation(1)));
            strained.order(replicas.into_iter()).iter().map(|r| r.node.0).collect::<Vec<_>>()
        };
        assert!(!strained.look(start));
        assert_eq!(order(), [1, 2, 3]);
        strained.note(NodeId(1), true, start);
        assert!(strained.look(start));
        assert_eq!(order(), [2, 3, 1]);
        strained.note(NodeId(1), true, start + second);
        assert!(!strained.look(start + second), "no change, nothing to do");
        strained.note(NodeId(1), false, start + 2 * second);
        assert!(strained.look(start + 2 * second));
        assert_eq!(order(), [1, 2, 3]);
        strained.note(NodeId(2), true, start);
        assert!(strained.look(start + second));
        assert!(strained.look(start + FORGET), "it died meanwhile, or lives and was not heard");
        assert_eq!(order(), [1, 2, 3]);
    }
}
