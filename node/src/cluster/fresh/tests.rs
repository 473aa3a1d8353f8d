//! Runs, holes, bounds; and a pump without its network against the rows.

use flotilla_machine::command::{Append, ClearDirty, Stamp};
use flotilla_machine::conversation::tables::entry::Entries;
use flotilla_machine::conversation::tables::member::Members;
use flotilla_machine::testing::{Machine, arb, log, scene};
use flotilla_machine::{Answer, Command, Effect, Query, table};
use flotilla_proto::entry::{HistoryAccess, What};
use proptest::prelude::*;

use super::super::subscriptions;
use super::*;

fn user(name: &str) -> UserId {
    UserId::parse(name).expect("valid")
}

fn conv() -> ConvId {
    ConvId::direct(&user("ann"), &user("bob"))
}

fn entry(seq: u64) -> Arc<Entry> {
    let what = What::Message {
        kind: "message".into(),
        body: Blob(vec![7; 100].into()),
        reply_to: None,
        mentions: vec![],
        media: None,
    };
    Arc::new(Entry { conv: conv(), ..Arc::unwrap_or_clone(subscriptions::tests::entry(seq, what)) })
}

fn read(head: u64, parts: u64) -> DirtyItem {
    let users = ["ann", "bob"].map(|name| NotifyUser { user: user(name), n_sent: Count(0), part: None }).to_vec();
    let (last_id, last_ts) = (MsgId(head), TsMs(head));
    let notify = Notify { conv: conv(), head: Seq(head), n_head: Count(head), last_id, last_ts, users };
    DirtyItem { notify, parts: Seq(parts), entries: vec![] }
}

fn named(fresh: &mut Fresh, entry: Option<Arc<Entry>>) {
    fresh.on_named(BTreeMap::from([(conv(), Run::of(entry))]));
}

fn give(fresh: &mut Fresh) -> Given {
    fresh.give(limits::NOTIFY_BYTES_MAX)
}

fn seqs(given: &Given) -> Vec<u64> {
    given.items.iter().flat_map(|item| &item.entries).map(|entry| entry.seq.0).collect()
}

/// What came of naming these entries, after a look at head 4.
fn check(entries: &[Option<u64>], given_seqs: &[u64], misses: usize) {
    let mut fresh = Fresh::default();
    fresh.on_read(&[read(4, 0)]);
    entries.iter().for_each(|seq| named(&mut fresh, seq.map(entry)));
    let given = give(&mut fresh);
    assert_eq!((seqs(&given), given.missed.len()), (given_seqs.to_vec(), misses), "{entries:?}");
    assert!(fresh.is_empty() && fresh.bytes == 0);
    named(&mut fresh, Some(entry(9)));
    let known = given_seqs.last() == Some(&8);
    assert_eq!(give(&mut fresh).missed.len(), usize::from(!known), "after a miss or before a hole the rows are read");
}

#[test]
fn a_run_that_follows_the_last_look_needs_no_other() {
    check(&[Some(5), Some(6), Some(7), Some(8)], &[5, 6, 7, 8], 0);
    check(&[Some(3), Some(4), Some(5)], &[5], 0);
    check(&[Some(3), Some(4)], &[], 0);
}

#[test]
fn a_hole_a_repeat_or_a_doubt_is_a_miss() {
    check(&[Some(6)], &[], 1);
    check(&[Some(5), Some(7)], &[], 1);
    check(&[Some(5), Some(5)], &[], 1);
    check(&[Some(5), None], &[], 1);
    check(&[None, Some(6), Some(7)], &[], 1);
}

#[test]
fn users_stay_as_they_were_read_and_say_the_latest_of_their_own() {
    let mut fresh = Fresh::default();
    fresh.on_read(&[read(4, 0)]);
    for seq in [5, 6] {
        named(&mut fresh, Some(entry(seq)));
        let item = give(&mut fresh).items.remove(0);
        assert_eq!((item.notify.head, item.notify.n_head, item.parts), (Seq(seq), Count(seq), Seq::ZERO));
        let told: Vec<_> = item.notify.users.iter().map(|u| (u.user.as_str(), u.n_sent.0)).collect();
        assert_eq!(told, [("ann", seq), ("bob", 0)]);
    }
}

#[test]
fn nothing_is_known_before_a_look_after_a_failure_and_while_parts_are_owed() {
    let mut fresh = Fresh::default();
    named(&mut fresh, Some(entry(5)));
    assert_eq!(give(&mut fresh).missed, [conv()]);
    fresh.on_read(&[read(5, 0)]);
    fresh.forget(&conv());
    named(&mut fresh, Some(entry(6)));
    assert_eq!(give(&mut fresh).missed, [conv()]);
    fresh.on_read(&[read(6, 0)]);
    fresh.on_read(&[read(6, 2)]);
    named(&mut fresh, Some(entry(7)));
    assert_eq!(give(&mut fresh).missed, [conv()]);
    assert_eq!((fresh.users, fresh.known.len()), (0, 0));
}

#[test]
fn what_does_not_fit_is_read() {
    let mut fresh = Fresh::default();
    fresh.on_read(&[read(4, 0)]);
    named(&mut fresh, Some(entry(5)));
    let given = fresh.give(weight(&entry(5)) - 1);
    assert_eq!((given.items.len(), given.missed), (0, vec![conv()]), "by bytes of a request");
    assert_eq!(fresh.bytes, 0);
    for seq in 1..1_000 {
        named(&mut fresh, Some(entry(seq)));
        assert!(fresh.bytes <= limits::FRESH_BYTES_MAX, "by bytes that wait");
    }
    assert_eq!(give(&mut fresh).missed, [conv()]);
    for n in 0..1_000 {
        let mut item = read(4, 0);
        item.notify.conv = ConvId::group(&user("ann"), Cid(n));
        fresh.on_read(&[item]);
        assert!(fresh.users <= limits::FRESH_USERS_MAX, "by users");
        assert_eq!(fresh.users, 2 * fresh.known.len());
    }
}

#[test]
fn what_must_be_read_has_room_beside_what_need_not() {
    let mut fresh = Fresh::default();
    let group = |n| ConvId::group(&user("ann"), Cid(n));
    for n in 0..40 {
        let mut item = read(4, 0);
        item.notify.conv = group(n);
        fresh.on_read(&[item]);
        fresh.on_named(BTreeMap::from([(group(n), Run::of(Some(entry(5))))]));
    }
    fresh.again(group(99));
    let (names, bytes) = (fresh.named.len(), fresh.bytes);
    let given = fresh.give(8_192);
    assert_eq!(given.missed, [group(99)], "it has the last name of all");
    assert!(given.bytes_left >= 4_096 && !given.items.is_empty());
    assert_eq!(fresh.named.len(), names - given.items.len() - 1, "the others wait, as they were");
    assert_eq!(fresh.bytes, bytes - given.items.len() * weight(&entry(5)));
    assert_eq!(give(&mut fresh).missed, [], "and are known still");
}

#[tokio::test]
async fn entries_wait_for_a_pump_within_their_bytes() {
    let wake = Wake::default();
    for seq in 0..1_000 {
        wake.add(ConvId::group(&user("ann"), Cid(seq)), Some(entry(1)));
    }
    let taken = wake.take().await;
    let waiting: usize = taken.items.values().map(Run::bytes).sum();
    assert_eq!(taken.items.len(), 1_000);
    assert!(waiting > 0 && waiting <= limits::FRESH_BYTES_MAX);
    wake.add(conv(), Some(entry(1)));
    assert_eq!(wake.take().await.items, BTreeMap::from([(conv(), Run::of(Some(entry(1))))]), "and there is room again");
}

/// One pump without its network: rows, the effects that reach it, and what the rows said when each head was new.
struct World {
    machine: Machine,
    fresh: BTreeMap<ShardId, Fresh>,
    was: BTreeMap<(ShardId, ConvId, Seq), DirtyItem>,
    given: usize,
    lossy: bool,
}

#[derive(Debug, Clone)]
enum Event {
    /// `lost`: of its effects these, by number.
    Apply {
        command: Box<Command>,
        lost: Option<usize>,
    },
    Give,
    Look {
        target: u16,
    },
    Clear {
        target: u16,
    },
    Fail {
        conv: ConvId,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let says =
        (prop::sample::select(scene::conversations()), log::user(), any::<u64>()).prop_map(|(conv, who, cid)| {
            let what = arb::message("hi");
            let (cid, checked) = (Cid(cid.into()), scene::users());
            let append = Append { conv, sender: who, device: DeviceId(1), cid, age_ms: 0, after: None, checked, what };
            Command::Append(append)
        });
    let lost = prop_oneof![12 => Just(None), 1 => (0usize..3).prop_map(Some)];
    prop_oneof![
        10 => (prop_oneof![4 => says, 1 => log::append()], lost)
            .prop_map(|(command, lost)| Event::Apply { command: Box::new(command), lost }),
        6 => Just(Event::Give),
        1 => (1u16..5).prop_map(|target| Event::Look { target }),
        2 => (1u16..5).prop_map(|target| Event::Clear { target }),
        1 => prop::sample::select(scene::conversations()).prop_map(|conv| Event::Fail { conv }),
    ]
}

impl World {
    fn new() -> Self {
        let machine = Machine::with_slots(scene::HOME, &scene::slots());
        let fresh = (1..5).map(|target| (ShardId(target), Fresh::default())).collect();
        let mut world = Self { machine, fresh, was: BTreeMap::new(), given: 0, lossy: false };
        for (sender, cid) in scene::groups() {
            let conv = ConvId::group(&sender, cid);
            let (name, history) = ("team".into(), HistoryAccess::FromJoin);
            let what = What::Create { name, members: scene::users(), history };
            let checked = scene::users();
            let append = Append { conv, sender, device: DeviceId(1), cid, age_ms: 0, after: None, checked, what };
            world.apply(&Command::Append(append), None);
        }
        (1..5).for_each(|target| world.clear(ShardId(target)));
        world
    }

    fn apply(&mut self, command: &Command, lost: Option<usize>) {
        let applied = self.machine.apply(&Stamp { age_delta_ms: 1, display: TsMs(1) }, std::slice::from_ref(command));
        for (n, effect) in applied.effects.into_iter().enumerate() {
            let Effect::Dirty { target, conv, entry } = effect else { continue };
            for item in self.rows(target, &[(conv.clone(), Seq::ZERO)]) {
                self.was.insert((target, conv.clone(), item.notify.head), item);
            }
            if lost == Some(n) {
                self.lossy = true;
            } else {
                let fresh = self.fresh.get_mut(&target).expect("a target of the scene");
                fresh.on_named(BTreeMap::from([(conv, Run::of(entry))]));
            }
        }
    }

    fn rows(&self, target: ShardId, convs: &[(ConvId, Seq)]) -> Vec<DirtyItem> {
        let query = Query::DirtyOf { target, convs: convs.to_vec(), bytes_max: limits::NOTIFY_BYTES_MAX as u32 };
        let Answer::Dirty { items, .. } = self.machine.query(&query) else { panic!("expected dirty items") };
        items
    }

    fn look(&mut self, target: ShardId) -> Vec<DirtyItem> {
        let query = Query::Dirty { target, after: None, limit: 99, bytes_max: limits::NOTIFY_BYTES_MAX as u32 };
        let Answer::Dirty { items, .. } = self.machine.query(&query) else { panic!("expected dirty items") };
        self.fresh.get_mut(&target).expect("a target").on_read(&items);
        items
    }

    /// The target answers for all that it is owed.
    fn clear(&mut self, target: ShardId) {
        let clear = |item: DirtyItem| ClearDirty { conv: item.notify.conv, head: item.notify.head, parts: item.parts };
        let items = self.look(target).into_iter().map(clear).collect();
        self.machine.one(Command::ClearDirty { target, items });
    }

    fn give(&mut self) -> Result<(), TestCaseError> {
        for target in (1..5).map(ShardId) {
            let Given { items, missed, .. } = give(self.fresh.get_mut(&target).expect("a target"));
            for item in &items {
                self.check(target, item)?;
            }
            self.given += items.len();
            let named: Vec<_> = missed.into_iter().map(|conv| (conv, Seq::ZERO)).collect();
            let read = self.rows(target, &named);
            self.fresh.get_mut(&target).expect("a target").on_read(&read);
        }
        Ok(())
    }

    /// What was given is what the rows said when its head was new, and says at least what they did of own messages.
    fn check(&self, target: ShardId, item: &DirtyItem) -> Result<(), TestCaseError> {
        let conv = &item.notify.conv;
        let was = self.was.get(&(target, conv.clone(), item.notify.head)).expect("a head that was owed");
        prop_assert_eq!((item.parts, was.parts), (Seq::ZERO, Seq::ZERO));
        let told = |item: &DirtyItem| -> Vec<_> {
            item.notify.users.iter().map(|user| (user.user.clone(), user.part.clone())).collect()
        };
        prop_assert_eq!(told(item), told(was));
        for (given, was) in item.notify.users.iter().zip(&was.notify.users) {
            let key = (conv.clone(), given.user.clone());
            let row = table::get::<Members>(&self.machine.view(), &key).expect("reads").expect("a member");
            prop_assert!(was.n_sent <= given.n_sent && given.n_sent <= row.n_sent);
        }
        let bare = |item: &DirtyItem| Notify { users: vec![], ..item.notify.clone() };
        prop_assert_eq!(bare(item), bare(was));
        prop_assert_eq!(item.entries.last().map(|entry| entry.seq), Some(item.notify.head));
        for entry in &item.entries {
            let row = table::get::<Entries>(&self.machine.view(), &(conv.clone(), entry.seq)).expect("reads");
            // Who does not hear that it was emptied since may still tell it.
            let row = row.map(|row| if self.lossy { Entry { what: entry.what.clone(), ..row } } else { row });
            prop_assert_eq!(Some(entry), row.as_ref());
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(log::few_cases())]

    #[test]
    fn what_is_given_is_what_the_rows_say(events in prop::collection::vec(event(), 1..120)) {
        let mut world = World::new();
        for event in events {
            match event {
                Event::Apply { command, lost } => world.apply(&command, lost),
                Event::Give => world.give()?,
                Event::Look { target } => drop(world.look(ShardId(target))),
                Event::Clear { target } => world.clear(ShardId(target)),
                Event::Fail { conv } => world.fresh.values_mut().for_each(|fresh| fresh.forget(&conv)),
            }
        }
    }
}

#[test]
fn most_of_what_a_busy_group_is_told_is_given() {
    let mut world = World::new();
    let (sender, cid) = scene::groups().remove(0);
    for n in 0..40u128 {
        let (conv, what) = (ConvId::group(&sender, cid), arb::message("hi"));
        let (sender, cid, checked) = (sender.clone(), Cid(1_000 + n), scene::users());
        let append = Append { conv, sender, device: DeviceId(1), cid, age_ms: 0, after: None, checked, what };
        world.apply(&Command::Append(append), None);
        world.give().expect("as the rows say");
    }
    let targets = scene::users()
        .iter()
        .filter_map(|user| scene::slots().shard_of_user(user))
        .collect::<std::collections::BTreeSet<_>>();
    assert!(world.given >= 39 * targets.len(), "{} of {}", world.given, 40 * targets.len());
}
