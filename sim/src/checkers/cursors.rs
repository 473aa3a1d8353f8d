//! I5 ack-safety: a device's cursor moves up only by that device's own acks, made on the session that is its current one; it
//! never goes back, and never passes the head that its user may see.

use flotilla_machine::table::{self, View};
use flotilla_machine::user::cursor::CursorTable;
use flotilla_machine::user::device::{DeviceTable, GoneTable};
use flotilla_machine::user::inbox::InboxTable;
use flotilla_proto::ids::{ConvId, DeviceId, Seq, SessionNo, UserId};

use super::model::end;
use super::{Checker, Event, RowChange, Site, World};

pub struct Cursors;

impl Checker for Cursors {
    fn promise(&self) -> &'static str {
        "I5 ack-safety"
    }

    fn on_event(&mut self, world: &World, site: &Site<'_>, event: &Event) -> Result<u64, String> {
        let Event::Applied { shard, pointer, rows, .. } = event else { return Ok(0) };
        site.with_state(*shard, pointer, |view| {
            rows.iter().try_fold(0, |sum, row| on_row(world, view, rows, row).map(|count| sum + count))
        })
        .map_err(|what| format!("node {}, shard {shard}: {what}", site.node))
    }
}

fn on_row(world: &World, view: &View<'_>, rows: &[RowChange], row: &RowChange) -> Result<u64, String> {
    let Some(((user, device, conv), old, new)) = row.of::<CursorTable>() else { return Ok(0) };
    let Some(new) = new else {
        let revoked = table::get::<GoneTable>(view, &(user.clone(), device)).ok().flatten().is_some();
        return if revoked { Ok(1) } else { Err(format!("the cursor of {user}'s {device} in {conv} was removed")) };
    };
    let head = table::get::<InboxTable>(view, &(user.clone(), conv.clone())).ok().flatten();
    let head = head.map_or(Seq::ZERO, |row| end(&row.part, row.head, row.n_head).0);
    if new > head {
        return Err(format!("the cursor of {user}'s {device} in {conv} is {new}, above the head {head}"));
    }
    let Some(old) = old else { return Ok(1) };
    if new < old {
        return Err(format!("the cursor of {user}'s {device} in {conv} went back from {old} to {new}"));
    }
    own_ack(world, view, rows, &user, device, &conv, new)
}

/// The device has acked this far, on a session that was its current one while this batch was applied.
fn own_ack(
    world: &World,
    view: &View<'_>,
    rows: &[RowChange],
    user: &UserId,
    device: DeviceId,
    conv: &ConvId,
    seq: Seq,
) -> Result<u64, String> {
    let acked = world.acked.get(&(device, conv.clone()));
    let (first, last) = current(view, rows, user, device);
    let made = acked.into_iter().flatten().filter(|(session, _)| (first..=last).contains(*session));
    let upto = made.map(|(_, seq)| *seq).max().unwrap_or_default();
    if upto >= seq {
        return Ok(1);
    }
    Err(format!(
        "the cursor of {user}'s {device} in {conv} moves to {seq}; on the sessions {first} to {last} it has acked up to {upto} (all its acks: {acked:?})"
    ))
}

/// The sessions that were current before, during and after the batch: a node that catches up applies several at once. The
/// device's row keeps the last number also while no session is open, as after a fence.
fn current(view: &View<'_>, rows: &[RowChange], user: &UserId, device: DeviceId) -> (SessionNo, SessionNo) {
    let key = (user.clone(), device);
    let now = table::get::<DeviceTable>(view, &key).ok().flatten().map_or(SessionNo(0), |row| row.number);
    let changed = rows.iter().filter_map(|row| row.of::<DeviceTable>()).find(|(changed, _, _)| *changed == key);
    let before = changed.and_then(|(_, old, _)| old).map_or(now, |row| row.number);
    (before.min(now), now)
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{Bench, cursor, device_row, inbox, session};
    use super::*;

    #[test]
    fn a_cursor_without_an_ack_above_the_head_or_by_an_old_session_is_seen() {
        let bench = || {
            let mut bench = Bench::new(vec![Box::new(Cursors)]);
            bench.apply_all(1, 1, vec![inbox("bob", 5, 1), cursor("bob", 1), device_row("bob", 2)]);
            bench
        };
        bench().connected("bob", 2).acked("bob", 4).apply_all(1, 2, vec![cursor("bob", 4)]).holds();
        bench().connected("bob", 2).acked("bob", 3).apply_all(1, 2, vec![cursor("bob", 4)]).violates("I5");
        bench().connected("bob", 1).acked("bob", 4).apply_all(1, 2, vec![cursor("bob", 4)]).violates("I5");
        bench().connected("bob", 2).acked("bob", 9).apply_all(1, 2, vec![cursor("bob", 9)]).violates("I5");
        bench().apply_all(1, 2, vec![cursor("bob", 0)]).violates("I5");
    }

    #[test]
    fn a_session_that_opened_and_was_replaced_within_one_batch_may_have_acked() {
        let acked_on = |number| {
            let mut bench = Bench::new(vec![Box::new(Cursors)]);
            // No session is open: the second was fenced.
            bench.apply_all(1, 1, vec![inbox("bob", 5, 1), cursor("bob", 1), device_row("bob", 2)]);
            bench.connected("bob", number).acked("bob", 4);
            bench
        };
        let caught_up = || vec![cursor("bob", 4), device_row("bob", 4), session("bob", 4, 7)];
        acked_on(3).apply_all(1, 2, caught_up()).holds();
        acked_on(1).apply_all(1, 2, caught_up()).violates("I5");
        let mut apart = acked_on(3);
        apart.apply_all(1, 2, vec![device_row("bob", 4), session("bob", 4, 7)]);
        apart.apply_all(1, 3, vec![cursor("bob", 4)]).violates("I5");
    }
}
