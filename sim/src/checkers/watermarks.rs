//! I9 monotone, in the state: heads, counts, read and delivered marks, revisions and membership parts of a user's row never go
//! back; nor do watermarks of members, fences, and a shard's clock.

use flotilla_machine::conversation::tables::member::{MemberRow, Members};
use flotilla_machine::conversation::tables::sender::Senders;
use flotilla_machine::meta::{ClockTable, FenceTable};
use flotilla_machine::user::inbox::InboxTable;

use super::{Checker, Event, RowChange, Site, World};

pub struct Watermarks;

impl Checker for Watermarks {
    fn promise(&self) -> &'static str {
        "I9 monotone"
    }

    fn on_event(&mut self, _: &World, site: &Site<'_>, event: &Event) -> Result<u64, String> {
        let Event::Applied { shard, rows, .. } = event else { return Ok(0) };
        rows.iter()
            .try_fold(0, |sum, row| on_row(row).map(|count| sum + count))
            .map_err(|what| format!("node {}, shard {shard}: {what}", site.node))
    }
}

fn on_row(row: &RowChange) -> Result<u64, String> {
    if let Some(((user, conv), Some(old), new)) = row.of::<InboxTable>() {
        let Some(new) = new else { return Err(format!("{user}'s row of {conv} was removed")) };
        let marks = [
            (old.head.0, new.head.0),
            (old.n_head.0, new.n_head.0),
            (old.read.0, new.read.0),
            (old.n_read.0, new.n_read.0),
            (old.n_sent.0, new.n_sent.0),
            (old.delivered.0, new.delivered.0),
            (old.rev.0, new.rev.0),
            (old.part.mseq.0, new.part.mseq.0),
            (old.last_id.0, new.last_id.0),
            (old.last_ts.0, new.last_ts.0),
            (old.peer_delivered.0, new.peer_delivered.0),
            (old.peer_read.0, new.peer_read.0),
        ];
        return rising(&marks, || format!("{user}'s row of {conv}: {old:?} became {new:?}"));
    }
    if let Some(((conv, user), Some(old), new)) = row.of::<Members>() {
        // Before the first entry a row may hold nothing but that somebody is blocked.
        if new.is_none() && old == (MemberRow { blocked: true, ..MemberRow::default() }) {
            return Ok(0);
        }
        let Some(new) = new else { return Err(format!("the member row of {user} in {conv} was removed")) };
        let marks = [
            (old.part.mseq.0, new.part.mseq.0),
            (old.delivered.0, new.delivered.0),
            (old.read.0, new.read.0),
            (old.n_sent.0, new.n_sent.0),
        ];
        return rising(&marks, || format!("the member row of {user} in {conv}: {old:?} became {new:?}"));
    }
    if let Some(((conv, sender), Some(old), new)) = row.of::<Senders>() {
        let floor = new.map_or(0, |row| row.floor.0);
        return rising(&[(old.floor.0, floor)], || {
            format!("the floor of {sender} in {conv} went from {} to {floor}", old.floor)
        });
    }
    if let Some((node, Some(old), Some(new))) = row.of::<FenceTable>() {
        return rising(&[(old.0, new.0)], || format!("the fence of node {node} went from {old} to {new}"));
    }
    if let Some((_, Some(old), Some(new))) = row.of::<ClockTable>() {
        let marks = [(old.age.0, new.age.0), (old.display.0, new.display.0)];
        return rising(&marks, || format!("the clock {old:?} became {new:?}"));
    }
    Ok(0)
}

fn rising(marks: &[(u64, u64)], what: impl Fn() -> String) -> Result<u64, String> {
    if marks.iter().any(|(old, new)| old > new) { Err(what()) } else { Ok(1) }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{Bench, inbox, member};
    use super::*;

    #[test]
    fn a_head_and_a_membership_that_go_back_are_seen() {
        let bench = || Bench::new(vec![Box::new(Watermarks)]);
        bench().apply_all(1, 1, vec![inbox("bob", 5, 1)]).apply_all(1, 2, vec![inbox("bob", 6, 1)]).holds();
        bench().apply_all(1, 1, vec![inbox("bob", 5, 1)]).apply_all(1, 2, vec![inbox("bob", 4, 1)]).violates("I9");
        bench().apply_all(1, 1, vec![inbox("bob", 5, 3)]).apply_all(1, 2, vec![inbox("bob", 5, 1)]).violates("I9");
        bench().apply_all(1, 1, vec![member("bob", 3)]).apply_all(1, 2, vec![member("bob", 1)]).violates("I9");
    }
}
