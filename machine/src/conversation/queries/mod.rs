//! What may be read of the conversation side. Pure functions of one view.

mod folded;
mod log;
mod marks;
mod mentions;
mod owed;
mod people;
mod pulled;

pub use log::for_reader;

use flotilla_proto::ids::*;
use flotilla_proto::limits;

use super::plan::row_of;
use super::tables::conversation::{ConversationRow, Conversations};
use super::tables::member::MemberRow;
use crate::Fatal;
use crate::meta::{self, Owned};
use crate::query::{Answer, Query};
use crate::table::{self, View};

/// Answers the queries of this side; a query of another side is answered `NotFound`.
pub fn query(view: &View<'_>, owned: &Owned, query: &Query) -> Result<Answer, Fatal> {
    match query {
        Query::Entries { conv, user, from, to, newest_first, limit, bytes_max } => {
            with(view, owned, conv, user, |row, member| {
                let page = log::Page {
                    from: *from,
                    to: *to,
                    newest_first: *newest_first,
                    limit: *limit,
                    bytes_max: *bytes_max,
                };
                log::entries(view, conv, &row, &member, &page)
            })
        }
        Query::Conversation { conv, user } => {
            with(view, owned, conv, user, |row, member| people::conversation(view, conv, row, &member))
        }
        Query::Members { conv, user, after, limit } => with(view, owned, conv, user, |row, member| {
            people::members(view, conv, &row, &member, after.as_ref(), *limit)
        }),
        Query::Folded { conv, user, from, to, newest_first, limit, bytes_max } => {
            with(view, owned, conv, user, |row, member| {
                let (from, to, newest_first, limit, bytes_max) = (*from, *to, *newest_first, *limit, *bytes_max);
                let page = log::Page { from, to, newest_first, limit, bytes_max };
                folded::folded(view, conv, &row, &member, &page)
            })
        }
        Query::SeqAt { conv, user, ts } => {
            with(view, owned, conv, user, |row, member| folded::seq_at(view, conv, &row, &member, *ts))
        }
        Query::Audience { conv, user } => {
            with(view, owned, conv, user, |row, member| people::audience(view, conv, &row, &member))
        }
        // A shard that keeps none says so: no count is not the same as none.
        Query::Mentions { .. } if meta::settings(view)?.feature_level < limits::MENTIONS_LEVEL => Ok(Answer::NotFound),
        Query::Mentions { conv, user, past, to } => {
            with(view, owned, conv, user, |_, _| mentions::mentions(view, conv, user, *past, *to))
        }
        Query::Marks { conv, of, watchers } => marks::marks(view, owned, conv, of.as_deref(), watchers),
        Query::Standing { conv, users } => pulled::standing(view, owned, conv, users),
        Query::Feed { conv, from, to, bytes_max } => pulled::feed(view, owned, conv, (*from, *to), *bytes_max),
        _ => Ok(Answer::NotFound),
    }
}

/// What the pumps walk.
pub fn owed(view: &View<'_>, query: &Query) -> Result<Answer, Fatal> {
    match query {
        Query::Dirty { target, after, limit, bytes_max } => {
            owed::dirty(view, *target, after.as_ref(), *limit, *bytes_max)
        }
        Query::DirtyOf { target, convs, bytes_max } => owed::dirty_of(view, *target, convs, *bytes_max),
        Query::DirtyTargets => owed::targets(view),
        Query::ReceiptsDirty { target, limit } => owed::receipts(view, *target, *limit),
        _ => Ok(Answer::NotFound),
    }
}

/// Finds the conversation and the user's membership, present or past.
fn with(
    view: &View<'_>,
    owned: &Owned,
    conv: &ConvId,
    user: &UserId,
    answer: impl FnOnce(ConversationRow, MemberRow) -> Result<Answer, Fatal>,
) -> Result<Answer, Fatal> {
    if owned.check_conversation(conv).is_err() {
        return Ok(Answer::Moved);
    }
    let Some(row) = table::get::<Conversations>(view, conv)? else {
        return Ok(Answer::NotFound);
    };
    match row_of(view, conv, user)? {
        Some(member) => answer(row, member),
        None => Ok(Answer::NotMember),
    }
}
