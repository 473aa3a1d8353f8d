//! Direct conversations: two peers, or one user with itself. Made in the apply of the first entry, which is the client's.

use flotilla_proto::entry::{Role, What};
use flotilla_proto::ids::*;

use super::plan::{Asked, Plan, Step, by_member, check_peers, may_write, member};
use super::tables::conversation::ConversationRow;
use crate::apply::Stop;
use crate::reply::Rejection;

pub fn plan(asked: &Asked<'_>, found: Option<ConversationRow>) -> Result<Plan, Stop> {
    let append = asked.append;
    let Some(peer) = append.conv.peer_of(&append.sender) else {
        return Err(Rejection::NotMember.into());
    };
    match found {
        Some(row) => {
            let member = member(asked)?;
            may_write(append, &member)?;
            let mut plan = Plan::new(row, append);
            by_member(asked, &mut plan, &member)?;
            plan.sender = Some(member);
            Ok(plan)
        }
        None => first(asked, peer),
    }
}

/// Both peers are members from seq 1 on.
fn first(asked: &Asked<'_>, peer: UserId) -> Result<Plan, Stop> {
    let append = asked.append;
    match &append.what {
        What::Message { reply_to: None, .. } => {}
        What::Message { .. } => return Err(Rejection::Validation("reply_to names no entry".into()).into()),
        What::Edit { .. } | What::Delete { .. } | What::React { .. } => return Err(Rejection::NotFound.into()),
        _ => return Err(Rejection::Validation("this is for groups only".into()).into()),
    }
    // Somebody may have been blocked before the first word.
    let row_of = |user: &UserId| super::plan::row_of(asked.rows, &append.conv, user);
    if row_of(&append.sender)?.is_some_and(|row| row.blocked) {
        return Err(Rejection::Blocked.into());
    }
    if peer != append.sender {
        check_peers(append, std::iter::once(&peer))?;
    }
    let mut plan = Plan::new(ConversationRow::default(), append);
    for user in [append.sender.clone(), peer] {
        let mut row = row_of(&user)?.unwrap_or_default();
        row.join(asked.seq, Count(0), asked.seq, Role::Member);
        plan.change(user, row, Step::Joins);
    }
    Ok(plan)
}
