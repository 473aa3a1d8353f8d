//! `ClearDirty`, `ClearReceiptDirty`: a user shard has durably taken something.
//!
//! Invariant: only what was confirmed goes. A clear may come late, twice, or out of order; what was owed since stays owed.

use flotilla_proto::ids::*;
use flotilla_proto::limits;

use super::tables::dirty::{Dirties, DirtyRow};
use super::tables::receipt_dirty::ReceiptDirties;
use super::tables::roster::Rosters;
use crate::Fatal;
use crate::apply::{Ctx, Outcome, check_batch};
use crate::command::{ClearDirty, ClearReceipt};
use crate::reply::Reply;
use crate::table;

pub fn clear_dirty(ctx: &mut Ctx<'_, '_>, target: ShardId, items: &[ClearDirty]) -> Outcome {
    check_batch(items.len(), limits::COMMAND_ITEMS_MAX)?;
    for item in items {
        ctx.meta.check_conversation(&item.conv)?;
    }
    for item in items {
        clear_one(ctx, target, item)?;
    }
    Ok(Reply::Done)
}

fn clear_one(ctx: &mut Ctx<'_, '_>, target: ShardId, item: &ClearDirty) -> Result<(), Fatal> {
    let key = (target, item.conv.clone());
    let Some(mut row) = table::get::<Dirties>(ctx.txn, &key)? else {
        return Ok(());
    };
    let before = row;
    let done = match clear_parts(ctx, target, item, &row)? {
        Some(parts_left) => row.confirm(item.head, parts_left),
        None => true,
    };
    if done {
        table::delete::<Dirties>(ctx.txn, &key);
    } else if row != before {
        table::put::<Dirties>(ctx.txn, &key, &row);
    }
    Ok(())
}

/// Forgets the confirmed parts; the highest `mseq` that is still owed. None: the target has nobody left to be told, so a
/// head is not owed either.
fn clear_parts(
    ctx: &mut Ctx<'_, '_>,
    target: ShardId,
    item: &ClearDirty,
    row: &DirtyRow,
) -> Result<Option<Seq>, Fatal> {
    if row.parts == Seq::ZERO || item.parts == Seq::ZERO {
        return Ok(Some(row.parts));
    }
    let key = (item.conv.clone(), target);
    let mut roster = table::get::<Rosters>(ctx.txn, &key)?.unwrap_or_default();
    let before = roster.clone();
    roster.confirm(item.parts);
    if roster.users.is_empty() {
        table::delete::<Rosters>(ctx.txn, &key);
        return Ok(None);
    }
    if roster != before {
        table::put::<Rosters>(ctx.txn, &key, &roster);
    }
    Ok(Some(roster.owed()))
}

pub fn clear_receipt_dirty(ctx: &mut Ctx<'_, '_>, items: &[ClearReceipt]) -> Outcome {
    check_batch(items.len(), limits::COMMAND_ITEMS_MAX)?;
    for item in items {
        ctx.meta.check_conversation(&item.conv)?;
    }
    for item in items {
        clear_receipt(ctx, item)?;
    }
    Ok(Reply::Done)
}

fn clear_receipt(ctx: &mut Ctx<'_, '_>, item: &ClearReceipt) -> Result<(), Fatal> {
    let Some(target) = ctx.meta.shard_of_user(&item.user) else {
        return Ok(());
    };
    let key = (target, item.conv.clone(), item.user.clone());
    let owed = table::get::<ReceiptDirties>(ctx.txn, &key)?;
    if owed.is_some_and(|row| row.delivered <= item.delivered && row.read <= item.read) {
        table::delete::<ReceiptDirties>(ctx.txn, &key);
    }
    Ok(())
}
