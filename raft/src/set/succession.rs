//! What followers do when the node that leads them refuses connections: they stop waiting for it.
//!
//! A port that refuses belongs to no process any more: it has ended, or is not up again yet. So the lease that its replicas hold as leaders is
//! void, and who is next asks for a pre-vote at once, instead of after the lease and an election time-out. A machine that is
//! dead or cut off says nothing; there the time-outs decide, as ever.
//!
//! Invariants: nothing is decided by this evidence alone. A pre-vote is granted by those only whose own lease has run out or is void, and a
//! leader that a quorum still answers grants none: one follower that is refused by mistake (a firewall, a wrong address) changes nothing.
//! A lease that was void is none the less kept while the leader is heard (`group::forsaken`), so one mistake does not prepare for the next.
//! Leases only keep elections apart; no answer to a client rests on them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flotilla_proto::ids::{NodeId, ReplicaId};
use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::watch;

use super::router::{Member, Table};

/// How often in a row each peer has refused a connection; those that did not are left out.
pub type Refusals = BTreeMap<NodeId, u32>;

pub(super) struct Succession {
    pub table: Arc<Table>,
    pub refusals: watch::Receiver<Refusals>,
    /// Campaigns that began here, for operators.
    pub campaigns: Arc<AtomicU64>,
    pub stop: watch::Receiver<bool>,
}

impl Succession {
    pub async fn run(mut self) {
        let mut before = Refusals::new();
        let mut stop = self.stop.clone();
        loop {
            tokio::select! {
                biased;
                _ = stop.changed() => return,
                changed = self.refusals.changed() => if changed.is_err() { return },
            }
            let now = self.refusals.borrow_and_update().clone();
            let again = now.iter().filter(|(node, times)| before.get(node) != Some(times));
            let each = again.map(|(node, _)| self.on_refused(*node, &now));
            let done = futures::future::join_all(each);
            tokio::select! {
                biased;
                _ = stop.changed() => return,
                _ = done => {}
            }
            before = now;
        }
    }

    async fn on_refused(&self, node: NodeId, refusals: &Refusals) {
        let members = self.table.all();
        // All at once: a group that is slow to listen must not keep the others without a leader.
        let told = members.iter().map(async |member| {
            let campaign = is_next(&candidates(member), member.group.replica(), node, refusals);
            member.group.forsake(node, campaign).await.then_some(campaign)
        });
        let told: Vec<_> = futures::future::join_all(told).await.into_iter().flatten().collect();
        let (followed, campaigns) = (told.len(), told.iter().map(|campaign| u64::from(*campaign)).sum());
        self.campaigns.fetch_add(campaigns, Ordering::Relaxed);
        if followed > 0 {
            tracing::info!(%node, shards = followed, campaigns, "the leader of these shards refuses connections");
        }
    }
}

/// The voters, first who should lead.
fn candidates(member: &Member) -> Vec<ReplicaId> {
    let metrics = member.group.metrics();
    let voters: BTreeSet<_> =
        metrics.borrow_watched().membership_config.voter_ids().map(ReplicaId::from_raft).collect();
    let order = member.placement.iter().flat_map(|placement| &placement.order);
    let mut candidates: Vec<_> = order.copied().filter(|id| voters.contains(id)).collect();
    candidates.extend(voters.iter().filter(|id| !candidates.contains(id)).copied().collect::<Vec<_>>());
    candidates
}

/// Whether it is this replica's turn to campaign. The first candidate whose node does not refuse us begins with the first refusal, each
/// next one two refusals later: by then (the pauses between connections double) those before it have failed, or have won.
fn is_next(candidates: &[ReplicaId], own: ReplicaId, leader: NodeId, refusals: &Refusals) -> bool {
    let times = refusals.get(&leader).copied().unwrap_or(0);
    let place = candidates.iter().filter(|id| !refusals.contains_key(&id.node)).position(|id| *id == own);
    place.and_then(|place| u32::try_from(place).ok()).is_some_and(|place| times > place.saturating_mul(2))
}

#[cfg(test)]
mod tests {
    use flotilla_proto::ids::Generation;

    use super::*;

    fn replicas(nodes: &[u16]) -> Vec<ReplicaId> {
        nodes.iter().map(|node| ReplicaId::new(NodeId(*node), Generation(1))).collect()
    }

    /// After how many refusals by the leaders each node would campaign, of ten.
    fn first(order: &[u16], own: u16, dead: &[u16]) -> Option<u32> {
        let order = replicas(order);
        let own = replicas(&[own])[0];
        (1..=10).find(|times| {
            let refusals: Refusals = dead.iter().map(|node| (NodeId(*node), *times)).collect();
            is_next(&order, own, NodeId(dead[0]), &refusals)
        })
    }

    #[test]
    fn candidates_come_one_after_the_other_in_the_order_of_the_placement() {
        assert_eq!(first(&[3, 1, 2], 1, &[3]), Some(1));
        assert_eq!(first(&[3, 1, 2], 2, &[3]), Some(3), "it gives the first one time");
        assert_eq!(first(&[1, 2, 3], 1, &[2]), Some(1), "whoever should lead anyway");
        assert_eq!(first(&[1, 2, 3, 4, 5], 5, &[1]), Some(7));
        assert_eq!(first(&[1, 2, 3, 4, 5], 3, &[1, 2]), Some(1), "who is dead too is not waited for");
    }

    #[test]
    fn a_replica_without_a_vote_never_campaigns_and_nobody_does_without_a_refusal() {
        assert_eq!(first(&[1, 2, 3], 4, &[1]), None);
        let order = replicas(&[1, 2, 3]);
        assert!(!is_next(&order, order[1], NodeId(1), &Refusals::new()));
    }
}
