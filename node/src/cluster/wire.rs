//! What nodes ask of each other beside Raft itself: requests, answers and one-way pushes.
//!
//! Invariant: one version byte for all of it; a request names its shard, and only that shard's leader does it.

use std::sync::LazyLock;

use bytes::Bytes;
use flotilla_machine::command::{ClientLimits, KeyRow, LimitName, NodeInfo, Settings};
use flotilla_machine::effect::Ended;
use flotilla_machine::query::{
    ControlState, DirtyItem, InboxRow, MarksOf, MarksView, SessionNews, SessionSince, Standing,
};
use flotilla_machine::{Answer, Query, Reply};
use flotilla_proto::codec::{self, CodecError};
use flotilla_proto::entry::Entry;
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_proto::slots::SlotTable;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Version of every message of this module.
pub const WIRE_VERSION: u8 = 2;

/// The kind bytes under which the peer transport carries these.
pub const KIND_NODE: u8 = 16;
/// On the join lane: before a cluster exists, and for tools.
pub const KIND_ADMIN: u8 = 240;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum NodeRequest {
    /// Propose an encoded command in a shard. `lane`: the slot of the conversation or user that it concerns.
    Execute { shard: ShardId, lane: Option<Slot>, command: Bytes },
    /// Read a shard at its leader, behind a ReadIndex if asked for.
    Query { shard: ShardId, query: Query, linearizable: bool },
    /// News of conversations for users of a shard; answered when durable there.
    Notify { shard: ShardId, items: Vec<DirtyItem> },
    /// Lease renewal and table watch, to the control leader.
    Renew { node: NodeId, incarnation: Incarnation, version: u64 },
    /// A gateway presents its sessions of a shard and asks what it may have missed.
    Present { shard: ShardId, node: NodeId, incarnation: Incarnation, sessions: Vec<SessionSince> },
    /// What the first of each pair sees of the second, a user of this shard; the asking gateway is told of changes.
    Watch { shard: ShardId, pairs: Vec<(UserId, UserId)> },

    // Later additions: variants are numbered by position.
    /// A gateway subscribes, or subscribes on, to conversations in pull mode, and asks where its users stand. Only sent where
    /// there are any (`PULL_LEVEL`).
    Subscribe { shard: ShardId, subscriptions: Vec<Subscription> },
    /// A gateway asks how far members are, and to be told of changes, for these watchers. A build that does not know it refuses:
    /// then nobody can tell.
    WatchReceipts { shard: ShardId, watched: Vec<Subscription> },
}

/// One conversation that sessions of the asking gateway hear of, in pull mode or of members' marks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    pub conv: ConvId,
    /// Whose standing is asked for; of marks, who watches.
    pub users: Vec<UserId>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum NodeReply {
    Done,
    Reply(Reply),
    Answer(Answer),
    Renewed {
        state: Option<ControlState>,
    },
    Presented {
        stream: StreamPosition,
        news: Vec<SessionNews>,
    },
    Failed(Failure),
    /// One per subscription, in order; none: no such conversation.
    Subscribed {
        stream: StreamPosition,
        standings: Vec<Option<Standing>>,
    },
    /// One per watched conversation, in order; none: no such conversation.
    Marks {
        views: Vec<Option<MarksView>>,
    },
}

/// Why a node did not do what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    /// Proof that nothing was appended: this node does not lead the shard (now).
    #[error("not the leader")]
    NotLeader { leader: Option<NodeId> },
    /// Proof that nothing was appended: too much waits.
    #[error("overloaded")]
    Overloaded,
    /// It may have happened.
    #[error("outcome unknown")]
    Unknown,
    /// The presented incarnation is not the node's current one.
    #[error("incarnation unknown")]
    IncarnationUnknown,
    #[error("not ready")]
    NotReady,
    #[error("malformed request")]
    Malformed,
}

/// Where a (shard leader, gateway) stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct StreamPosition {
    pub term: u64,
    /// Number of the last push frame sent.
    pub n: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum NodeCast {
    Push(PushFrame),
    /// All streams of one node pair share one keepalive.
    /// `incarnation` is the receiver's as the sender's tables know it; `wall` is the sender's clock, to be compared.
    Keepalive {
        incarnation: Incarnation,
        wall: TsMs,
        streams: Vec<(ShardId, StreamPosition)>,
    },
    /// The control tables have this version now: fetch them.
    ControlChanged {
        version: u64,
    },
    /// With every keepalive while the sender's disk is nearly full, and once when it is not any more.
    Disk {
        low: bool,
    },
    /// Nobody at the sender watches these users of a shard that the receiver leads.
    Unwatch {
        shard: ShardId,
        users: Vec<UserId>,
    },
    /// `user` types in `conv`: to the leader of the conversation's shard.
    Typing {
        shard: ShardId,
        conv: ConvId,
        user: UserId,
    },
    /// To the leader of the members' shard.
    TypingFor {
        shard: ShardId,
        conv: ConvId,
        user: UserId,
        members: Vec<UserId>,
    },
    /// To the gateway of these sessions.
    Typed {
        conv: ConvId,
        user: UserId,
        sessions: Vec<PushTo>,
    },
    /// These members' marks have moved, and these of the receiver's watchers may know it.
    Receipts {
        conv: ConvId,
        watchers: Vec<UserId>,
        marks: Vec<MarksOf>,
    },
}

/// One numbered frame of a stream.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PushFrame {
    pub shard: ShardId,
    pub position: StreamPosition,
    pub items: Vec<PushItem>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum PushItem {
    /// Committed news of one conversation for sessions of one gateway.
    Head {
        conv: ConvId,
        entries: Vec<Entry>,
        sessions: Vec<PushHead>,
    },
    Conv {
        conv: ConvId,
        rev: Rev,
        sessions: Vec<PushTo>,
    },
    End {
        to: PushTo,
        why: Ended,
    },
    /// These users may have come or gone.
    Presence {
        users: Vec<UserId>,
    },
    /// Entries of a conversation in pull mode, contiguous, to a gateway that has subscribed.
    Pulled {
        conv: ConvId,
        entries: Vec<Entry>,
    },
    /// As `Conv`, with the row as it is for this session's device. From feature level `ROWS_PUSHED_LEVEL` on.
    Row {
        to: PushTo,
        row: InboxRow,
        revs: Vec<Rev>,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PushTo {
    pub device: DeviceId,
    pub number: SessionNo,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PushHead {
    pub to: PushTo,
    /// The head as this session's user may see it.
    pub head: Seq,
    pub n_head: Count,
    /// Of the entries that come along only those from here on are this user's: the others may have been said between two
    /// of its stays.
    pub from: Seq,
    /// Once the head is durable in the user's row: the row's revs that this head and the ones below it made.
    pub revs: Vec<Rev>,
}

/// Requests of an operator's tool, before and after a cluster exists.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum AdminRequest {
    Describe,
    /// The first tables of a cluster. Adopting the same plan twice is harmless, another one is refused.
    Adopt {
        plan: Plan,
        secret: [u8; 32],
        /// Set if the cluster lives already: the boot number that it has seen of this node. Whatever replicas it was
        /// given are lost, and it gets new ones.
        returning: Option<u64>,
    },
    /// To a node of a cluster that lives: has another one, whose directory is empty, adopt the cluster again. The
    /// secret goes to that node's registered address only.
    Readmit {
        node: NodeId,
    },
    Status,
    /// Of this node's replica, as applied now. For checkers.
    Digest {
        shard: ShardId,
    },
    /// Changes limits on clients in the whole cluster (none: back to each node's own), and says what is set then.
    Limits {
        changes: Vec<(LimitName, Option<u32>)>,
    },
    /// The level that this node knows and the one that the cluster is at.
    Level,
    /// Raises the level of the cluster, if every node of it knows it.
    RaiseLevel {
        level: u32,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "a tool sends a handful of them")]
pub enum AdminReply {
    Description(Description),
    Adopted,
    Status(Box<NodeStatus>),
    Digest { index: u64, digest: Hash32 },
    Refused(String),
    Limits(ClientLimits),
    Level { known: u32, cluster: u32 },
}

/// One node as an operator sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeStatus {
    pub node: NodeInfo,
    pub boot: u64,
    pub incarnation: Incarnation,
    pub ready: bool,
    pub tables_version: u64,
    pub sessions: u64,
    pub groups: Vec<GroupStatus>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GroupStatus {
    pub shard: ShardId,
    pub replica: ReplicaId,
    pub leader: Option<ReplicaId>,
    pub term: u64,
    pub last_log: u64,
    pub committed: u64,
    pub applied: u64,
    pub snapshot: u64,
    pub purged: u64,
    pub voters: Vec<ReplicaId>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Description {
    pub node: NodeInfo,
    pub plan: Option<Plan>,
    /// The cluster's secret, beside the plan: so that an `init` that failed half-way can go on. Never told once the
    /// cluster lives.
    pub secret: Option<[u8; 32]>,
    /// The cluster may have accepted something, as far as this node knows: nobody is a founder any more.
    pub lives: bool,
    /// The boot numbers that the cluster has seen.
    pub boots: Vec<(NodeId, u64)>,
    pub ready: bool,
}

/// What `init` mints, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub cluster: ClusterId,
    pub epoch: Epoch,
    pub slots: SlotTable,
    pub settings: Settings,
    pub nodes: Vec<NodeInfo>,
    /// Shard 0 is the control group.
    pub placement: Vec<(ShardId, Vec<ReplicaId>)>,
    pub keys: Vec<KeyRow>,
}

/// Whether a request is answered only after a wait that is meant: see [`super::heads`].
pub fn is_patient(request: &[u8]) -> bool {
    static NOTIFY: LazyLock<Option<u32>> = LazyLock::new(|| {
        let bytes = encode(&NodeRequest::Notify { shard: ShardId(0), items: vec![] }).ok()?;
        codec::variant(WIRE_VERSION, &bytes)
    });
    NOTIFY.is_some() && codec::variant(WIRE_VERSION, request) == *NOTIFY
}

pub fn encode<T: Serialize>(value: &T) -> Result<Bytes, CodecError> {
    codec::encode(WIRE_VERSION, value)
}

pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    codec::decode(WIRE_VERSION, bytes, limits::PEER_FRAME_BYTES_MAX)
}
