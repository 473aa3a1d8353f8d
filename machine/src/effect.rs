//! Hints that apply gives to the shell: they wake a pump early, and spare it a look at rows that were written a moment ago.
//! Everything that must happen is a row; effects may be lost or repeated, and then it happens
//! when the rows are looked at: by a new leader at the latest, for receipts within a minute.

use std::sync::Arc;

use flotilla_proto::entry::Entry;
use flotilla_proto::ids::*;

use crate::command::Receipt;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// A dirty row for `target` was made or raised. `entry`: by which, if all that this adds to what the target is owed is the
    /// entry and its head. None if membership parts are owed too, by this entry or an earlier one, or it has emptied others.
    Dirty { target: ShardId, conv: ConvId, entry: Option<Arc<Entry>> },
    /// A conversation owes peer watermarks: the row as it is now.
    ReceiptDirty { target: ShardId, receipt: Receipt },
    /// A user shard owes watermarks to a conversation: the row as it is now.
    ReceiptDue { receipt: Receipt },
    /// The head of a row rose in applied state: look for live sessions again. `rev`: the revision that it made, unless that one says
    /// more than a head (a join), which `Conv` tells. Else whoever misses that `Conv` and hears of the head took it for seen.
    Head { user: UserId, conv: ConvId, head: Seq, n_head: Count, rev: Option<Rev> },
    /// Something else of a row changed: `conv` goes to the user's sessions.
    Conv { user: UserId, conv: ConvId, rev: Rev },
    /// A session ended otherwise than by its own gateway.
    SessionEnded {
        user: UserId,
        device: DeviceId,
        number: SessionNo,
        node: NodeId,
        incarnation: Incarnation,
        why: Ended,
    },
    /// The user came or went, or who may see it changed: whoever watches looks again.
    Presence { user: UserId },
    /// A session of this user was opened, replaced, closed or swept: what was remembered of its live sessions is old. Comes
    /// before the effects of every command that is applied later.
    Sessions { user: UserId },
    /// An entry of a conversation in pull mode: whoever has subscribed is told.
    Pulled { conv: ConvId, head: Seq },
    /// Rows are left to sweep or evict.
    Job,
    /// The control group's tables changed.
    Control,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Ended {
    /// A newer connection of the same instance: close 4007.
    Superseded,
    /// Another instance opened: close 4504.
    Replaced,
    /// Close 4505.
    Revoked,
    /// Close 4101.
    LoggedOut,
    /// The gateway's incarnation is dead: close 4006.
    Fenced,
}
