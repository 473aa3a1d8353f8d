//! `Query::Marks`: what live receipts are told from.
//!
//! It shows what is registered in the log's own rows, where hidden reads never come, and nothing of who is no member. Whether a
//! watcher is shown reads at all is settled at its own shard.

use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_proto::member::Mode;

use super::people;
use crate::Fatal;
use crate::conversation::plan::row_of;
use crate::conversation::tables::conversation::Conversations;
use crate::meta::Owned;
use crate::query::{Answer, MarksOf, MarksView};
use crate::table::{self, View};

/// Bounded by the members of a group in push mode, and by the asked users, of whom as many are looked at as are asked for at once.
pub fn marks(
    view: &View<'_>,
    owned: &Owned,
    conv: &ConvId,
    of: Option<&[UserId]>,
    watchers: &[UserId],
) -> Result<Answer, Fatal> {
    if owned.check_conversation(conv).is_err() {
        return Ok(Answer::Moved);
    }
    let Some(row) = table::get::<Conversations>(view, conv)? else { return Ok(Answer::NotFound) };
    let mut answer = MarksView { pulled: row.mode == Mode::Pull, ..MarksView::default() };
    for user in watchers.iter().take(limits::STANDINGS_MAX) {
        if row_of(view, conv, user)?.is_some_and(|member| member.is_member()) {
            answer.watchers.push(user.clone());
        }
    }
    if answer.pulled {
        return Ok(Answer::Marks(answer));
    }
    let users = match of {
        Some(users) => users.to_vec(),
        None => people::current(view, conv, &row)?,
    };
    for user in users.into_iter().take(limits::GROUP_MEMBERS_MAX) {
        if let Some(member) = row_of(view, conv, &user)?.filter(|member| member.is_member()) {
            answer.marks.push(MarksOf { user, delivered: member.delivered, read: member.read });
        }
    }
    Ok(Answer::Marks(answer))
}
