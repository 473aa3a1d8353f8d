//! Frames that a client sends.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::token::RevToken;
use super::wire;
use crate::entry::What;
use crate::ids::{Blob, Cid, ConvId, DeviceId, Instance, Seq, UserId};

/// One frame with the id that its answer will carry.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientMessage {
    pub id: Option<u32>,
    pub frame: ClientFrame,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ClientFrame {
    Hello(Hello),
    Auth(Auth),
    Send(SendMessage),
    Edit(Edit),
    Delete(Delete),
    React(React),
    Ack(Vec<AckItem>),
    Read(AckItem),
    Typing(Typing),
    Presence(Watch),
    Receipts(WatchReceipts),
    History(History),
    Sync(SyncRequest),
    Call(Call),
    State(State),
    Pong,
}

/// First frame of a connection, within 10 s.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Hello {
    pub token: String,
    /// None: the server finds or makes the device of this `install`, where the way of authentication allows it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "wire::maybe_device::deserialize")]
    #[schemars(with = "Option<DeviceId>")]
    pub device: Option<DeviceId>,
    /// A secret made with the client's store.
    pub install: String,
    /// Random per client process.
    pub instance: Instance,
    /// Rises with every connection of this instance.
    #[serde(default)]
    pub attempt: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rev: Option<RevToken>,
    #[serde(default)]
    pub client: ClientInfo,
    /// Unacked entries that the client will take; the server's own bound is the ceiling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
    #[serde(default)]
    pub state: Activity,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ClientInfo {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub version: String,
    #[serde(default)]
    pub platform: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    #[default]
    Active,
    Background,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Auth {
    pub token: String,
}

/// A message. Exactly one of `conv` and `to`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SendMessage {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conv: Option<ConvId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<UserId>,
    pub cid: Cid,
    /// Seconds since the first attempt; on a retry only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_s: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Cid>,
    #[serde(default = "message")]
    pub kind: String,
    #[serde(default)]
    pub body: Blob,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mentions: Vec<UserId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<Seq>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media: Option<String>,
}

fn message() -> String {
    "message".to_owned()
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Edit {
    pub conv: ConvId,
    pub seq: Seq,
    pub cid: Cid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_s: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Cid>,
    #[serde(default)]
    pub body: Blob,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Delete {
    pub conv: ConvId,
    pub seq: Seq,
    pub cid: Cid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_s: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Cid>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct React {
    pub conv: ConvId,
    pub seq: Seq,
    pub cid: Cid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_s: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Cid>,
    pub emoji: String,
    /// Set or taken back.
    #[serde(default = "yes")]
    pub on: bool,
}

fn yes() -> bool {
    true
}

/// A position: of an `ack` (cumulative), of a `read`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AckItem {
    pub conv: ConvId,
    pub seq: Seq,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Typing {
    pub conv: ConvId,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Watch {
    #[serde(default)]
    pub watch: Vec<UserId>,
}

/// At most 8 conversations. The list replaces the one before it; an empty one ends it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WatchReceipts {
    #[serde(default)]
    pub watch: Vec<ConvId>,
}

/// One of `before`, `after`, `around`; none: the newest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct History {
    pub conv: ConvId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Seq>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Seq>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub around: Option<Seq>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct SyncRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rev: Option<RevToken>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Any REST operation over the socket: `method` like `POST groups`, `params` its JSON body and query (JSON values in both
/// encodings; bytes inside are base64url text).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Call {
    pub method: String,
    /// The request's `Idempotency-Key`; needed by every POST.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Cid>,
    #[serde(default)]
    pub params: serde_json::Value,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct State {
    pub state: Activity,
}

/// What `send`, `edit`, `delete` and `react` have in common: one entry asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandFrame {
    pub target: Target,
    pub cid: Cid,
    pub age_s: u64,
    pub after: Option<Cid>,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    Conv(ConvId),
    /// The direct conversation with this user.
    User(UserId),
}

impl Target {
    pub fn conv_for(&self, sender: &UserId) -> ConvId {
        match self {
            Target::Conv(conv) => conv.clone(),
            Target::User(user) => ConvId::direct(sender, user),
        }
    }
}

impl ClientFrame {
    /// The entry that this frame asks for; none for other frames, and for a `send` without exactly one target.
    pub fn command(&self) -> Option<CommandFrame> {
        Some(match self {
            ClientFrame::Send(f) => CommandFrame {
                target: match (&f.conv, &f.to) {
                    (Some(conv), None) => Target::Conv(conv.clone()),
                    (None, Some(to)) => Target::User(to.clone()),
                    _ => return None,
                },
                cid: f.cid,
                age_s: f.age_s.unwrap_or(0),
                after: f.after,
                what: What::Message {
                    kind: f.kind.clone(),
                    body: f.body.clone(),
                    reply_to: f.reply_to,
                    mentions: f.mentions.clone(),
                    media: f.media.clone(),
                },
            },
            ClientFrame::Edit(f) => CommandFrame {
                target: Target::Conv(f.conv.clone()),
                cid: f.cid,
                age_s: f.age_s.unwrap_or(0),
                after: f.after,
                what: What::Edit { target: f.seq, body: f.body.clone() },
            },
            ClientFrame::Delete(f) => CommandFrame {
                target: Target::Conv(f.conv.clone()),
                cid: f.cid,
                age_s: f.age_s.unwrap_or(0),
                after: f.after,
                what: What::Delete { target: f.seq },
            },
            ClientFrame::React(f) => CommandFrame {
                target: Target::Conv(f.conv.clone()),
                cid: f.cid,
                age_s: f.age_s.unwrap_or(0),
                after: f.after,
                what: What::React { target: f.seq, emoji: f.emoji.clone(), on: f.on },
            },
            _ => return None,
        })
    }
}
