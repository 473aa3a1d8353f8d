//! What a tool may ask of a node: who it is, to adopt a plan, how its groups are.
//!
//! Invariant: a node adopts one plan for ever; the same one again is harmless.

use std::sync::Arc;

use super::Cluster;
use super::wire::{AdminReply, AdminRequest, Description, GroupStatus, NodeStatus};
use flotilla_proto::ids::Incarnation;

pub async fn serve(cluster: &Arc<Cluster>, request: AdminRequest) -> AdminReply {
    match request {
        AdminRequest::Describe => AdminReply::Description(Description {
            node: cluster.info.clone(),
            plan: cluster.plan.get().cloned(),
            secret: if *cluster.incarnation.borrow() == Incarnation(0) {
                cluster.local.secret().ok().flatten()
            } else {
                None
            },
            ready: cluster.view.borrow().ready,
        }),
        AdminRequest::Adopt { plan, secret } => match cluster.adopt(plan, secret).await {
            Ok(()) => AdminReply::Adopted,
            Err(why) => AdminReply::Refused(why),
        },
        AdminRequest::Status => AdminReply::Status(Box::new(status(cluster))),
        AdminRequest::Digest { shard } => match digest(cluster, shard).await {
            Ok((index, digest)) => AdminReply::Digest { index, digest },
            Err(why) => AdminReply::Refused(why),
        },
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
        boot: cluster.boot,
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
