//! Generated command logs: any order of news gives one row, nothing panics, nothing goes back, and a replica that starts
//! from a snapshot at any point agrees with one that replayed everything.

use std::collections::BTreeMap;

use flotilla_proto::ids::*;
use flotilla_proto::member::{Interval, MembershipPart};
use proptest::prelude::*;

use super::kit::*;
use crate::command::*;
use crate::query::{Answer, InboxRow, Query};
use crate::reply::{MarkReply, Reply};
use crate::table::kind;

/// Small numbers that meet each other, and the ends of the range.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![10 => 0u64..12, 1 => any::<u64>(), 1 => Just(u64::MAX)]
}

fn name() -> impl Strategy<Value = UserId> {
    prop::sample::select(vec!["ann", "bob", "nobody"]).prop_map(user)
}

fn device() -> impl Strategy<Value = DeviceId> {
    (1u128..5).prop_map(DeviceId)
}

fn conv() -> impl Strategy<Value = ConvId> {
    prop_oneof![(0u128..3).prop_map(group), Just(ConvId::direct(&user("ann"), &user("bob")))]
}

fn hashes() -> impl Strategy<Value = Hash32> {
    (1u8..9).prop_map(hash)
}

fn any_part() -> impl Strategy<Value = MembershipPart> {
    let interval =
        (number(), prop::option::of(number()), any::<(u64, u64, u64)>()).prop_map(|(from, until, n)| Interval {
            from: Seq(from),
            n_before: Count(n.0),
            until: until.map(Seq),
            n_until: Count(n.1),
            history_from: Seq(n.2),
        });
    (number(), prop::collection::vec(interval, 0..3)).prop_map(|(mseq, intervals)| MembershipPart {
        mseq: Seq(mseq),
        intervals,
        ..MembershipPart::default()
    })
}

fn notify() -> impl Strategy<Value = Notify> {
    let user = (name(), number(), prop::option::of(any_part())).prop_map(|(user, n, part)| NotifyUser {
        user,
        n_sent: Count(n),
        part,
    });
    (conv(), number(), number(), number(), prop::collection::vec(user, 0..3)).prop_map(
        |(conv, head, n, last, users)| Notify {
            conv,
            head: Seq(head),
            n_head: Count(n),
            last_id: MsgId(last),
            last_ts: TsMs(last),
            users,
        },
    )
}

fn mark() -> impl Strategy<Value = Mark> {
    let kind = prop_oneof![Just(MarkKind::Ack), Just(MarkKind::Read)];
    (name(), device(), 0u64..4, conv(), kind, [number(), number(), number(), number()]).prop_map(
        |(user, device, session, conv, kind, [seq, n, head, n_head])| Mark {
            user,
            device,
            number: SessionNo(session),
            conv,
            kind,
            seq: Seq(seq),
            n: Count(n),
            head: Seq(head),
            n_head: Count(n_head),
        },
    )
}

fn receipt() -> impl Strategy<Value = Receipt> {
    (name(), conv(), number(), number()).prop_map(|(user, conv, d, r)| Receipt {
        user,
        conv,
        delivered: Seq(d),
        read: Seq(r),
    })
}

fn command() -> impl Strategy<Value = Command> {
    let clear =
        receipt().prop_map(|r| ClearReceipt { user: r.user, conv: r.conv, delivered: r.delivered, read: r.read });
    let text = prop_oneof![9 => "[a-z]{0,5}", 1 => Just("x".repeat(2_000))];
    prop_oneof![
        2 => (name(), text.clone(), 1u128..3)
            .prop_map(|(user, phc, r)| Command::Register(Register { user, phc, request: Cid(r) })),
        6 => (name(), hashes(), device(), text.clone(), hashes(), any::<bool>()).prop_map(
            |(user, install, device, name, refresh, create)| Command::Login(Login { user, install, device, name, refresh, create })
        ),
        4 => (name(), device(), hashes(), hashes()).prop_map(
            |(user, device, presented, next)| Command::RotateToken(RotateToken { user, device, presented, next })
        ),
        1 => (name(), device()).prop_map(|(user, device)| Command::Logout { user, device }),
        1 => (name(), device()).prop_map(|(user, device)| Command::RevokeDevice { user, device, request: Cid(1) }),
        1 => (name(), device(), text.clone()).prop_map(|(user, device, name)| Command::RenameDevice { user, device, name }),
        1 => (name(), text, 1u128..4).prop_map(|(user, phc, r)| Command::SetPassword { user, phc, request: Cid(r) }),
        6 => (name(), device(), hashes(), 1u16..3, number(), 1u128..3, number()).prop_map(
            |(user, device, install, node, life, instance, attempt)| Command::OpenSession(OpenSession {
                user, device, install, node: NodeId(node), incarnation: Incarnation(life), instance: Instance(instance), attempt,
            })
        ),
        2 => (name(), device(), 0u64..4)
            .prop_map(|(user, device, n)| Command::CloseSession { user, device, number: SessionNo(n) }),
        8 => prop::collection::vec(notify(), 0..3).prop_map(Command::Notify),
        8 => prop::collection::vec(mark(), 0..4).prop_map(Command::Marks),
        2 => prop::collection::vec(receipt(), 0..3).prop_map(Command::PeerMarks),
        2 => prop::collection::vec(clear, 0..3).prop_map(|items| Command::ClearReceiptDue { items }),
        1 => (1u16..3, 0u64..12, any::<u32>())
            .prop_map(|(n, l, limit)| Command::Fence { node: NodeId(n), lowest: Incarnation(l), limit }),
        1 => any::<u32>().prop_map(|limit| Command::StepJob { limit }),
    ]
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
                let more = [row.last_id.0, row.last_ts.0, row.peer_delivered.0, row.peer_read.0];
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
    fn any_command_is_answered_and_nothing_goes_back(log in prop::collection::vec(command(), 1..40)) {
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
    fn a_replica_restored_at_any_point_agrees(log in prop::collection::vec(command(), 1..30), cut: prop::sample::Index) {
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
}
