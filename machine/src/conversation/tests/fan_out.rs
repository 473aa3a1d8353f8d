//! What is owed to user shards: stories, and a model of shards that hear news late, twice, out of order or never.

use std::collections::BTreeMap;

use flotilla_proto::entry::{Role, What};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_proto::member::MembershipPart;
use proptest::prelude::*;

use super::kit::*;
use crate::command::*;
use crate::conversation::tables::dirty::Dirties;
use crate::conversation::tables::member::Members;
use crate::effect::Effect;
use crate::query::{Answer, DirtyItem, Query};
use crate::table::{self, Table};
use crate::testing::arb::{self, named};
use crate::testing::{Machine, log, scene};

fn told(item: &DirtyItem) -> Vec<(&str, bool)> {
    item.notify.users.iter().map(|u| (u.user.as_str(), u.part.is_some())).collect()
}

fn seqs(item: &DirtyItem) -> Vec<u64> {
    item.entries.iter().map(|e| e.seq.0).collect()
}

#[test]
fn every_shard_with_a_member_is_owed_the_head_and_the_entries_it_has_not_confirmed() {
    let mut room = Room::direct("alice", "bob");
    room.says("alice", "one");
    room.says("alice", "two");
    assert_eq!(room.targets(), [2, 3]);
    let item = room.dirty(3).remove(0);
    assert_eq!((item.notify.head, item.notify.n_head, item.parts), (Seq(2), Count(2), Seq(1)));
    assert_eq!((told(&item), seqs(&item)), (vec![("bob", true)], vec![1, 2]));
    room.clear(3, Seq(2), Seq(1));
    assert_eq!(room.targets(), [2]);
    room.says("alice", "three");
    let item = room.dirty(3).remove(0);
    assert_eq!((told(&item), seqs(&item), item.parts), (vec![("bob", false)], vec![3], Seq::ZERO));
}

#[test]
fn an_effect_brings_the_entry_where_nothing_but_it_is_owed_since() {
    let mut room = Room::group("alice", &["bob"]);
    let brings = |room: &mut Room, what: What| {
        let command = Command::Append(room.command("alice", what));
        let applied = room.machine.apply(&Stamp { age_delta_ms: 1, display: TsMs(1) }, &[command]);
        let entry_of = |effect| match effect {
            Effect::Dirty { target, entry, .. } => Some((target.0, entry.map(|entry| entry.seq.0))),
            _ => None,
        };
        applied.effects.into_iter().filter_map(entry_of).collect::<Vec<_>>()
    };
    assert_eq!(brings(&mut room, arb::message("2")), [(2, None), (3, None)], "parts are owed since the first entry");
    room.settle();
    assert_eq!(brings(&mut room, arb::message("3")), [(2, Some(3)), (3, Some(3))]);
    assert_eq!(brings(&mut room, What::Delete { target: Seq(3) }), [(2, None), (3, None)], "it empties entry 3");
    assert_eq!(brings(&mut room, arb::message("5")), [(2, Some(5)), (3, Some(5))]);
    assert_eq!(brings(&mut room, remove("bob")), [(2, Some(6)), (3, None)], "bob's part is owed to his shard alone");
}

#[test]
fn a_clear_leaves_what_came_since_whatever_its_order_and_repeats() {
    let mut room = Room::direct("alice", "bob");
    room.says("alice", "one");
    room.says("alice", "two");
    room.clear(3, Seq(1), Seq(1));
    let item = room.dirty(3).remove(0);
    assert_eq!((item.notify.head, seqs(&item), item.parts), (Seq(2), vec![2], Seq::ZERO));
    room.clear(3, Seq(1), Seq(1));
    room.clear(3, Seq(0), Seq(0));
    assert_eq!(room.dirty(3), [item]);
    room.clear(3, Seq(2), Seq(0));
    room.clear(3, Seq(2), Seq(0));
    assert_eq!(room.targets(), [2]);
    room.clear(4, Seq(2), Seq(2));
}

#[test]
fn the_last_member_of_a_shard_gets_its_closing_part_and_that_shard_no_later_head() {
    let mut room = Room::group("alice", &["bob"]);
    room.settle();
    let kick = room.does("alice", remove("bob"));
    room.says("alice", "after");
    let item = room.dirty(3).remove(0);
    assert_eq!((item.notify.head, item.parts, seqs(&item)), (kick, kick, vec![kick.0]));
    let part = item.notify.users[0].part.clone().expect("owed");
    assert!(!part.is_member() && part.mseq == kick && part.is_well_formed());
    room.clear(3, kick, Seq::ZERO);
    assert_eq!(room.dirty(3)[0].notify.users.len(), 1, "the head alone does not pay the part");
    room.clear(3, kick, kick);
    room.says("alice", "later");
    assert_eq!(room.targets(), [2]);
}

#[test]
fn a_shard_that_has_nobody_left_to_be_told_owes_nothing_whatever_head_it_named() {
    let mut room = Room::group("alice", &["bob"]);
    room.settle();
    let kick = room.does("alice", remove("bob"));
    room.clear(3, Seq::ZERO, kick);
    assert_eq!(room.targets(), [2]);
}

#[test]
fn a_leaver_is_named_until_its_part_is_confirmed_while_others_of_its_shard_go_on() {
    let mut room = Room::group("alice", &["bob", "frank"]);
    room.settle();
    let kick = room.does("alice", remove("bob"));
    room.says("frank", "bye");
    let item = room.dirty(3).remove(0);
    assert_eq!((told(&item), item.notify.head), (vec![("bob", true), ("frank", false)], Seq(3)));
    room.clear(3, Seq(3), kick);
    room.says("alice", "x");
    assert_eq!(told(&room.dirty(3)[0]), [("frank", false)]);
}

#[test]
fn a_rejoin_owes_the_whole_part_again_and_an_old_confirmation_does_not_pay_it() {
    let mut room = Room::group("alice", &["bob"]);
    let kick = room.does("alice", remove("bob"));
    let rejoin = room.does("alice", add(&["bob"]));
    room.clear(3, kick, kick);
    let item = room.dirty(3).remove(0);
    assert_eq!((item.parts, told(&item)), (rejoin, vec![("bob", true)]));
    assert_eq!(item.notify.users[0].part.as_ref().expect("owed").intervals.len(), 2);
}

#[test]
fn a_change_of_roles_is_owed_to_both_whom_it_touches() {
    let mut room = Room::group("alice", &["bob", "carol"]);
    room.settle();
    let seq = room.does("alice", role("bob", Role::Owner));
    let (two, three) = (room.dirty(2).remove(0), room.dirty(3).remove(0));
    assert_eq!((told(&two), told(&three)), (vec![("alice", true), ("carol", false)], vec![("bob", true)]));
    assert_eq!((two.parts, three.parts), (seq, seq));
}

#[test]
fn senders_are_told_the_n_of_their_own_latest_message() {
    let mut room = Room::group("alice", &["carol"]);
    room.says("alice", "1");
    room.says("carol", "2");
    room.settle();
    room.says("alice", "3");
    let sent = |room: &Room| room.dirty(2)[0].notify.users.iter().map(|u| u.n_sent.0).collect::<Vec<_>>();
    assert_eq!(sent(&room), [3, 0], "carol's is confirmed; 0 merges into it");
    for _ in 0..limits::PAGE_ENTRIES_MAX {
        room.does("carol", flotilla_proto::entry::What::React { target: Seq(2), emoji: "x".into(), on: true });
    }
    assert_eq!(sent(&room), [3, 2], "not all entries fit: taken from the rows");
}

#[test]
fn entries_are_the_newest_up_to_the_head_within_entries_and_bytes() {
    let mut room = Room::direct("alice", "bob");
    for _ in 0..20 {
        room.says("alice", &"x".repeat(10_000));
    }
    let item = |bytes_max| {
        let query = Query::Dirty { target: ShardId(3), after: None, limit: 1, bytes_max };
        match room.machine.query(&query) {
            Answer::Dirty { mut items, .. } => items.remove(0),
            other => panic!("expected dirty items, got {other:?}"),
        }
    };
    assert_eq!(seqs(&item(u32::MAX)), (1..=20).collect::<Vec<_>>());
    assert_eq!(seqs(&item(45_000)), [17, 18, 19, 20]);
    assert_eq!(seqs(&item(0)), Vec::<u64>::new());
    assert_eq!(item(0).notify.head, Seq(20), "heads and parts go whatever the bytes say");
}

#[test]
fn dirty_conversations_come_in_pages() {
    let mut room = Room::direct("alice", "bob");
    for conv in scene::groups().into_iter().map(|(by, cid)| (ConvId::group(&by, cid), by, cid)) {
        room.conv = conv.0;
        let create = Append { cid: conv.2, ..room.command(conv.1.as_str(), creation(&["erin"])) };
        room.accepted(create);
    }
    let mut after = None;
    let mut seen = Vec::new();
    loop {
        let query = Query::Dirty { target: ShardId(4), after: after.clone(), limit: 1, bytes_max: 9_999 };
        let Answer::Dirty { items, more } = room.machine.query(&query) else { panic!("expected dirty items") };
        seen.extend(items.iter().map(|i| i.notify.conv.clone()));
        after = seen.last().cloned();
        if !more {
            break;
        }
    }
    assert_eq!(seen.len(), 3);
    assert_eq!(seen.iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
}

/// What one user shard has merged of one user's row.
#[derive(Debug, Default, Clone)]
struct Held {
    head: Seq,
    n_head: Count,
    n_sent: Count,
    part: MembershipPart,
}

/// All user shards, and what is on its way between them and the conversations.
#[derive(Default)]
struct World {
    held: BTreeMap<(ConvId, UserId), Held>,
    news: Vec<(ShardId, DirtyItem)>,
    clears: Vec<(ShardId, ClearDirty)>,
}

impl World {
    fn look(&mut self, machine: &Machine, target: ShardId, bytes_max: u32) {
        let query = Query::Dirty { target, after: None, limit: 99, bytes_max };
        let Answer::Dirty { items, .. } = machine.query(&query) else { panic!("expected dirty items") };
        self.news.extend(items.into_iter().map(|item| (target, item)));
    }

    /// The target merges one of the notifications that are under way, old or new, and confirms.
    fn deliver(&mut self, nth: usize, keep: bool) {
        let Some(at) = nth.checked_rem(self.news.len()) else { return };
        let (target, item) = if keep { self.news[at].clone() } else { self.news.swap_remove(at) };
        for user in &item.notify.users {
            let held = self.held.entry((item.notify.conv.clone(), user.user.clone())).or_default();
            held.head = held.head.max(item.notify.head);
            held.n_head = held.n_head.max(item.notify.n_head);
            held.n_sent = held.n_sent.max(user.n_sent);
            if let Some(part) = &user.part {
                assert!(part.is_well_formed());
                held.part.merge(part);
            }
        }
        let clear = ClearDirty { conv: item.notify.conv, head: item.notify.head, parts: item.parts };
        self.clears.push((target, clear));
    }

    fn clear(&mut self, machine: &mut Machine, nth: usize, keep: bool) {
        let Some(at) = nth.checked_rem(self.clears.len()) else { return };
        let (target, item) = if keep { self.clears[at].clone() } else { self.clears.swap_remove(at) };
        machine.one(Command::ClearDirty { target, items: vec![item] });
    }

    /// Where nothing is owed, the target holds everything.
    fn check(&self, machine: &Machine) -> Result<(), TestCaseError> {
        let view = machine.view();
        let slots = scene::slots();
        let (members, _) =
            table::page::<Members>(&view, &[Members::KIND], &table::end_of(&[Members::KIND]), 999).expect("reads");
        for ((conv, user), row) in members {
            let target = slots.shard_of_user(&user).expect("whole");
            if table::get::<Dirties>(&view, &(target, conv.clone())).expect("reads").is_some() {
                continue;
            }
            let head = table::get::<super::super::tables::conversation::Conversations>(&view, &conv)
                .expect("reads")
                .expect("exists");
            let held = self.held.get(&(conv.clone(), user.clone())).cloned().unwrap_or_default();
            prop_assert_eq!(&held.part, &row.part, "the part of {} in {} is lost", &user, &conv);
            prop_assert_eq!(held.part.effective_head(held.head), row.part.effective_head(head.head));
            prop_assert_eq!(held.part.effective_n(held.n_head), row.part.effective_n(head.n_head));
            prop_assert_eq!(held.n_sent, row.n_sent);
        }
        Ok(())
    }
}

#[derive(Debug, Clone)]
enum Event {
    Apply(Box<Command>),
    Look { target: u16, bytes_max: u32 },
    Deliver { nth: usize, keep: bool },
    Clear { nth: usize, keep: bool },
}

fn event() -> impl Strategy<Value = Event> {
    let bytes = prop_oneof![Just(0u32), Just(300), Just(100_000)];
    prop_oneof![
        6 => log::append().prop_map(|command| Event::Apply(Box::new(command))),
        2 => (1u16..5, bytes).prop_map(|(target, bytes_max)| Event::Look { target, bytes_max }),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(nth, keep)| Event::Deliver { nth, keep }),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(nth, keep)| Event::Clear { nth, keep }),
    ]
}

proptest! {
    #![proptest_config(log::few_cases())]

    #[test]
    fn notifications_and_clears_in_any_order_with_repeats_lose_nothing(
        events in prop::collection::vec(event(), 1..90)
    ) {
        let mut machine = Machine::with_slots(scene::HOME, &scene::slots());
        let create = Append {
            conv: ConvId::group(&named("alice"), Cid(1)),
            sender: named("alice"),
            device: DeviceId(1),
            cid: Cid(1),
            age_ms: 0,
            after: None,
            checked: scene::users(),
            what: creation(&["bob", "carol", "erin"]),
        };
        machine.one(Command::Append(create));
        let mut world = World::default();
        for event in events {
            match event {
                Event::Apply(command) => {
                    machine.one(*command);
                }
                Event::Look { target, bytes_max } => world.look(&machine, ShardId(target), bytes_max),
                Event::Deliver { nth, keep } => world.deliver(nth, keep),
                Event::Clear { nth, keep } => world.clear(&mut machine, nth, keep),
            }
            world.check(&machine)?;
        }
        // After faults heal, looking and confirming pays everything within one round per target.
        (world.news, world.clears) = (vec![], vec![]);
        for target in 1..5 {
            world.look(&machine, ShardId(target), 1_000_000);
        }
        while !world.news.is_empty() {
            world.deliver(0, false);
            world.clear(&mut machine, 0, false);
        }
        prop_assert_eq!(machine.query(&Query::DirtyTargets), Answer::Targets(vec![]));
        world.check(&machine)?;
    }
}

#[test]
fn a_message_of_a_member_reads_and_writes_few_rows() {
    let mut room = Room::direct("alice", "bob");
    room.says("alice", "hi");
    let append = room.command("alice", arb::message("x"));
    let rows = room.machine.rows_written(Command::Append(append));
    assert_eq!(rows, 1 + 1 + 1 + 2 + 1 + 2, "clock, conversation, entry, dedup and its index, sender, two targets");
    let append = room.command("alice", arb::message("y"));
    let reads = room.machine.rows_read(Command::Append(append));
    assert_eq!(reads, 3 + 4 + 2, "clock, settings and slots; dedup, floor, conversation, sender; two targets");
}
