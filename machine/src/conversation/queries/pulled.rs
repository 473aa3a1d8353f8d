//! `Query::Standing` and `Query::Feed`: what gateways ask about conversations in pull mode.

use flotilla_proto::ids::*;
use flotilla_proto::limits;

use crate::Fatal;
use crate::conversation::plan::row_of;
use crate::conversation::tables::conversation::Conversations;
use crate::conversation::tables::entry::{Budget, read_up};
use crate::meta::Owned;
use crate::query::{Answer, Standing, StandingOf};
use crate::table::{self, View};

/// Bounded by the asked users, of whom at most `STANDINGS_MAX` are answered for.
pub fn standing(view: &View<'_>, owned: &Owned, conv: &ConvId, users: &[UserId]) -> Result<Answer, Fatal> {
    if owned.check_conversation(conv).is_err() {
        return Ok(Answer::Moved);
    }
    let Some(row) = table::get::<Conversations>(view, conv)? else { return Ok(Answer::NotFound) };
    let mut own = Vec::with_capacity(users.len());
    for user in users.iter().take(limits::STANDINGS_MAX) {
        let member = row_of(view, conv, user)?.filter(|member| !member.part.intervals.is_empty());
        own.push(member.map(|member| StandingOf { n_sent: member.n_sent, part: member.part }));
    }
    let (head, n_head, last_id, last_ts) = (row.head, row.n_head, row.last_id, row.last_ts);
    Ok(Answer::Standing(Standing { mode: row.mode, head, n_head, last_id, last_ts, users: own }))
}

/// The first of the asked entries that fit, without a hole.
pub fn feed(
    view: &View<'_>,
    owned: &Owned,
    conv: &ConvId,
    (from, to): (Seq, Seq),
    bytes_max: u32,
) -> Result<Answer, Fatal> {
    if owned.check_conversation(conv).is_err() {
        return Ok(Answer::Moved);
    }
    let Some(row) = table::get::<Conversations>(view, conv)? else { return Ok(Answer::NotFound) };
    let mut budget = Budget::new(limits::PAGE_ENTRIES_MAX, (bytes_max as usize).min(limits::PAGE_BYTES_MAX));
    let mut entries = Vec::new();
    read_up(view, conv, (from.max(Seq(1)), to.min(row.head)), &mut budget, &mut entries)?;
    Ok(Answer::Feed { entries, head: row.head, n_head: row.n_head })
}
