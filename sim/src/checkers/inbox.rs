//! The user's side says what the conversation's log says (DESIGN section 4): a row's membership part is the one that the log
//! made at its `mseq`, its counts are those of the log at its head, and nobody has received or read what no device of theirs
//! has acked or read. Receipts move only by that, in both directions (I9, receipts).

use flotilla_machine::conversation::tables::member::Members;
use flotilla_machine::user::cursor::CursorTable;
use flotilla_machine::user::inbox::{InboxTable, Row};
use flotilla_proto::ids::{ConvId, Count, DeviceId, Seq, UserId};

use flotilla_proto::member::Mode;

use super::model::Model;
use super::{Checker, Event, RowChange, Site, World};

pub struct Inbox;

impl Checker for Inbox {
    fn promise(&self) -> &'static str {
        "users' rows follow from the log"
    }

    fn on_event(&mut self, world: &World, site: &Site<'_>, event: &Event) -> Result<u64, String> {
        let Event::Applied { shard, rows, .. } = event else { return Ok(0) };
        rows.iter()
            .try_fold(0, |sum, row| on_row(world, row).map(|count| sum + count))
            .map_err(|what| format!("node {}, shard {shard}: {what}", site.node))
    }
}

fn on_row(world: &World, change: &RowChange) -> Result<u64, String> {
    if let Some(((user, conv), _, Some(row))) = change.of::<InboxTable>() {
        return on_inbox(world, &user, &conv, &row).map_err(|what| format!("{user}'s row of {conv}: {what}: {row:?}"));
    }
    if let Some(((conv, user), _, Some(row))) = change.of::<Members>() {
        let told = world.inboxes.get(&(user.clone(), conv.clone())).copied().unwrap_or_default();
        if row.delivered > told.delivered || row.read > told.read {
            return Err(format!(
                "the member row of {user} in {conv} is {row:?}, the user's own row never was above {told:?}"
            ));
        }
        return Ok(1);
    }
    if let Some(((user, device, conv), None, Some(at))) = change.of::<CursorTable>() {
        return first_cursor(world, &user, device, &conv, at)
            .map_err(|what| format!("the first cursor of {user}'s {device} in {conv} is {at}: {what}"));
    }
    Ok(0)
}

fn on_inbox(world: &World, user: &UserId, conv: &ConvId, row: &Row) -> Result<u64, String> {
    let Some((model, _)) = world.models.get(conv) else {
        return if *row == (Row { rev: row.rev, ..Row::default() }) {
            Ok(0)
        } else {
            Err("there is no such conversation".into())
        };
    };
    if row.part.mseq > Seq::ZERO && model.past.get(&(user.clone(), row.part.mseq)) != Some(&row.part) {
        return Err(format!("the log made another membership at {}", row.part.mseq));
    }
    let n = |seq: Seq| model.n_at(seq).ok_or_else(|| format!("the conversation has no entry {seq}"));
    if row.n_head > n(row.head)? || row.n_read > n(row.read)? {
        return Err(format!(
            "it counts more than there is: up to its head {}, up to its read mark {}",
            n(row.head)?,
            n(row.read)?
        ));
    }
    if row.n_sent > model.n_sent.get(user).copied().unwrap_or(Count(0)) {
        return Err("it counts own messages that were never written".into());
    }
    let newest = model.lines.get(&model.head);
    if newest.is_none_or(|line| row.last_id > line.msg_id || row.last_ts > line.ts) {
        return Err("its last message lies above the log's last one".into());
    }
    let (acked, read) = world.marked(user, conv);
    if row.delivered > acked.max(read) || row.read > read {
        return Err(format!("the user's devices have acked up to {acked} and read up to {read}"));
    }
    peers(world, user, conv, row, model)?;
    Ok(1)
}

fn peers(world: &World, user: &UserId, conv: &ConvId, row: &Row, _: &Model) -> Result<(), String> {
    let peer = conv.peer_of(user).filter(|peer| peer != user);
    let marks = peer.and_then(|peer| world.receipts.get(&(conv.clone(), peer))).copied().unwrap_or_default();
    if row.peer_delivered > marks.0 || row.peer_read > marks.1 {
        return Err(format!("its peer's marks never were above {marks:?}"));
    }
    Ok(())
}

/// Not above what was there when the device was registered, nor above the user's first entry: what lies behind is owed.
fn first_cursor(world: &World, user: &UserId, device: DeviceId, conv: &ConvId, at: Seq) -> Result<u64, String> {
    let Some((model, _)) = world.models.get(conv) else { return Err("there is no such conversation".into()) };
    let Some(heads) = world.registered.get(&device) else { return Ok(0) };
    let then = heads.get(conv).copied().unwrap_or_default();
    let first = model.part(user).and_then(|part| part.intervals.first()).map_or(Seq::ZERO, |stay| stay.from.prev());
    // A replica that catches up may write a cursor and move it in one batch.
    let acked = world.acked.get(&(device, conv.clone())).into_iter().flatten().map(|(_, seq)| *seq).max();
    // In pull mode it is registered when it has taken its place, at a head that the conversation had by then, and is not
    // connected before.
    let pulled = model.part(user).is_some_and(|part| part.mode == Mode::Pull);
    // Other replicas follow later.
    if world.first_cursors.contains(&(device, conv.clone(), at)) {
        return Ok(1);
    }
    let met = world.sessions.values().any(|(known, _)| *known == device);
    let then = if pulled && !met { then.max(world.heads.get(conv).copied().unwrap_or_default()) } else { then };
    if at > then.max(first) && acked.is_none_or(|acked| at > acked) {
        return Err(format!("the head was {then} when it was registered, the user's first stay begins behind {first}"));
    }
    Ok(1)
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{Bench, entry, inbox, said};
    use super::*;

    #[test]
    fn a_row_that_the_log_does_not_explain_is_seen() {
        let bench = || Bench::new(vec![Box::new(Inbox)]);
        let one = entry(1, 10, None);
        bench().apply_all(1, 1, said(&one)).apply_all(1, 2, vec![inbox("bob", 1, 1)]).holds();
        bench().apply_all(1, 1, said(&one)).apply_all(1, 2, vec![inbox("bob", 1, 2)]).violates("users' rows");
        bench().apply_all(1, 1, said(&one)).apply_all(1, 2, vec![inbox("bob", 2, 1)]).violates("users' rows");
        bench().apply_all(1, 2, vec![inbox("bob", 1, 1)]).violates("users' rows");
    }
}
