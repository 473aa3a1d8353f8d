//! Channels, and the switch between push and pull.

use flotilla_proto::entry::{Role, What};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_proto::member::Mode;
use flotilla_proto::slots::{self, SlotTable};

use super::kit::*;
use crate::command::*;
use crate::query::{Answer, MarksView, Query, Standing};
use crate::reply::{Rejection, Reply};
use crate::testing::arb::{message, named};
use crate::testing::scene;

/// At the level of pull mode; groups of more than three are in it until they have fewer than three.
fn raise(room: &mut Room) {
    let settings = Settings { version: 9, feature_level: limits::PULL_LEVEL, ..Settings::default() };
    assert_eq!(room.machine.one(Command::SetSettings(settings)), Reply::Done);
    let rule = PullRule { version: 1, above: 3, below: 3 };
    assert_eq!(room.machine.one(Command::SetPullRule(rule)), Reply::Done);
}

fn channel(owner: &str, others: &[&str]) -> Room {
    let mut room = Room::at(ConvId::channel(&named(owner), Cid(1)));
    raise(&mut room);
    let create = Append { cid: Cid(1), ..room.command(owner, creation(others)) };
    room.accepted(create);
    room
}

fn told(room: &Room, target: u16) -> Vec<(String, Mode)> {
    let users = room.dirty(target).remove(0).notify.users;
    users.into_iter().map(|u| (u.user.as_str().to_owned(), u.part.expect("a part is owed").mode)).collect()
}

#[test]
fn a_channel_owes_its_members_their_parts_and_nothing_per_message() {
    let mut room = channel("alice", &["bob", "erin"]);
    assert_eq!(room.targets(), [2, 3, 4]);
    assert_eq!(told(&room, 3), [("bob".to_owned(), Mode::Pull)]);
    room.settle();
    room.says("alice", "one");
    room.says("alice", "two");
    assert_eq!(room.targets(), [0u16; 0]);
    assert!(matches!(room.refuses("bob", message("me too")), Rejection::Forbidden(_)));
    let behind = Append { after: Some(Cid(7)), ..room.command("bob", message("and me")) };
    assert!(matches!(room.rejected(behind), Rejection::Forbidden(_)), "whatever he has sent before");
    // Only who joins or leaves is told, not the others of its shard.
    room.does("alice", add(&["frank"]));
    assert_eq!(told(&room, 3), [("frank".to_owned(), Mode::Pull)]);
    room.settle();
    let kicked = room.does("alice", remove("bob"));
    room.says("alice", "three");
    let item = room.dirty(3).remove(0);
    assert_eq!((item.notify.head, item.notify.users.len()), (kicked, 1), "the head of its own end");
}

#[test]
fn a_level_without_pull_mode_knows_no_channels_and_pushes_to_any_group() {
    let old = |mut room: Room| {
        let settings = Settings { version: 9, ..Settings::at_level(limits::PULL_LEVEL - 1) };
        assert_eq!(room.machine.one(Command::SetSettings(settings)), Reply::Done);
        let rule = PullRule { version: 1, above: 3, below: 3 };
        let told = room.machine.one(Command::SetPullRule(rule));
        assert!(matches!(told, Reply::Rejected(Rejection::Validation(_))), "no log of that level holds it: {told:?}");
        room
    };
    let mut room = old(Room::at(ConvId::channel(&named("alice"), Cid(1))));
    let create = Append { cid: Cid(1), ..room.command("alice", creation(&["bob"])) };
    assert!(matches!(room.rejected(create), Rejection::Validation(_)));
    let mut room = old(Room::at(ConvId::group(&named("alice"), Cid(1))));
    let create = Append { cid: Cid(1), ..room.command("alice", creation(&["bob", "carol", "dave", "erin"])) };
    room.accepted(create);
    room.settle();
    room.says("alice", "one");
    assert_eq!(room.targets(), [1, 2, 3, 4]);
    assert_eq!(room.row().mode, Mode::Push);
}

#[test]
fn the_entry_that_crosses_the_threshold_tells_every_member_and_owes_it_until_all_have_heard() {
    let mut room = Room::at(ConvId::group(&named("alice"), Cid(1)));
    raise(&mut room);
    let create = Append { cid: Cid(1), ..room.command("alice", creation(&["bob", "carol"])) };
    room.accepted(create);
    room.settle();
    let before = room.says("bob", "one");
    // Shard 3 hears nothing from here on.
    room.clear(2, before, Seq::ZERO);
    let switch = room.does("alice", add(&["dave"]));
    assert_eq!(room.row().mode, Mode::Pull);
    for who in ["alice", "bob", "carol", "dave"] {
        assert_eq!((room.part(who).mode, room.part(who).mseq), (Mode::Pull, switch), "{who}");
    }
    for target in [1, 2] {
        room.clear(target, switch, switch);
    }
    room.says("alice", "two");
    room.says("alice", "three");
    let item = room.dirty(3).remove(0);
    assert_eq!((item.notify.head, item.parts), (switch, switch), "what push mode owed ends with the switch");
    assert_eq!(item.entries.iter().map(|e| e.seq).collect::<Vec<_>>(), [before, switch]);
    room.clear(3, switch, switch);
    assert_eq!(room.targets(), [0u16; 0]);
    // Back: fewer than three.
    room.does("dave", leave());
    assert_eq!(room.row().mode, Mode::Pull, "hysteresis");
    let back = room.does("carol", leave());
    assert_eq!(room.row().mode, Mode::Push);
    assert_eq!((room.part("bob").mode, room.part("bob").mseq), (Mode::Push, back));
    room.settle();
    let after = room.says("alice", "four");
    assert_eq!(room.dirty(3).remove(0).notify.head, after);
}

#[test]
fn a_gateway_is_told_where_each_of_its_users_stands() {
    let mut room = channel("alice", &["bob"]);
    room.says("alice", "one");
    let kicked = room.does("alice", remove("bob"));
    let head = room.says("alice", "two");
    let query = Query::Standing { conv: room.conv.clone(), users: ["bob", "alice", "erin"].map(named).to_vec() };
    let Answer::Standing(Standing { mode, head: at, users, .. }) = room.machine.query(&query) else {
        panic!("a conversation stands somewhere")
    };
    assert_eq!((mode, at), (Mode::Pull, head));
    assert_eq!(users[0].as_ref().map(|own| own.part.effective_head(at)), Some(kicked));
    assert_eq!(users[1].as_ref().map(|own| own.n_sent), Some(Count(2)));
    assert_eq!(users[2], None);
    let feed = Query::Feed { conv: room.conv.clone(), from: Seq(2), to: Seq(99), bytes_max: 1 << 16 };
    let Answer::Feed { entries, head: at, .. } = room.machine.query(&feed) else { panic!("a feed") };
    assert_eq!((entries.len() as u64, at), (head.0 - 1, head));
    assert!(matches!(entries[1].what, Some(What::Remove { .. })));
}

#[test]
fn a_channel_whose_owner_leaves_has_an_heir() {
    let mut room = channel("alice", &["bob"]);
    room.does("alice", leave());
    assert_eq!(room.part("bob").role, Some(Role::Owner), "few have an heir");
}

/// A group that is not made yet, and users on hundreds of shards.
fn scattered() -> (Room, Vec<String>) {
    let conv = ConvId::group(&named("u0"), Cid(1));
    let mut owners: Vec<ShardId> = (0..limits::SLOTS).map(|slot| ShardId(2 + slot % 1_000)).collect();
    owners[usize::from(slots::of_conversation(&conv).0)] = scene::HOME;
    let names = (0..limits::GROUP_MEMBERS_MAX).map(|n| format!("u{n}"));
    (Room::among(&SlotTable::from_owners(1, owners), conv), names.collect())
}

/// All of them in a group from before pull mode.
fn grown(level: u32) -> (Room, Vec<String>) {
    let (mut room, names) = scattered();
    let old = Settings { version: 8, ..Settings::at_level(limits::PULL_LEVEL - 1) };
    assert_eq!(room.machine.one(Command::SetSettings(old)), Reply::Done);
    for (n, some) in names.chunks(100).enumerate() {
        let some: Vec<&str> = some.iter().map(String::as_str).collect();
        let (cid, what) = if n == 0 { (Cid(1), creation(&some[1..])) } else { (Cid(2 + n as u128), add(&some)) };
        let checked = some.iter().map(|name| named(name)).collect();
        let step = Append { cid, checked, ..room.command("u0", what) };
        room.accepted(step);
    }
    let now = Settings { version: 9, ..Settings::at_level(level) };
    assert_eq!(room.machine.one(Command::SetSettings(now)), Reply::Done);
    (room, names)
}

#[test]
fn a_group_too_scattered_to_tell_all_at_once_stays_in_push_mode_until_it_is_smaller() {
    let (mut room, mut names) = grown(limits::EXACT_ROWS_LEVEL);
    let joins = |room: &mut Room, who: &str| Append { checked: vec![named(who)], ..room.command("u0", add(&[who])) };
    room.does(&names.pop().expect("many"), leave());
    assert_eq!(room.row().mode, Mode::Push);
    let again = joins(&mut room, "again");
    room.accepted(again);
    let one_more = joins(&mut room, "one-more");
    assert_eq!(room.rejected(one_more), Rejection::ConversationFull, "in push mode groups are no larger");
    names.push("again".into());
    let told = room.row().targets.len();
    assert!(told > 300, "{told} shards");
    while room.row().mode == Mode::Push {
        let leaves = room.command(&names.pop().expect("it fits some day"), leave());
        let rows = room.machine.rows_written(Command::Append(leaves.clone()));
        assert!(rows <= limits::ROWS_PER_COMMAND_MAX, "{rows} rows");
        room.accepted(leaves);
    }
    let switch = room.row().head;
    assert!(names.len() > 300, "{} members are left", names.len());
    for who in &names {
        assert_eq!((room.part(who).mode, room.part(who).mseq), (Mode::Pull, switch), "{who}");
    }
    let one_more = joins(&mut room, "one-more");
    room.accepted(one_more);
}

/// A log of level 3 is replayed by the rules that it was written under: there such a group does not change at all, and few
/// enough changes are taken however many shards they are on.
#[test]
fn the_level_before_counts_rows_as_it_did() {
    let (mut room, names) = grown(limits::EXACT_ROWS_LEVEL - 1);
    let leaves = room.command(names.last().expect("many"), leave());
    assert!(matches!(room.rejected(leaves), Rejection::Validation(why) if why.contains("several steps")));
    assert_eq!((room.row().mode, room.row().members()), (Mode::Push, names.len() as u32));
    for (level, is_taken) in [(limits::EXACT_ROWS_LEVEL - 1, true), (limits::EXACT_ROWS_LEVEL, false)] {
        let (mut room, names) = scattered();
        room.machine.one(Command::SetSettings(Settings { version: 9, ..Settings::at_level(level) }));
        let some: Vec<&str> = names.iter().map(String::as_str).collect();
        let checked: Vec<UserId> = names.iter().map(|name| named(name)).collect();
        let create = Append { cid: Cid(1), checked, ..room.command("u0", creation(&some[1..450])) };
        let told = room.machine.one(Command::Append(create));
        assert_eq!(matches!(told, Reply::Accepted(_)), is_taken, "level {level}: {told:?}");
    }
}

#[test]
fn who_crosses_the_threshold_by_adding_too_many_at_once_shall_add_fewer() {
    let (mut room, names) = scattered();
    let some: Vec<&str> = names.iter().map(String::as_str).collect();
    let checked: Vec<UserId> = names.iter().map(|name| named(name)).collect();
    let create = room.command("u0", creation(&some[1..90]));
    room.accepted(Append { cid: Cid(1), checked: checked.clone(), ..create });
    let many = Append { checked: checked.clone(), ..room.command("u0", add(&some[90..490])) };
    assert!(matches!(room.rejected(many), Rejection::Validation(why) if why.contains("several steps")));
    let fewer = Append { checked, ..room.command("u0", add(&some[90..200])) };
    room.accepted(fewer);
    assert_eq!(room.row().mode, Mode::Pull);
}

#[test]
fn in_pull_mode_no_marks_are_told() {
    let mut room = channel("alice", &["bob", "erin"]);
    room.says("alice", "one");
    let query = Query::Marks { conv: room.conv.clone(), of: None, watchers: ["bob", "carol"].map(named).to_vec() };
    let watchers = vec![named("bob")];
    assert_eq!(room.machine.query(&query), Answer::Marks(MarksView { pulled: true, watchers, marks: vec![] }));
}
