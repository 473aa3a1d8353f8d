//! What conversations tell a user shard: heads, membership parts, and the peer's watermarks.
//!
//! Both are answered `Done` once everything is in rows; a user that does not exist (or was removed) is skipped, for
//! nothing is owed to it any more. A batch with an item of a foreign slot is refused whole, before anything is written:
//! the sender sorts again by a newer table, and what it is answered for is never partly done.

use flotilla_proto::ids::*;
use flotilla_proto::limits;

use super::inbox::Change;
use super::privacy;
use crate::Fatal;
use crate::apply::{Ctx, Outcome, check_batch};
use crate::command::{Notify, NotifyUser, Receipt};
use crate::reply::{Rejection, Reply};

pub fn notify(ctx: &mut Ctx<'_, '_>, items: &[Notify]) -> Outcome {
    let pairs = items.iter().map(|item| item.users.len()).fold(0, usize::saturating_add);
    check_batch(items.len().max(pairs), limits::NOTIFY_USERS_PER_COMMAND_MAX)?;
    for user in items.iter().flat_map(|item| &item.users) {
        ctx.meta.check_user(&user.user)?;
        check_part(user)?;
    }
    for item in items {
        for user in &item.users {
            tell(ctx, item, user)?;
        }
    }
    Ok(Reply::Done)
}

fn check_part(user: &NotifyUser) -> Result<(), Rejection> {
    let Some(part) = &user.part else { return Ok(()) };
    if part.intervals.len() > limits::INTERVALS_PER_MEMBER_MAX || !part.is_well_formed() {
        return Err(Rejection::Validation(format!("the stays of {} are too many or out of order", user.user)));
    }
    Ok(())
}

fn tell(ctx: &mut Ctx<'_, '_>, news: &Notify, user: &NotifyUser) -> Result<(), Fatal> {
    let Some(mut change) = Change::begin(ctx.txn, &user.user, &news.conv)? else { return Ok(()) };
    change.row.merge_news(news, user);
    change.commit(ctx).map(|_| ())
}

/// May come before the head that makes the row: then the row waits, unseen, for its membership.
pub fn peer_marks(ctx: &mut Ctx<'_, '_>, items: &[Receipt]) -> Outcome {
    check_batch(items.len(), limits::COMMAND_ITEMS_MAX)?;
    for item in items {
        ctx.meta.check_user(&item.user)?;
    }
    // A receipt about a conversation that is not a direct one of this user concerns no row.
    let meant = |item: &&Receipt| item.conv.kind() == ConvKind::Direct && item.conv.peer_of(&item.user).is_some();
    for item in items.iter().filter(meant) {
        let Some(mut change) = Change::begin(ctx.txn, &item.user, &item.conv)? else { continue };
        change.row.merge_peer(item);
        change.sees_no_reads = privacy::hides_read(ctx.txn, &item.user)?;
        change.commit(ctx)?;
    }
    Ok(Reply::Done)
}
