//! One entry of a conversation's log, and the two hashes that tie it down.
//!
//! Invariant (I11): `chain` = H(previous chain, conversation, seq, msg_id, ts, sender, device, kind, cid, body_hash) and
//! body_hash = H(cid, canonical content). Redaction empties the content and keeps both hashes. All hashes are SHA-256 over
//! length-prefixed fields behind a name and version, so no two different inputs share their bytes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::{Blob, Cid, ConvId, Count, DeviceId, Hash32, MsgId, Seq, TsMs, UserId};

/// What a member may do in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Member,
    Admin,
    Owner,
}

/// How much of a group's past a member may page that joins from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HistoryAccess {
    /// From the own join on.
    #[default]
    FromJoin,
    /// From the first entry on; applies to joins after it was set.
    Full,
}

/// The content of an entry, and of the command that asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// `kind` is "message" (countable for unread) or a name of the client's own.
    Message {
        kind: String,
        body: Blob,
        reply_to: Option<Seq>,
        mentions: Vec<UserId>,
        media: Option<String>,
    },
    Edit {
        target: Seq,
        body: Blob,
    },
    Delete {
        target: Seq,
    },
    React {
        target: Seq,
        emoji: String,
        on: bool,
    },
    /// First entry of a group: the creator is its owner, `members` join with it.
    Create {
        name: String,
        members: Vec<UserId>,
        history: HistoryAccess,
    },
    Add {
        users: Vec<UserId>,
    },
    Remove {
        user: UserId,
    },
    /// `heir` is filled in by apply where an owner left without handing over.
    Leave {
        heir: Option<UserId>,
    },
    SetRole {
        user: UserId,
        role: Role,
    },
    Rename {
        name: String,
    },
    SetHistory {
        history: HistoryAccess,
    },
}

impl What {
    /// The entry's `kind` on the client wire.
    pub fn kind(&self) -> &str {
        match self {
            What::Message { kind, .. } => kind,
            What::Edit { .. } => "edit",
            What::Delete { .. } => "delete",
            What::React { .. } => "react",
            What::Create { .. } => "create",
            What::Add { .. } => "add",
            What::Remove { .. } => "remove",
            What::Leave { .. } => "leave",
            What::SetRole { .. } => "role",
            What::Rename { .. } => "rename",
            What::SetHistory { .. } => "history",
        }
    }

    /// Names that a client may not use as the kind of a message.
    pub fn kind_is_reserved(kind: &str) -> bool {
        const RESERVED: [&str; 12] =
            ["edit", "delete", "react", "create", "add", "remove", "leave", "role", "rename", "history", "mode", "gap"];
        RESERVED.contains(&kind)
    }

    /// Counts for unread: kind "message" only.
    pub fn is_countable(&self) -> bool {
        matches!(self, What::Message { kind, .. } if kind == "message")
    }

    pub fn is_membership(&self) -> bool {
        matches!(
            self,
            What::Create { .. } | What::Add { .. } | What::Remove { .. } | What::Leave { .. } | What::SetRole { .. }
        )
    }
}

/// One entry as every replica and device sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub conv: ConvId,
    pub seq: Seq,
    /// Countable messages up to and with this entry.
    pub n: Count,
    pub msg_id: MsgId,
    pub ts: TsMs,
    pub from: UserId,
    pub device: DeviceId,
    pub cid: Cid,
    /// None once redacted.
    pub what: Option<What>,
    /// Kept beside `what`, for a redacted entry has a kind too.
    pub kind: String,
    pub body_hash: Hash32,
    pub chain: Hash32,
}

impl Entry {
    pub fn is_redacted(&self) -> bool {
        self.what.is_none()
    }

    /// The chain value that this entry must carry behind `previous`.
    pub fn chain_after(&self, previous: Hash32) -> Hash32 {
        let mut h = Fields::new(b"flotilla chain v1");
        h.bytes(&previous.0)
            .bytes(self.conv.as_str().as_bytes())
            .int(self.seq.0)
            .int(self.msg_id.0)
            .int(self.ts.0)
            .bytes(self.from.as_str().as_bytes())
            .bytes(&self.device.0.to_be_bytes())
            .bytes(self.kind.as_bytes())
            .bytes(&self.cid.0.to_be_bytes())
            .bytes(&self.body_hash.0);
        h.finish()
    }
}

/// Hash of a command's content, for dedup and for the chain. `Leave::heir` is left out: apply fills it in.
pub fn body_hash(cid: Cid, what: &What) -> Hash32 {
    let mut h = Fields::new(b"flotilla body v1");
    h.bytes(&cid.0.to_be_bytes()).bytes(what.kind().as_bytes());
    match what {
        What::Message { kind: _, body, reply_to, mentions, media } => {
            h.int(0).bytes(&body.0).int(reply_to.map_or(0, |s| s.0));
            h.int(mentions.len() as u64);
            for user in mentions {
                h.bytes(user.as_str().as_bytes());
            }
            h.bytes(media.as_deref().unwrap_or("").as_bytes());
        }
        What::Edit { target, body } => {
            h.int(1).int(target.0).bytes(&body.0);
        }
        What::Delete { target } => {
            h.int(2).int(target.0);
        }
        What::React { target, emoji, on } => {
            h.int(3).int(target.0).bytes(emoji.as_bytes()).int(u64::from(*on));
        }
        What::Create { name, members, history } => {
            h.int(4).bytes(name.as_bytes()).int(*history as u64).int(members.len() as u64);
            for user in members {
                h.bytes(user.as_str().as_bytes());
            }
        }
        What::Add { users } => {
            h.int(5).int(users.len() as u64);
            for user in users {
                h.bytes(user.as_str().as_bytes());
            }
        }
        What::Remove { user } => {
            h.int(6).bytes(user.as_str().as_bytes());
        }
        What::Leave { heir: _ } => {
            h.int(7);
        }
        What::SetRole { user, role } => {
            h.int(8).bytes(user.as_str().as_bytes()).int(*role as u64);
        }
        What::Rename { name } => {
            h.int(9).bytes(name.as_bytes());
        }
        What::SetHistory { history } => {
            h.int(10).int(*history as u64);
        }
    }
    h.finish()
}

/// SHA-256 over fields, each behind its length.
struct Fields(Sha256);

impl Fields {
    fn new(name: &[u8]) -> Self {
        let mut fields = Fields(Sha256::new());
        fields.bytes(name);
        fields
    }

    fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.0.update((value.len() as u64).to_be_bytes());
        self.0.update(value);
        self
    }

    fn int(&mut self, value: u64) -> &mut Self {
        self.0.update(value.to_be_bytes());
        self
    }

    fn finish(self) -> Hash32 {
        Hash32(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &str) -> What {
        What::Message {
            kind: "message".into(),
            body: Blob::from(body.as_bytes().to_vec()),
            reply_to: None,
            mentions: vec![],
            media: None,
        }
    }

    #[test]
    fn body_hash_covers_cid_command_and_every_field() {
        let base = body_hash(Cid(1), &message("a"));
        assert_eq!(base, body_hash(Cid(1), &message("a")));
        let others = [
            body_hash(Cid(2), &message("a")),
            body_hash(Cid(1), &message("b")),
            body_hash(Cid(1), &What::Edit { target: Seq(0), body: Blob::from(b"a".to_vec()) }),
            body_hash(Cid(1), &What::Rename { name: "a".into() }),
        ];
        assert!(others.iter().all(|h| *h != base));
    }

    #[test]
    fn every_kind_but_the_clients_own_is_reserved() {
        assert!(!What::kind_is_reserved(message("a").kind()));
        assert!(What::kind_is_reserved(What::Leave { heir: None }.kind()));
        assert!(What::kind_is_reserved(What::SetHistory { history: HistoryAccess::Full }.kind()));
    }
}
