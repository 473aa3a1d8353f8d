//! The `entry` frame: one entry of the log as a client sees it, and back, so that a client can check hash and chain.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::wire;
use crate::entry::{Entry, HistoryAccess, Role, What};
use crate::ids::{Blob, Cid, ConvId, Count, DeviceId, Hash32, MsgId, Seq, TsMs, UserId};

/// Durable; in `seq` order per conversation; sent again until acked. What is set beside the fixed fields depends on `kind`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EntryFrame {
    pub conv: ConvId,
    pub seq: Seq,
    pub n: Count,
    pub msg_id: MsgId,
    pub ts: TsMs,
    pub from: UserId,
    pub device: DeviceId,
    pub cid: Cid,
    pub kind: String,
    pub body_hash: Hash32,
    pub chain: Hash32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Blob>,
    /// The sending connection has the content already.
    #[serde(default, skip_serializing_if = "wire::is_false")]
    pub echo: bool,
    /// The content is gone; its hash stays.
    #[serde(default, skip_serializing_if = "wire::is_false")]
    pub redacted: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<Seq>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mentions: Vec<UserId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media: Option<String>,
    /// edit, delete, react: the entry that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Seq>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emoji: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<bool>,
    /// create, rename.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// create: who joins with it, the creator aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<Vec<UserId>>,
    /// add.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<Vec<UserId>>,
    /// remove, role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// leave of an owner: who owns the group now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heir: Option<UserId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<HistoryAccess>,
}

impl EntryFrame {
    /// The whole entry.
    pub fn of(entry: &Entry) -> Self {
        let mut frame = Self::bare(entry);
        match &entry.what {
            None => frame.redacted = true,
            Some(what) => frame.fill(what),
        }
        frame
    }

    /// Without content, for the connection that sent it.
    pub fn echo_of(entry: &Entry) -> Self {
        if entry.what.is_none() {
            return Self::of(entry);
        }
        let mut frame = Self::bare(entry);
        frame.echo = true;
        frame
    }

    fn bare(entry: &Entry) -> Self {
        Self {
            conv: entry.conv.clone(),
            seq: entry.seq,
            n: entry.n,
            msg_id: entry.msg_id,
            ts: entry.ts,
            from: entry.from.clone(),
            device: entry.device,
            cid: entry.cid,
            kind: entry.kind.clone(),
            body_hash: entry.body_hash,
            chain: entry.chain,
            body: None,
            echo: false,
            redacted: false,
            reply_to: None,
            mentions: Vec::new(),
            media: None,
            target: None,
            emoji: None,
            on: None,
            name: None,
            members: None,
            users: None,
            user: None,
            role: None,
            heir: None,
            history: None,
        }
    }

    /// Puts the content into an echo, from the command that the client sent.
    pub fn fill_echo(&mut self, what: &What) {
        if self.echo {
            self.echo = false;
            self.fill(what);
        }
    }

    fn fill(&mut self, what: &What) {
        match what.clone() {
            What::Message { kind: _, body, reply_to, mentions, media } => {
                (self.body, self.reply_to, self.mentions, self.media) = (Some(body), reply_to, mentions, media);
            }
            What::Edit { target, body } => (self.target, self.body) = (Some(target), Some(body)),
            What::Delete { target } => self.target = Some(target),
            What::React { target, emoji, on } => {
                (self.target, self.emoji, self.on) = (Some(target), Some(emoji), Some(on));
            }
            What::Create { name, members, history } => {
                (self.name, self.members, self.history) = (Some(name), Some(members), Some(history));
            }
            What::Add { users } => self.users = Some(users),
            What::Remove { user } => self.user = Some(user),
            What::Leave { heir } => self.heir = heir,
            What::SetRole { user, role } => (self.user, self.role) = (Some(user), Some(role)),
            What::Rename { name } => self.name = Some(name),
            What::SetHistory { history } => self.history = Some(history),
        }
    }

    /// The content; none for an echo, a redacted entry, or one whose fields do not fit its kind.
    pub fn what(&self) -> Option<What> {
        if self.echo || self.redacted {
            return None;
        }
        Some(match self.kind.as_str() {
            "edit" => What::Edit { target: self.target?, body: self.body.clone()? },
            "delete" => What::Delete { target: self.target? },
            "react" => What::React { target: self.target?, emoji: self.emoji.clone()?, on: self.on? },
            "create" => What::Create {
                name: self.name.clone()?,
                members: self.members.clone()?,
                history: self.history.unwrap_or_default(),
            },
            "add" => What::Add { users: self.users.clone()? },
            "remove" => What::Remove { user: self.user.clone()? },
            "leave" => What::Leave { heir: self.heir.clone() },
            "role" => What::SetRole { user: self.user.clone()?, role: self.role? },
            "rename" => What::Rename { name: self.name.clone()? },
            "history" => What::SetHistory { history: self.history? },
            _ => What::Message {
                kind: self.kind.clone(),
                body: self.body.clone()?,
                reply_to: self.reply_to,
                mentions: self.mentions.clone(),
                media: self.media.clone(),
            },
        })
    }

    /// The entry that this frame was made of; of an echo all but the content, as of a redacted one.
    pub fn to_entry(&self) -> Entry {
        Entry {
            conv: self.conv.clone(),
            seq: self.seq,
            n: self.n,
            msg_id: self.msg_id,
            ts: self.ts,
            from: self.from.clone(),
            device: self.device,
            cid: self.cid,
            what: self.what(),
            kind: self.kind.clone(),
            body_hash: self.body_hash,
            chain: self.chain,
        }
    }
}
