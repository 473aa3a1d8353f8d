//! Every command that a shard's log may hold.
//!
//! Invariant: a command carries all that `apply` needs; nothing is read from a clock, a random source or a file.
//! The encoding is versioned; a replica that cannot decode a command stops (skipping it would diverge), so a newer one is
//! proposed only in a cluster of its level.

use std::sync::LazyLock;

use bytes::Bytes;
use flotilla_proto::codec::{self, CodecError};
use flotilla_proto::entry::What;
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_proto::member::MembershipPart;
use flotilla_proto::slots::SlotTable;
use serde::{Deserialize, Serialize};

pub use crate::control::client_limits::{ClientLimits, LimitName};

/// Version byte in front of every encoded command.
pub const COMMAND_VERSION: u8 = 1;

/// Time as the leader stamped it on one proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stamp {
    /// The leader's own monotonic time since its previous stamp; 0 for the first of a term.
    pub age_delta_ms: u64,
    /// The wall clock to show, already bounded by the median rule; apply takes max(old, this).
    pub display: TsMs,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Nothing but the stamp.
    Tick,

    // Conversation side, routed by the conversation's slot.
    Append(Append),
    /// Watermarks that a user shard owes to conversations.
    Receipts(Vec<Receipt>),
    /// A target user shard has durably taken these heads and membership parts.
    ClearDirty {
        target: ShardId,
        items: Vec<ClearDirty>,
    },
    /// A target user shard has durably taken these peer watermarks; users as in its `PeerMarks`.
    ClearReceiptDirty {
        items: Vec<ClearReceipt>,
    },
    /// Evict dedup rows older than the window by the age clock, at most `limit` of them.
    EvictDedup {
        limit: u32,
    },

    // User side, routed by the user's slot.
    Register(Register),
    /// Adds a device, or finds the one with the same `install`; starts a token family either way.
    Login(Login),
    RotateToken(RotateToken),
    /// Ends the device's token family and closes its session.
    Logout {
        user: UserId,
        device: DeviceId,
    },
    /// Ends the device for ever: cursors go, its session is closed with 4505.
    RevokeDevice {
        user: UserId,
        device: DeviceId,
        request: Cid,
    },
    RenameDevice {
        user: UserId,
        device: DeviceId,
        name: String,
    },
    SetPassword {
        user: UserId,
        phc: String,
        request: Cid,
    },
    OpenSession(OpenSession),
    CloseSession {
        user: UserId,
        device: DeviceId,
        number: SessionNo,
    },
    /// Heads (and membership parts) of conversations for the users of this shard. At most
    /// `NOTIFY_USERS_PER_COMMAND_MAX` (conversation, user) pairs: cut longer ones with `user::split_notify`.
    Notify(Vec<Notify>),
    Marks(Vec<Mark>),
    /// The peer's watermarks of a direct conversation.
    PeerMarks(Vec<Receipt>),
    /// The conversation has durably taken these watermarks.
    ClearReceiptDue {
        items: Vec<ClearReceipt>,
    },

    // Every shard, fanned out from the control group.
    /// Sessions of `node` below this incarnation are dead: refuse new ones and sweep, at most `limit` rows a step.
    Fence {
        node: NodeId,
        lowest: Incarnation,
        limit: u32,
    },
    /// Continue a sweep that an earlier `Fence` could not finish.
    StepJob {
        limit: u32,
    },
    SetSlots(SlotTable),
    SetSettings(Settings),

    // Control group only.
    Control(Control),

    /// Writes the digest of all replicated tables at this index into the reply. Asked for by checkers.
    Digest,

    // Later additions: variants are numbered by position, and proposed only from their feature level on (`Command::level`).
    /// User side. The outcome of an `OpenSession` is not known and nobody waits for it: this attempt of the instance, and
    /// older ones, hold no session, also if the open comes later.
    WithdrawSession {
        user: UserId,
        device: DeviceId,
        instance: Instance,
        attempt: u64,
    },
    /// User side. Who may see whether this user is here, and when it was.
    SetPrivacy {
        user: UserId,
        presence: Audience,
    },
    /// User side. Keeps `contact` among the user's contacts under a name of its own, or (no name) no more.
    SetContact {
        user: UserId,
        contact: UserId,
        name: Option<String>,
    },
    /// User side. What a user settles about one conversation, for itself.
    SetConv {
        user: UserId,
        conv: ConvId,
        change: ConvChange,
    },
    /// User side. What a user says of itself; none: stays.
    SetProfile {
        user: UserId,
        name: Option<String>,
        avatar: Option<String>,
        about: Option<String>,
    },
    /// User side. `user` wants (or wants no more) that `peer` cannot write to it directly.
    SetBlock {
        user: UserId,
        peer: UserId,
        on: bool,
        request: Cid,
    },
    /// Conversation side. `user` may not write into this direct conversation, or may again.
    SetBlocked {
        conv: ConvId,
        user: UserId,
        on: bool,
    },
    /// User side. The conversation's shard has taken what `request` wanted.
    BlockSettled {
        user: UserId,
        peer: UserId,
        request: Cid,
    },
    /// User side. A device that has registered takes its place in conversations in pull mode: at these heads, which were read at
    /// the conversations' leaders after the registration. One that has a place there keeps it.
    PlaceDevice {
        user: UserId,
        device: DeviceId,
        places: Vec<PulledHead>,
    },
    /// Every shard. From how many members on a group is in pull mode, and back.
    SetPullRule(PullRule),
    /// User side. A one-time code, by its hash under a key of the cluster, was sent to the address that this user is of.
    IssueCode {
        user: UserId,
        code: Hash32,
        request: Cid,
    },
    /// User side. Logs in by such a code, with an account made on the way; a wrong one counts.
    UseCode {
        code: Hash32,
        request: Cid,
        login: Login,
    },
    /// User side. Who may see this user's presence, and whether read marks are hidden in all its conversations; none: stays.
    ChangePrivacy {
        user: UserId,
        presence: Option<Audience>,
        hide_read: Option<bool>,
    },
}

/// A conversation's head as its leader has told it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PulledHead {
    pub conv: ConvId,
    pub head: Seq,
    pub n_head: Count,
}

/// A group with more than `above` members is in pull mode until it has fewer than `below`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullRule {
    pub version: u64,
    pub above: u32,
    pub below: u32,
}

impl Default for PullRule {
    fn default() -> Self {
        Self { version: 0, above: limits::PUSH_MEMBERS_MAX, below: limits::PUSH_MEMBERS_BACK }
    }
}

/// What a user has settled about one conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConvSettings {
    /// Since when it is pinned.
    pub pinned: Option<TsMs>,
    /// Until when it is muted.
    pub muted_until: Option<TsMs>,
    pub archived: bool,
    /// Marked as unread, whatever the read mark says.
    pub unread: bool,
    /// Read marks are not shown to others.
    pub hide_read: bool,
}

/// What changes of it; none: stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConvChange {
    pub pinned: Option<bool>,
    /// 0: not muted.
    pub muted_until: Option<TsMs>,
    pub archived: Option<bool>,
    pub unread: Option<bool>,
    pub hide_read: Option<bool>,
}

impl ConvSettings {
    /// What is pinned already stays where it is.
    pub fn changed(self, change: &ConvChange, now: TsMs) -> Self {
        Self {
            pinned: match change.pinned {
                Some(true) => self.pinned.or(Some(now)),
                Some(false) => None,
                None => self.pinned,
            },
            muted_until: change.muted_until.or(self.muted_until).filter(|until| until.0 > 0),
            archived: change.archived.unwrap_or(self.archived),
            unread: change.unread.unwrap_or(self.unread),
            hide_read: change.hide_read.unwrap_or(self.hide_read),
        }
    }
}

/// Who may see something of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    #[default]
    Everyone,
    /// Those whom the user has among its contacts.
    Contacts,
    Nobody,
}

impl Command {
    pub fn encode(&self) -> Result<Bytes, CodecError> {
        codec::encode(COMMAND_VERSION, self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(COMMAND_VERSION, bytes, limits::COMMAND_BYTES_MAX)
    }

    /// Whether an encoded command asks for a new entry.
    pub fn is_append(bytes: &[u8]) -> bool {
        // By its place, which never changes.
        const APPEND: u32 = 1;
        codec::variant(COMMAND_VERSION, bytes) == Some(APPEND)
    }

    /// Whether an encoded command is a shard's own work, driven by rows: no person waits for its reply, so it may wait a
    /// moment for other commands.
    pub fn is_patient(bytes: &[u8]) -> bool {
        static PATIENT: LazyLock<Vec<u32>> = LazyLock::new(|| {
            let patient = [
                Command::Notify(vec![]),
                Command::ClearDirty { target: ShardId(0), items: vec![] },
                Command::Marks(vec![]),
                Command::Receipts(vec![]),
                Command::ClearReceiptDue { items: vec![] },
                Command::PeerMarks(vec![]),
                Command::ClearReceiptDirty { items: vec![] },
            ];
            let encoded = patient.iter().filter_map(|command| command.encode().ok());
            encoded.filter_map(|bytes| codec::variant(COMMAND_VERSION, &bytes)).collect()
        });
        codec::variant(COMMAND_VERSION, bytes).is_some_and(|variant| PATIENT.contains(&variant))
    }
}

/// One entry asked for by a client: a message, an edit, a reaction, or a change of the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Append {
    pub conv: ConvId,
    pub sender: UserId,
    pub device: DeviceId,
    pub cid: Cid,
    /// Time since the first attempt, on a retry; 0 on the first.
    pub age_ms: u64,
    /// Apply only if this cid of the same sender is in dedup.
    pub after: Option<Cid>,
    /// The users that the gateway has found to exist at their own shards (the peer of a direct conversation's first
    /// entry, joining members). Others that are not members yet are refused with `NeedPeers`.
    pub checked: Vec<UserId>,
    pub what: What,
}

/// `user`'s watermarks in `conv`, both monotone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Whose row it changes: in `Receipts` the reader's own, in `PeerMarks` the peer's.
    pub user: UserId,
    pub conv: ConvId,
    pub delivered: Seq,
    pub read: Seq,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClearDirty {
    pub conv: ConvId,
    /// The head that the target answered for.
    pub head: Seq,
    /// The highest `mseq` whose parts the target answered for.
    pub parts: Seq,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClearReceipt {
    pub user: UserId,
    pub conv: ConvId,
    pub delivered: Seq,
    pub read: Seq,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    pub user: UserId,
    /// Argon2id in PHC form, computed outside of apply. Empty for a demo user.
    pub phc: String,
    pub request: Cid,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    pub user: UserId,
    /// SHA-256 of the secret of the client's store.
    pub install: Hash32,
    /// Random, from the gateway; used only if the install is new.
    pub device: DeviceId,
    pub name: String,
    /// SHA-256 of the first refresh token of the new family.
    pub refresh: Hash32,
    /// Register the user on the way if missing (demo users only).
    pub create: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotateToken {
    pub user: UserId,
    pub device: DeviceId,
    pub presented: Hash32,
    pub next: Hash32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSession {
    pub user: UserId,
    pub device: DeviceId,
    pub install: Hash32,
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub instance: Instance,
    pub attempt: u64,
}

/// One conversation's news for some users of one shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notify {
    pub conv: ConvId,
    pub head: Seq,
    pub n_head: Count,
    pub last_id: MsgId,
    pub last_ts: TsMs,
    pub users: Vec<NotifyUser>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotifyUser {
    pub user: UserId,
    /// n of the user's latest own message.
    pub n_sent: Count,
    /// Present while a membership part is owed.
    pub part: Option<MembershipPart>,
}

/// An ack or read of one device. `read` none: an ack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub user: UserId,
    pub device: DeviceId,
    /// The current session's, or [`Mark::SESSIONLESS`].
    pub number: SessionNo,
    pub conv: ConvId,
    pub kind: MarkKind,
    pub seq: Seq,
    /// The countable n at `seq`.
    pub n: Count,
    /// The committed head that the gateway knows; merged by max before the mark moves.
    pub head: Seq,
    pub n_head: Count,
}

impl Mark {
    /// An ack over HTTP: the gateway has verified the `upto` token instead of a session. No session has this number.
    pub const SESSIONLESS: SessionNo = SessionNo(0);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MarkKind {
    Ack,
    Read,
}

/// Settings of the cluster, as state. Reserved: changed at run time later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub version: u64,
    pub feature_level: u32,
    pub group_members_max: u32,
    pub body_bytes_max: u32,
    pub dedup_window_ms: u64,
    pub devices_per_user_max: u32,
    pub conversations_per_user_max: u32,
}

impl Settings {
    /// Those of a new cluster at this level.
    pub fn at_level(feature_level: u32) -> Self {
        Self { feature_level, group_members_max: crate::meta::members_max(feature_level), ..Self::default() }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            version: 1,
            feature_level: limits::FEATURE_LEVEL,
            group_members_max: limits::LARGE_MEMBERS_MAX as u32,
            body_bytes_max: limits::BODY_BYTES_MAX as u32,
            dedup_window_ms: limits::DEDUP_WINDOW_MS,
            devices_per_user_max: limits::DEVICES_PER_USER_MAX as u32,
            conversations_per_user_max: limits::CONVERSATIONS_PER_USER_MAX as u32,
        }
    }
}

/// Commands of the control group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// Once, by `init`. A second one is refused.
    Init {
        cluster: ClusterId,
        epoch: Epoch,
        slots: SlotTable,
        settings: Settings,
        placement: Vec<(ShardId, Vec<ReplicaId>)>,
        nodes: Vec<NodeInfo>,
        keys: Vec<KeyRow>,
    },
    /// A node's process starts: gets the next incarnation. `boot` is the boot number in its data directory
    /// (`control::boot`); one that goes back is refused (the directory was rolled back or copied).
    RegisterNode { node: NodeInfo, boot: u64 },
    /// The control leader saw no renewal for a whole lease.
    LapseNode { node: NodeId, incarnation: Incarnation },
    /// A fresh replica id on `node` for `shard`; `replaces` goes from the placement once the reconciler has removed it.
    AllocateReplica { shard: ShardId, node: NodeId, replaces: Option<ReplicaId> },
    /// The group's own committed membership no longer holds this replica.
    ForgetReplica { shard: ShardId, replica: ReplicaId },
    /// A shard has taken the fence of this node up to this incarnation.
    FenceDone { shard: ShardId, node: NodeId, lowest: Incarnation },
    /// An operator sets limits on clients, or gives them back to the nodes' own configuration (none).
    SetClientLimits { changes: Vec<(LimitName, Option<u32>)> },
    /// An operator raises the feature level, once all nodes know the rules of the new one. A level that is reached is kept.
    RaiseLevel { level: u32 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    pub node: NodeId,
    /// host:port for other nodes.
    pub peer_addr: String,
    /// Base URL for clients, like `http://127.0.0.1:4001`.
    pub client_url: String,
}

/// A signing key: the public half in the clear, the private one wrapped by the cluster secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRow {
    pub id: u32,
    pub public: [u8; 32],
    pub wrapped: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logs and peers of another version hold these numbers: the last one of each list is the newest.
    #[test]
    fn variants_keep_their_numbers() {
        let user = || UserId::parse("ann").expect("valid");
        let number = |command: Command| {
            let bytes = command.encode().expect("encodes");
            let at = |from: usize| bytes[from..from + 4].try_into().map(u32::from_le_bytes).expect("four bytes");
            (at(1), at(5))
        };
        let (device, request) = (DeviceId(1), Cid(1));
        let login = Login {
            user: user(),
            install: Hash32([0; 32]),
            device,
            name: String::new(),
            refresh: Hash32([0; 32]),
            create: false,
        };
        for (command, wanted) in [
            (Command::EvictDedup { limit: 1 }, 5),
            (Command::Logout { user: user(), device }, 9),
            (Command::StepJob { limit: 1 }, 20),
            (Command::RevokeDevice { user: user(), device, request }, 10),
            (Command::SetBlock { user: user(), peer: user(), on: true, request }, 30),
            (Command::PlaceDevice { user: user(), device, places: vec![] }, 33),
            (Command::SetPullRule(PullRule::default()), 34),
            (Command::IssueCode { user: user(), code: Hash32([0; 32]), request }, 35),
            (Command::UseCode { code: Hash32([0; 32]), request, login }, 36),
            (Command::ChangePrivacy { user: user(), presence: None, hide_read: None }, 37),
        ] {
            assert_eq!(number(command.clone()).0, wanted, "{command:?}");
        }
        assert_eq!(number(Command::Control(Control::SetClientLimits { changes: vec![] })), (23, 6));
    }

    #[test]
    fn a_send_is_known_by_its_bytes() {
        let [ann, bob] = ["ann", "bob"].map(|name| UserId::parse(name).expect("valid"));
        let what = What::Delete { target: Seq(1) };
        let send = Append {
            conv: ConvId::direct(&ann, &bob),
            sender: ann,
            device: DeviceId(1),
            cid: Cid(1),
            age_ms: 0,
            after: None,
            checked: vec![bob],
            what,
        };
        let bytes = |command: Command| command.encode().expect("encodes");
        assert!(Command::is_append(&bytes(Command::Append(send))));
        for other in [Command::Tick, Command::Receipts(vec![]), Command::Marks(vec![])] {
            assert!(!Command::is_append(&bytes(other)));
        }
        assert!(!Command::is_append(&[]) && !Command::is_append(&[COMMAND_VERSION, 1]));
    }
}
