//! Frames that a node sends.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::entry::EntryFrame;
use super::error::ErrorBody;
use super::token::RevToken;
use super::wire;
use crate::entry::Role;
use crate::ids::{ConvId, ConvKind, Count, DeviceId, Hash32, MsgId, NodeId, Seq, SessionNo, TsMs, UserId};
use crate::limits;

/// One frame; `id` names the request that it answers.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerMessage {
    pub id: Option<u32>,
    pub frame: ServerFrame,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ServerFrame {
    Ready(Ready),
    Accepted(Accepted),
    Reply(Reply),
    Error(ErrorBody),
    Entry(Box<EntryFrame>),
    Gap(Gap),
    Conv(Box<Conv>),
    CaughtUp(CaughtUp),
    Signal(Signal),
    Urls(Urls),
    Goaway(Goaway),
    Ping,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ready {
    #[serde(with = "wire::session_no")]
    #[schemars(with = "String")]
    pub session: SessionNo,
    pub node: NodeId,
    pub user: UserId,
    pub device: DeviceId,
    /// Where the user's inbox stands now; the client stores its own only from `caught_up`.
    pub rev: RevToken,
    pub server_time: TsMs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_expires_at: Option<TsMs>,
    pub limits: Limits,
    #[serde(default)]
    pub urls: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<Reset>,
}

/// Why the client must drop its `rev`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reset {
    NewDevice,
    Restored,
    #[serde(other)]
    Unknown,
}

/// What the server will take on this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Limits {
    pub message_bytes: u32,
    pub body_bytes: u32,
    pub frames_per_message: u32,
    pub requests_in_flight: u32,
    pub window: u32,
    pub window_per_conv: u32,
    /// A second, on one node, ten seconds' worth at once; above it `too_many_requests`. Absent: no limit.
    #[serde(skip_serializing_if = "is_zero_u32")]
    pub sends_per_user: u32,
    #[serde(skip_serializing_if = "is_zero_u32")]
    pub sends_per_conversation: u32,
}

fn is_zero_u32(n: &u32) -> bool {
    *n == 0
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: limits::MESSAGE_BYTES_MAX as u32,
            body_bytes: limits::BODY_BYTES_MAX as u32,
            frames_per_message: limits::FRAMES_PER_MESSAGE_MAX as u32,
            requests_in_flight: limits::REQUESTS_IN_FLIGHT_MAX as u32,
            window: limits::WINDOW_ENTRIES as u32,
            window_per_conv: limits::WINDOW_ENTRIES_PER_CONV as u32,
            sends_per_user: 0,
            sends_per_conversation: 0,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Accepted {
    pub conv: ConvId,
    pub seq: Seq,
    pub msg_id: MsgId,
    pub ts: TsMs,
    pub chain: Hash32,
    /// This cid was accepted before; this is the first answer again.
    #[serde(default)]
    pub dup: bool,
}

/// The answer to `history`, `sync`, `call`, `auth`, `presence` and `receipts`. Its fields tell which it is: `entries`, `convs`, or
/// a value.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    History(HistoryReply),
    Sync(SyncReply),
    Value(serde_json::Value),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HistoryReply {
    pub entries: Vec<EntryFrame>,
    #[serde(default)]
    pub more: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SyncReply {
    pub convs: Vec<Conv>,
    pub rev: RevToken,
    #[serde(default)]
    pub more: bool,
}

/// The answer to `receipts`, which comes as a value. A conversation that is missing here follows as a `signal`: nobody can tell now,
/// or it did not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReceiptsReply {
    pub receipts: Vec<ConvReceipts>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConvReceipts {
    pub conv: ConvId,
    /// All members of a group in push mode; of other conversations nobody.
    pub members: Vec<MemberMarks>,
}

/// How far a member is, as far as it is shown. Marks never go back: the highest that was heard counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemberMarks {
    pub user: UserId,
    pub delivered: Seq,
    /// None: nothing was read, or it is not shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<Seq>,
}

/// The only way a hole can appear.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Gap {
    pub conv: ConvId,
    /// First and last seq that will not come.
    pub from: Seq,
    pub to: Seq,
    pub reason: GapReason,
    /// Restored: the chain value that the client must hold just before the gap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain_before: Option<Hash32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    Retention,
    NotAMember,
    Restored,
    #[serde(other)]
    Other,
}

/// The user's whole state of one conversation. Idempotent; sent in rev order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Conv {
    pub rev: RevToken,
    pub conv: ConvId,
    pub kind: ConvKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub head: Seq,
    #[serde(default)]
    pub n_head: Count,
    pub read: Seq,
    /// At (head, read).
    pub unread: u64,
    /// Direct conversations: the peer's watermarks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<PeerMarks>,
    /// Reserved, and not sent: how far a group's members are is watched while it is open (`receipts`).
    #[serde(default, skip_serializing_if = "wire::is_zero")]
    pub wrev: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// False once the user has left or was removed.
    pub member: bool,
    /// Seq of the last membership entry about this user.
    #[serde(default)]
    pub mseq: Seq,
    #[serde(default)]
    pub last_ts: TsMs,
    /// What the user has settled: `pinned` (since when), `muted_until`, and where they are true `archived`, `unread`,
    /// `hide_read`. None: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<serde_json::Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PeerMarks {
    pub user: UserId,
    pub delivered: Seq,
    pub read: Seq,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CaughtUp {
    pub rev: RevToken,
    /// Conversations whose shard cannot answer now; they follow.
    #[serde(default)]
    pub behind: Vec<ConvId>,
}

/// May be lost; never acked. `k`: `typing`, `presence`, `receipts`, `auth_expiring`; others may come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Signal {
    pub k: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conv: Option<ConvId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered: Option<Seq>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<Seq>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<TsMs>,
    /// Presence: online, offline, hidden, unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Receipts: those whose marks have moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<Vec<MemberMarks>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Urls {
    pub urls: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Goaway {
    pub reason: String,
    #[serde(default)]
    pub reconnect_in_ms: u64,
    #[serde(default)]
    pub urls: Vec<String>,
}
