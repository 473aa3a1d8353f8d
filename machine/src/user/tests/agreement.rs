//! Generated command logs: any order of news gives one row, nothing panics, nothing goes back, and a replica that starts
//! from a snapshot at any point agrees with one that replayed everything.

use std::collections::BTreeMap;

use flotilla_proto::ids::*;
use flotilla_proto::member::MembershipPart;
use proptest::prelude::*;

use super::kit::*;
use crate::command::*;
use crate::query::{Answer, InboxRow, Query};
use crate::reply::{MarkReply, Reply};
use crate::table::kind;
use crate::testing::log::conversation_side;
use crate::testing::user_log::user_side;
use crate::user::gather::{Gathered, may_wait};
use crate::user::inbox::InboxTable;

fn both_sides() -> impl Strategy<Value = Command> {
    prop_oneof![3 => user_side(), 1 => conversation_side()]
}

/// Puts the live parts of a world in front, so that most commands meet something.
fn prelude(shard: &mut Shard) {
    for name in ["ann", "bob"] {
        let user = shard.user(name);
        let device = shard.device(&user, 1);
        shard.open(&user, device);
        shard.done(news(&group(0), 3, &user, Some(part(1, &[stay(1, None)]))));
    }
}

/// What never goes back, by name.
fn watermarks(shard: &Shard) -> BTreeMap<String, u64> {
    let mut marks = BTreeMap::new();
    for name in ["ann", "bob", "nobody"] {
        for n in 1..5 {
            let device = DeviceId(n);
            let query = Query::Rows { user: user(name), device, after: None, limit: 100 };
            let Answer::Rows(page) = shard.ask(query) else { continue };
            marks.insert(format!("{name} rev"), page.rev.0);
            for row in page.rows {
                let InboxRow { conv, rev, head, n_head, part, read, n_read, n_sent, delivered, .. } = &row;
                let values = [rev.0, head.0, n_head.0, part.mseq.0, read.0, n_read.0, n_sent.0, delivered.0];
                // Shown or not: who hides read marks is shown none of the peer's.
                let stored = shard.get::<InboxTable>(&(user(name), conv.clone())).expect("it was listed");
                let more = [row.last_id.0, row.last_ts.0, row.peer_delivered.0, stored.peer_read.0];
                for (i, value) in values.iter().chain(&more).enumerate() {
                    marks.insert(format!("{name} {conv} {i}"), *value);
                }
            }
        }
    }
    marks
}

fn sessions(shard: &Shard) -> BTreeMap<(UserId, DeviceId), SessionNo> {
    let users = ["ann", "bob", "nobody"].map(user).to_vec();
    let Answer::LiveSessions(live) = shard.ask(Query::LiveSessions { users }) else { panic!("expected sessions") };
    let count = live.len();
    let map: BTreeMap<_, _> = live.into_iter().map(|s| ((s.user, s.device), s.number)).collect();
    assert_eq!(map.len(), count, "a device has at most one session");
    map
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The kit asserts that rejections write nothing and that no command touches too many rows; debug arithmetic panics.
    #[test]
    fn any_command_is_answered_and_nothing_goes_back(log in prop::collection::vec(user_side(), 1..40)) {
        let mut shard = Shard::new();
        prelude(&mut shard);
        let mut numbers: BTreeMap<(UserId, DeviceId), SessionNo> = BTreeMap::new();
        for command in log {
            let before = watermarks(&shard);
            let live = sessions(&shard);
            let gone_before = shard.table_rows(kind::DEVICE_GONE);
            let digest = shard.digest();
            let reply = shard.run(command.clone());
            for (what, now) in watermarks(&shard) {
                let was = before.get(&what).copied().unwrap_or(0);
                prop_assert!(now >= was, "{} went from {} to {} by {:?}", what, was, now, command);
            }
            for (device, number) in sessions(&shard) {
                let highest = numbers.entry(device).or_default();
                prop_assert!(number >= *highest, "session numbers rise");
                *highest = number;
            }
            if let (Command::Marks(marks), Reply::Marks(replies)) = (&command, &reply) {
                let stale = |m: &Mark| {
                    m.number != Mark::SESSIONLESS && live.get(&(m.user.clone(), m.device)) != Some(&m.number)
                };
                for (m, reply) in marks.iter().zip(replies) {
                    let refused = matches!(reply, MarkReply::StaleSession | MarkReply::NoDevice);
                    prop_assert!(!stale(m) || refused, "{:?} was answered {:?}", m, reply);
                }
                if marks.iter().all(stale) {
                    prop_assert_eq!(digest, shard.digest(), "a stale mark has no effect");
                }
            }
            prop_assert_eq!(shard.table_rows(kind::SESSION), shard.table_rows(kind::SESSION_NODE));
            prop_assert_eq!(shard.table_rows(kind::INBOX), shard.table_rows(kind::INBOX_REV));
            prop_assert!(shard.table_rows(kind::DEVICE_GONE) >= gone_before, "tombstones stay");
        }
    }

    #[test]
    fn a_replica_restored_at_any_point_agrees(log in prop::collection::vec(both_sides(), 1..30), cut: prop::sample::Index) {
        let mut all = Shard::new();
        prelude(&mut all);
        let cut = cut.index(log.len());
        let mut restored = None;
        for (at, command) in log.into_iter().enumerate() {
            if at == cut {
                restored = Some(all.restored());
            }
            let reply = all.run(command.clone());
            if let Some(other) = &mut restored {
                prop_assert_eq!(other.run(command), reply);
                prop_assert_eq!(&other.effects, &all.effects);
                prop_assert_eq!(other.digest(), all.digest());
            }
        }
    }
}

/// News of one conversation's history for one user, with the parts that held at each head, and the peer's marks.
fn history(moves: &[bool]) -> Vec<Command> {
    let conv = ConvId::direct(&user("ann"), &user("bob"));
    let mut part = MembershipPart::default();
    let mut commands = Vec::new();
    for (i, is_move) in moves.iter().enumerate() {
        let seq = i as u64 + 1;
        if *is_move || i == 0 {
            match part.intervals.last_mut().filter(|last| last.until.is_none()) {
                Some(last) => (last.until, last.n_until) = (Some(Seq(seq)), Count(seq)),
                None => part.intervals.push(stay(seq, None)),
            }
            part.mseq = Seq(seq);
        }
        commands.push(news(&conv, seq, &user("ann"), (*is_move || i == 0).then(|| part.clone())));
        let receipt = Receipt { user: user("ann"), conv: conv.clone(), delivered: Seq(seq), read: Seq(seq / 2) };
        commands.push(Command::PeerMarks(vec![receipt]));
    }
    commands
}

proptest! {
    #[test]
    fn news_in_any_order_with_repeats_give_the_same_row(
        moves in prop::collection::vec(any::<bool>(), 1..12),
        repeats in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        order in any::<u64>(),
    ) {
        let in_order = history(&moves);
        let mut mixed = in_order.clone();
        mixed.extend(repeats.iter().map(|i| i.get(&in_order).clone()));
        // A cheap deterministic shuffle.
        let mut state = order | 1;
        for i in (1..mixed.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            mixed.swap(i, (state >> 33) as usize % (i + 1));
        }
        let row = |commands: &[Command]| {
            let mut shard = Shard::new();
            let ann = shard.user("ann");
            let device = shard.device(&ann, 1);
            commands.iter().for_each(|c| shard.done(c.clone()));
            let conv = ConvId::direct(&ann, &user("bob"));
            let row = shard.row(&ann, device, &conv).expect("the row is there");
            let Answer::Account(Some(account)) = shard.ask(Query::Account { user: ann }) else { panic!("no account") };
            // The revision counts changes, which depend on the order; the cursor is another property's.
            (InboxRow { rev: Rev(0), cursor: Seq(0), ..row }, account.conversations)
        };
        prop_assert_eq!(row(&in_order), row(&mixed));
    }

    #[test]
    fn gathered_news_leave_what_each_by_itself_would_have_left(
        moves in prop::collection::vec(any::<bool>(), 1..12),
        turns in prop::collection::vec(any::<bool>(), 24),
    ) {
        let each = history(&moves);
        let (mut gathered, mut waiting) = (vec![], Gathered::default());
        for (command, is_turn) in each.iter().zip(turns.iter().cycle()) {
            match command {
                Command::Notify(news) if news.iter().all(may_wait) => {
                    news.iter().for_each(|news| { waiting.add(news.clone()); });
                }
                other => gathered.push(other.clone()),
            }
            if *is_turn {
                gathered.push(Command::Notify(waiting.take()));
            }
        }
        gathered.push(Command::Notify(waiting.take()));
        let row = |commands: &[Command]| {
            let mut shard = Shard::new();
            let ann = shard.user("ann");
            let device = shard.device(&ann, 1);
            commands.iter().for_each(|c| shard.done(c.clone()));
            let row = shard.row(&ann, device, &ConvId::direct(&ann, &user("bob"))).expect("the row is there");
            // The revision counts changes.
            InboxRow { rev: Rev(0), ..row }
        };
        prop_assert_eq!(row(&each), row(&gathered));
    }
}
