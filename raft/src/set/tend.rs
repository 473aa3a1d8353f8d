//! What leaders do for their groups: bring the membership to the wish, one step at a time, and hand leadership to whom it belongs.
//!
//! One task per node looks at all groups it leads; the steps themselves are decided in [`super::plan`] and [`super::spread`].
//! A step that fails or takes too long is not repeated blindly: the next look starts from what the group then is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::ids::{NodeId, ReplicaId, ShardId};
use flotilla_proto::limits;
use openraft::async_runtime::WatchReceiver as _;
use openraft::metrics::RaftMetrics;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::plan::{self, Seen, Step};
use super::router::{Member, Table};
use super::spread::Spread;
use crate::group::{Group, MembershipError};
use crate::peer::Peers;
use crate::seam::fault;
use crate::types::TypeConfig;

pub(super) struct Tender {
    pub table: Arc<Table>,
    /// A replica that has not answered for longer is not live.
    pub alive: Duration,
    pub peers: Arc<Peers>,
    pub stop: watch::Receiver<bool>,
}

/// What is remembered about one group between two looks.
#[derive(Default)]
struct Mind {
    spread: Spread,
    step: Option<JoinHandle<()>>,
    waiting_for: Option<&'static str>,
    handed_over: Option<Instant>,
}

impl Tender {
    pub async fn run(mut self) {
        let mut minds: BTreeMap<ShardId, Mind> = BTreeMap::new();
        loop {
            tokio::select! {
                biased;
                _ = self.stop.changed() => return,
                () = tokio::time::sleep(Duration::from_millis(limits::TEND_MS)) => {}
            }
            let members = self.table.all();
            minds.retain(|shard, _| members.iter().any(|m| m.group.shard() == *shard));
            // At most one transfer a look, so that a node which comes back is not handed everything at once.
            let mut may_hand_over = true;
            for member in &members {
                let mind = minds.entry(member.group.shard()).or_default();
                self.look(member, mind, &mut may_hand_over).await;
            }
        }
    }

    async fn look(&self, member: &Member, mind: &mut Mind, may_hand_over: &mut bool) {
        let busy = mind.step.as_ref().is_some_and(|step| !step.is_finished());
        let (Some(placement), true, false) = (&member.placement, member.group.leadership().ready, busy) else {
            return;
        };
        let Some(seen) = look_at(&member.group, self.alive, &self.peers) else { return };
        let shard = member.group.shard();
        match plan::next(&placement.wish(), &seen) {
            Step::Done => {
                mind.waiting_for = None;
                let good: BTreeSet<_> = seen.configs[0].intersection(&seen.good).copied().collect();
                if !*may_hand_over {
                    return;
                }
                let own = member.group.replica();
                if let Some(to) = mind.spread.decide(Instant::now(), own, &placement.order, &good) {
                    *may_hand_over = false;
                    hand_over(&member.group, to).await;
                }
            }
            Step::Wait(reason) => {
                if mind.waiting_for.replace(reason) != Some(reason) {
                    tracing::info!(%shard, reason, "the membership is not as wished");
                }
            }
            Step::HandOver(to) => {
                let pause = Duration::from_millis(limits::LEADER_STEADY_MS);
                if mind.handed_over.is_none_or(|at| at.elapsed() >= pause) {
                    mind.handed_over = Some(Instant::now());
                    hand_over(&member.group, to).await;
                }
            }
            step => mind.step = Some(tokio::spawn(perform(member.group.clone(), step))),
        }
    }
}

async fn hand_over(group: &Group, to: ReplicaId) {
    tracing::info!(shard = %group.shard(), %to, "handing leadership over");
    if let Err(error) = group.transfer_leader(to).await {
        tracing::warn!(shard = %group.shard(), %to, %error, "cannot hand leadership over");
    }
}

async fn perform(group: Group, step: Step) {
    let shard = group.shard();
    tracing::info!(%shard, ?step, "changing the membership");
    fault::point("membership.before_change");
    let work = async {
        match &step {
            Step::AddLearner(id) => group.add_learner(*id).await,
            Step::Voters(voters) | Step::Settle(voters) => group.change_membership(voters, false).await,
            Step::RemoveLearner(id) => group.remove_learners(&BTreeSet::from([*id])).await,
            Step::Done | Step::Wait(_) | Step::HandOver(_) => Ok(()),
        }
    };
    match tokio::time::timeout(Duration::from_millis(limits::MEMBERSHIP_CHANGE_MS), work).await {
        Ok(Ok(())) => {
            fault::point("membership.changed");
            tracing::info!(%shard, ?step, "the membership has changed");
        }
        Ok(Err(MembershipError::NotLeader { .. } | MembershipError::Stopped)) => {}
        Ok(Err(error)) => tracing::warn!(%shard, ?step, %error, "the membership has not changed"),
        Err(_) => tracing::warn!(%shard, ?step, "changing the membership takes too long"),
    }
}

/// What this replica, as the leader, sees of its group; none if it does not lead.
pub(super) fn look_at(group: &Group, alive: Duration, peers: &Peers) -> Option<Seen> {
    let metrics = group.metrics();
    let metrics = metrics.borrow_watched();
    if !metrics.state.is_leader() || metrics.running_state.is_err() {
        return None;
    }
    let membership = metrics.membership_config.membership();
    let replicas = |ids: &BTreeSet<u64>| ids.iter().map(|id| ReplicaId::from_raft(*id)).collect();
    Some(Seen {
        configs: membership.get_joint_config().iter().map(replicas).collect(),
        learners: membership.learner_ids().map(ReplicaId::from_raft).collect(),
        settled: metrics.membership_config.log_id() == metrics.committed_membership_config.log_id(),
        leader: Some(group.replica()),
        good: good(&metrics, group.replica(), alive, |node| peers.is_connected(node)),
    })
}

/// Replicas that have answered lately, lag by little, and whose node is connected: one that has just died has answered lately.
fn good(
    metrics: &RaftMetrics<TypeConfig>,
    own: ReplicaId,
    alive: Duration,
    connected: impl Fn(NodeId) -> bool,
) -> BTreeSet<ReplicaId> {
    let last = metrics.last_log_index.unwrap_or(0);
    let mut good = BTreeSet::from([own]);
    let (Some(replication), Some(heartbeat)) = (&metrics.replication, &metrics.heartbeat) else { return good };
    for (id, matched) in replication {
        let close = matched.is_some_and(|m| m.index() + limits::CAUGHT_UP_ENTRIES >= last);
        let answered = heartbeat.get(id).copied().flatten().is_some_and(|at| at.into_inner().0.elapsed() <= alive);
        let replica = ReplicaId::from_raft(*id);
        if close && answered && connected(replica.node) {
            good.insert(replica);
        }
    }
    good
}

#[cfg(test)]
mod tests {
    use flotilla_proto::ids::Generation;
    use openraft::metrics::SerdeInstant;

    use super::*;
    use crate::config::Timings;
    use crate::types::log_id;

    /// What a leader knows of a follower from which it has heard last so long ago.
    fn metrics(own: ReplicaId, other: ReplicaId, age: Duration) -> RaftMetrics<TypeConfig> {
        let heard = Instant::now().checked_sub(age).expect("later than the start of the machine");
        let mut metrics = RaftMetrics::new_initial(own.to_raft());
        metrics.last_log_index = Some(7);
        metrics.replication = Some([(other.to_raft(), Some(log_id(1, 7)))].into());
        let heard = SerdeInstant::new(crate::runtime::Instant(heard));
        metrics.heartbeat = Some([(other.to_raft(), Some(heard))].into());
        metrics
    }

    /// On a busy machine: 1. heartbeats go out every 250 ms and one that is not answered as soon is lost, 2. of three two are,
    /// 3. so one look of three finds a follower that was not heard for half a second, and it is never good for as long as it takes
    /// to be handed anything.
    #[tokio::test]
    async fn a_follower_that_answers_every_third_heartbeat_gets_the_leadership_that_it_should_have() {
        let (own, other) = (ReplicaId::new(NodeId(1), Generation(1)), ReplicaId::new(NodeId(2), Generation(1)));
        let timings = Timings::default();
        let heard_every = 3 * timings.heartbeat.as_millis() as u64;
        let handed_over = |alive: Duration| {
            let (mut spread, start) = (Spread::default(), Instant::now());
            (0..120_000 / limits::TEND_MS).map(|look| look * limits::TEND_MS).find(|ms| {
                // Looks come a little later than they should, too.
                let age = Duration::from_millis((ms + ms / 50) % heard_every);
                let good = good(&metrics(own, other, age), own, alive, |_| true);
                spread.decide(start + Duration::from_millis(*ms), own, &[other, own], &good).is_some()
            })
        };
        assert_eq!(handed_over(timings.election_min), None, "the bound that it was");
        assert_eq!(handed_over(timings.silence_max()), Some(limits::LEADER_STEADY_MS));
    }

    #[tokio::test]
    async fn a_follower_that_is_silent_for_as_long_as_a_leader_may_be_is_not_good() {
        let (own, other) = (ReplicaId::new(NodeId(1), Generation(1)), ReplicaId::new(NodeId(2), Generation(1)));
        let alive = Timings::default().silence_max();
        let is_good = |age, connected| good(&metrics(own, other, age), own, alive, |_| connected).contains(&other);
        assert!(is_good(alive / 2, true));
        assert!(!is_good(alive + Duration::from_millis(1), true) && !is_good(alive / 2, false));
    }
}
