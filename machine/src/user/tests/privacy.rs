//! Read marks that a user hides everywhere: what others see, what the user sees, what its own devices keep.

use std::collections::BTreeMap;

use flotilla_proto::ids::*;
use flotilla_proto::limits;
use proptest::prelude::*;

use super::kit::*;
use crate::command::*;
use crate::query::{Answer, Query};
use crate::reply::{MarkReply, Rejection};
use crate::testing::user_log::user_side;

fn hide(user: &UserId, on: bool) -> Command {
    Command::ChangePrivacy { user: user.clone(), presence: None, hide_read: Some(on) }
}

fn owed(shard: &Shard) -> BTreeMap<(UserId, ConvId), Receipt> {
    match shard.ask(Query::ReceiptsDue { after: None, limit: 100 }) {
        Answer::Receipts { items, .. } => items.into_iter().map(|r| ((r.user.clone(), r.conv.clone()), r)).collect(),
        other => panic!("expected receipts, got {other:?}"),
    }
}

fn hides(shard: &Shard, user: &UserId) -> bool {
    match shard.ask(Query::Hiding { users: vec![user.clone()] }) {
        Answer::Hiding(hiding) => hiding.contains(user),
        other => panic!("expected who hides, got {other:?}"),
    }
}

fn read(user: &UserId, device: DeviceId, number: SessionNo, conv: &ConvId, seq: u64) -> Mark {
    Mark { kind: MarkKind::Read, ..ack(user, device, number, conv, seq, seq) }
}

/// Ann, whom bob has written nine messages.
fn stage() -> (Shard, UserId, DeviceId, SessionNo, ConvId) {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let device = shard.device(&ann, 1);
    let number = shard.open(&ann, device);
    let conv = ConvId::direct(&ann, &user("bob"));
    shard.done(news(&conv, 9, &ann, Some(part(1, &[stay(1, None)]))));
    (shard, ann, device, number, conv)
}

fn peer_read(conv: &ConvId, seq: u64) -> Command {
    Command::PeerMarks(vec![Receipt { user: user("ann"), conv: conv.clone(), delivered: Seq(9), read: Seq(seq) }])
}

#[test]
fn who_hides_read_marks_shows_none_and_sees_none() {
    let (mut shard, ann, device, number, conv) = stage();
    assert_eq!(shard.mark(read(&ann, device, number, &conv, 2)), MarkReply::Done);
    shard.done(peer_read(&conv, 3));
    let at = (ann.clone(), conv.clone());
    assert_eq!(owed(&shard)[&at].read, Seq(2));
    shard.done(hide(&ann, true));
    shard.mark(read(&ann, device, number, &conv, 6));
    shard.mark(ack(&ann, device, number, &conv, 7, 9));
    let before = shard.row(&ann, device, &conv).expect("a row").rev;
    shard.done(peer_read(&conv, 5));
    let row = shard.row(&ann, device, &conv).expect("a row");
    assert_eq!(row.rev, before, "a frame in which nothing is new would say that he has just read");
    assert_eq!((row.read, row.peer_delivered, row.peer_read), (Seq(6), Seq(9), Seq(0)), "her own, and none of his");
    assert_eq!((owed(&shard)[&at].delivered, owed(&shard)[&at].read), (Seq(7), Seq(2)));
    for query in [
        Query::Changed { user: ann.clone(), device, since: Rev(0), limit: 9 },
        Query::Pending { user: ann.clone(), device, after: None, limit: 9 },
        Query::Rows { user: ann.clone(), device, after: None, limit: 9 },
        Query::Recent { user: ann.clone(), device, after: None, archived: None, limit: 9 },
    ] {
        let rows = shard.rows(query.clone()).rows;
        assert_eq!(rows.iter().map(|row| row.peer_read).collect::<Vec<_>>(), [Seq(0)], "{query:?}");
    }
    shard.done(hide(&ann, false));
    assert_eq!(shard.row(&ann, device, &conv).expect("a row").peer_read, Seq(5), "it was kept");
    shard.mark(ack(&ann, device, number, &conv, 8, 9));
    assert_eq!(owed(&shard)[&at].read, Seq(2), "hers are shown with the next read, not before");
    shard.mark(read(&ann, device, number, &conv, 8));
    assert_eq!(owed(&shard)[&at].read, Seq(8));
}

#[test]
fn both_parts_change_at_once_a_repeat_changes_nothing_and_nothing_hidden_is_no_row() {
    let (mut shard, ann, ..) = stage();
    let both = Command::ChangePrivacy { user: ann.clone(), presence: Some(Audience::Nobody), hide_read: Some(true) };
    shard.done(both.clone());
    let digest = shard.digest();
    shard.done(both);
    assert_eq!((digest, hides(&shard, &ann)), (shard.digest(), true));
    assert_eq!(shard.ask(Query::Privacy { user: ann.clone() }), Answer::Privacy(Audience::Nobody));
    shard.done(hide(&ann, false));
    assert_eq!(shard.table_rows(crate::table::kind::PRIVACY), 0);
    assert_eq!(shard.ask(Query::Privacy { user: ann.clone() }), Answer::Privacy(Audience::Nobody), "it stays");
    assert_eq!(shard.rejected(hide(&user("nobody"), true)), Rejection::NotFound);
}

#[test]
fn who_asks_of_too_many_users_is_told_the_limit_and_of_none_that_it_hides_nothing() {
    let (mut shard, ann, ..) = stage();
    shard.done(hide(&ann, true));
    let max = limits::HIDING_USERS_MAX;
    let mut users: Vec<UserId> = (1..max).map(|n| user(&format!("u{n}"))).collect();
    users.push(ann.clone());
    assert_eq!(shard.ask(Query::Hiding { users: users.clone() }), Answer::Hiding([ann.clone()].into()));
    users.insert(0, user("one-more"));
    assert_eq!(shard.ask(Query::Hiding { users }), Answer::TooMany { max: max as u32 });
}

#[test]
fn a_cluster_below_the_level_refuses_and_says_what_to_do() {
    let (mut shard, ann, ..) = stage();
    let older = Settings { version: 5, ..Settings::at_level(limits::HIDE_READ_LEVEL - 1) };
    shard.done(Command::SetSettings(older));
    let Rejection::Validation(why) = shard.rejected(hide(&ann, true)) else { panic!("expected a reason") };
    assert!(why.contains("feature-level"), "{why}");
}

proptest! {
    /// In any history: no read of a user that hides them becomes owed, and no answer shows it another's.
    #[test]
    fn nothing_of_a_hidden_read_gets_out(log in prop::collection::vec(user_side(), 1..80)) {
        let mut shard = Shard::new();
        let users = [shard.user("ann"), shard.user("bob")];
        let devices = [shard.device(&users[0], 1), shard.device(&users[1], 2)];
        // So that most marks meet something.
        for (user, device) in users.iter().zip(devices) {
            shard.open(user, device);
            for conv in (0..4).map(group).chain([ConvId::direct(&users[0], &users[1])]) {
                shard.done(news(&conv, 50, user, Some(part(1, &[stay(1, None)]))));
            }
        }
        shard.done(hide(&users[0], true));
        for command in log {
            let before = owed(&shard);
            let hidden = [0, 1].map(|i| hides(&shard, &users[i]));
            shard.run(command);
            for (key, now) in owed(&shard) {
                let at = users.iter().position(|user| *user == key.0);
                if at.is_some_and(|at| hidden[at]) {
                    let was = before.get(&key).map_or(Seq::ZERO, |receipt| receipt.read);
                    prop_assert_eq!(now.read, was, "{:?}", key);
                }
            }
            for (user, device) in users.iter().zip(devices) {
                let query = Query::Rows { user: user.clone(), device, after: None, limit: 100 };
                if let Answer::Rows(page) = shard.ask(query) && hides(&shard, user) {
                    prop_assert!(page.rows.iter().all(|row| row.peer_read == Seq::ZERO));
                }
            }
        }
    }
}
