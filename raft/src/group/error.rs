//! The outcomes of a group's operations: done, not done, unknown. Here openraft's errors are sorted into them.

use flotilla_proto::ids::ReplicaId;
use openraft::errors::{ClientWriteError, ForwardToLeader, LinearizableReadError, RaftError};

use crate::log::OpenError;
use crate::state::StateError;
use crate::types::TypeConfig;

/// Why a proposal has no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// A proof that nothing was appended: the command may be sent to another node.
    #[error("this node does not lead the group (leader: {leader:?})")]
    NotLeader { leader: Option<ReplicaId> },
    /// Nothing was appended: too much waits already.
    #[error("too many commands wait for this group")]
    Overloaded,
    /// It may have happened, or may still happen: retry with the same key.
    #[error("the outcome is unknown: retry with the same key")]
    Unknown,
    /// Nothing was appended: the group is not running here any more.
    #[error("this replica has stopped")]
    Stopped,
}

/// Why a read cannot be served here now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("this node does not lead the group (leader: {leader:?})")]
    NotLeader { leader: Option<ReplicaId> },
    #[error("no quorum has confirmed the leadership in time")]
    NoQuorum,
    #[error("too many reads wait for this group")]
    Overloaded,
    #[error("this replica has stopped")]
    Stopped,
}

/// Why a change of the membership is not known to be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    #[error("this node does not lead the group (leader: {leader:?})")]
    NotLeader { leader: Option<ReplicaId> },
    /// Refused before anything was appended.
    #[error("refused: {0}")]
    Refused(String),
    #[error("the outcome is unknown: look at the committed membership")]
    Unknown,
    #[error("this replica has stopped")]
    Stopped,
}

/// Why a replica cannot start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Damaged(#[from] Damaged),
    #[error(transparent)]
    Storage(#[from] flotilla_storage::StorageError),
    #[error("the settings are not valid: {0}")]
    Config(String),
    #[error("raft refused to start: {0}")]
    Raft(String),
}

impl StartError {
    /// The replica must come back under a new generation.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged(_))
    }
}

/// Stored data that is not what was written. Either way the replica leaves its group and comes back as a learner of a
/// new generation: rebuilt under the same id it could elect a leader without an accepted entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damaged {
    /// The replica may have promised what it no longer knows: it must not vote.
    #[error("log or vote: {what}")]
    Log { what: String },
    /// Log and vote are whole, but the log does not reach back far enough to rebuild the state from it.
    #[error("state: {what}; the log does not reach back to its beginning")]
    State { what: String },
}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Damaged { what } => Self::Damaged(Damaged::Log { what }),
            OpenError::Storage(error) => Self::Storage(error),
        }
    }
}

impl From<StateError> for StartError {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Damaged { what } => Self::Damaged(Damaged::State { what }),
            StateError::Storage(error) => Self::Storage(error),
        }
    }
}

/// The leader that an error names, unless it is `own`: then its term has just changed, and nobody better is known.
fn named_leader(forward: &ForwardToLeader<TypeConfig>, own: ReplicaId) -> Option<ReplicaId> {
    forward.leader_id.map(ReplicaId::from_raft).filter(|leader| *leader != own)
}

/// Only a refusal before the append proves that nothing happened; everything later is unknown.
pub(super) fn propose_error(error: &ClientWriteError<TypeConfig>, own: ReplicaId) -> ProposeError {
    match error {
        ClientWriteError::ForwardToLeader(forward) => ProposeError::NotLeader { leader: named_leader(forward, own) },
        ClientWriteError::LogEntryDiscarded(_)
        | ClientWriteError::ChangeMembershipError(_)
        | ClientWriteError::PreconditionFailed(_) => ProposeError::Unknown,
    }
}

pub(super) fn membership_error(
    error: &RaftError<TypeConfig, ClientWriteError<TypeConfig>>,
    own: ReplicaId,
) -> MembershipError {
    match error {
        RaftError::Fatal(_) => MembershipError::Stopped,
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            MembershipError::NotLeader { leader: named_leader(forward, own) }
        }
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => MembershipError::Unknown,
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
            MembershipError::Refused(error.to_string())
        }
        RaftError::APIError(ClientWriteError::PreconditionFailed(error)) => MembershipError::Refused(error.to_string()),
    }
}

pub(super) fn read_error(
    error: &RaftError<TypeConfig, LinearizableReadError<TypeConfig>>,
    own: ReplicaId,
) -> ReadError {
    match error {
        RaftError::Fatal(_) => ReadError::Stopped,
        RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => {
            ReadError::NotLeader { leader: named_leader(forward, own) }
        }
        RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => ReadError::NoQuorum,
    }
}
