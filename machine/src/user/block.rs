//! Table `block`: whom a user does not want to hear from directly.
//!
//! Key: `42`, slot u16, user text, blocked user text. Row: on, since when, the request, settled.
//!
//! What refuses a direct message is the flag on the sender's member row in the conversation's own shard (DESIGN 8). So a block
//! takes three steps: 1. this row says what is wanted, by which request, 2. the conversation's shard takes the flag, 3. the row
//! is settled, if the request is still the newest one. Whoever finds that it is not (another device has changed its mind
//! meanwhile) does 2 and 3 again with what the row says now: the last one to write the flag has looked at the row after.
//! Invariants: a row that is not settled stays; one that is off and settled goes. The profile counts the rows that are on.

use flotilla_proto::ids::*;
use flotilla_proto::limits;
use serde::{Deserialize, Serialize};

use super::{account, key, profile};
use crate::Fatal;
use crate::apply::{Ctx, Outcome};
use crate::effect::Effect;
use crate::query::{Answer, BlockView};
use crate::reply::{Rejection, Reply};
use crate::table::{self, KeyReader, Rows, Table, View, kind};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRow {
    pub on: bool,
    pub since: TsMs,
    /// The newest change.
    pub request: Cid,
    /// The conversation's shard has taken it.
    pub settled: bool,
}

pub struct BlockTable;

impl Table for BlockTable {
    const NAME: &'static str = "block";
    const KIND: u8 = kind::BLOCK;
    const VERSION: u8 = 1;
    type Key = (UserId, UserId);
    type Row = BlockRow;

    fn key((user, peer): &Self::Key) -> Vec<u8> {
        key::of(Self::KIND, user).user(peer).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<Self::Key> {
        Some((key::user(key)?, key.user()?))
    }
}

fn find(rows: &dyn Rows, user: &UserId, peer: &UserId) -> Result<Option<BlockRow>, Fatal> {
    table::get::<BlockTable>(rows, &(user.clone(), peer.clone()))
}

/// Does `user` block `peer`?
pub fn is_blocked(rows: &dyn Rows, user: &UserId, peer: &UserId) -> Result<bool, Fatal> {
    Ok(find(rows, user, peer)?.is_some_and(|row| row.on))
}

/// What is wanted from now on. The same again keeps the request that wants it already.
pub fn set_block(ctx: &mut Ctx<'_, '_>, user: &UserId, peer: &UserId, on: bool, request: Cid) -> Outcome {
    account::find(ctx, user)?.ok_or(Rejection::NotFound)?;
    if user == peer {
        return Err(Rejection::Validation("nobody blocks themselves".into()).into());
    }
    let old = find(ctx.txn, user, peer)?;
    let was_on = old.as_ref().is_some_and(|row| row.on);
    if was_on == on {
        return Ok(Reply::Done);
    }
    if on && profile::of(ctx.txn, user)?.blocks as usize >= limits::BLOCKS_MAX {
        return Err(Rejection::Quota("blocks".into()).into());
    }
    let row = BlockRow { on, since: ctx.meta.clock.display, request, settled: false };
    table::put::<BlockTable>(ctx.txn, &(user.clone(), peer.clone()), &row);
    let count = |n: u32| if on { n.saturating_add(1) } else { n.saturating_sub(1) };
    profile::count(ctx, user, |row| row.blocks = count(row.blocks))?;
    ctx.effects.push(Effect::Presence { user: user.clone() });
    Ok(Reply::Done)
}

/// The conversation's shard has taken what `request` wanted. `Conflict`: something else is wanted by now.
pub fn block_settled(ctx: &mut Ctx<'_, '_>, user: &UserId, peer: &UserId, request: Cid) -> Outcome {
    account::find(ctx, user)?.ok_or(Rejection::NotFound)?;
    let Some(row) = find(ctx.txn, user, peer)? else { return Ok(Reply::Done) };
    if row.request != request {
        return Err(Rejection::Conflict("the block was changed meanwhile".into()).into());
    }
    let key = (user.clone(), peer.clone());
    if !row.on {
        table::delete::<BlockTable>(ctx.txn, &key);
    } else if !row.settled {
        table::put::<BlockTable>(ctx.txn, &key, &BlockRow { settled: true, ..row });
    }
    Ok(Reply::Done)
}

/// Rows above `after`, by id: blocks, and changes that are not settled.
pub fn page(view: &View<'_>, user: &UserId, after: Option<&UserId>, limit: u32) -> Result<Answer, Fatal> {
    let all = key::of(kind::BLOCK, user).build();
    let end = table::end_of(&all);
    let from = match after {
        Some(after) => table::above(BlockTable::key(&(user.clone(), after.clone()))),
        None => all,
    };
    let limit = limit.clamp(1, limits::CONTACTS_PER_PAGE_MAX) as usize;
    let (page, more) = table::page::<BlockTable>(view, &from, &end, limit)?;
    let one = |((_, user), row): ((UserId, UserId), BlockRow)| view_of(user, row);
    Ok(Answer::Blocks { blocks: page.into_iter().map(one).collect(), more })
}

/// One row, if there is one.
pub fn one(view: &View<'_>, user: &UserId, peer: &UserId) -> Result<Answer, Fatal> {
    let row = find(view, user, peer)?.map(|row| view_of(peer.clone(), row));
    Ok(Answer::Blocks { blocks: row.into_iter().collect(), more: false })
}

fn view_of(user: UserId, row: BlockRow) -> BlockView {
    BlockView { user, on: row.on, since: row.since, request: row.request, settled: row.settled }
}
