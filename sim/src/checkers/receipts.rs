//! Receipts are paid: what a user's shard owes a conversation, and a direct conversation the peer's row, is cleared only after the
//! other side has applied it (DESIGN section 5, point 11). And what somebody marks who has left moves nothing.

use flotilla_machine::conversation::tables::member::Members;
use flotilla_machine::conversation::tables::receipt_dirty::ReceiptDirties;
use flotilla_machine::user::marks::DueTable;

use super::model::is_member;
use super::{Checker, Event, RowChange, Site, World};

pub struct Receipts;

impl Checker for Receipts {
    fn promise(&self) -> &'static str {
        "receipts are paid"
    }

    fn on_event(&mut self, world: &World, site: &Site<'_>, event: &Event) -> Result<u64, String> {
        let Event::Applied { shard, rows, .. } = event else { return Ok(0) };
        rows.iter()
            .try_fold(0, |sum, row| on_row(world, row).map(|count| sum + count))
            .map_err(|what| format!("node {}, shard {shard}: {what}", site.node))
    }
}

fn on_row(world: &World, row: &RowChange) -> Result<u64, String> {
    if let Some(((_, conv, user), Some(owed), None)) = row.of::<ReceiptDirties>() {
        // Of a conversation that is not in the user's list there is no row to be changed.
        let Some(told) = world.inboxes.get(&(user.clone(), conv.clone())) else { return Ok(0) };
        let (delivered, read) = told.peer;
        if delivered < owed.delivered || read < owed.read {
            let told = told.peer;
            return Err(format!("{user}'s row of {conv} has its peer at {told:?}, and {owed:?} is not owed any more"));
        }
        return Ok(1);
    }
    if let Some(((user, conv), Some(owed), None)) = row.of::<DueTable>() {
        let model = world.models.get(&conv).map(|(model, _)| model);
        let part = model.and_then(|model| model.part(&user));
        // Where the user was out in between, what was marked meanwhile is of no effect.
        let whole = part.is_some_and(|part| is_member(part) && part.intervals.len() == 1);
        let from = part.and_then(|part| part.intervals.first()).map(|stay| stay.from).unwrap_or_default();
        if !whole || owed.delivered < from || model.is_none_or(|model| model.head < owed.delivered.max(owed.read)) {
            return Ok(0);
        }
        let there = world.receipts.get(&(conv.clone(), user.clone())).copied().unwrap_or_default();
        if there.0 < owed.delivered || there.1 < owed.read && owed.read >= from {
            return Err(format!("{conv} knows {user} at {there:?}, and {owed:?} is not owed any more"));
        }
        return Ok(1);
    }
    if let Some(((conv, user), Some(old), Some(new))) = row.of::<Members>() {
        let gone = !is_member(&old.part) && old.part == new.part;
        if gone && (old.delivered, old.read) != (new.delivered, new.read) {
            return Err(format!("{user} has left {conv}, and its marks go on: {old:?} became {new:?}"));
        }
        return Ok(u64::from(gone));
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use flotilla_machine::conversation::tables::receipt_dirty::ReceiptDirtyRow;
    use flotilla_machine::user::inbox::{InboxTable, Row};
    use flotilla_proto::ids::Seq;

    use super::super::testkit::{Bench, Raw, conv, part, raw, user};
    use super::*;

    fn peer(delivered: u64) -> Raw {
        let row = Row { head: Seq(5), part: part(1), peer_delivered: Seq(delivered), ..Row::default() };
        raw::<InboxTable>(&(user("bob"), conv()), &row)
    }

    fn owed(delivered: Option<u64>) -> Raw {
        let row = ReceiptDirtyRow { delivered: Seq(delivered.unwrap_or(0)), read: Seq(0) };
        let (key, stored) = raw::<ReceiptDirties>(&(Bench::SHARD, conv(), user("bob")), &row);
        (key, stored.filter(|_| delivered.is_some()))
    }

    #[test]
    fn a_receipt_that_is_cleared_before_the_other_side_has_it_is_seen() {
        let bench = || {
            let mut bench = Bench::new(vec![Box::new(Receipts)]);
            bench.apply_all(1, 1, vec![peer(2)]).apply_all(1, 2, vec![owed(Some(4))]);
            bench
        };
        bench().apply_all(1, 3, vec![peer(4)]).apply_all(1, 4, vec![owed(None)]).holds();
        bench().apply_all(1, 3, vec![peer(3)]).apply_all(1, 4, vec![owed(None)]).violates("receipts are paid");
    }
}
