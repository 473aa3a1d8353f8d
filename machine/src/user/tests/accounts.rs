//! Accounts, devices and tokens.

use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_proto::slots::SlotTable;

use super::kit::*;
use crate::command::*;
use crate::effect::{Effect, Ended};
use crate::query::{Answer, Query};
use crate::reply::{Rejection, Reply};
use crate::table::kind;

fn register(name: &str, request: u128) -> Command {
    Command::Register(Register { user: user(name), phc: "phc".into(), request: Cid(request) })
}

fn rotate(user: &UserId, device: DeviceId, presented: u8, next: u8) -> Command {
    Command::RotateToken(RotateToken { user: user.clone(), device, presented: hash(presented), next: hash(next) })
}

#[test]
fn a_name_is_registered_once_and_a_retry_of_the_winner_is_done() {
    let mut shard = Shard::new();
    shard.done(register("ann", 1));
    shard.done(register("ann", 1));
    assert_eq!(shard.rejected(register("ann", 2)), Rejection::Exists);
}

#[test]
fn a_shard_refuses_users_of_slots_that_it_does_not_own() {
    let mut shard = Shard::bare(ShardId(1));
    assert_eq!(shard.rejected(register("ann", 1)), Rejection::Moved);
    shard.done(Command::SetSlots(SlotTable::from_owners(1, vec![ShardId(2); usize::from(limits::SLOTS)])));
    let ann = user("ann");
    assert_eq!(shard.rejected(news(&group(1), 1, &ann, None)), Rejection::Moved);
    assert_eq!(shard.ask(Query::Account { user: ann }), Answer::Moved);
}

#[test]
fn a_batch_with_one_foreign_user_is_refused_whole() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let device = shard.device(&ann, 1);
    let number = shard.open(&ann, device);
    shard.done(news(&group(1), 5, &ann, Some(part(1, &[stay(1, None)]))));
    // The slots of everybody but ann move away.
    let owner = |slot| if Slot(slot) == flotilla_proto::slots::of_user(&ann) { ShardId(1) } else { ShardId(2) };
    shard.done(Command::SetSlots(SlotTable::from_owners(2, (0..limits::SLOTS).map(owner).collect())));
    let bob = user("bob");
    let pair = |one: Command, two: Command| match (one, two) {
        (Command::Notify(mut one), Command::Notify(two)) => {
            one.extend(two);
            Command::Notify(one)
        }
        other => panic!("two notifies, got {other:?}"),
    };
    assert_eq!(shard.rejected(pair(news(&group(1), 6, &ann, None), news(&group(1), 6, &bob, None))), Rejection::Moved);
    let marks = vec![ack(&ann, device, number, &group(1), 5, 5), ack(&bob, device, number, &group(1), 5, 5)];
    assert_eq!(shard.rejected(Command::Marks(marks)), Rejection::Moved);
    let receipt = |user: &UserId| Receipt { user: user.clone(), conv: group(1), delivered: Seq(1), read: Seq(1) };
    assert_eq!(shard.rejected(Command::PeerMarks(vec![receipt(&ann), receipt(&bob)])), Rejection::Moved);
    shard.done(news(&group(1), 6, &ann, None));
}

#[test]
fn the_same_install_is_the_same_device_and_keeps_its_name() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let device = shard.device(&ann, 1);
    shard.done(Command::RenameDevice { user: ann.clone(), device, name: "kitchen".into() });
    let again = Login { device: DeviceId(99), ..login(&ann, 1, 50) };
    assert_eq!(shard.run(Command::Login(again)), Reply::LoggedIn { device, new: false });
    let Answer::Account(Some(account)) = shard.ask(Query::Account { user: ann }) else {
        panic!("the account is there")
    };
    assert_eq!(account.devices.len(), 1);
    assert_eq!((account.devices[0].name.as_str(), account.devices[0].family), ("kitchen", Some(hash(50))));
}

#[test]
fn a_repeated_login_does_not_throw_away_what_was_rotated_since() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let device = shard.device(&ann, 1);
    shard.done(rotate(&ann, device, 1, 2));
    shard.run(Command::Login(login(&ann, 1, 1)));
    shard.done(rotate(&ann, device, 2, 3));
}

#[test]
fn devices_are_limited_and_a_revoked_one_makes_room_but_never_comes_back() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    for n in 1..=limits::DEVICES_PER_USER_MAX as u8 {
        shard.device(&ann, n);
    }
    assert!(matches!(shard.rejected(Command::Login(login(&ann, 100, 1))), Rejection::Quota(_)));
    let revoke = Command::RevokeDevice { user: ann.clone(), device: DeviceId(1), request: Cid(5) };
    shard.done(revoke.clone());
    shard.done(revoke);
    assert!(
        matches!(shard.rejected(Command::Login(login(&ann, 1, 1))), Rejection::Conflict(_)),
        "ids are never reused"
    );
    let fresh = Login { device: DeviceId(77), ..login(&ann, 1, 1) };
    assert_eq!(shard.run(Command::Login(fresh)), Reply::LoggedIn { device: DeviceId(77), new: true });
    assert_eq!(shard.rejected(Command::OpenSession(open(&ann, DeviceId(1)))), Rejection::Revoked);
    assert_eq!(shard.rejected(rotate(&ann, DeviceId(1), 1, 2)), Rejection::Revoked);
}

#[test]
fn revoking_ends_the_session_and_removes_the_cursors_in_steps() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let device = shard.device(&ann, 1);
    let other = shard.device(&ann, 2);
    shard.open(&ann, device);
    let rows = limits::SWEEP_ROWS_MAX + 10;
    for n in 0..rows {
        shard.done(news(&group(n as u128), 1, &ann, Some(part(1, &[stay(1, None)]))));
    }
    assert_eq!(shard.table_rows(kind::CURSOR), 2 * rows);
    shard.done(Command::RevokeDevice { user: ann.clone(), device, request: Cid(1) });
    assert!(matches!(shard.effects[..], [Effect::SessionEnded { why: Ended::Revoked, .. }, Effect::Job]));
    assert!(matches!(shard.ask(Query::ShardState), Answer::ShardState(s) if s.job_due));
    assert_eq!(shard.run(Command::StepJob { limit: 3 }), Reply::Step { more: true });
    assert_eq!(shard.run(Command::StepJob { limit: 0 }), Reply::Step { more: true }, "a step always gets on");
    assert_eq!(shard.run(Command::StepJob { limit: u32::MAX }), Reply::Step { more: false });
    assert_eq!(shard.table_rows(kind::CURSOR), rows);
    assert_eq!(shard.pending(&ann, other).len(), 100);
    assert!(matches!(shard.ask(Query::ShardState), Answer::ShardState(s) if !s.job_due));
}

#[test]
fn a_demo_login_registers_on_the_way_but_never_passes_a_password_by() {
    let mut shard = Shard::new();
    let demo = Login { create: true, ..login(&user("demo"), 1, 1) };
    assert!(matches!(shard.run(Command::Login(demo)), Reply::LoggedIn { new: true, .. }));
    assert_eq!(shard.rejected(Command::Login(login(&user("nobody"), 1, 1))), Rejection::Unauthenticated);
    let ann = shard.user("ann");
    let sneaking = Login { create: true, ..login(&ann, 1, 1) };
    assert_eq!(shard.rejected(Command::Login(sneaking)), Rejection::Unauthenticated);
}

#[test]
fn a_reused_refresh_token_ends_the_family_and_its_session_though_it_is_rejected() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let device = shard.device(&ann, 1);
    let number = shard.open(&ann, device);
    shard.done(rotate(&ann, device, 1, 2));
    shard.done(rotate(&ann, device, 1, 2));
    shard.done(rotate(&ann, device, 2, 3));
    assert_eq!(shard.rejected(rotate(&ann, device, 1, 9)), Rejection::Revoked);
    assert!(
        matches!(&shard.effects[..], [Effect::SessionEnded { number: n, why: Ended::LoggedOut, .. }] if *n == number)
    );
    assert_eq!(shard.rejected(rotate(&ann, device, 3, 4)), Rejection::Unauthenticated, "the thief's and the owner's");
    assert_eq!(shard.rejected(Command::OpenSession(open(&ann, device))), Rejection::Unauthenticated);
}

#[test]
fn a_strangers_token_logs_nobody_out() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let device = shard.device(&ann, 1);
    assert_eq!(shard.rejected(rotate(&ann, device, 77, 9)), Rejection::Unauthenticated);
    shard.done(rotate(&ann, device, 1, 2));
}

#[test]
fn a_new_password_logs_out_everywhere_and_its_retry_nobody() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let (one, two) = (shard.device(&ann, 1), shard.device(&ann, 2));
    shard.open(&ann, one);
    let set = Command::SetPassword { user: ann.clone(), phc: "new".into(), request: Cid(8) };
    shard.done(set.clone());
    assert_eq!(shard.effects.len(), 1);
    assert_eq!(shard.rejected(rotate(&ann, two, 2, 3)), Rejection::Unauthenticated);
    shard.run(Command::Login(login(&ann, 1, 10)));
    shard.done(set);
    shard.done(rotate(&ann, one, 10, 11));
    let long = "x".repeat(limits::PHC_BYTES_MAX + 1);
    let set = Command::SetPassword { user: ann, phc: long, request: Cid(9) };
    assert!(matches!(shard.rejected(set), Rejection::Validation(_)));
}

#[test]
fn logout_closes_the_session_and_keeps_the_device_with_its_cursors() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let device = shard.device(&ann, 1);
    let number = shard.open(&ann, device);
    shard.done(news(&group(1), 3, &ann, Some(part(1, &[stay(1, None)]))));
    shard.mark(ack(&ann, device, number, &group(1), 2, 3));
    shard.done(Command::Logout { user: ann.clone(), device });
    assert!(matches!(shard.effects[..], [Effect::SessionEnded { why: Ended::LoggedOut, .. }]));
    shard.run(Command::Login(login(&ann, 1, 10)));
    assert_eq!(shard.row(&ann, device, &group(1)).map(|r| r.cursor), Some(Seq(2)));
}
