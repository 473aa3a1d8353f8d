//! Watermarks of members, and what a peer is shown.

use flotilla_proto::ids::*;

use super::kit::*;
use crate::command::*;
use crate::effect::Effect;
use crate::query::{Answer, MarksOf, MarksView, Query};
use crate::reply::Reply;
use crate::testing::arb::named;

fn receipt(room: &mut Room, who: &str, delivered: u64, read: u64) {
    let conv = room.conv.clone();
    let receipt = Receipt { user: named(who), conv, delivered: Seq(delivered), read: Seq(read) };
    assert_eq!(room.machine.one(Command::Receipts(vec![receipt])), Reply::Done);
}

fn marks(room: &Room, who: &str) -> (u64, u64) {
    let row = room.member(who);
    (row.delivered.0, row.read.0)
}

fn owed(room: &Room, target: u16) -> Vec<Receipt> {
    match room.machine.query(&Query::ReceiptsDirty { target: ShardId(target), limit: 9 }) {
        Answer::Receipts { items, more: false } => items,
        other => panic!("expected receipts, got {other:?}"),
    }
}

#[test]
fn watermarks_are_monotone_clamped_and_read_implies_delivered() {
    let mut room = Room::direct("alice", "bob");
    for _ in 0..5 {
        room.says("alice", "x");
    }
    receipt(&mut room, "bob", 2, 0);
    assert_eq!(marks(&room, "bob"), (2, 0));
    receipt(&mut room, "bob", 1, 3);
    assert_eq!(marks(&room, "bob"), (3, 3));
    receipt(&mut room, "bob", 0, 1);
    assert_eq!(marks(&room, "bob"), (3, 3));
    receipt(&mut room, "bob", u64::MAX, 0);
    assert_eq!(marks(&room, "bob"), (5, 3), "never past the head");
}

#[test]
fn an_effect_says_what_the_row_owes_to_the_peer() {
    let mut room = Room::direct("alice", "bob");
    room.says("alice", "x");
    room.says("alice", "y");
    for (delivered, read) in [(1, 0), (0, 1), (2, 0)] {
        let conv = room.conv.clone();
        let receipt = Receipt { user: named("bob"), conv, delivered: Seq(delivered), read: Seq(read) };
        let applied = room.machine.apply(&Stamp::default(), &[Command::Receipts(vec![receipt])]);
        let told = |receipt| Effect::ReceiptDirty { target: ShardId(2), receipt };
        let rows: Vec<_> = owed(&room, 2).into_iter().map(told).collect();
        assert_eq!(applied.effects, rows);
    }
    receipt(&mut room, "bob", 2, 1);
    assert_eq!(
        owed(&room, 2),
        [Receipt { user: named("alice"), conv: room.conv.clone(), delivered: Seq(2), read: Seq(1) }]
    );
}

#[test]
fn watermarks_count_only_inside_the_stays() {
    let mut room = Room::group("alice", &["bob"]);
    room.does("alice", remove("bob"));
    receipt(&mut room, "bob", 2, 2);
    assert_eq!(marks(&room, "bob"), (0, 0), "a leaver's receipt is answered done and changes nothing");
    room.says("alice", "secret");
    room.does("alice", add(&["bob"]));
    receipt(&mut room, "bob", 3, 3);
    assert_eq!(marks(&room, "bob"), (2, 2), "3 was never delivered to bob");
}

#[test]
fn receipts_of_strangers_and_for_nothing_are_answered_done() {
    let mut room = Room::direct("alice", "bob");
    receipt(&mut room, "alice", 1, 1);
    room.says("alice", "x");
    receipt(&mut room, "carol", 1, 1);
    assert!(owed(&room, 2).is_empty() && owed(&room, 3).is_empty());
}

#[test]
fn the_peer_of_a_direct_conversation_is_owed_the_marks_until_its_shard_confirms() {
    let mut room = Room::direct("alice", "bob");
    room.says("alice", "x");
    room.says("alice", "y");
    receipt(&mut room, "bob", 1, 0);
    let item = owed(&room, 2).remove(0);
    assert_eq!((item.user.clone(), item.delivered, item.read), (named("alice"), Seq(1), Seq(0)));
    receipt(&mut room, "bob", 2, 2);
    let clear = |item: &Receipt| Command::ClearReceiptDirty {
        items: vec![ClearReceipt {
            user: item.user.clone(),
            conv: item.conv.clone(),
            delivered: item.delivered,
            read: item.read,
        }],
    };
    room.machine.one(clear(&item));
    assert_eq!(owed(&room, 2).len(), 1, "a late clear leaves what rose since");
    let newer = owed(&room, 2).remove(0);
    room.machine.one(clear(&newer));
    room.machine.one(clear(&newer));
    assert!(owed(&room, 2).is_empty());
    receipt(&mut room, "bob", 2, 2);
    assert!(owed(&room, 2).is_empty(), "nothing rose, nothing is owed");
}

#[test]
fn groups_and_self_chats_owe_no_marks_to_anybody() {
    let mut group = Room::group("alice", &["bob"]);
    receipt(&mut group, "bob", 1, 1);
    assert_eq!(marks(&group, "bob"), (1, 1));
    let mut own = Room::direct("carol", "carol");
    own.says("carol", "note");
    receipt(&mut own, "carol", 1, 1);
    assert!((0..5).all(|target| owed(&group, target).is_empty() && owed(&own, target).is_empty()));
}

fn view(room: &Room, of: Option<&[&str]>, watchers: &[&str]) -> MarksView {
    let users = |names: &[&str]| names.iter().map(|name| named(name)).collect();
    let query = Query::Marks { conv: room.conv.clone(), of: of.map(users), watchers: users(watchers) };
    match room.machine.query(&query) {
        Answer::Marks(view) => view,
        other => panic!("expected marks, got {other:?}"),
    }
}

#[test]
fn gateways_are_told_the_marks_of_members_and_which_of_their_users_are_members() {
    let mut room = Room::group("alice", &["bob", "carol"]);
    room.says("alice", "x");
    receipt(&mut room, "bob", 2, 1);
    let marks = |of, delivered, read| MarksOf { user: named(of), delivered: Seq(delivered), read: Seq(read) };
    let all = view(&room, None, &["carol", "dave"]);
    assert_eq!(all.marks.iter().map(|m| m.user.clone()).collect::<Vec<_>>(), ["alice", "bob", "carol"].map(named));
    assert_eq!((all.pulled, &all.watchers, &all.marks[1]), (false, &vec![named("carol")], &marks("bob", 2, 1)));
    room.does("alice", remove("bob"));
    let some = view(&room, Some(&["bob", "carol", "dave"]), &["bob", "alice"]);
    assert_eq!(some.watchers, [named("alice")], "who has left is told nothing more");
    assert_eq!(some.marks, [marks("carol", 0, 0)], "and nobody is told of who has left");
}
