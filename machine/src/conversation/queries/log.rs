//! `Query::Entries`: pages of the log, cut to what the user may read by the log's own membership.

use flotilla_proto::entry::{Entry, What};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_proto::member::MembershipPart;

use crate::Fatal;
use crate::conversation::tables::conversation::ConversationRow;
use crate::conversation::tables::entry::{Budget, read_down, read_up};
use crate::conversation::tables::member::MemberRow;
use crate::query::{Answer, EntriesPage};
use crate::table::View;

/// Which entries are asked for.
pub struct Page {
    pub from: Seq,
    pub to: Seq,
    pub newest_first: bool,
    pub limit: u32,
    pub bytes_max: u32,
}

pub fn entries(
    view: &View<'_>,
    conv: &ConvId,
    row: &ConversationRow,
    member: &MemberRow,
    page: &Page,
) -> Result<Answer, Fatal> {
    let part = &member.part;
    let limit = (page.limit as usize).clamp(1, limits::PAGE_ENTRIES_MAX);
    let mut budget = Budget::new(limit, (page.bytes_max as usize).min(limits::PAGE_BYTES_MAX));
    let mut ranges = readable(part, page.from, page.to, row.head);
    if page.newest_first {
        ranges.reverse();
    }
    let (mut entries, mut more) = (Vec::new(), false);
    for range in ranges {
        let read = if page.newest_first { read_down } else { read_up };
        if !read(view, conv, range, &mut budget, &mut entries)? {
            more = true;
            break;
        }
    }
    let entries = entries.into_iter().map(|entry| for_reader(part, entry)).collect();
    Ok(Answer::Entries(EntriesPage {
        entries,
        more,
        floor: Seq(1),
        head: part.effective_head(row.head),
        n_head: part.effective_n(row.n_head),
        part: part.clone(),
    }))
}

/// The ranges of [from, to] that this part may read, in order and disjoint.
fn readable(part: &MembershipPart, from: Seq, to: Seq, head: Seq) -> Vec<(Seq, Seq)> {
    let mut ranges: Vec<(Seq, Seq)> = Vec::new();
    let mut stays: Vec<(Seq, Seq)> = part.intervals.iter().map(|i| (i.history_from, i.until.unwrap_or(head))).collect();
    stays.sort();
    // From where on nothing was taken yet: histories may overlap with earlier stays.
    let mut next = from.max(Seq(1));
    for (low, high) in stays {
        let (low, high) = (low.max(next), high.min(to).min(head));
        if low <= high {
            ranges.push((low, high));
            next = high.next();
        }
    }
    ranges
}

/// The entry as a reader with this membership gets it: an edit of a message that it may not read comes without its body.
/// Whoever sends entries to a client, from a page or from a notify, passes them through here.
pub fn for_reader(part: &MembershipPart, entry: Entry) -> Entry {
    match &entry.what {
        Some(What::Edit { target, .. }) if !part.may_read(*target) => Entry { what: None, ..entry },
        _ => entry,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn readable_ranges_are_exactly_what_the_part_may_read(
            bounds in prop::collection::vec((1u64..6, 0u64..6, any::<bool>()), 0..5),
            open: bool, from in 0u64..40, to in 0u64..50, head in 1u64..40,
        ) {
            let mut member = MemberRow::default();
            let mut at = 0;
            let stays = bounds.len();
            for (nth, (skip, length, full)) in bounds.into_iter().enumerate() {
                let join = at + skip;
                at = join + length;
                let history = if full { Seq(1) } else { Seq(join) };
                member.join(Seq(join), Count(0), history, flotilla_proto::entry::Role::Member);
                if !(open && nth + 1 == stays) {
                    member.leave(Seq(at), Count(0));
                }
            }
            let got: Vec<u64> = readable(&member.part, Seq(from), Seq(to), Seq(head))
                .into_iter()
                .flat_map(|(low, high)| low.0..=high.0)
                .collect();
            let wanted: Vec<u64> =
                (from.max(1)..=to.min(head)).filter(|seq| member.part.may_read(Seq(*seq))).collect();
            prop_assert_eq!(got, wanted);
        }
    }
}
