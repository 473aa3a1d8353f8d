//! What the replicas of a group have acknowledged to this node while it leads: a replica that later knows less has lost
//! writes that it had synced.
//!
//! Invariant: a conflict is called a loss only if the replica had acknowledged the entry, or a later one, to the same leader
//! before the RPC left. Within one leader's term nobody else may shorten its log, so nothing but a lost write explains it.
//!
//! Why it matters: openraft takes an acknowledged entry for stored for good. In debug builds the *leader* panics over such a
//! replica; in release builds it goes on counting it for a quorum that does not exist. The watermark of the node's disk
//! notices most losses at its start, but it follows the writes by half a second. What this cannot see: a loss that no leader
//! of the same term has the acknowledgement for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use flotilla_proto::ids::ReplicaId;

use crate::types::{LogId, Vote};

/// Of one group, shared by all clients of its replica.
#[derive(Clone, Default)]
pub struct Acked(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    /// Whose acknowledgements these are.
    vote: Option<Vote>,
    matched: BTreeMap<ReplicaId, LogId>,
}

impl Acked {
    /// What `target` had acknowledged to the leader of `vote` until now.
    pub fn before(&self, vote: &Vote, target: ReplicaId) -> Option<LogId> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.matched.get(&target).filter(|_| inner.vote.as_ref() == Some(vote)).copied()
    }

    /// `target` holds everything up to `matched`, synced.
    pub fn note(&self, vote: &Vote, target: ReplicaId, matched: Option<LogId>) {
        let Some(matched) = matched else { return };
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.vote.as_ref() != Some(vote) {
            // An answer to an older leader that this replica was says nothing about the present one.
            if inner.vote.as_ref().is_some_and(|newer| newer > vote) {
                return;
            }
            *inner = Inner { vote: Some(*vote), matched: BTreeMap::new() };
        }
        let known = inner.matched.entry(target).or_insert(matched);
        *known = (*known).max(matched);
    }
}

/// Whether a conflict at `prev` is a loss, given what the replica had acknowledged before the RPC left.
pub fn is_loss(before: Option<LogId>, prev: Option<LogId>) -> bool {
    matches!((before, prev), (Some(before), Some(prev)) if prev.index() <= before.index())
}

#[cfg(test)]
mod tests {
    use flotilla_proto::ids::{Generation, NodeId};

    use super::*;
    use crate::types::log_id;

    #[test]
    fn only_a_conflict_below_what_the_same_leader_was_told_is_a_loss() {
        let acked = Acked::default();
        let (old, new) = (Vote::new_committed(3, 1), Vote::new_committed(5, 1));
        let to = ReplicaId::new(NodeId(2), Generation(1));
        assert!(!is_loss(acked.before(&old, to), Some(log_id(3, 9))), "nothing was acknowledged yet");
        acked.note(&old, to, Some(log_id(3, 9)));
        acked.note(&old, to, Some(log_id(3, 7)));
        assert!(is_loss(acked.before(&old, to), Some(log_id(3, 9))));
        assert!(is_loss(acked.before(&old, to), Some(log_id(2, 4))));
        assert!(!is_loss(acked.before(&old, to), Some(log_id(3, 10))), "it may be behind");
        assert!(!is_loss(acked.before(&new, to), Some(log_id(3, 9))), "a leader between may have shortened its log");
        acked.note(&new, to, Some(log_id(5, 8)));
        acked.note(&old, to, Some(log_id(3, 20)));
        assert_eq!(acked.before(&new, to), Some(log_id(5, 8)));
        assert!(!is_loss(acked.before(&new, ReplicaId::new(NodeId(2), Generation(2))), Some(log_id(5, 8))));
    }
}
