//! Where a replica stands, for operators and for the node's own housekeeping.

use std::collections::BTreeSet;

use flotilla_machine as machine;
use flotilla_proto::ids::{Hash32, ReplicaId};
use openraft::async_runtime::WatchReceiver as _;

use super::Group;
use crate::runtime::blocking;
use crate::types::Vote;

/// Log positions by index; 0 stands for "none yet".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    pub term: u64,
    pub last_log: u64,
    pub committed: u64,
    pub applied: u64,
    pub snapshot: u64,
    pub purged: u64,
    /// Of the committed membership.
    pub voters: Vec<ReplicaId>,
    /// Voters and learners of the committed membership.
    pub members: Vec<ReplicaId>,
    /// Voters by the newest membership of the log, committed or not: one set, or both of a change that is under way.
    pub deciding: Vec<Vec<ReplicaId>>,
}

impl Group {
    pub fn facts(&self) -> Facts {
        let metrics = self.metrics();
        let metrics = metrics.borrow_watched();
        let index = |id: Option<crate::LogId>| id.map_or(0, |id| id.index());
        let membership = metrics.committed_membership_config.membership();
        let newest = metrics.membership_config.membership().get_joint_config();
        let replicas_of = |voters: &BTreeSet<u64>| voters.iter().copied().map(ReplicaId::from_raft).collect();
        Facts {
            term: metrics.current_term,
            last_log: metrics.last_log_index.unwrap_or(0),
            committed: index(metrics.local_committed),
            applied: index(metrics.last_applied),
            snapshot: index(metrics.snapshot),
            purged: index(metrics.purged),
            voters: membership.voter_ids().map(ReplicaId::from_raft).collect(),
            members: membership.nodes().map(|(id, _)| ReplicaId::from_raft(*id)).collect(),
            deciding: newest.iter().map(replicas_of).collect(),
        }
    }

    /// The vote that this replica holds in memory.
    pub fn vote(&self) -> Vote {
        self.metrics().borrow_watched().vote
    }

    /// The applied index of this instant and the digest of the state at it. Reads every row.
    pub async fn digest(&self) -> Result<(u64, Hash32), machine::Fatal> {
        let view = self.view().await.map_err(|_| machine::Fatal::Damaged { table: "pointer" })?;
        let applied = view.applied().map_or(0, |id| id.index());
        let digest = blocking(move || machine::digest(view.read(), &view.prefix())).await?;
        Ok((applied, digest))
    }
}
