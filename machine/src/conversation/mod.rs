//! The conversation side: the log, its members, dedup, and what is owed to user shards. Being built.

use flotilla_proto::ids::*;

use crate::Fatal;
use crate::apply::{Ctx, Outcome};
use crate::command::*;
use crate::meta::Meta;
use crate::query::{Answer, Query};
use crate::reply::{Rejection, Reply};
use crate::table::View;

pub fn append(_ctx: &mut Ctx<'_, '_>, _c: &Append) -> Outcome {
    Err(Rejection::Validation("not built yet".into()).into())
}

pub fn receipts(_ctx: &mut Ctx<'_, '_>, _items: &[Receipt]) -> Outcome {
    Ok(Reply::Done)
}

pub fn clear_dirty(_ctx: &mut Ctx<'_, '_>, _target: ShardId, _items: &[ClearDirty]) -> Outcome {
    Ok(Reply::Done)
}

pub fn clear_receipt_dirty(_ctx: &mut Ctx<'_, '_>, _items: &[ClearReceipt]) -> Outcome {
    Ok(Reply::Done)
}

pub fn evict_dedup(_ctx: &mut Ctx<'_, '_>, _limit: u32) -> Outcome {
    Ok(Reply::Step { more: false })
}

pub fn eviction_due(_view: &View<'_>, _meta: &Meta) -> Result<bool, Fatal> {
    Ok(false)
}

pub fn query(_view: &View<'_>, _meta: &Meta, _query: &Query) -> Result<Answer, Fatal> {
    Ok(Answer::NotFound)
}
