//! `Query::Mentions`: how often a member is named in what it has not read.
//!
//! It is asked with the marks of the user's row, so it cannot differ between that user's devices.

use flotilla_proto::ids::*;
use flotilla_proto::limits;

use crate::Fatal;
use crate::conversation::tables::mention::Mentions;
use crate::query::{Answer, MentionsView};
use crate::table::{self, Table, View};

/// Of messages with an n in (past, to].
pub fn mentions(view: &View<'_>, conv: &ConvId, user: &UserId, past: Count, to: Count) -> Result<Answer, Fatal> {
    let at = |n: Count| Mentions::key(&(conv.clone(), user.clone(), n));
    if past >= to {
        return Ok(Answer::Mentions(MentionsView::default()));
    }
    let (rows, more) =
        table::page::<Mentions>(view, &table::above(at(past)), &table::above(at(to)), limits::MENTIONS_COUNTED_MAX)?;
    let first = rows.first().map(|(_, seq)| *seq);
    Ok(Answer::Mentions(MentionsView { count: rows.len() as u32, first, more }))
}
