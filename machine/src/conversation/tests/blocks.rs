//! Blocks: decided by the conversation's own log.

use super::kit::*;
use crate::command::*;
use crate::query::{Answer, Query};
use crate::reply::{Rejection, Reply};
use crate::testing::arb::{message, named};

fn blocked(room: &mut Room, who: &str, on: bool) -> Reply {
    room.machine.one(Command::SetBlocked { conv: room.conv.clone(), user: named(who), on })
}

#[test]
fn who_is_blocked_before_the_first_word_cannot_say_it() {
    let mut room = Room::direct("alice", "bob");
    assert_eq!(blocked(&mut room, "alice", true), Reply::Done);
    assert_eq!(room.refuses("alice", message("hi")), Rejection::Blocked);
    // The one who blocks may write, and that does not lift the block.
    room.says("bob", "go away");
    assert_eq!(room.refuses("alice", message("why?")), Rejection::Blocked);
    assert!(room.member("alice").is_member());
    blocked(&mut room, "alice", false);
    assert_eq!(room.says("alice", "thanks").0, 2);
}

#[test]
fn a_block_holds_from_its_place_in_the_log_and_repeats_stay_duplicates() {
    let mut room = Room::direct("alice", "bob");
    let first = room.command("alice", message("hi"));
    room.accepted(first.clone());
    blocked(&mut room, "alice", true);
    assert!(room.accepted(first).dup, "what was accepted before is answered as it was");
    assert_eq!(room.refuses("alice", message("again")), Rejection::Blocked);
    let audience = Query::Audience { conv: room.conv.clone(), user: named("alice") };
    assert_eq!(room.machine.query(&audience), Answer::Audience(vec![]), "nor does she type");
    room.says("bob", "still here");
}

#[test]
fn an_unblocked_stranger_leaves_no_row_and_groups_know_no_blocks() {
    let mut room = Room::direct("alice", "bob");
    let before = room.machine.digest();
    for (on, _) in [(true, ()), (false, ()), (false, ())] {
        blocked(&mut room, "alice", on);
    }
    let mut idle = Room::direct("alice", "bob");
    (0..3).for_each(|_| drop(idle.machine.one(Command::Tick)));
    assert_eq!(room.machine.digest(), idle.machine.digest());
    assert_ne!(before, room.machine.digest(), "but for the clock");
    let mut group = Room::group("alice", &["bob"]);
    assert!(matches!(blocked(&mut group, "bob", true), Reply::Rejected(Rejection::Validation(_))));
    let mut alone = Room::direct("alice", "alice");
    assert!(matches!(blocked(&mut alone, "alice", true), Reply::Rejected(Rejection::Validation(_))));
    assert!(matches!(blocked(&mut room, "carol", true), Reply::Rejected(Rejection::Validation(_))));
}
