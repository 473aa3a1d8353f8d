//! Heads and membership parts: the counter-examples of DESIGN 4.

use flotilla_proto::ids::*;
use flotilla_proto::limits;

use super::kit::*;
use crate::command::*;
use crate::effect::Effect;
use crate::query::{Answer, Query};
use crate::reply::{MarkReply, Rejection};
use crate::table::kind;

fn account_conversations(shard: &Shard, user: &UserId) -> u32 {
    match shard.ask(Query::Account { user: user.clone() }) {
        Answer::Account(Some(account)) => account.conversations,
        other => panic!("expected an account, got {other:?}"),
    }
}

#[test]
fn a_device_that_registers_while_a_fan_out_is_under_way_misses_nothing() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    shard.device(&ann, 1);
    let conv = group(1);
    shard.done(news(&conv, 5, &ann, Some(part(1, &[stay(1, None)]))));
    // Entry 6 is accepted after the registration, entry 7 too; their news come as one.
    let late = shard.device(&ann, 2);
    assert_eq!(shard.row(&ann, late, &conv).map(|r| r.cursor), Some(Seq(5)), "nothing is pending yet");
    assert!(shard.pending(&ann, late).is_empty());
    shard.done(news(&conv, 7, &ann, None));
    assert_eq!(shard.row(&ann, late, &conv).map(|r| r.cursor), Some(Seq(5)));
    assert_eq!(shard.pending(&ann, late).len(), 1);
}

#[test]
fn a_join_puts_every_device_just_before_it() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let (one, two) = (shard.device(&ann, 1), shard.device(&ann, 2));
    shard.done(news(&group(1), 9, &ann, Some(part(5, &[stay(5, None)]))));
    for device in [one, two] {
        assert_eq!(shard.row(&ann, device, &group(1)).map(|r| r.cursor), Some(Seq(4)));
    }
    assert_eq!(shard.effects.len(), 2);
    assert!(matches!(&shard.effects[0], Effect::Conv { rev: Rev(1), .. }));
    assert!(matches!(&shard.effects[1], Effect::Head { head: Seq(9), n_head: Count(9), rev: None, .. }));
}

#[test]
fn a_head_that_overtakes_its_membership_is_shown_to_nobody_and_skips_nothing() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let device = shard.device(&ann, 1);
    shard.done(news(&group(1), 9, &ann, None));
    assert!(shard.effects.is_empty());
    assert_eq!(shard.row(&ann, device, &group(1)), None);
    shard.done(news(&group(1), 7, &ann, Some(part(5, &[stay(5, None)]))));
    let row = shard.row(&ann, device, &group(1)).expect("shown now");
    assert_eq!((row.cursor, row.head), (Seq(4), Seq(9)));
}

#[test]
fn a_late_notification_after_leave_and_rejoin_changes_nothing() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let device = shard.device(&ann, 1);
    let conv = group(1);
    let left = part(6, &[stay(2, Some(6))]);
    shard.done(news(&conv, 6, &ann, Some(left.clone())));
    let number = shard.open(&ann, device);
    assert_eq!(shard.mark(ack(&ann, device, number, &conv, 6, 6)), MarkReply::Done);
    shard.done(news(&conv, 12, &ann, Some(part(10, &[stay(2, Some(6)), stay(10, None)]))));
    let before = shard.row(&ann, device, &conv);
    assert_eq!(before.as_ref().map(|r| r.cursor), Some(Seq(6)));
    for late in [news(&conv, 6, &ann, Some(left)), news(&conv, 4, &ann, Some(part(2, &[stay(2, None)])))] {
        shard.done(late);
        assert!(shard.effects.is_empty());
        assert_eq!(shard.row(&ann, device, &conv), before);
    }
}

#[test]
fn what_lies_between_two_stays_is_never_pending() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let device = shard.device(&ann, 1);
    let conv = group(1);
    shard.done(news(&conv, 6, &ann, Some(part(6, &[stay(2, Some(6))]))));
    let number = shard.open(&ann, device);
    shard.mark(ack(&ann, device, number, &conv, 6, 6));
    // The head goes on without the user: nothing of that is for it.
    shard.done(news(&conv, 9, &ann, None));
    assert!(shard.pending(&ann, device).is_empty());
    assert!(!shard.effects.iter().any(|e| matches!(e, Effect::Head { .. })));
    // A new device appears in between, and the user joins again at 10: it gets 10, the others too, and nobody 7 to 9.
    let fresh = shard.device(&ann, 2);
    shard.done(news(&conv, 10, &ann, Some(part(10, &[stay(2, Some(6)), stay(10, None)]))));
    for device in [device, fresh] {
        let row = shard.row(&ann, device, &conv).expect("a row");
        let pending: Vec<u64> = (row.cursor.0 + 1..=10).filter(|s| row.part.receives(Seq(*s))).collect();
        assert_eq!(pending, [10]);
    }
}

#[test]
fn one_late_notification_for_two_stays_delivers_both() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let device = shard.device(&ann, 1);
    shard.done(news(&group(1), 20, &ann, Some(part(15, &[stay(5, Some(10)), stay(15, None)]))));
    assert_eq!(shard.row(&ann, device, &group(1)).map(|r| r.cursor), Some(Seq(4)));
}

#[test]
fn a_kicked_user_gets_nothing_above_its_end() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let device = shard.device(&ann, 1);
    let conv = group(1);
    shard.done(news(&conv, 9, &ann, Some(part(1, &[stay(1, None)]))));
    shard.done(news(&conv, 7, &ann, Some(part(6, &[stay(1, Some(6))]))));
    let row = shard.row(&ann, device, &conv).expect("a tombstone");
    assert_eq!((row.head, row.part.effective_head(row.head)), (Seq(9), Seq(6)));
    let number = shard.open(&ann, device);
    assert_eq!(shard.mark(ack(&ann, device, number, &conv, 7, 9)), MarkReply::Ahead);
    assert_eq!(shard.mark(ack(&ann, device, number, &conv, 6, 9)), MarkReply::Done);
    assert!(shard.pending(&ann, device).is_empty());
}

#[test]
fn repeats_raise_no_revision_and_a_row_stands_in_the_index_once() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let device = shard.device(&ann, 1);
    for _ in 0..3 {
        shard.done(news(&group(1), 5, &ann, Some(part(1, &[stay(1, None)]))));
    }
    assert!(shard.effects.is_empty());
    shard.done(news(&group(2), 5, &ann, Some(part(1, &[stay(1, None)]))));
    shard.done(news(&group(1), 6, &ann, None));
    assert_eq!(shard.table_rows(kind::INBOX_REV), 2);
    let page = shard.rows(Query::Changed { user: ann.clone(), device, since: Rev(1), limit: 10 });
    let seen: Vec<_> = page.rows.iter().map(|r| (r.rev, r.conv.clone())).collect();
    assert_eq!(seen, [(Rev(2), group(2)), (Rev(3), group(1))]);
    assert_eq!(page.rev, Rev(3));
}

#[test]
fn rows_of_devices_are_those_that_each_of_them_would_read() {
    let mut shard = Shard::new();
    let (ann, bob) = (shard.user("ann"), shard.user("bob"));
    let (one, two, other) = (shard.device(&ann, 1), shard.device(&ann, 2), shard.device(&bob, 3));
    for n in 1..=2 {
        shard.done(news(&group(n), 9, &ann, Some(part(5, &[stay(5, None)]))));
    }
    let number = shard.open(&ann, two);
    shard.mark(ack(&ann, two, number, &group(2), 8, 9));
    let asked = [
        (&ann, two, group(2)),
        (&ann, one, group(2)),
        (&ann, one, group(1)),
        (&bob, other, group(1)),
        (&bob, one, group(1)),
    ];
    let devices = asked.iter().map(|(user, device, conv)| ((*user).clone(), *device, conv.clone())).collect();
    let Answer::RowsOf(rows) = shard.ask(Query::RowsOf { devices }) else { panic!("rows of devices") };
    let single: Vec<_> = asked[..4].iter().map(|(user, device, conv)| shard.row(user, *device, conv)).collect();
    assert_eq!(rows[..4], single[..]);
    let cursors: Vec<_> = rows.iter().map(|row| row.as_ref().map(|row| row.cursor.0)).collect();
    assert_eq!(cursors, [Some(8), Some(4), Some(4), None, None], "bob is no member, and the device is not bob's");
    let too_many = vec![(ann, one, group(1)); limits::ROWS_PUSHED_MAX + 1];
    assert!(matches!(shard.ask(Query::RowsOf { devices: too_many }), Answer::TooMany { .. }));
}

#[test]
fn a_mere_head_makes_no_conv_frame_and_the_own_message_neither() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    shard.done(news(&group(1), 5, &ann, Some(part(1, &[stay(1, None)]))));
    shard.done(news(&group(1), 6, &ann, None));
    assert!(matches!(shard.effects[..], [Effect::Head { rev: Some(Rev(2)), .. }]));
    let Command::Notify(mut own) = news(&group(1), 7, &ann, None) else { panic!("news are a notify") };
    own[0].users[0].n_sent = Count(7);
    shard.done(Command::Notify(own));
    assert!(matches!(shard.effects[..], [Effect::Head { .. }]));
    // The head was known from an ack, the n of the own message was not.
    let Command::Notify(mut own) = news(&group(1), 7, &ann, None) else { panic!("news are a notify") };
    own[0].users[0].n_sent = Count(8);
    shard.done(Command::Notify(own));
    assert!(matches!(shard.effects[..], [Effect::Conv { .. }]));
}

#[test]
fn news_for_a_user_that_does_not_exist_are_done_with() {
    let mut shard = Shard::new();
    let before = shard.digest();
    shard.done(news(&group(1), 5, &user("nobody"), Some(part(1, &[stay(1, None)]))));
    assert_eq!(shard.digest(), before);
}

#[test]
fn conversations_are_counted_while_the_user_is_in_them() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    shard.done(news(&group(1), 5, &ann, Some(part(1, &[stay(1, None)]))));
    shard.done(news(&group(2), 5, &ann, Some(part(1, &[stay(1, None)]))));
    assert_eq!(account_conversations(&shard, &ann), 2);
    shard.done(news(&group(1), 6, &ann, Some(part(6, &[stay(1, Some(6))]))));
    assert_eq!(account_conversations(&shard, &ann), 1);
}

#[test]
fn too_much_or_disordered_news_are_refused_whole() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let one = NotifyUser { user: ann.clone(), n_sent: Count(0), part: None };
    let Command::Notify(mut many) = news(&group(1), 1, &ann, None) else { panic!("news are a notify") };
    many[0].users = vec![one; limits::NOTIFY_USERS_PER_COMMAND_MAX + 1];
    assert!(matches!(shard.rejected(Command::Notify(many)), Rejection::Validation(_)));
    let overlapping = part(9, &[stay(1, None), stay(5, None)]);
    assert!(matches!(shard.rejected(news(&group(1), 9, &ann, Some(overlapping))), Rejection::Validation(_)));
    let stays: Vec<_> =
        (0..=limits::INTERVALS_PER_MEMBER_MAX as u64).map(|n| stay(1 + n * 2, Some(1 + n * 2))).collect();
    assert!(matches!(shard.rejected(news(&group(1), 9, &ann, Some(part(9, &stays)))), Rejection::Validation(_)));
}

#[test]
fn the_largest_notify_stays_below_the_row_bound() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    for n in 1..=limits::DEVICES_PER_USER_MAX as u8 {
        shard.device(&ann, n);
    }
    let items = (0..limits::NOTIFY_USERS_PER_COMMAND_MAX as u128).flat_map(|n| {
        match news(&group(n), 5, &ann, Some(part(1, &[stay(1, None)]))) {
            Command::Notify(items) => items,
            other => panic!("news are a notify, got {other:?}"),
        }
    });
    // The kit asserts the bound.
    shard.done(Command::Notify(items.collect()));
}

#[test]
fn pages_of_rows_go_on_where_they_stopped() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let device = shard.device(&ann, 1);
    for n in 0..600 {
        shard.done(news(&group(n), 1, &ann, Some(part(1, &[stay(1, None)]))));
    }
    for pending in [false, true] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let (user, limit) = (ann.clone(), 77);
            let page = shard.rows(match pending {
                true => Query::Pending { user, device, after: after.clone(), limit },
                false => Query::Rows { user, device, after: after.clone(), limit },
            });
            seen.extend(page.rows.iter().map(|r| r.conv.clone()));
            after = seen.last().cloned();
            if !page.more {
                break;
            }
        }
        assert_eq!(seen.len(), 600);
        assert!(seen.is_sorted_by(|a, b| a < b));
    }
    let (mut seen, mut since) = (0, Rev(0));
    loop {
        let page = shard.rows(Query::Changed { user: ann.clone(), device, since, limit: 77 });
        seen += page.rows.len();
        since = page.rows.last().map_or(since, |r| r.rev);
        if !page.more {
            break;
        }
    }
    assert_eq!((seen, since), (600, Rev(600)));
}
