//! `Query::Folded`: pages of messages as they stand now, and `Query::SeqAt`: where a date begins.
//!
//! Edits, deletions and reactions are entries of the log; here the first two are folded into their targets, and none of the
//! three is listed. A page looks at a bounded number of entries, so it may be short, or empty, and say that there is more.

use flotilla_proto::entry::{Entry, What};
use flotilla_proto::ids::*;
use flotilla_proto::limits;

use super::log::{self, Page};
use crate::Fatal;
use crate::conversation::tables::conversation::ConversationRow;
use crate::conversation::tables::entry::Entries;
use crate::conversation::tables::member::MemberRow;
use crate::conversation::tables::revision::Revisions;
use crate::query::{Answer, FoldedPage};
use crate::table::{self, View};

/// The entry's body is that of its newest edit that the reader may read.
fn fold(view: &View<'_>, member: &MemberRow, mut entry: Entry) -> Result<(Entry, Option<Seq>), Fatal> {
    if !matches!(entry.what, Some(What::Message { .. })) {
        return Ok((entry, None));
    }
    let edits = table::get::<Revisions>(view, &(entry.conv.clone(), entry.seq))?.unwrap_or_default();
    let Some(newest) = edits.into_iter().filter(|seq| member.part.may_read(*seq)).max() else {
        return Ok((entry, None));
    };
    if let Some(edit) = table::get::<Entries>(view, &(entry.conv.clone(), newest))?
        && let Some(What::Edit { body: edited, .. }) = edit.what
        && let Some(What::Message { body, .. }) = &mut entry.what
    {
        *body = edited;
        return Ok((entry, Some(newest)));
    }
    Ok((entry, None))
}

pub fn folded(
    view: &View<'_>,
    conv: &ConvId,
    row: &ConversationRow,
    member: &MemberRow,
    page: &Page,
) -> Result<Answer, Fatal> {
    let Answer::Entries(raw) = log::entries(view, conv, row, member, page)? else { return Ok(Answer::NotFound) };
    let looked_to = raw.entries.last().map(|entry| entry.seq);
    let mut entries = Vec::new();
    for entry in raw.entries {
        if !matches!(entry.kind.as_str(), "edit" | "delete" | "react") {
            entries.push(fold(view, member, entry)?);
        }
    }
    Ok(Answer::Folded(FoldedPage { entries, looked_to, more: raw.more }))
}

/// The first entry at or after `ts` that the user may read; the entry's `ts` never decreases inside a conversation.
pub fn seq_at(
    view: &View<'_>,
    conv: &ConvId,
    row: &ConversationRow,
    member: &MemberRow,
    ts: TsMs,
) -> Result<Answer, Fatal> {
    let head = member.part.effective_head(row.head);
    let (mut low, mut high) = (Seq(1), head.next());
    // At most 64 steps: the range halves.
    while low < high {
        let middle = Seq(low.0 + (high.0 - low.0) / 2);
        let earlier = table::get::<Entries>(view, &(conv.clone(), middle))?.is_some_and(|entry| entry.ts < ts);
        if earlier { low = middle.next() } else { high = middle }
    }
    let page = Page { from: low, to: head, newest_first: false, limit: 1, bytes_max: limits::PAGE_BYTES_MAX as u32 };
    match log::entries(view, conv, row, member, &page)? {
        Answer::Entries(found) => Ok(Answer::SeqAt(found.entries.first().map(|entry| entry.seq))),
        _ => Ok(Answer::SeqAt(None)),
    }
}
