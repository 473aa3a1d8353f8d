//! `Append`: the order in which it is checked.
//!
//! slot, dedup, floor, `after`, validity, permission, effect. The order is the rule:
//! - Dedup before permission: an accepted send that is retried after its sender was kicked is a duplicate, not a rejection.
//! - Floor before anything that depends on state: where dedup can no longer tell, nothing may be appended again.
//! - A rejection is not remembered, so the same cid may be tried again.
//! - Where `after` is not known, who may not write here at all is told that, for nothing that they have sent before can change
//!   it: a client whose queue is refused is through with it at once, not with one command a round trip.

use flotilla_proto::entry::body_hash;
use flotilla_proto::ids::Hash32;
use flotilla_proto::plant::{self, Plant};

use super::tables::dedup::{DedupRow, Dedups};
use super::tables::sender::Senders;
use super::{plan, validate, write};
use crate::apply::{Ctx, Outcome, Stop};
use crate::command::Append;
use crate::reply::{Accepted, Rejection, Reply};
use crate::table;

pub fn append(ctx: &mut Ctx<'_, '_>, asked: &Append) -> Outcome {
    ctx.meta.check_conversation(&asked.conv)?;
    let hash = body_hash(asked.cid, &asked.what);
    let key = (asked.conv.clone(), asked.sender.clone(), asked.cid);
    if plant::planted(Plant::PermissionFirst)
        && plan::row_of(ctx.txn, &asked.conv, &asked.sender)?.is_some_and(|row| !row.is_member())
        && plant::on(Plant::PermissionFirst)
    {
        return Err(Rejection::NotMember.into());
    }
    let forgotten = plant::of_earlier_term(asked.cid.0);
    if let Some(first) = table::get::<Dedups>(ctx.txn, &key)?
        && !(forgotten && plant::on(Plant::SkipDedup))
    {
        return answer_again(first, hash);
    }
    check_floor(ctx, asked)?;
    check_after(ctx, asked)?;
    validate::check(&asked.what, &ctx.meta.settings)?;
    let plan = plan::plan(ctx.txn, &ctx.meta, asked)?;
    write::write(ctx, asked, hash, plan)
}

fn answer_again(first: DedupRow, hash: Hash32) -> Outcome {
    if first.body_hash != hash {
        return Err(Rejection::IdempotencyMismatch.into());
    }
    Ok(Reply::Accepted(Accepted { dup: true, ..first.answer }))
}

/// The first attempt was at most at (age clock - age). If a dedup row at least that young was evicted, the answer to this
/// cid may have been in it.
fn check_floor(ctx: &Ctx<'_, '_>, asked: &Append) -> Result<(), Stop> {
    let Some(sender) = table::get::<Senders>(ctx.txn, &(asked.conv.clone(), asked.sender.clone()))? else {
        return Ok(());
    };
    let first_attempt = ctx.meta.age().0.saturating_sub(asked.age_ms);
    if first_attempt <= sender.floor.0 { Err(Rejection::TooOld.into()) } else { Ok(()) }
}

fn check_after(ctx: &Ctx<'_, '_>, asked: &Append) -> Result<(), Stop> {
    let Some(after) = asked.after else {
        return Ok(());
    };
    let key = (asked.conv.clone(), asked.sender.clone(), after);
    match table::get::<Dedups>(ctx.txn, &key)? {
        Some(_) => Ok(()),
        None if plant::on(Plant::AfterIgnored) => Ok(()),
        // Nothing is written either way, so replicas of different builds agree.
        None => Err(plan::barred(ctx.txn, asked)?.unwrap_or(Rejection::OutOfOrder).into()),
    }
}
