//! `EvictDedup`: dedup rows older than the window by the age clock go, and leave the sender's floor behind.
//!
//! Invariant: a row goes only together with a floor at or above its stamp, so that its cid is answered `too_old` from then on
//! and never appended a second time.

use std::ops::ControlFlow;

use flotilla_proto::ids::*;
use flotilla_proto::limits;

use super::tables::dedup::Dedups;
use super::tables::dedup_age::DedupAges;
use super::tables::sender::{SenderRow, Senders};
use crate::Fatal;
use crate::apply::{Ctx, Outcome};
use crate::effect::Effect;
use crate::meta::Meta;
use crate::reply::Reply;
use crate::table::{self, KeyBuilder, Rows, Table};

/// Each touches three rows: the answer, its place in the index, the sender's floor.
const EVICTIONS_MAX: usize = limits::ROWS_PER_COMMAND_MAX / 3 - 1;

pub fn evict_dedup(ctx: &mut Ctx<'_, '_>, limit: u32) -> Outcome {
    let limit = (limit as usize).min(EVICTIONS_MAX);
    let (old, more) = page(ctx.txn, &ctx.meta, limit)?;
    for (age, conv, sender, cid) in old {
        raise_floor(ctx, &conv, &sender, age)?;
        table::delete::<Dedups>(ctx.txn, &(conv.clone(), sender.clone(), cid));
        table::delete::<DedupAges>(ctx.txn, &(age, conv, sender, cid));
    }
    if more {
        ctx.effects.push(Effect::Job);
    }
    Ok(Reply::Step { more })
}

/// Is there a row for `EvictDedup` to take?
pub fn eviction_due(rows: &dyn Rows, meta: &Meta) -> Result<bool, Fatal> {
    page(rows, meta, 1).map(|(old, _)| !old.is_empty())
}

type Key = <DedupAges as Table>::Key;

/// The oldest rows that are older than the window, and whether there are more of them.
fn page(rows: &dyn Rows, meta: &Meta, limit: usize) -> Result<(Vec<Key>, bool), Fatal> {
    let from = KeyBuilder::new(DedupAges::KIND).build();
    let Some(young) = meta.age().0.checked_sub(meta.settings.dedup_window_ms) else {
        return Ok((Vec::new(), false));
    };
    let to = KeyBuilder::new(DedupAges::KIND).u64(young).build();
    let mut old = Vec::new();
    let mut more = false;
    table::scan::<DedupAges>(rows, &from, &to, &mut |key, ()| {
        if old.len() >= limit {
            more = true;
            return ControlFlow::Break(());
        }
        old.push(key);
        ControlFlow::Continue(())
    })?;
    Ok((old, more))
}

fn raise_floor(ctx: &mut Ctx<'_, '_>, conv: &ConvId, sender: &UserId, age: AgeMs) -> Result<(), Fatal> {
    let key = (conv.clone(), sender.clone());
    let row = table::get::<Senders>(ctx.txn, &key)?;
    let floor = row.map_or(age, |row| row.floor.max(age));
    table::put::<Senders>(ctx.txn, &key, &SenderRow { floor });
    Ok(())
}
