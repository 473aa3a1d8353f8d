//! `SetBlocked`: a user may or may not write into a direct conversation, as its peer wants it.
//!
//! The flag stands on the member row of who is blocked, also before the conversation has its first entry: a row without stays,
//! which is no membership. So the log itself decides, and no first message slips past a block.

use flotilla_proto::ids::*;

use super::plan::row_of;
use super::tables::member::Members;
use crate::apply::{Ctx, Outcome};
use crate::reply::{Rejection, Reply};
use crate::table;

pub fn set_blocked(ctx: &mut Ctx<'_, '_>, conv: &ConvId, user: &UserId, on: bool) -> Outcome {
    ctx.meta.check_conversation(conv)?;
    let is_pair = conv.kind() == ConvKind::Direct && conv.peer_of(user).is_some_and(|peer| peer != *user);
    if !is_pair {
        return Err(Rejection::Validation("only the peer of a direct conversation is blocked".into()).into());
    }
    let key = (conv.clone(), user.clone());
    let old = row_of(ctx.txn, conv, user)?;
    let mut row = old.clone().unwrap_or_default();
    row.blocked = on;
    match old {
        Some(old) if old == row => {}
        None if !on => {}
        // Nothing but the flag stood there.
        Some(_) if row == Default::default() => table::delete::<Members>(ctx.txn, &key),
        _ => table::put::<Members>(ctx.txn, &key, &row),
    }
    Ok(Reply::Done)
}
