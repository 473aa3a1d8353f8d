//! Pages of history (U5): each entry of a page is the log's own; a page keeps to what was asked, holds nothing from outside the
//! reader's membership, and lacks nothing of what the device had stored before it asked.

use flotilla_proto::frame::{History, HistoryReply};
use flotilla_proto::ids::Seq;

use super::one_history::agree;
use super::world::World;
use super::{Stats, Violation};
use crate::history::{Op, Record};

const PROMISE: &str = "pages are the log";

pub fn check(world: &World<'_>, stats: &mut Stats) -> Result<(), Violation> {
    for record in world.records {
        let Op::Page { ask, stored, page } = &record.op else { continue };
        *stats.entry("pages").or_default() += 1;
        entries(world, record, ask, page, stats)?;
        lacking(world, record, ask, *stored, page)?;
    }
    Ok(())
}

fn entries(
    world: &World<'_>,
    record: &Record,
    ask: &History,
    page: &HistoryReply,
    stats: &mut Stats,
) -> Result<(), Violation> {
    let (lowest, highest) = bounds(ask);
    let mut before = Seq::ZERO;
    for entry in &page.entries {
        let fail = |what: &str, more: Option<usize>| {
            let what = format!("{} asked {ask:?}: seq {} {what}", record.device, entry.seq);
            Violation::new(PROMISE, what, more.map(|at| &world.records[at]).into_iter().chain([record]))
        };
        if entry.conv != ask.conv || entry.seq < lowest || entry.seq > highest {
            return Err(fail("was not asked for", None));
        }
        if entry.seq <= before {
            return Err(fail("is out of order", None));
        }
        if world.is_member(&ask.conv, &record.user, entry.seq) == Some(false) {
            return Err(fail("lies outside of the reader's membership", None));
        }
        if let Some((at, seen)) = world.entry(&entry.conv, entry.seq) {
            *stats.entry("entries of pages").or_default() += 1;
            if !agree(seen, entry) {
                return Err(fail("is another entry in the log", Some(at)));
            }
        }
        before = entry.seq;
    }
    Ok(())
}

/// The lowest and highest seq that may be in the page.
fn bounds(ask: &History) -> (Seq, Seq) {
    match (ask.before, ask.after) {
        (Some(before), _) => (Seq(1), before.prev()),
        (_, Some(after)) => (after.next(), Seq(u64::MAX)),
        _ => (Seq(1), Seq(u64::MAX)),
    }
}

/// Between the ends of what the page covers stands everything that its reader may see.
fn lacking(
    world: &World<'_>,
    record: &Record,
    ask: &History,
    stored: Seq,
    page: &HistoryReply,
) -> Result<(), Violation> {
    let (lowest, highest) = bounds(ask);
    let (first, last) = (page.entries.first().map(|e| e.seq), page.entries.last().map(|e| e.seq));
    let (from, to) = match (ask.after, ask.around) {
        // Where a page around something begins is the server's to say.
        (_, Some(around)) => {
            (first.unwrap_or(around).min(around), if page.more { last.unwrap_or(around) } else { stored })
        }
        (Some(_), _) => (lowest, if page.more { last.unwrap_or(lowest) } else { stored }),
        // Newest first.
        _ => (if page.more { first.unwrap_or(stored) } else { Seq(1) }, highest),
    };
    let to = to.min(stored).min(highest);
    let visible = |seq: &Seq| world.is_member(&ask.conv, &record.user, *seq) == Some(true);
    let missing = (from.0..=to.0).map(Seq).filter(visible).find(|seq| page.entries.iter().all(|e| e.seq != *seq));
    match missing {
        None => Ok(()),
        Some(seq) => {
            let what =
                format!("{} had stored up to {stored} and asked {ask:?}: the page lacks seq {seq}", record.device);
            Err(Violation::new(PROMISE, what, [record]))
        }
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::frame::{EntryFrame, History, HistoryReply};
    use flotilla_proto::ids::{Hash32, Seq};

    use crate::history::{Op, Record};
    use crate::oracle::testkit::History as Known;
    use crate::oracle::{Demand, judge};

    /// The good history, and a page that bob reads of its direct conversation.
    fn read(change: impl FnOnce(&mut History, &mut HistoryReply)) -> Known {
        let mut known = Known::good();
        let direct = known.direct.clone();
        let log = |record: &Record| match &record.op {
            Op::Entry { entry } if record.device == "bob/1" && entry.conv == direct => Some((**entry).clone()),
            _ => None,
        };
        let entries: Vec<EntryFrame> = known.records.iter().filter_map(log).collect();
        assert_eq!(entries.len(), 3);
        let mut ask = History { conv: direct.clone(), before: None, after: Some(Seq(0)), around: None, limit: None };
        let mut page = HistoryReply { entries, more: false };
        change(&mut ask, &mut page);
        let op = Op::Page { ask, stored: Seq(3), page: Box::new(page) };
        let user = known.user("bob");
        known.records.push(Record { at_us: 99, device: "bob/1".into(), user, op });
        known
    }

    fn holds(known: &Known) {
        let verdict = judge(&known.records, Demand::default());
        assert!(verdict.holds(), "{verdict}");
        assert_eq!(verdict.stats()["pages"], 1);
    }

    #[test]
    fn a_whole_page_and_a_part_with_more_behind_it_are_fine() {
        holds(&read(|_, _| {}));
        holds(&read(|_, page| {
            page.entries.pop();
            page.more = true;
        }));
        holds(&read(|ask, page| {
            (ask.after, ask.before) = (None, Some(Seq(3)));
            page.entries.pop();
            page.entries.remove(0);
            page.more = true;
        }));
    }

    #[test]
    fn a_page_with_a_hole_a_missing_end_a_stranger_or_another_entry_is_seen() {
        read(|_, page| drop(page.entries.remove(1))).violates("pages are the log");
        read(|_, page| drop(page.entries.pop())).violates("pages are the log");
        read(|ask, _| (ask.after, ask.before) = (None, Some(Seq(3)))).violates("pages are the log");
        read(|_, page| page.entries.swap(0, 1)).violates("pages are the log");
        read(|_, page| page.entries[1].chain = Hash32([7; 32])).violates("pages are the log");
        let mut stranger = read(|_, _| {});
        let last = stranger.records.len() - 1;
        stranger.records[last].user = stranger.user("carol");
        stranger.violates("pages are the log");
    }
}
