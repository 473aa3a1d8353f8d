//! What may be read from a shard's state: requests and answers, node to node.
//!
//! A query is a pure function of one consistent view. Whether the view is new enough (leader and ReadIndex) is the
//! caller's business.

use std::collections::BTreeSet;

use flotilla_proto::entry::{Entry, HistoryAccess, Role};
use flotilla_proto::ids::*;
use flotilla_proto::member::{MembershipPart, Mode};
use serde::{Deserialize, Serialize};

use crate::command::{Audience, ClientLimits, ConvSettings, KeyRow, NodeInfo, Notify, Receipt, Settings};
use flotilla_proto::slots::SlotTable;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    // User shard.
    /// Rows whose rev is above `since`, in rev order.
    Changed {
        user: UserId,
        device: DeviceId,
        since: Rev,
        limit: u32,
    },
    /// Rows with cursor < effective head, by conversation id above `after`.
    Pending {
        user: UserId,
        device: DeviceId,
        after: Option<ConvId>,
        limit: u32,
    },
    /// All rows, by conversation id above `after`.
    Rows {
        user: UserId,
        device: DeviceId,
        after: Option<ConvId>,
        limit: u32,
    },
    Row {
        user: UserId,
        device: DeviceId,
        conv: ConvId,
    },
    /// For reconciliation: what changed for each of these sessions since the rev that its gateway has looked at.
    Sessions {
        node: NodeId,
        sessions: Vec<SessionSince>,
    },
    Account {
        user: UserId,
    },
    /// Live sessions of these users.
    LiveSessions {
        users: Vec<UserId>,
    },
    /// Up to `limit` receipt_due rows above `after`.
    ReceiptsDue {
        after: Option<(UserId, ConvId)>,
        limit: u32,
    },

    // Conversation shard.
    /// Entries in [from, to] that the user may read by the log's own membership, oldest or newest first.
    Entries {
        conv: ConvId,
        user: UserId,
        from: Seq,
        to: Seq,
        newest_first: bool,
        limit: u32,
        bytes_max: u32,
    },
    Conversation {
        conv: ConvId,
        user: UserId,
    },
    Members {
        conv: ConvId,
        user: UserId,
        after: Option<UserId>,
        limit: u32,
    },
    /// Up to `limit` dirty conversations of one target above `after`, ready to send.
    Dirty {
        target: ShardId,
        after: Option<ConvId>,
        limit: u32,
        bytes_max: u32,
    },
    /// Which targets have dirty rows.
    DirtyTargets,
    /// Up to `limit` peer watermarks owed to one target, ready for `PeerMarks`: each names the user whose row changes.
    ReceiptsDirty {
        target: ShardId,
        limit: u32,
    },

    // Any shard.
    ShardState,
    // Control group.
    ControlState,

    // Later additions: variants are numbered by position.
    /// User shard. What the first of each pair may see of the second, who is of this shard.
    Presence {
        pairs: Vec<(UserId, UserId)>,
    },
    /// User shard. Contacts above `after`, by id.
    Contacts {
        user: UserId,
        after: Option<UserId>,
        limit: u32,
    },
    /// Conversation shard. Where the members are told of what is never stored, by shard; none if the conversation is large.
    Audience {
        conv: ConvId,
        user: UserId,
    },
    /// User shard.
    Privacy {
        user: UserId,
    },
    /// User shard. Rows in the order of a list: pinned ones first, then by latest activity; those after `after`.
    Recent {
        user: UserId,
        device: DeviceId,
        after: Option<Place>,
        archived: Option<bool>,
        limit: u32,
    },
    /// Conversation shard. As `Dirty`, but of these conversations only: what a pump that was told their names asks. Each with the head that the
    /// target has answered for, which may be above what the row says.
    DirtyOf {
        target: ShardId,
        convs: Vec<(ConvId, Seq)>,
        bytes_max: u32,
    },
    /// User shard. What this user says of itself.
    Profile {
        user: UserId,
    },
    /// User shard. Blocks above `after`, by id.
    Blocks {
        user: UserId,
        after: Option<UserId>,
        limit: u32,
    },
    /// User shard. One of them.
    Block {
        user: UserId,
        peer: UserId,
    },
    /// Any user shard: its users whose ids begin so, in order of ids.
    FindUsers {
        prefix: String,
        limit: u32,
    },
    /// As `Entries`: messages as they stand now, edits and deletions folded in.
    Folded {
        conv: ConvId,
        user: UserId,
        from: Seq,
        to: Seq,
        newest_first: bool,
        limit: u32,
        bytes_max: u32,
    },
    /// Conversation shard. The first entry at or after this time that the user may read.
    SeqAt {
        conv: ConvId,
        user: UserId,
        ts: TsMs,
    },
    /// Control group. What is set of the limits on clients.
    ClientLimits,
    /// Conversation shard. What the rows of these users would say if every head were written to them.
    Standing {
        conv: ConvId,
        users: Vec<UserId>,
    },
    /// User shard. Conversations in pull mode in which this device has no place yet.
    Unplaced {
        user: UserId,
        device: DeviceId,
        limit: u32,
    },
    /// Conversation shard. Entries in [from, to], whoever may read them: for gateways, which apply membership themselves.
    Feed {
        conv: ConvId,
        from: Seq,
        to: Seq,
        bytes_max: u32,
    },
    /// Conversation shard. How often this user is named in messages with an n in (past, to].
    Mentions {
        conv: ConvId,
        user: UserId,
        past: Count,
        to: Count,
    },
    /// User shard. Those of these users that hide their read marks everywhere; at most `HIDING_USERS_MAX` are asked for, of more
    /// the answer is `TooMany`. Only asked where a user can (`HIDE_READ_LEVEL`).
    Hiding {
        users: Vec<UserId>,
    },
    /// Conversation shard. How far the members are, or these of them, while heads are written to every member's row; and which of
    /// the watchers are members. For gateways: whom to tell is theirs to say.
    Marks {
        conv: ConvId,
        of: Option<Vec<UserId>>,
        watchers: Vec<UserId>,
    },
    /// User shard. One row for each of these devices, as it is now; at most `ROWS_PUSHED_MAX`, of more the answer is `TooMany`. For
    /// the pushes of the shard's leader, which asks itself.
    RowsOf {
        devices: Vec<(UserId, DeviceId, ConvId)>,
    },
}

/// A row's place in the list by activity; the highest comes first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    pub pinned: bool,
    /// Since when it is pinned, or the latest activity.
    pub at: TsMs,
    pub conv: ConvId,
}

impl InboxRow {
    pub fn place(&self) -> Place {
        let at = self.settings.pinned.unwrap_or(self.last_ts);
        Place { pinned: self.settings.pinned.is_some(), at, conv: self.conv.clone() }
    }
}

impl Query {
    /// What pumps, pushes and sessions ask all the time: rows found by their keys.
    pub fn is_short(&self) -> bool {
        matches!(
            self,
            Self::LiveSessions { .. }
                | Self::ReceiptsDue { .. }
                | Self::Dirty { .. }
                | Self::DirtyOf { .. }
                | Self::DirtyTargets
                | Self::ReceiptsDirty { .. }
                | Self::Row { .. }
                | Self::RowsOf { .. }
                | Self::Changed { .. }
        )
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSince {
    pub user: UserId,
    pub device: DeviceId,
    pub number: SessionNo,
    pub since: Rev,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Rows(RowsPage),
    Row(Option<InboxRow>),
    /// One per session asked for, in order.
    Sessions(Vec<SessionNews>),
    Account(Option<Account>),
    LiveSessions(Vec<LiveSession>),
    Entries(EntriesPage),
    Conversation(Option<Conversation>),
    Members {
        members: Vec<MemberView>,
        more: bool,
    },
    Dirty {
        items: Vec<DirtyItem>,
        more: bool,
    },
    Targets(Vec<ShardId>),
    Receipts {
        items: Vec<Receipt>,
        more: bool,
    },
    ShardState(ShardState),
    ControlState(Option<ControlState>),
    /// The slot is not this shard's.
    Moved,
    NotFound,
    NotMember,
    /// One per pair, in order.
    Presence(Vec<PresenceView>),
    Contacts {
        contacts: Vec<ContactView>,
        more: bool,
    },
    Audience(Vec<(ShardId, Vec<UserId>)>),
    Privacy(Audience),
    /// None: no such user.
    Profile(Option<ProfileView>),
    Blocks {
        blocks: Vec<BlockView>,
        more: bool,
    },
    Users(Vec<UserId>),
    Folded(FoldedPage),
    SeqAt(Option<Seq>),
    ClientLimits(ClientLimits),
    Standing(Standing),
    Feed {
        entries: Vec<Entry>,
        head: Seq,
        n_head: Count,
    },
    Mentions(MentionsView),
    Hiding(BTreeSet<UserId>),
    /// Nothing was looked at: more things were asked for than the query takes.
    TooMany {
        max: u32,
    },
    Marks(MarksView),
    /// In the order asked. None: no such row is shown, or the device is gone.
    RowsOf(Vec<Option<InboxRow>>),
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MarksView {
    /// In pull mode there are no marks for others.
    pub pulled: bool,
    /// Those of the asked watchers who are members.
    pub watchers: Vec<UserId>,
    /// Of members only.
    pub marks: Vec<MarksOf>,
}

/// How far a member is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarksOf {
    pub user: UserId,
    pub delivered: Seq,
    pub read: Seq,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MentionsView {
    pub count: u32,
    /// Of the first of them.
    pub first: Option<Seq>,
    /// There are more than are counted.
    pub more: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    pub mode: Mode,
    pub head: Seq,
    pub n_head: Count,
    pub last_id: MsgId,
    pub last_ts: TsMs,
    /// In the order asked; none: never a member.
    pub users: Vec<Option<StandingOf>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingOf {
    pub part: MembershipPart,
    pub n_sent: Count,
}

impl InboxRow {
    /// A row of a conversation in pull mode stands at an old head: the conversation itself knows better.
    pub fn merge_standing(&mut self, standing: &Standing, own: &StandingOf) {
        self.part.merge(&own.part);
        self.head = self.head.max(standing.head);
        self.n_head = self.n_head.max(standing.n_head);
        self.n_sent = self.n_sent.max(own.n_sent);
        if self.part.is_member() {
            self.last_id = self.last_id.max(standing.last_id);
            self.last_ts = self.last_ts.max(standing.last_ts);
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileView {
    pub created: TsMs,
    pub name: String,
    pub avatar: String,
    pub about: String,
    pub changed: TsMs,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockView {
    pub user: UserId,
    pub on: bool,
    pub since: TsMs,
    pub request: Cid,
    /// The conversation's shard has taken it.
    pub settled: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoldedPage {
    /// Each with the seq of the edit that its body is from.
    pub entries: Vec<(Entry, Option<Seq>)>,
    /// The last entry that was looked at: where the next page goes on.
    pub looked_to: Option<Seq>,
    pub more: bool,
}

/// What one user may see of another's presence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PresenceView {
    Online,
    Offline {
        /// None: never seen, or not kept yet.
        last_seen: Option<TsMs>,
    },
    /// Not shown to this user. A user that does not exist looks alike.
    Hidden,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContactView {
    pub user: UserId,
    pub name: String,
    pub added: TsMs,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowsPage {
    pub rows: Vec<InboxRow>,
    pub more: bool,
    /// The user's rev in this view.
    pub rev: Rev,
}

/// A user's row of one conversation, with one device's cursor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxRow {
    pub conv: ConvId,
    pub rev: Rev,
    /// As stored; clamp with `part.effective_head`.
    pub head: Seq,
    pub n_head: Count,
    pub part: MembershipPart,
    pub read: Seq,
    pub n_read: Count,
    pub n_sent: Count,
    /// Highest seq acked by any of the user's devices.
    pub delivered: Seq,
    pub last_id: MsgId,
    pub last_ts: TsMs,
    /// Direct conversations: the peer's watermarks.
    pub peer_delivered: Seq,
    pub peer_read: Seq,
    /// The asking device's cursor; the effective head where no cursor row exists.
    pub cursor: Seq,
    pub settings: ConvSettings,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionNews {
    /// This session is not the device's current one at this node.
    Gone(crate::effect::Ended),
    Rows(RowsPage),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub phc: String,
    pub disabled: bool,
    pub created: TsMs,
    pub conversations: u32,
    pub devices: Vec<DeviceView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceView {
    pub device: DeviceId,
    pub name: String,
    pub created: TsMs,
    pub install: Hash32,
    /// The family's id: the hash of its first refresh token. None after logout.
    pub family: Option<Hash32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveSession {
    pub user: UserId,
    pub device: DeviceId,
    pub number: SessionNo,
    pub node: NodeId,
    pub incarnation: Incarnation,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntriesPage {
    pub entries: Vec<Entry>,
    /// More entries follow in the asked direction.
    pub more: bool,
    /// Entries below this were trimmed (1: nothing was).
    pub floor: Seq,
    pub head: Seq,
    pub n_head: Count,
    /// The user's membership by the log itself.
    pub part: MembershipPart,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Conversation {
    pub conv: ConvId,
    pub kind: ConvKind,
    pub name: String,
    pub history: HistoryAccess,
    pub head: Seq,
    pub n_head: Count,
    pub members: u32,
    pub archived: bool,
    pub role: Option<Role>,
    pub chain: Hash32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct MemberView {
    pub user: UserId,
    pub role: Role,
    pub delivered: Seq,
    /// 0 where none is shown.
    pub read: Seq,
}

/// What one target shard is owed about one conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirtyItem {
    pub notify: Notify,
    /// To be named in `ClearDirty`.
    pub parts: Seq,
    /// The newest entries that the target has not confirmed, contiguous up to the head; fewer where bytes ran out.
    pub entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardState {
    pub age: AgeMs,
    pub display: TsMs,
    pub slots: Option<SlotTable>,
    pub settings: Settings,
    pub fences: Vec<(NodeId, Incarnation)>,
    /// Rows wait for `StepJob` or `EvictDedup` is due.
    pub job_due: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlState {
    pub version: u64,
    pub cluster: ClusterId,
    pub epoch: Epoch,
    pub slots: SlotTable,
    pub settings: Settings,
    pub placement: Vec<(ShardId, Vec<ReplicaId>)>,
    /// Replicas of the placement that an `AllocateReplica` replaces: the reconciler removes them from their groups.
    pub retiring: Vec<(ShardId, ReplicaId)>,
    pub nodes: Vec<NodeRow>,
    pub keys: Vec<KeyRow>,
    /// Next generation per (shard, node) is above all ever allocated.
    pub fences_owed: Vec<(ShardId, NodeId, Incarnation)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRow {
    pub info: NodeInfo,
    pub incarnation: Incarnation,
    pub boot: u64,
    /// The current incarnation has lapsed.
    pub lapsed: bool,
}
