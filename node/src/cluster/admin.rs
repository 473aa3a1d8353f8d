//! What a tool may ask of a node: who it is, to adopt a plan, how its groups are.
//!
//! Invariant: a node adopts one plan for ever; the same one again is harmless.

use std::sync::Arc;
use std::time::Duration;

use flotilla_machine::command::{ClientLimits, Control, LimitName, NodeInfo};
use flotilla_machine::query::ControlState;
use flotilla_machine::{Answer, Command, Query, Reply};
use flotilla_proto::ids::{Incarnation, NodeId, ShardId};
use flotilla_proto::limits;
use flotilla_raft::peer::{self, Caller, Outcome};
use tokio::time::Instant;

use super::wire::{self, AdminReply, AdminRequest, Description, GroupStatus, KIND_ADMIN, NodeStatus, Plan};
use super::{Cluster, control};
use crate::backend::CallError;

pub async fn serve(cluster: &Arc<Cluster>, request: AdminRequest) -> AdminReply {
    match request {
        AdminRequest::Describe => AdminReply::Description(describe(cluster)),
        AdminRequest::Adopt { plan, secret, returning } => match cluster.adopt(plan, secret, returning).await {
            Ok(()) => AdminReply::Adopted,
            Err(why) => AdminReply::Refused(why),
        },
        AdminRequest::Readmit { node } => match readmit(cluster, node).await {
            Ok(()) => AdminReply::Adopted,
            Err(why) => AdminReply::Refused(why),
        },
        AdminRequest::Status => AdminReply::Status(Box::new(status(cluster))),
        AdminRequest::Digest { shard } => match digest(cluster, shard).await {
            Ok((index, digest)) => AdminReply::Digest { index, digest },
            Err(why) => AdminReply::Refused(why),
        },
        AdminRequest::Limits { changes } => match limits(cluster, changes).await {
            Ok(limits) => AdminReply::Limits(limits),
            Err(why) => AdminReply::Refused(why),
        },
        AdminRequest::Level => level(cluster),
        AdminRequest::RaiseLevel { level: wanted } => match raise_level(cluster, wanted).await {
            Ok(()) => AdminReply::Level { known: limits::FEATURE_LEVEL, cluster: wanted },
            Err(why) => AdminReply::Refused(why),
        },
    }
}

/// Through the control group, so that every node has them and keeps them.
async fn limits(cluster: &Arc<Cluster>, changes: Vec<(LimitName, Option<u32>)>) -> Result<ClientLimits, String> {
    let level = cluster.level();
    if level < limits::CLIENT_LIMITS_LEVEL {
        let needed = limits::CLIENT_LIMITS_LEVEL;
        return Err(format!(
            "this cluster is at feature level {level}, run-time limits need level {needed}: raise it with `flotilla cluster feature-level`"
        ));
    }
    // The tool hears what became of it: it waits longer than this takes.
    let patience = Duration::from_millis(limits::TOOL_ANSWER_MS);
    let until = Instant::now() + patience;
    let changed = !changes.is_empty();
    if changed {
        tracing::info!(?changes, "an operator changes limits on clients");
        let command = Command::Control(Control::SetClientLimits { changes });
        let asked = tokio::time::timeout(patience, cluster.shard_command(ShardId::CONTROL, &command)).await;
        was_set(asked.unwrap_or(Err(CallError::Unknown)))?;
        cluster.control_changed.notify_one();
    }
    let left = until.saturating_duration_since(Instant::now());
    let read = tokio::time::timeout(left, cluster.shard_query(ShardId::CONTROL, Query::ClientLimits)).await;
    match read.unwrap_or(Err(CallError::Unavailable)) {
        Ok(Answer::ClientLimits(limits)) => Ok(limits),
        Ok(_) => Err("an answer of another kind; are all nodes of the same version?".into()),
        Err(error) if changed => Err(format!("the limits are set, and cannot be read now ({error}): ask again")),
        Err(error) => Err(format!("the control group did not answer: {error}")),
    }
}

/// Of the three outcomes an operator must be able to tell which it was.
fn was_set(outcome: Result<Reply, CallError>) -> Result<(), String> {
    match outcome {
        Ok(Reply::Rejected(why)) | Err(CallError::Rejected(why)) => Err(why.to_string()),
        Ok(_) => Ok(()),
        Err(error @ (CallError::Unavailable | CallError::Overloaded)) => {
            Err(format!("nothing was changed, the control group does not answer ({error}): try again"))
        }
        Err(CallError::Unknown) => {
            Err("the control group did not answer in time; it may have been done: ask again".into())
        }
    }
}

fn level(cluster: &Cluster) -> AdminReply {
    match cluster.tables.current() {
        Some(state) => AdminReply::Level { known: limits::FEATURE_LEVEL, cluster: state.settings.feature_level },
        None => AdminReply::Refused("this node belongs to no cluster".into()),
    }
}

/// A node that does not know the level would stop at the first command of it. So each must say that it does, also one that is
/// away now: it might come back as what it was.
async fn raise_level(cluster: &Arc<Cluster>, level: u32) -> Result<(), String> {
    if level > limits::FEATURE_LEVEL {
        return Err(format!("this node knows level {} at most: start newer ones first", limits::FEATURE_LEVEL));
    }
    let state = control_state(cluster).await.ok_or("the control group does not answer: try again in a moment")?;
    if level < state.settings.feature_level {
        return Err(format!("the cluster is at level {}, and a level is never lowered", state.settings.feature_level));
    }
    for row in state.nodes.iter().filter(|row| row.info.node != cluster.info.node) {
        let node = row.info.node;
        match ask(cluster, &row.info, &AdminRequest::Level).await {
            Ok(AdminReply::Level { known, .. }) if known >= level => {}
            Ok(AdminReply::Level { known, .. }) => {
                return Err(format!("node {node} knows level {known} at most: start a newer one there first"));
            }
            Ok(_) => return Err(format!("node {node} gave an answer of another kind; is it older?")),
            Err(why) => return Err(format!("every node must say that it knows the level: {why}")),
        }
    }
    tracing::info!(level, "an operator raises the feature level");
    was_set(cluster.shard_command(ShardId::CONTROL, &Command::Control(Control::RaiseLevel { level })).await)?;
    cluster.control_changed.notify_one();
    Ok(())
}

fn describe(cluster: &Cluster) -> Description {
    // One entry is the founding itself, the next is the first leader's.
    let lives = cluster.tables.version() > 0 || cluster.groups.all().iter().any(|g| g.facts().last_log > 1);
    let state = cluster.tables.current();
    Description {
        node: cluster.info.clone(),
        plan: cluster.plan.get().cloned(),
        secret: if lives { None } else { cluster.local.secret().ok().flatten() },
        lives,
        boots: state.iter().flat_map(|s| &s.nodes).map(|row| (row.info.node, row.boot)).collect(),
        ready: cluster.view.borrow().ready,
    }
}

/// Gives plan and secret to a node whose directory is empty, at the address that the cluster knows.
///
/// The control group is asked how often the node has started. The counter-example, with this node's own tables: (1) this node is
/// cut off, (2) node 3 starts a second time, (3) node 3's directory is lost, (4) this node comes back and tells it that it has
/// started once, (5) it takes the number 2 again, and is refused as a copy of itself for ever.
async fn readmit(cluster: &Cluster, node: NodeId) -> Result<(), String> {
    let Some(plan) = cluster.plan.get() else {
        return Err("this node belongs to no cluster".into());
    };
    let state = control_state(cluster).await.ok_or("the control group does not answer: try again in a moment")?;
    if state.version == 0 {
        return Err("the cluster's first tables are not written yet: try again in a moment".into());
    }
    let Some(row) = state.nodes.iter().find(|row| row.info.node == node) else {
        return Err(format!("node {node} is not one of this cluster"));
    };
    let secret = cluster.local.secret().map_err(|e| e.to_string())?.ok_or("this node has lost the cluster's secret")?;
    let nodes = state.nodes.iter().map(|row| row.info.clone()).collect();
    let request = AdminRequest::Adopt { plan: Plan { nodes, ..plan.clone() }, secret, returning: Some(row.boot) };
    match ask(cluster, &row.info, &request).await? {
        AdminReply::Adopted => Ok(()),
        AdminReply::Refused(why) => Err(why),
        _ => Err(format!("node {node} gave an answer of another kind; is it the same version?")),
    }
}

async fn control_state(cluster: &Cluster) -> Option<ControlState> {
    let patience = Duration::from_millis(limits::READMIT_ANSWER_MS);
    tokio::time::timeout(patience, control::state_now(cluster)).await.ok()
}

/// What a peer says of itself and the cluster; none if it does not answer soon.
pub(super) async fn describe_peer(cluster: &Cluster, peer: &NodeInfo) -> Option<Description> {
    match ask(cluster, peer, &AdminRequest::Describe).await {
        Ok(AdminReply::Description(description)) => Some(description),
        _ => None,
    }
}

/// Over the lane of tools, which no boot number and no cluster id keeps anybody from.
async fn ask(cluster: &Cluster, peer: &NodeInfo, request: &AdminRequest) -> Result<AdminReply, String> {
    let payload = wire::encode(request).map_err(|e| e.to_string())?;
    let (node, addr, insecure_peers) = (peer.node, &peer.peer_addr, cluster.insecure_peers);
    let caller = Caller { node: None, incarnation: Incarnation(0), cluster: None, insecure_peers };
    let deadline = Instant::now() + Duration::from_millis(limits::BOOT_ANSWER_MS / 2);
    let joined = peer::join(&caller, addr, Some(node), KIND_ADMIN, payload, deadline).await;
    match joined.map_err(|e| format!("node {node} cannot be reached at its registered address {addr}: {e}"))?.1 {
        Outcome::Answer(bytes) => wire::decode(&bytes).map_err(|e| format!("node {node}: {e}")),
        other => Err(format!("node {node} at {addr} did not take it: {other:?}")),
    }
}

fn status(cluster: &Cluster) -> NodeStatus {
    let groups = cluster.groups.all().into_iter().map(|group| {
        let at = group.facts();
        GroupStatus {
            shard: group.shard(),
            replica: group.replica(),
            leader: group.leader(),
            term: at.term,
            last_log: at.last_log,
            committed: at.committed,
            applied: at.applied,
            snapshot: at.snapshot,
            purged: at.purged,
            voters: at.voters,
        }
    });
    NodeStatus {
        node: cluster.info.clone(),
        boot: cluster.boot(),
        incarnation: *cluster.incarnation.borrow(),
        ready: cluster.view.borrow().ready,
        tables_version: cluster.tables.version(),
        sessions: cluster.sessions.len() as u64,
        groups: groups.collect(),
    }
}

/// The digest of this replica's applied state and the log index it was taken at.
async fn digest(
    cluster: &Cluster,
    shard: flotilla_proto::ids::ShardId,
) -> Result<(u64, flotilla_proto::ids::Hash32), String> {
    let group = cluster.groups.get(shard).ok_or("this node holds no replica of the shard")?;
    group.digest().await.map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use flotilla_machine::Rejection;

    use super::*;

    #[test]
    fn an_operator_is_told_which_of_the_three_outcomes_it_was() {
        let why = |outcome| was_set(outcome).expect_err("not done");
        assert_eq!(was_set(Ok(Reply::Done)), Ok(()));
        let rejected = || Rejection::Validation("each limit once".into());
        assert_eq!(why(Ok(Reply::Rejected(rejected()))), "each limit once");
        assert_eq!(why(Err(CallError::Rejected(rejected()))), "each limit once");
        assert!(why(Err(CallError::Unavailable)).starts_with("nothing was changed"));
        assert!(why(Err(CallError::Unknown)).contains("it may have been done"));
    }
}
