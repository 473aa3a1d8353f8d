//! Groups and channels: who may change what. In a channel only admins and the owner write. Every change is an entry whose seq becomes the `mseq` of every user it touches.
//!
//! A join beyond `INTERVALS_PER_MEMBER_MAX` stays of one user is refused. Merging old stays instead would let the user read
//! what was said between them; dropping them would lose entries that are still pending.

use std::collections::BTreeSet;

use flotilla_proto::entry::{HistoryAccess, Role, What};
use flotilla_proto::ids::*;
use flotilla_proto::limits;

use super::mode;
use super::plan::{Asked, Change, Plan, Step, by_member, check_peers, may_write, member, row_of};
use super::tables::conversation::ConversationRow;
use super::tables::member::MemberRow;
use super::tables::roster::Rosters;
use crate::Fatal;
use crate::apply::Stop;
use crate::reply::Rejection;
use crate::table;

pub fn plan(asked: &Asked<'_>, found: Option<ConversationRow>) -> Result<Plan, Stop> {
    let Some(row) = found else {
        let mut plan = create(asked)?;
        mode::settle(asked, &mut plan)?;
        return Ok(plan);
    };
    let actor = member(asked)?;
    let mut plan = Plan::new(row, asked.append);
    match &asked.append.what {
        What::Message { .. } | What::Edit { .. } | What::Delete { .. } | What::React { .. } => {
            may_write(asked.append, &actor)?;
            by_member(asked, &mut plan, &actor)?;
        }
        What::Create { .. } => return Err(conflict("the group exists")),
        What::Add { users } => add(asked, &mut plan, &actor, users)?,
        What::Remove { user } => remove(asked, &mut plan, &actor, user)?,
        What::Leave { heir: _ } => leave(asked, &mut plan, &actor)?,
        What::SetRole { user, role } => set_role(asked, &mut plan, &actor, user, *role)?,
        What::Rename { name } => {
            require_admin(&actor)?;
            plan.conversation.name.clone_from(name);
        }
        What::SetHistory { history } => {
            require_admin(&actor)?;
            plan.conversation.history = *history;
        }
    }
    mode::settle(asked, &mut plan)?;
    plan.sender = Some(actor);
    Ok(plan)
}

/// Entry 1 of a group, by its owner.
fn create(asked: &Asked<'_>) -> Result<Plan, Stop> {
    let append = asked.append;
    let What::Create { name, members, history } = &append.what else {
        return Err(Rejection::NotFound.into());
    };
    let derived = match append.conv.kind() {
        ConvKind::Channel => ConvId::channel(&append.sender, append.cid),
        _ => ConvId::group(&append.sender, append.cid),
    };
    if append.conv != derived {
        return Err(Rejection::Validation("a group's id derives from its creator and the request's key".into()).into());
    }
    let others: BTreeSet<&UserId> = members.iter().filter(|user| **user != append.sender).collect();
    check_room(asked, 1 + others.len())?;
    check_peers(append, others.iter().copied())?;
    let row = ConversationRow { name: name.clone(), history: *history, ..Default::default() };
    let mut plan = Plan::new(row, append);
    for user in others {
        join(asked, &mut plan, user, None, Role::Member)?;
    }
    join(asked, &mut plan, &append.sender, None, Role::Owner)?;
    Ok(plan)
}

fn add(asked: &Asked<'_>, plan: &mut Plan, actor: &MemberRow, users: &[UserId]) -> Result<(), Stop> {
    require_admin(actor)?;
    let mut joining = Vec::new();
    for user in users.iter().collect::<BTreeSet<_>>() {
        let row = row_of(asked.rows, &asked.append.conv, user)?;
        if !row.as_ref().is_some_and(MemberRow::is_member) {
            joining.push((user, row));
        }
    }
    if joining.is_empty() {
        return Err(conflict("all of them are members already"));
    }
    check_room(asked, plan.conversation.members() as usize + joining.len())?;
    check_peers(asked.append, joining.iter().map(|(user, _)| *user))?;
    for (user, row) in joining {
        join(asked, plan, user, row, Role::Member)?;
    }
    mode::check_targets(asked, plan)?;
    Ok(())
}

fn join(asked: &Asked<'_>, plan: &mut Plan, user: &UserId, row: Option<MemberRow>, role: Role) -> Result<(), Stop> {
    let mut row = row.unwrap_or_default();
    if row.part.intervals.len() >= limits::INTERVALS_PER_MEMBER_MAX {
        return Err(conflict(&format!("{user} has joined and left too often")));
    }
    let history_from = match plan.conversation.history {
        HistoryAccess::Full => Seq(1),
        HistoryAccess::FromJoin => asked.seq,
    };
    row.join(asked.seq, plan.conversation.n_head, history_from, role);
    plan.change(user.clone(), row, Step::Joins);
    Ok(())
}

fn remove(asked: &Asked<'_>, plan: &mut Plan, actor: &MemberRow, user: &UserId) -> Result<(), Stop> {
    require_admin(actor)?;
    let target = other_member(asked, user)?;
    if actor.part.role <= target.part.role {
        return Err(Rejection::Forbidden("only members of a lower rank can be removed".into()).into());
    }
    end_stay(asked, plan, user.clone(), target);
    Ok(())
}

fn leave(asked: &Asked<'_>, plan: &mut Plan, actor: &MemberRow) -> Result<(), Stop> {
    let mut heir = None;
    if actor.part.role == Some(Role::Owner) {
        // All members would have to be looked at.
        if plan.conversation.members() as usize > limits::GROUP_MEMBERS_MAX {
            return Err(conflict("hand over first: so many members have no heir"));
        }
        heir = find_heir(asked, plan)?;
    }
    if let Some((user, mut row)) = heir.clone() {
        row.set_role(asked.seq, Role::Owner);
        plan.change(user, row, Step::Stays);
    }
    plan.what = What::Leave { heir: heir.map(|(user, _)| user) };
    plan.conversation.archived = plan.conversation.members() <= 1;
    end_stay(asked, plan, asked.append.sender.clone(), actor.clone());
    Ok(())
}

/// The oldest admin, else the oldest member; of two that joined together the one whose id comes first.
fn find_heir(asked: &Asked<'_>, plan: &Plan) -> Result<Option<(UserId, MemberRow)>, Fatal> {
    let mut best: Option<((bool, Seq, UserId), MemberRow)> = None;
    for target in &plan.conversation.targets {
        let roster = table::get::<Rosters>(asked.rows, &(asked.append.conv.clone(), target.shard))?.unwrap_or_default();
        for listed in roster.users.into_iter().filter(|l| l.current && l.user != asked.append.sender) {
            let Some(row) = row_of(asked.rows, &asked.append.conv, &listed.user)? else { continue };
            let joined = row.part.intervals.last().map_or(Seq::ZERO, |stay| stay.from);
            let rank = (row.part.role != Some(Role::Admin), joined, listed.user);
            if best.as_ref().is_none_or(|(known, _)| rank < *known) {
                best = Some((rank, row));
            }
        }
    }
    Ok(best.map(|((_, _, user), row)| (user, row)))
}

fn set_role(asked: &Asked<'_>, plan: &mut Plan, actor: &MemberRow, user: &UserId, role: Role) -> Result<(), Stop> {
    if actor.part.role != Some(Role::Owner) {
        return Err(Rejection::Forbidden("only the owner gives roles".into()).into());
    }
    let mut target = other_member(asked, user)?;
    if target.part.role == Some(role) {
        return Err(conflict("the member has this role already"));
    }
    target.set_role(asked.seq, role);
    plan.change(user.clone(), target, Step::Stays);
    if role == Role::Owner {
        let mut old = actor.clone();
        old.set_role(asked.seq, Role::Admin);
        plan.change(asked.append.sender.clone(), old, Step::Stays);
    }
    Ok(())
}

fn end_stay(asked: &Asked<'_>, plan: &mut Plan, user: UserId, mut row: MemberRow) {
    // A membership entry is not countable: n stays as it was before it.
    row.leave(asked.seq, plan.conversation.n_head);
    plan.changes.insert(user, Change { row, step: Step::Leaves });
}

pub fn require_admin(actor: &MemberRow) -> Result<(), Rejection> {
    if actor.part.role >= Some(Role::Admin) {
        Ok(())
    } else {
        Err(Rejection::Forbidden("only admins and the owner may do this".into()))
    }
}

/// The row of a current member other than the actor.
fn other_member(asked: &Asked<'_>, user: &UserId) -> Result<MemberRow, Stop> {
    if *user == asked.append.sender {
        return Err(conflict("this is for other members: leave, or hand over first"));
    }
    match row_of(asked.rows, &asked.append.conv, user)? {
        Some(row) if row.is_member() => Ok(row),
        _ => Err(Rejection::NotFound.into()),
    }
}

fn check_room(asked: &Asked<'_>, members: usize) -> Result<(), Rejection> {
    let max = asked.meta.settings.group_members_max as usize;
    if members <= max { Ok(()) } else { Err(Rejection::ConversationFull) }
}

fn conflict(why: &str) -> Stop {
    Rejection::Conflict(why.into()).into()
}
