//! `Query::Conversation` and `Query::Members`.

use flotilla_proto::ids::*;
use flotilla_proto::limits;

use crate::Fatal;
use crate::conversation::plan::row_of;
use crate::conversation::tables::conversation::ConversationRow;
use crate::conversation::tables::entry::Entries;
use crate::conversation::tables::member::MemberRow;
use crate::conversation::tables::roster::Rosters;
use crate::query::{Answer, Conversation, MemberView};
use crate::table::{self, View};

/// What a member sees of the whole; a former member sees it with the head of its last stay.
pub fn conversation(view: &View<'_>, conv: &ConvId, row: ConversationRow, member: &MemberRow) -> Result<Answer, Fatal> {
    let head = member.part.effective_head(row.head);
    let chain = if head == row.head {
        row.chain
    } else {
        table::get::<Entries>(view, &(conv.clone(), head))?.map_or(Hash32::default(), |entry| entry.chain)
    };
    Ok(Answer::Conversation(Some(Conversation {
        conv: conv.clone(),
        kind: conv.kind(),
        members: row.members(),
        name: row.name,
        history: row.history,
        head,
        n_head: member.part.effective_n(row.n_head),
        archived: row.archived,
        role: member.part.role,
        chain,
    })))
}

/// All current members in order of ids.
pub fn current(view: &View<'_>, conv: &ConvId, row: &ConversationRow) -> Result<Vec<UserId>, Fatal> {
    let mut users = Vec::new();
    for target in &row.targets {
        let roster = table::get::<Rosters>(view, &(conv.clone(), target.shard))?.unwrap_or_default();
        users.extend(roster.users.into_iter().filter(|l| l.current).map(|l| l.user));
    }
    users.sort();
    Ok(users)
}

/// Current members in order of ids. Only members may ask.
pub fn members(
    view: &View<'_>,
    conv: &ConvId,
    row: &ConversationRow,
    asking: &MemberRow,
    after: Option<&UserId>,
    limit: u32,
) -> Result<Answer, Fatal> {
    if !asking.is_member() {
        return Ok(Answer::NotMember);
    }
    let mut users = current(view, conv, row)?;
    users.retain(|user| after.is_none_or(|after| user > after));
    let limit = (limit as usize).clamp(1, limits::GROUP_MEMBERS_MAX);
    let more = users.len() > limit;
    users.truncate(limit);
    let mut members = Vec::with_capacity(users.len());
    for user in users {
        if let Some(row) = row_of(view, conv, &user)?
            && let Some(role) = row.part.role
        {
            members.push(MemberView { user, role, delivered: row.delivered, read: row.read });
        }
    }
    Ok(Answer::Members { members, more })
}

/// The current members by the shards of their inboxes; nobody where there are too many, or where the peer has blocked the
/// one who asks.
pub fn audience(view: &View<'_>, conv: &ConvId, row: &ConversationRow, asking: &MemberRow) -> Result<Answer, Fatal> {
    if !asking.is_member() {
        return Ok(Answer::NotMember);
    }
    if asking.blocked || row.members() as usize > limits::TYPING_MEMBERS_MAX {
        return Ok(Answer::Audience(Vec::new()));
    }
    let mut targets = Vec::new();
    for target in &row.targets {
        let roster = table::get::<Rosters>(view, &(conv.clone(), target.shard))?.unwrap_or_default();
        let users: Vec<UserId> = roster.users.into_iter().filter(|l| l.current).map(|l| l.user).collect();
        if !users.is_empty() {
            targets.push((target.shard, users));
        }
    }
    Ok(Answer::Audience(targets))
}
