//! What a command answers: done with something, or rejected without effect. "Unknown" is never a reply: it is what the
//! shell says when there is none.

use flotilla_proto::ids::*;
use serde::{Deserialize, Serialize};

/// The answer to an accepted `Append`; a duplicate gets the first one byte for byte, but for `dup`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    pub conv: ConvId,
    pub seq: Seq,
    pub n: Count,
    pub msg_id: MsgId,
    pub ts: TsMs,
    pub chain: Hash32,
    pub dup: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Done,
    Accepted(Accepted),
    Opened(Opened),
    LoggedIn {
        device: DeviceId,
        new: bool,
    },
    /// One per `Mark`, in order.
    Marks(Vec<MarkReply>),
    /// Rows left for a later step.
    Step {
        more: bool,
    },
    Registered {
        incarnation: Incarnation,
    },
    Replica(ReplicaId),
    Digest(Hash32),
    Rejected(Rejection),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    pub number: SessionNo,
    pub rev: Rev,
    /// The session that this one took over from, if it was still open.
    pub replaced: Option<Replaced>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub number: SessionNo,
    /// The same client process: its older connection is closed with 4007, another's with 4504.
    pub same_instance: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MarkReply {
    Done,
    /// The row is missing here, the seq lies above its known intervals, or the command was full: keep it and retry.
    Ahead,
    /// The session number is not the current one.
    StaleSession,
    /// No such device: it was revoked.
    NoDevice,
}

/// Why a command had no effect. Deterministic: the same on every replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejection {
    #[error("this shard does not own the slot")]
    Moved,
    #[error("{0}")]
    Validation(String),
    #[error("not found")]
    NotFound,
    #[error("not a member of this conversation")]
    NotMember,
    #[error("{0}")]
    Forbidden(String),
    #[error("the recipient does not accept messages from this user")]
    Blocked,
    #[error("{0}")]
    Conflict(String),
    #[error("the conversation is full")]
    ConversationFull,
    #[error("the command named by `after` is not accepted yet")]
    OutOfOrder,
    #[error("too old to tell whether it was accepted before")]
    TooOld,
    #[error("this cid was used with another content")]
    IdempotencyMismatch,
    /// To the gateway only: check at these users' shards that they exist and have room, then ask again.
    #[error("users to be checked first")]
    NeedPeers(Vec<UserId>),
    #[error("already exists")]
    Exists,
    #[error("unknown user or device")]
    Unauthenticated,
    #[error("the device was revoked")]
    Revoked,
    #[error("the install secret is not this device's")]
    WrongInstall,
    #[error("a quota of this user is used up: {0}")]
    Quota(String),
    /// The gateway's incarnation is below the fence.
    #[error("this node's incarnation is dead")]
    Fenced,
    /// A newer attempt of the same instance is open.
    #[error("superseded by a newer connection")]
    Superseded,
    /// Another instance has taken the session from this one and holds it.
    #[error("another instance has taken the session")]
    Replaced,
    /// A limit that time lifts.
    #[error("too many requests")]
    Wait { wait_ms: u64 },
}
