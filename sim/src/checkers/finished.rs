//! What must be true at the end, once everything was healed and all had time: nothing is owed to anybody, every accepted entry
//! stands in the state of every replica (I1), replicas are equal (I6), no session points at a dead incarnation (I7), and
//! the cursor of every connected device has reached its head (the last hop).
//!
//! Each is a question to the states as they stand, so that a run can ask again until its patience ends.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use flotilla_client::history::{Op, Record};
use flotilla_machine::conversation::tables::dirty::Dirties;
use flotilla_machine::conversation::tables::entry::Entries;
use flotilla_machine::conversation::tables::receipt_dirty::ReceiptDirties;
use flotilla_machine::meta;
use flotilla_machine::table::{self, Table, View};
use flotilla_machine::user::cursor::CursorTable;
use flotilla_machine::user::inbox::InboxTable;
use flotilla_machine::user::marks::DueTable;
use flotilla_machine::user::session::SessionTable;
use flotilla_proto::frame::Accepted;
use flotilla_proto::ids::{Cid, DeviceId, Incarnation, NodeId, Seq, SessionNo, ShardId};
use flotilla_proto::member::Mode;
use flotilla_raft::keys;

use super::World;
use super::model::{end, receives};

/// The states that one node holds, but for the control group's.
fn states<T>(world: &World, node: u16, mut look: impl FnMut(ShardId, &View<'_>) -> Option<T>) -> Option<T> {
    let read = world.disk(node)?.written();
    let mine = world.held.range((node, ShardId(0))..=(node, ShardId(u16::MAX)));
    // What is damaged may be so without anybody having read it yet.
    let whole = mine.filter(|(place, _)| place.1 != ShardId::CONTROL && world.damaged.get(place) != Some(&keys::STATE));
    whole.into_iter().find_map(|((_, shard), held)| {
        let prefix = keys::state(*shard, held.pointer.generation);
        look(*shard, &View { read: &*read, prefix: &prefix })
    })
}

fn first<T: Table>(view: &View<'_>, mut wrong: impl FnMut(T::Key, T::Row) -> Option<String>) -> Option<String> {
    let mut found = None;
    let scanned = table::scan_prefix::<T>(view, &[T::KIND], &mut |key, row| {
        found = wrong(key, row);
        if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    scanned.err().map(|error| format!("table {} cannot be read: {error}", T::NAME)).or(found)
}

/// Something that a row of this node still owes.
pub fn owed(world: &World, node: u16) -> Option<String> {
    states(world, node, |shard, view| {
        first::<Dirties>(view, |(target, conv), row| {
            Some(format!("shard {target} is owed head {} and parts {} of {conv}", row.head, row.parts))
        })
        .or_else(|| {
            first::<ReceiptDirties>(view, |(target, conv, user), _| {
                Some(format!("shard {target} is owed {user}'s peer marks of {conv}"))
            })
        })
        .or_else(|| first::<DueTable>(view, |(user, conv), _| Some(format!("{conv} is owed the marks of {user}"))))
        .map(|what| format!("in shard {shard} on node {node}, {what}"))
    })
}

/// A session that points at a life of a node that is over. `alive`: the incarnations of running nodes.
pub fn lost_session(world: &World, node: u16, alive: &BTreeMap<NodeId, Incarnation>) -> Option<String> {
    states(world, node, |shard, view| {
        first::<SessionTable>(view, |(user, device), row| {
            let lives = alive.get(&row.node) == Some(&row.incarnation);
            (!lives).then(|| {
                format!("I7: in shard {shard}, {user}'s {device} has a session at a dead incarnation: {row:?}")
            })
        })
    })
}

/// A session that nobody holds: a later one than its device was ever told of, so its gateway has lost it. `told`: the newest
/// session that each device was told of.
pub fn unheld(world: &World, node: u16, told: &BTreeMap<DeviceId, SessionNo>) -> Option<String> {
    states(world, node, |shard, view| {
        first::<SessionTable>(view, |(user, device), row| {
            let newest = told.get(&device)?;
            (row.number > *newest).then(|| {
                format!("I7: in shard {shard}, {user}'s {device} has a session that nobody holds: {row:?}, it knows {newest}")
            })
        })
    })
}

/// A shard that has not taken the fence of a node's living incarnation: sessions of the dead ones could still be opened there.
pub fn unfenced(world: &World, node: u16, alive: &BTreeMap<NodeId, Incarnation>) -> Option<String> {
    states(world, node, |shard, view| {
        alive.iter().find_map(|(of, living)| {
            let fence = meta::fence(view, *of).unwrap_or_default();
            (fence < *living)
                .then(|| format!("I7: shard {shard} has fence {fence} of node {of}, which lives as {living}"))
        })
    })
}

/// A device of these that has not acked what its user may see.
pub fn behind(world: &World, node: u16, devices: &[DeviceId]) -> Option<String> {
    states(world, node, |_, view| {
        first::<CursorTable>(view, |(user, device, conv), at| {
            if !devices.contains(&device) {
                return None;
            }
            let row = table::get::<InboxTable>(view, &(user.clone(), conv.clone())).ok().flatten()?;
            // In pull mode only the log itself tells how far it goes.
            let pulled = row.part.mode == Mode::Pull;
            let head = if pulled { world.heads.get(&conv).copied().unwrap_or(row.head) } else { row.head };
            let (head, _) = end(&row.part, head, row.n_head);
            let pending = (at.0 + 1..=head.0).any(|seq| receives(&row.part, Seq(seq)));
            pending.then(|| format!("{user}'s {device} stands at {at} of {conv}, the head is {head}"))
        })
    })
}

/// Whether the replicas of all shards stand at one index with one state on these nodes.
pub fn unequal(world: &World, nodes: &[u16]) -> Option<String> {
    let mut shards: BTreeMap<ShardId, Vec<(u16, u64, u64)>> = BTreeMap::new();
    for ((node, shard), held) in &world.held {
        // A replica that was replaced by one elsewhere is not asked for.
        if nodes.contains(node) {
            let index = held.pointer.applied.map_or(0, |id| id.index());
            shards.entry(*shard).or_default().push((*node, index, held.digest));
        }
    }
    shards.into_iter().find_map(|(shard, all)| {
        let unequal = all.windows(2).any(|pair| (pair[0].1, pair[0].2) != (pair[1].1, pair[1].2));
        unequal.then(|| format!("the replicas of shard {shard} are not equal (node, index, digest): {all:?}"))
    })
}

/// I1: an answer that a client was given, whose entry is gone from a replica that should have it.
pub fn forgotten(world: &World, nodes: &[u16], records: &[Record]) -> Option<String> {
    let mut answers: BTreeMap<ShardId, Vec<(&Record, Cid, &Accepted)>> = BTreeMap::new();
    for record in records {
        let Op::Accepted { cid, accepted } = &record.op else { continue };
        let known = world.entries.get(&accepted.conv).and_then(|log| log.get(&accepted.seq));
        let Some(known) = known else {
            return Some(format!("I1 accepted-stays: {cid} is accepted and was never applied: {accepted:?}"));
        };
        answers.entry(known.shard).or_default().push((record, *cid, accepted));
    }
    nodes.iter().find_map(|node| {
        states(world, *node, |shard, view| {
            let missing = answers.get(&shard)?.iter().find(|(_, cid, accepted)| {
                let stored = table::get::<Entries>(view, &(accepted.conv.clone(), accepted.seq)).ok().flatten();
                stored.is_none_or(|entry| entry.cid != *cid || entry.chain != accepted.chain)
            });
            missing.map(|(record, cid, accepted)| {
                format!(
                    "I1 accepted-stays: node {node} does not have {} seq {} (cid {cid}), which {} was told is accepted",
                    accepted.conv, accepted.seq, record.device
                )
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{Bench, cursor, device, dirty, entry, inbox, said, session};
    use super::*;

    #[test]
    fn debts_lost_entries_dead_sessions_and_lagging_cursors_are_named() {
        let mut bench = Bench::new(Vec::new());
        let one = entry(1, 10, None);
        bench.accepted("bob", &one);
        let records = bench.records.clone();
        bench.watch.with_world(|world| assert!(forgotten(world, &[1], &records).is_some()));
        bench.apply_all(1, 1, said(&one));
        bench.watch.with_world(|world| assert_eq!(forgotten(world, &[1], &records), None));
        bench.watch.with_world(|world| assert_eq!(owed(world, 1), None));
        bench.apply_all(1, 2, vec![dirty(Some(1), 0), inbox("bob", 1, 1), cursor("bob", 0), session("bob", 1, 7)]);
        bench.watch.with_world(|world| {
            assert!(owed(world, 1).is_some());
            assert!(behind(world, 1, &[device("bob")]).is_some());
            assert!(lost_session(world, 1, &BTreeMap::from([(NodeId(1), Incarnation(8))])).is_some());
            assert_eq!(lost_session(world, 1, &BTreeMap::from([(NodeId(1), Incarnation(7))])), None);
            let told = |number| BTreeMap::from([(device("bob"), SessionNo(number))]);
            assert!(unheld(world, 1, &told(0)).is_some());
            assert_eq!(unheld(world, 1, &told(1)), None);
        });
        bench.apply_all(2, 1, said(&one));
        bench.watch.with_world(|world| assert!(unequal(world, &[1, 2]).is_some()));
    }
}
