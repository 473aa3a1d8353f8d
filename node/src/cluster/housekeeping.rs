//! What a shard's leader sees to beside messages: the shard's copy of the slot table and settings, fences of dead
//! incarnations, steps of long jobs, eviction of old dedup rows.
//!
//! Invariant: level-triggered. Each round compares the shard's state with the control tables and proposes what is missing;
//! a lost wake-up costs one period.

use std::sync::Arc;
use std::time::Duration;

use flotilla_machine::command::Control;
use flotilla_machine::query::ShardState;
use flotilla_machine::{Answer, Command, Query, Reply};
use flotilla_proto::ids::*;
use flotilla_proto::limits;

use super::Cluster;
use super::leader::Leader;

const PERIOD: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(200);

pub async fn run(cluster: Arc<Cluster>, leader: Arc<Leader>) {
    let mut tables = cluster.tables.watch();
    loop {
        let wait = match round(&cluster, &leader).await {
            Some(false) => PERIOD,
            Some(true) | None => RETRY,
        };
        tokio::select! {
            biased;
            _ = tables.changed() => {}
            () = leader.jobs.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Proposes what is missing. True: come back soon. None: something failed.
async fn round(cluster: &Cluster, leader: &Leader) -> Option<bool> {
    forget_retired(cluster, leader).await;
    if leader.shard == ShardId::CONTROL {
        return Some(false);
    }
    let state = match leader.group.query(&Query::ShardState).await {
        Ok(Answer::ShardState(state)) => state,
        _ => return None,
    };
    let control = cluster.tables.current()?;
    // Before the slots: what comes for them may be of the cluster's feature level.
    if state.settings.version < control.settings.version || state.slots.is_none() {
        propose(leader, Command::SetSettings(control.settings.clone())).await?;
    }
    if state.slots.as_ref().is_none_or(|t| t.version < control.slots.version) {
        propose(leader, Command::SetSlots(control.slots.clone())).await?;
    }
    let mut more = fences(cluster, leader, &state).await?;
    for (node, lowest) in settled(&control.fences_owed, leader.shard, &state.fences) {
        let done = Command::Control(Control::FenceDone { shard: leader.shard, node, lowest });
        // Not done: the next round sees it again.
        let _ = cluster.shard_command(ShardId::CONTROL, &done).await;
    }
    if state.job_due {
        more |= step(leader, Command::StepJob { limit: limits::STEP_ROWS_MAX }).await?;
        more |= step(leader, Command::EvictDedup { limit: limits::STEP_ROWS_MAX }).await?;
    }
    Some(more)
}

/// A replica that the placement retires is forgotten once the group's own committed membership is without it.
async fn forget_retired(cluster: &Cluster, leader: &Leader) {
    let Some(control) = cluster.tables.current() else { return };
    let facts = leader.group.facts();
    for (shard, replica) in control.retiring.iter().filter(|(shard, _)| *shard == leader.shard) {
        if !facts.members.contains(replica) {
            let forget = Command::Control(Control::ForgetReplica { shard: *shard, replica: *replica });
            // Not done: the next round sees it again.
            let _ = cluster.shard_command(ShardId::CONTROL, &forget).await;
        }
    }
}

/// Sessions of dead incarnations: the fence keeps new ones out, the sweep ends the old ones.
async fn fences(cluster: &Cluster, leader: &Leader, state: &ShardState) -> Option<bool> {
    let mut more = false;
    for (node, lowest) in cluster.tables.lowest_incarnations() {
        let fenced = state.fences.iter().find(|(n, _)| *n == node).map_or(Incarnation(0), |(_, i)| *i);
        if fenced < lowest {
            tracing::info!(shard = %leader.shard, %node, incarnation = %lowest, "fencing dead incarnations");
            more |= step(leader, Command::Fence { node, lowest, limit: limits::STEP_ROWS_MAX }).await?;
        }
    }
    Some(more)
}

/// The fences that the control group waits for and this shard has taken. One that this round took is answered for in the
/// next, so that what was read is what is said.
fn settled(
    owed: &[(ShardId, NodeId, Incarnation)],
    shard: ShardId,
    taken: &[(NodeId, Incarnation)],
) -> Vec<(NodeId, Incarnation)> {
    let has = |node: NodeId, lowest: Incarnation| taken.iter().any(|(n, fence)| *n == node && *fence >= lowest);
    let mine = owed.iter().filter(|(s, node, lowest)| *s == shard && has(*node, *lowest));
    mine.map(|(_, node, lowest)| (*node, *lowest)).collect()
}

async fn step(leader: &Leader, command: Command) -> Option<bool> {
    match propose(leader, command).await? {
        Reply::Step { more } => Some(more),
        _ => Some(false),
    }
}

async fn propose(leader: &Leader, command: Command) -> Option<Reply> {
    leader.group.propose(command.encode().ok()?).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_is_settled_once_this_shard_has_taken_it() {
        let (here, there) = (ShardId(1), ShardId(2));
        let owed = [
            (here, NodeId(1), Incarnation(4)),
            (here, NodeId(2), Incarnation(2)),
            (here, NodeId(3), Incarnation(9)),
            (there, NodeId(1), Incarnation(4)),
        ];
        let taken = [(NodeId(1), Incarnation(4)), (NodeId(2), Incarnation(3)), (NodeId(3), Incarnation(8))];
        assert_eq!(settled(&owed, here, &taken), [(NodeId(1), Incarnation(4)), (NodeId(2), Incarnation(2))]);
        assert_eq!(settled(&owed, there, &[]), []);
    }
}
