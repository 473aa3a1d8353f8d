//! What `init` mints: the cluster's id, its first tables and keys. Pure but for the random bytes that the caller gives.

use std::collections::BTreeSet;

use flotilla_machine::command::{KeyRow, NodeInfo, Settings};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_proto::slots::SlotTable;

use super::wire::Plan;

/// Replicas of every shard, and voters of the control group, in a cluster that has at least as many nodes.
pub const REPLICAS: usize = 3;
const CONTROL_VOTERS_MAX: usize = 5;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    #[error("a cluster needs at least one node")]
    NoNodes,
    #[error("node {0} is named twice")]
    Twice(NodeId),
    #[error("a cluster has 1 to {max} shards, not {0}", max = limits::SHARDS_MAX)]
    Shards(u16),
}

/// Shards dealt to nodes in turn: shard s prefers node s mod N as its leader, and the next ones hold its other replicas.
pub fn make(
    cluster: ClusterId,
    mut nodes: Vec<NodeInfo>,
    shards: u16,
    settings: Settings,
    keys: Vec<KeyRow>,
) -> Result<Plan, PlanError> {
    if nodes.is_empty() {
        return Err(PlanError::NoNodes);
    }
    if shards == 0 || shards > limits::SHARDS_MAX {
        return Err(PlanError::Shards(shards));
    }
    nodes.sort_by_key(|n| n.node);
    let mut seen = BTreeSet::new();
    if let Some(twice) = nodes.iter().find(|n| !seen.insert(n.node)) {
        return Err(PlanError::Twice(twice.node));
    }
    let replicas = |first: usize, count: usize| -> Vec<ReplicaId> {
        (0..count.min(nodes.len()))
            .map(|i| ReplicaId::new(nodes[(first + i) % nodes.len()].node, Generation(1)))
            .collect()
    };
    let mut placement = vec![(ShardId::CONTROL, replicas(0, odd(nodes.len().min(CONTROL_VOTERS_MAX))))];
    placement.extend((1..=shards).map(|s| (ShardId(s), replicas(usize::from(s) - 1, REPLICAS))));
    Ok(Plan { cluster, epoch: Epoch(1), slots: SlotTable::even(shards), settings, nodes, placement, keys })
}

/// The largest odd number up to `n`: an even group is no safer than the odd one below it. Two nodes keep both: one
/// alone could lose an accepted message with its disk.
fn odd(n: usize) -> usize {
    if n == 2 || n % 2 == 1 { n } else { n - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u16) -> NodeInfo {
        NodeInfo { node: NodeId(n), peer_addr: format!("p{n}"), client_url: format!("c{n}") }
    }

    #[test]
    fn leaders_and_replicas_are_dealt_evenly() {
        let plan = make(ClusterId(1), vec![node(3), node(1), node(2), node(4)], 16, Settings::default(), vec![])
            .expect("valid");
        assert_eq!(plan.placement[0].1.len(), 3, "an odd control group");
        for n in 1..=4 {
            let leads = plan.placement[1..].iter().filter(|(_, r)| r[0].node == NodeId(n)).count();
            let holds = plan.placement[1..].iter().filter(|(_, r)| r.iter().any(|r| r.node == NodeId(n))).count();
            assert_eq!((leads, holds), (4, 12));
        }
    }

    #[test]
    fn a_plan_that_cannot_work_is_refused() {
        assert_eq!(make(ClusterId(1), vec![], 16, Settings::default(), vec![]), Err(PlanError::NoNodes));
        assert_eq!(
            make(ClusterId(1), vec![node(1), node(1)], 16, Settings::default(), vec![]),
            Err(PlanError::Twice(NodeId(1)))
        );
        assert_eq!(
            make(ClusterId(1), vec![node(1)], 2_000, Settings::default(), vec![]),
            Err(PlanError::Shards(2_000))
        );
    }
}
