//! The log itself: dedup, order, time, direct conversations.

use flotilla_proto::entry::What;
use flotilla_proto::ids::*;
use flotilla_proto::limits;

use super::kit::*;
use crate::command::*;
use crate::conversation::tables::member::{MemberRow, Members};
use crate::reply::{Accepted, Rejection, Reply};
use crate::table::{self, Table};
use crate::testing::arb::{message, named};
use crate::testing::{Machine, scene};

const DAY: u64 = limits::DEDUP_WINDOW_MS;

fn evict(room: &mut Room) {
    assert_eq!(room.machine.one(Command::EvictDedup { limit: 100 }), Reply::Step { more: false });
}

#[test]
fn a_direct_conversation_is_made_by_its_first_entry_which_is_the_clients_own() {
    let mut room = Room::direct("alice", "bob");
    assert_eq!(room.says("bob", "hi"), Seq(1));
    assert_eq!(room.entry(Seq(1)).what, Some(message("hi")));
    for who in ["alice", "bob"] {
        assert!(room.part(who).is_member() && room.part(who).receives(Seq(1)));
    }
    assert_eq!(room.says("alice", "hello"), Seq(2));
    assert_eq!(room.row().members(), 2);
}

#[test]
fn a_peer_must_have_been_checked_before_a_direct_conversation_is_made() {
    let mut room = Room::direct("alice", "bob");
    let append = Append { checked: vec![], ..room.command("alice", message("hi")) };
    assert_eq!(room.rejected(append), Rejection::NeedPeers(vec![named("bob")]));
    room.says("alice", "hi");
    let later = Append { checked: vec![], ..room.command("alice", message("again")) };
    room.accepted(later);
}

#[test]
fn only_the_two_peers_write_and_only_messages() {
    let mut room = Room::direct("alice", "bob");
    assert_eq!(room.refuses("carol", message("x")), Rejection::NotMember);
    assert_eq!(room.refuses("alice", What::Delete { target: Seq(1) }), Rejection::NotFound);
    assert!(matches!(room.refuses("alice", leave()), Rejection::Validation(_)));
    room.says("alice", "hi");
    assert_eq!(room.refuses("carol", message("x")), Rejection::NotMember);
    for what in [leave(), add(&["carol"]), remove("bob"), creation(&[]), What::Rename { name: "x".into() }] {
        assert!(matches!(room.refuses("alice", what), Rejection::Validation(_)));
    }
}

#[test]
fn a_self_chat_has_one_member_and_asks_for_nobody() {
    let mut room = Room::direct("carol", "carol");
    let note = Append { checked: vec![], ..room.command("carol", message("note")) };
    room.accepted(note);
    assert_eq!(room.row().members(), 1);
    assert_eq!(room.dirty(2)[0].notify.users.len(), 1);
}

#[test]
fn a_retry_gets_the_first_answer_byte_for_byte_whatever_its_age_and_after() {
    let mut room = Room::direct("alice", "bob");
    let first = room.command("alice", message("hi"));
    let answer = room.accepted(first.clone());
    room.says("bob", "hello");
    let head = room.row();
    let retry = Append { age_ms: 7_000, after: Some(Cid(9_999)), checked: vec![], device: DeviceId(2), ..first };
    assert_eq!(room.accepted(retry), Accepted { dup: true, ..answer });
    assert_eq!(room.row(), head, "a duplicate appends nothing");
}

#[test]
fn the_same_cid_with_another_body_is_refused_and_another_senders_cid_is_its_own() {
    let mut room = Room::direct("alice", "bob");
    let first = room.command("alice", message("hi"));
    room.accepted(first.clone());
    let other = Append { what: message("ho"), ..first.clone() };
    assert_eq!(room.rejected(other), Rejection::IdempotencyMismatch);
    let bobs = Append { sender: named("bob"), ..first };
    assert_eq!(room.accepted(bobs).seq, Seq(2));
}

#[test]
fn an_accepted_send_retried_after_a_kick_is_a_duplicate_not_a_rejection() {
    let mut room = Room::group("alice", &["bob"]);
    let sent = room.command("bob", message("last words"));
    let answer = room.accepted(sent.clone());
    room.does("alice", remove("bob"));
    assert_eq!(room.accepted(sent), Accepted { dup: true, ..answer });
    assert_eq!(room.refuses("bob", message("more")), Rejection::NotMember);
}

#[test]
fn a_rejection_is_not_remembered() {
    let mut room = Room::group("alice", &[]);
    let early = room.command("bob", message("hi"));
    assert_eq!(room.rejected(early.clone()), Rejection::NotMember);
    room.does("alice", add(&["bob"]));
    assert!(!room.accepted(early).dup);
}

#[test]
fn after_holds_back_a_send_whose_predecessor_is_unknown() {
    let mut room = Room::direct("alice", "bob");
    let first = room.command("alice", message("1"));
    let second = Append { after: Some(first.cid), ..room.command("alice", message("2")) };
    assert_eq!(room.rejected(second.clone()), Rejection::OutOfOrder);
    room.accepted(first.clone());
    let bobs = Append { after: Some(first.cid), ..room.command("bob", message("b")) };
    assert_eq!(room.rejected(bobs), Rejection::OutOfOrder, "cids are the sender's own");
    assert_eq!(room.accepted(second).seq, Seq(2));
}

#[test]
fn who_may_not_write_here_is_told_so_whatever_is_missing_before() {
    let mut room = Room::group("alice", &["bob"]);
    let said = room.command("bob", message("said"));
    let answer = room.accepted(said.clone());
    let behind = |room: &mut Room, who: &str| Append { after: Some(Cid(7)), ..room.command(who, message("behind it")) };
    let waits = behind(&mut room, "bob");
    assert_eq!(room.rejected(waits), Rejection::OutOfOrder, "a member waits for what it has sent before");
    room.does("alice", remove("bob"));
    let barred = behind(&mut room, "bob");
    assert_eq!(room.rejected(barred), Rejection::NotMember);
    let again = Append { after: Some(Cid(7)), ..said };
    assert_eq!(room.accepted(again), Accepted { dup: true, ..answer }, "dedup before all");
    let mut direct = Room::direct("alice", "bob");
    let early = behind(&mut direct, "alice");
    assert_eq!(direct.rejected(early), Rejection::OutOfOrder, "the one before it may make the conversation");
    direct.machine.one(Command::SetBlocked { conv: direct.conv.clone(), user: named("alice"), on: true });
    let blocked = behind(&mut direct, "alice");
    assert_eq!(direct.rejected(blocked), Rejection::Blocked);
    direct.says("bob", "not you");
    let blocked = behind(&mut direct, "alice");
    assert_eq!(direct.rejected(blocked), Rejection::Blocked);
}

#[test]
fn what_was_evicted_from_dedup_is_too_old_and_never_appended_twice() {
    let mut room = Room::direct("alice", "bob");
    let first = room.command("alice", message("hi"));
    room.accepted(first.clone());
    room.machine.wait(DAY);
    let retry = Append { age_ms: DAY + 10, ..first.clone() };
    assert!(room.accepted(retry.clone()).dup, "still in the window, or not evicted yet");
    evict(&mut room);
    assert_eq!(room.rejected(retry), Rejection::TooOld);
    assert_eq!(room.rejected(Append { age_ms: u64::MAX, ..first }), Rejection::TooOld);
    let fresh = Append { age_ms: 1_000, ..room.command("alice", message("new")) };
    assert_eq!(room.accepted(fresh).seq, Seq(2), "a young attempt cannot have been among the evicted");
    let bobs = Append { age_ms: DAY * 2, ..room.command("bob", message("b")) };
    assert_eq!(room.accepted(bobs).seq, Seq(3), "nothing of bob's was evicted");
}

#[test]
fn an_attempt_at_the_very_stamp_of_the_floor_is_too_old() {
    let mut room = Room::direct("alice", "bob");
    room.says("alice", "hi");
    let stamp = room.machine.meta().age().0;
    room.machine.wait(DAY + 1);
    evict(&mut room);
    let now = room.machine.meta().age().0 + 1;
    let at = |room: &mut Room, attempt: u64| Append { age_ms: now - attempt, ..room.command("alice", message("x")) };
    let equal = at(&mut room, stamp);
    let younger = at(&mut room, stamp + 1);
    let stamp = Stamp { age_delta_ms: 0, display: TsMs(0) };
    room.machine.wait(1);
    assert_eq!(room.machine.at(stamp, Command::Append(equal)), Reply::Rejected(Rejection::TooOld));
    assert!(matches!(room.machine.at(stamp, Command::Append(younger)), Reply::Accepted(_)));
}

#[test]
fn a_wrong_wall_clock_evicts_nothing() {
    let mut room = Room::direct("alice", "bob");
    let first = room.command("alice", message("hi"));
    room.accepted(first.clone());
    room.machine.at(Stamp { age_delta_ms: 5, display: TsMs(u64::MAX) }, Command::Tick);
    evict(&mut room);
    assert!(room.accepted(first).dup);
}

#[test]
fn eviction_goes_in_steps_and_says_when_it_is_due() {
    let mut room = Room::direct("alice", "bob");
    for _ in 0..5 {
        room.says("alice", "x");
    }
    let due =
        |room: &Room| crate::conversation::eviction_due(&room.machine.view(), &room.machine.meta()).expect("reads");
    assert!(!due(&room));
    room.machine.wait(DAY + 1);
    assert!(due(&room));
    assert_eq!(room.machine.one(Command::EvictDedup { limit: 3 }), Reply::Step { more: true });
    assert_eq!(room.machine.one(Command::EvictDedup { limit: 3 }), Reply::Step { more: false });
    assert!(!due(&room));
}

#[test]
fn timestamps_never_go_back_and_ids_rise_when_the_clock_jumps_back() {
    let mut room = Room::direct("alice", "bob");
    let mut last = (TsMs(0), MsgId(0));
    for display in [1_700_000_000_000, 1_600_000_000_000, 0, 1_700_000_000_001] {
        let append = room.command("alice", message("x"));
        let stamp = Stamp { age_delta_ms: 0, display: TsMs(display) };
        let Reply::Accepted(a) = room.machine.at(stamp, Command::Append(append)) else { panic!("accepted") };
        assert!(a.ts >= last.0 && a.msg_id > last.1);
        last = (a.ts, a.msg_id);
    }
}

#[test]
fn a_shard_without_the_slot_answers_moved_before_anything_else() {
    let mut room = Room::direct("alice", "bob");
    let append = room.command("alice", message("hi"));
    room.machine = Machine::new(scene::HOME);
    assert_eq!(room.rejected(append.clone()), Rejection::Moved, "no slot table: owns nothing");
    room.machine = Machine::with_slots(ShardId(2), &scene::slots());
    assert_eq!(room.rejected(append), Rejection::Moved);
    let conv = room.conv.clone();
    let receipt = Receipt { user: named("alice"), conv: conv.clone(), delivered: Seq(1), read: Seq(1) };
    let items = vec![ClearDirty { conv, head: Seq(1), parts: Seq(1) }];
    for command in [Command::Receipts(vec![receipt]), Command::ClearDirty { target: ShardId(2), items }] {
        assert_eq!(room.machine.one(command), Reply::Rejected(Rejection::Moved));
    }
}

#[test]
fn long_batches_are_refused_whole() {
    let mut room = Room::direct("alice", "bob");
    room.says("alice", "hi");
    let receipt = Receipt { user: named("bob"), conv: room.conv.clone(), delivered: Seq(1), read: Seq(1) };
    let reply = room.machine.one(Command::Receipts(vec![receipt; limits::COMMAND_ITEMS_MAX + 1]));
    assert!(matches!(reply, Reply::Rejected(Rejection::Validation(_))));
    assert_eq!(room.member("bob").read, Seq::ZERO);
}

#[test]
fn bytes_that_are_no_command_stop_the_replica() {
    let mut machine = Machine::with_slots(scene::HOME, &scene::slots());
    let before = machine.digest();
    let good = Command::Tick.encode().expect("encodes");
    let newer = [&[COMMAND_VERSION + 1], &good[1..]].concat();
    for bad in [&b""[..], b"\x01", b"\x01\xff\xff\xff\xff", &newer] {
        let commands = [good.clone(), bytes::Bytes::copy_from_slice(bad)];
        assert!(matches!(machine.try_apply(&Stamp::default(), &commands), Err(crate::Fatal::Undecodable(_))));
    }
    assert_eq!(machine.digest(), before, "nothing of such a proposal is stored");
}

#[test]
fn a_blocked_peer_is_told_so_and_writes_nothing() {
    let mut room = Room::direct("alice", "bob");
    room.says("alice", "hi");
    let key = (room.conv.clone(), named("alice"));
    let row = MemberRow { blocked: true, ..room.member("alice") };
    room.machine.tamper(|txn| table::put::<Members>(txn, &key, &row));
    assert_eq!(room.refuses("alice", message("please")), Rejection::Blocked);
    room.says("bob", "no");
}

#[test]
fn a_damaged_row_stops_the_replica_instead_of_being_taken_for_missing() {
    let mut room = Room::direct("alice", "bob");
    room.says("alice", "hi");
    let key = Members::key(&(room.conv.clone(), named("alice")));
    let mut row = room.machine.rows()[&key].clone();
    row[9] ^= 4;
    room.machine.tamper(|txn| txn.put(key, row.into()));
    let append = Command::Append(room.command("alice", message("x"))).encode().expect("encodes");
    let stopped = room.machine.try_apply(&Stamp::default(), &[append]);
    assert!(matches!(stopped, Err(crate::Fatal::Damaged { table: "member" })));
}
