//! What both sides of a conversation must say once nothing is owed: a member's row stands at the log's head with its counts and
//! its own membership, and receipts have arrived everywhere: at the user, at the conversation, at the peer.

use std::collections::BTreeSet;

use flotilla_machine::user::inbox::Row;
use flotilla_proto::ids::{ConvId, Count, Seq, UserId};
use flotilla_proto::member::Mode;

use super::World;
use super::model::{Model, inside, is_member};

/// The first row of these users that does not say what the log says.
pub fn differ(world: &World, users: &BTreeSet<UserId>) -> Option<String> {
    world.models.iter().find_map(|(conv, (model, _))| {
        let mut members = model.parts.keys().filter(|user| users.contains(*user));
        members
            .find_map(|user| row(world, conv, model, user).err().map(|what| format!("{user}'s row of {conv}: {what}")))
    })
}

fn row(world: &World, conv: &ConvId, model: &Model, user: &UserId) -> Result<(), String> {
    let rows = world.rows.get(&(user.clone(), conv.clone()));
    let row = rows.and_then(|rows| rows.values().next_back()).ok_or("there is none")?;
    let part = &model.parts[user];
    if row.part != *part {
        return Err(format!("its membership is {:?}, by the log {part:?}", row.part));
    }
    if !is_member(part) {
        return Ok(());
    }
    if model.mode == Mode::Pull {
        return pulled(world, conv, model, user, row);
    }
    let n_sent = model.n_sent.get(user).copied().unwrap_or(Count(0));
    if (row.head, row.n_head, row.n_sent) != (model.head, model.n_head, n_sent) {
        return Err(format!("{row:?}; the log has head {}, n {}, its own {n_sent}", model.head, model.n_head));
    }
    // Messages only: what else is appended moves the head and may leave them behind.
    let last = model.lines.get(&model.head).map(|line| (line.msg_id, line.ts));
    if last != Some((row.last_id, row.last_ts)) {
        return Err(format!("its last entry is {:?}, the log's {last:?}", (row.last_id, row.last_ts)));
    }
    receipts(world, conv, model, user, row)
}

/// In pull mode the row knows of the heads that came with its part and that its user's devices have acked.
fn pulled(world: &World, conv: &ConvId, model: &Model, user: &UserId, row: &Row) -> Result<(), String> {
    let (acked, read) = world.marked(user, conv);
    let least = row.part.mseq.max(acked).max(read);
    if row.head < least || row.head > model.head || Some(row.n_head) != model.n_at(row.head) {
        return Err(format!("{row:?}; its user knows the log up to {least}, its head is {}", model.head));
    }
    receipts(world, conv, model, user, row)
}

fn receipts(world: &World, conv: &ConvId, model: &Model, user: &UserId, row: &Row) -> Result<(), String> {
    // What was marked while the user was out is of no effect and never told again.
    let part = &row.part;
    if part.intervals.len() > 1 {
        return Ok(());
    }
    let inside = |seq: Seq| inside(part, seq);
    let (acked, read) = world.marked(user, conv);
    let due = (inside(acked).max(inside(read)), read);
    if (row.delivered, row.read) != due || Some(row.n_read) != model.n_at(read) {
        return Err(format!(
            "it is delivered and read up to {:?} (n {}), the devices said {due:?}",
            (row.delivered, row.read),
            row.n_read
        ));
    }
    let there = world.receipts.get(&(conv.clone(), user.clone())).copied().unwrap_or_default();
    // Read marks that were made while they were hidden are not told.
    let (least, most) = world.shown_reads.get(&(user.clone(), conv.clone())).copied().unwrap_or_default();
    // Of what is delivered in pull mode the conversation is not told; it may know what was so before.
    let delivered = there.0 == due.0 || model.mode == Mode::Pull && there.0 < due.0;
    if !delivered || there.1 < inside(least) || there.1 > inside(most) {
        return Err(format!(
            "its conversation knows it as delivered and read up to {there:?}, its own row has {due:?}"
        ));
    }
    let Some(peer) = conv.peer_of(user).filter(|peer| peer != user) else { return Ok(()) };
    let theirs = world.receipts.get(&(conv.clone(), peer)).copied().unwrap_or_default();
    if (row.peer_delivered, row.peer_read) != theirs {
        return Err(format!(
            "it knows its peer at {:?}, the conversation at {theirs:?}",
            (row.peer_delivered, row.peer_read)
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{Bench, entry, inbox, said, user};
    use super::*;

    fn differ(world: &World) -> Option<String> {
        super::differ(world, &BTreeSet::from([user("ann"), user("bob")]))
    }

    #[test]
    fn a_row_that_never_heard_of_the_head_is_named() {
        let mut bench = Bench::new(Vec::new());
        bench.apply_all(1, 1, said(&entry(1, 10, None)));
        bench.watch.with_world(|world| assert!(differ(world).is_some()));
        bench.apply_all(1, 2, vec![inbox("ann", 0, 1), inbox("bob", 1, 1)]);
        bench.watch.with_world(|world| assert!(differ(world).is_some_and(|what| what.contains("ann"))));
    }
}
