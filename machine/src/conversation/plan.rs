//! Who may append what, and what changes by it. Reads rows, writes none: a rejection here has no effect.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::entry::What;
use flotilla_proto::ids::*;
use flotilla_proto::limits;

use super::tables::conversation::{ConversationRow, Conversations};
use super::tables::member::{MemberRow, Members};
use super::{direct, group, target};
use crate::apply::Stop;
use crate::command::Append;
use crate::meta::Meta;
use crate::reply::Rejection;
use crate::table::{self, Rows};
use crate::{Fatal, Txn};

/// What one accepted append changes. Decided whole before anything is written.
#[derive(Debug)]
pub struct Plan {
    /// The row as it was (empty for a new conversation), but for name, history access and archiving.
    pub conversation: ConversationRow,
    /// The content of the entry: as asked, but for the heir of a leaving owner.
    pub what: What,
    /// The members whose stay or role this entry changes.
    pub changes: BTreeMap<UserId, Change>,
    /// The sender's own row where it is a member before the entry; a message raises its `n_sent`.
    pub sender: Option<MemberRow>,
    /// Entries whose content goes.
    pub redact: Vec<Seq>,
    /// A message and all its edits, this entry's seq included.
    pub revision: Option<(Seq, Vec<Seq>)>,
}

/// A member's row as this entry leaves it.
#[derive(Debug, Clone)]
pub struct Change {
    pub row: MemberRow,
    pub step: Step,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Joins,
    /// Only the role changes.
    Stays,
    Leaves,
}

/// What a kind's own rules look at.
pub struct Asked<'a> {
    pub rows: &'a Txn<'a>,
    pub meta: &'a Meta,
    pub append: &'a Append,
    /// The seq that the entry will have.
    pub seq: Seq,
}

impl Plan {
    pub fn new(conversation: ConversationRow, append: &Append) -> Self {
        Self {
            conversation,
            what: append.what.clone(),
            changes: BTreeMap::new(),
            sender: None,
            redact: Vec::new(),
            revision: None,
        }
    }

    pub fn change(&mut self, user: UserId, row: MemberRow, step: Step) {
        self.changes.insert(user, Change { row, step });
    }

    /// A command touches a bounded number of rows. Only a change of many members that live on hundreds of shards comes near.
    pub fn has_room_for<'u>(&self, meta: &Meta, more: impl ExactSizeIterator<Item = &'u UserId>) -> bool {
        const FIXED: usize = 8;
        let members = self.changes.len() + more.len();
        let changed = FIXED + members + self.redact.len();
        // Each of them on a shard of its own, with a roster and something owed.
        if changed + 2 * members + self.conversation.targets.len() <= limits::ROWS_PER_COMMAND_MAX {
            return true;
        }
        let mut targets: BTreeSet<ShardId> = more.filter_map(|user| meta.shard_of_user(user)).collect();
        targets.extend(self.changes.keys().filter_map(|user| meta.shard_of_user(user)));
        let rosters = targets.len();
        targets.extend(self.conversation.targets.iter().map(|t| t.shard));
        changed + rosters + targets.len() <= limits::ROWS_PER_COMMAND_MAX
    }
}

pub fn plan(rows: &Txn<'_>, meta: &Meta, append: &Append) -> Result<Plan, Stop> {
    let found = table::get::<Conversations>(rows, &append.conv)?;
    let seq = found.as_ref().map_or(Seq(1), |row| row.head.next());
    let asked = Asked { rows, meta, append, seq };
    let plan = match append.conv.kind() {
        ConvKind::Direct => direct::plan(&asked, found)?,
        ConvKind::Group => group::plan(&asked, found)?,
        ConvKind::Channel if meta.has_level(limits::PULL_LEVEL) => group::plan(&asked, found)?,
        ConvKind::Channel => return Err(Rejection::Validation("this cluster has no channels".into()).into()),
    };
    check_rows(meta, &plan)?;
    Ok(plan)
}

/// Rules that direct conversations and groups share: a member writes, edits, deletes, reacts.
pub fn by_member(asked: &Asked<'_>, plan: &mut Plan, member: &MemberRow) -> Result<(), Stop> {
    match &asked.append.what {
        What::Message { reply_to: Some(reply_to), .. } => target::check_reply(asked, member, *reply_to)?,
        What::Message { .. } => {}
        What::Edit { target, .. } => target::edit(asked, plan, member, *target)?,
        What::Delete { target } => target::delete(asked, plan, member, *target)?,
        What::React { target, .. } => target::react(asked, member, *target)?,
        _ => return Err(Rejection::Validation("this is for groups only".into()).into()),
    }
    Ok(())
}

/// The sender's row if it is a member now; `NotMember` otherwise.
pub fn member(asked: &Asked<'_>) -> Result<MemberRow, Stop> {
    match row_of(asked.rows, &asked.append.conv, &asked.append.sender)? {
        Some(row) if row.is_member() => Ok(row),
        _ => Err(Rejection::NotMember.into()),
    }
}

/// Why the sender may append nothing like this, whatever else it has appended before: nobody makes themselves a member or an
/// admin, or lifts a block. None where there is no conversation yet: an earlier command may make it.
pub fn barred(rows: &Txn<'_>, append: &Append) -> Result<Option<Rejection>, Fatal> {
    match row_of(rows, &append.conv, &append.sender)? {
        Some(row) if row.is_member() || row.blocked => Ok(may_write(append, &row).err()),
        _ if table::get::<Conversations>(rows, &append.conv)?.is_some() => Ok(Some(Rejection::NotMember)),
        _ => Ok(None),
    }
}

/// Of a member, or of one who was blocked before the first word; what exactly is written is looked at later.
pub fn may_write(append: &Append, member: &MemberRow) -> Result<(), Rejection> {
    match append.conv.kind() {
        ConvKind::Direct if member.blocked => Err(Rejection::Blocked),
        ConvKind::Channel if matches!(append.what, What::Message { .. } | What::Edit { .. }) => {
            group::require_admin(member)
        }
        ConvKind::Direct | ConvKind::Group | ConvKind::Channel => Ok(()),
    }
}

pub fn row_of(rows: &dyn Rows, conv: &ConvId, user: &UserId) -> Result<Option<MemberRow>, Fatal> {
    table::get::<Members>(rows, &(conv.clone(), user.clone()))
}

/// The users that a gateway must check first.
pub fn check_peers<'u>(append: &Append, joining: impl Iterator<Item = &'u UserId>) -> Result<(), Rejection> {
    let checked: BTreeSet<&UserId> = append.checked.iter().collect();
    let missing: Vec<UserId> = joining.filter(|user| !checked.contains(user)).cloned().collect();
    if missing.is_empty() { Ok(()) } else { Err(Rejection::NeedPeers(missing)) }
}

fn check_rows(meta: &Meta, plan: &Plan) -> Result<(), Rejection> {
    if takes_unseen(meta, plan) || plan.has_room_for(meta, std::iter::empty()) {
        Ok(())
    } else {
        Err(Rejection::Validation("too many members at once: use several steps".into()))
    }
}

/// The rule of the levels before: so many changes were taken without a look at the shards they are on. A log that was written
/// under it is replayed under it.
fn takes_unseen(meta: &Meta, plan: &Plan) -> bool {
    const FIXED: usize = 8;
    let changed = FIXED + plan.changes.len() + plan.redact.len() + plan.conversation.targets.len();
    !meta.has_level(limits::EXACT_ROWS_LEVEL) && changed <= limits::ROWS_PER_COMMAND_MAX / 2
}
