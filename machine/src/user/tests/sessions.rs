//! Sessions, fences, and what a gateway learns about sessions that are gone (I7).

use flotilla_proto::ids::*;
use flotilla_proto::limits;

use super::kit::*;
use crate::command::*;
use crate::effect::{Effect, Ended};
use crate::query::{Answer, Query, SessionNews, SessionSince};
use crate::reply::{MarkReply, Opened, Rejection, Replaced, Reply};
use crate::table::kind;

fn why_gone(shard: &Shard, user: &UserId, device: DeviceId, number: u64) -> Option<Ended> {
    let session = SessionSince { user: user.clone(), device, number: SessionNo(number), since: Rev(0) };
    match shard.ask(Query::Sessions { node: NodeId(1), sessions: vec![session] }) {
        Answer::Sessions(news) => match &news[..] {
            [SessionNews::Gone(why)] => Some(*why),
            [SessionNews::Rows(_)] => None,
            other => panic!("one answer per session, got {other:?}"),
        },
        other => panic!("expected sessions, got {other:?}"),
    }
}

#[test]
fn a_newer_attempt_takes_over_and_an_older_one_that_comes_late_does_not() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let device = shard.device(&ann, 1);
    let first = OpenSession { attempt: 5, ..open(&ann, device) };
    shard.run(Command::OpenSession(first.clone()));
    assert_eq!(
        shard.rejected(Command::OpenSession(OpenSession { attempt: 4, ..first.clone() })),
        Rejection::Superseded
    );
    assert!(shard.effects.is_empty());
    let reply = shard.run(Command::OpenSession(OpenSession { attempt: 6, node: NodeId(2), ..first }));
    let replaced =
        Some(Replaced { node: NodeId(1), incarnation: Incarnation(1), number: SessionNo(1), same_instance: true });
    assert_eq!(reply, Reply::Opened(Opened { number: SessionNo(2), rev: Rev(0), replaced }));
    assert!(matches!(shard.effects[..], [Effect::SessionEnded { why: Ended::Superseded, .. }]));
    assert_eq!(shard.table_rows(kind::SESSION), 1);
    assert_eq!(shard.table_rows(kind::SESSION_NODE), 1);
}

#[test]
fn another_instance_replaces_whatever_its_attempt() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let device = shard.device(&ann, 1);
    shard.run(Command::OpenSession(OpenSession { attempt: 9, ..open(&ann, device) }));
    shard.run(Command::OpenSession(OpenSession { attempt: 1, instance: Instance(42), ..open(&ann, device) }));
    assert!(matches!(shard.effects[..], [Effect::SessionEnded { why: Ended::Replaced, number: SessionNo(1), .. }]));
    assert_eq!(why_gone(&shard, &ann, device, 1), Some(Ended::Replaced));
    shard.run(Command::OpenSession(OpenSession { attempt: 2, instance: Instance(42), ..open(&ann, device) }));
    assert_eq!(why_gone(&shard, &ann, device, 1), Some(Ended::Replaced), "also after the winner came again");
    assert_eq!(why_gone(&shard, &ann, device, 2), Some(Ended::Superseded));
    assert_eq!(why_gone(&shard, &ann, device, 3), None);
}

#[test]
fn a_late_hello_of_a_process_that_was_replaced_does_not_fence_its_successor() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let device = shard.device(&ann, 1);
    let dead = OpenSession { attempt: 3, instance: Instance(41), ..open(&ann, device) };
    let alive = OpenSession { attempt: 1, instance: Instance(42), ..open(&ann, device) };
    shard.run(Command::OpenSession(dead.clone()));
    shard.run(Command::OpenSession(alive.clone()));
    let late = OpenSession { attempt: 4, ..dead.clone() };
    assert_eq!(shard.rejected(Command::OpenSession(late.clone())), Rejection::Replaced);
    assert!(shard.effects.is_empty());
    assert_eq!(why_gone(&shard, &ann, device, 2), None, "the successor keeps its session");
    shard.done(Command::CloseSession { user: ann.clone(), device, number: SessionNo(2) });
    assert!(matches!(shard.run(Command::OpenSession(late)), Reply::Opened(_)), "it takes the session from nobody");
    for n in 0..2 * limits::BARRED_INSTANCES_MAX as u128 {
        shard.run(Command::OpenSession(OpenSession { instance: Instance(100 + n), ..alive.clone() }));
    }
    let again = OpenSession { attempt: 9, ..dead };
    assert!(matches!(shard.run(Command::OpenSession(again)), Reply::Opened(_)), "forgotten: the list is bounded");
}

#[test]
fn a_withdrawn_attempt_holds_no_session_also_when_it_comes_later() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let device = shard.device(&ann, 1);
    let first = OpenSession { attempt: 5, ..open(&ann, device) };
    let withdraw = |attempt| Command::WithdrawSession { user: ann.clone(), device, instance: first.instance, attempt };
    shard.done(withdraw(5));
    assert_eq!(shard.rejected(Command::OpenSession(first.clone())), Rejection::Superseded, "it was under way");
    assert!(matches!(shard.run(Command::OpenSession(OpenSession { attempt: 6, ..first.clone() })), Reply::Opened(_)));
    shard.done(withdraw(5));
    assert_eq!(shard.table_rows(kind::SESSION), 1, "a newer attempt stays");
    shard.done(withdraw(6));
    assert_eq!(shard.table_rows(kind::SESSION) + shard.table_rows(kind::SESSION_NODE), 0);
}

#[test]
fn only_the_store_that_logged_in_opens_the_device() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let device = shard.device(&ann, 1);
    let foreign = OpenSession { install: hash(9), ..open(&ann, device) };
    assert_eq!(shard.rejected(Command::OpenSession(foreign)), Rejection::WrongInstall);
    let unknown = OpenSession { device: DeviceId(404), ..open(&ann, device) };
    assert_eq!(shard.rejected(Command::OpenSession(unknown)), Rejection::Unauthenticated);
}

#[test]
fn a_fenced_incarnation_cannot_open() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let device = shard.device(&ann, 1);
    shard.run(Command::Fence { node: NodeId(1), lowest: Incarnation(3), limit: 10 });
    shard.run(Command::Fence { node: NodeId(1), lowest: Incarnation(2), limit: 10 });
    let late = OpenSession { incarnation: Incarnation(2), ..open(&ann, device) };
    assert_eq!(shard.rejected(Command::OpenSession(late.clone())), Rejection::Fenced, "a fence never goes down");
    let elsewhere = OpenSession { node: NodeId(2), ..late.clone() };
    assert!(matches!(shard.run(Command::OpenSession(elsewhere)), Reply::Opened(_)));
    let alive = OpenSession { incarnation: Incarnation(3), ..late };
    assert!(matches!(shard.run(Command::OpenSession(alive)), Reply::Opened(_)));
}

#[test]
fn a_fence_sweeps_all_dead_lives_of_its_node_in_steps_and_nothing_else() {
    let mut shard = Shard::new();
    let mut devices = Vec::new();
    for n in 1..=9u8 {
        let user = shard.user(&format!("user{n}"));
        let device = shard.device(&user, n);
        let node = NodeId(1 + u16::from(n % 3 == 0));
        let life = Incarnation(1 + u64::from(n % 3));
        shard.run(Command::OpenSession(OpenSession { node, incarnation: life, ..open(&user, device) }));
        devices.push((user, device));
    }
    // Node 1 has three sessions in life 2 and three in life 3; node 2 has three in life 1.
    assert_eq!(
        shard.run(Command::Fence { node: NodeId(1), lowest: Incarnation(3), limit: 2 }),
        Reply::Step { more: true }
    );
    assert_eq!(shard.effects.len(), 3, "two sessions and a job");
    assert_eq!(shard.run(Command::StepJob { limit: 10 }), Reply::Step { more: false });
    assert!(matches!(shard.effects[..], [Effect::SessionEnded { why: Ended::Fenced, .. }]));
    let users = devices.iter().map(|(user, _)| user.clone()).collect();
    let Answer::LiveSessions(live) = shard.ask(Query::LiveSessions { users }) else { panic!("expected sessions") };
    assert_eq!(live.iter().filter(|s| s.node == NodeId(1)).count(), 3);
    assert_eq!(live.iter().filter(|s| s.node == NodeId(2)).count(), 3);
    assert_eq!(why_gone(&shard, &devices[0].0, devices[0].1, 1), Some(Ended::Fenced));
}

#[test]
fn closing_is_conditional_on_the_number() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let device = shard.device(&ann, 1);
    shard.open(&ann, device);
    let number = shard.open(&ann, device);
    shard.done(Command::CloseSession { user: ann.clone(), device, number: SessionNo(1) });
    assert_eq!(shard.table_rows(kind::SESSION), 1, "the older socket closes late");
    shard.done(Command::CloseSession { user: ann.clone(), device, number });
    assert!(shard.effects.is_empty(), "its own gateway knows");
    assert_eq!(shard.table_rows(kind::SESSION) + shard.table_rows(kind::SESSION_NODE), 0);
    assert_eq!(shard.open(&ann, device), SessionNo(3), "numbers rise, also over a close");
}

#[test]
fn acks_of_an_older_session_have_no_effect() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let device = shard.device(&ann, 1);
    let (old, new) = (shard.open(&ann, device), shard.open(&ann, device));
    let conv = group(1);
    shard.done(news(&conv, 5, &ann, Some(part(1, &[stay(1, None)]))));
    let before = shard.digest();
    assert_eq!(shard.mark(ack(&ann, device, old, &conv, 5, 9)), MarkReply::StaleSession);
    assert_eq!(shard.mark(ack(&ann, device, SessionNo(7), &conv, 5, 9)), MarkReply::StaleSession);
    assert_eq!(shard.mark(ack(&ann, DeviceId(404), new, &conv, 5, 9)), MarkReply::NoDevice);
    assert_eq!(shard.digest(), before);
    assert_eq!(shard.mark(ack(&ann, device, new, &conv, 5, 5)), MarkReply::Done);
    shard.done(Command::CloseSession { user: ann.clone(), device, number: new });
    assert_eq!(shard.mark(ack(&ann, device, new, &conv, 5, 5)), MarkReply::StaleSession);
    assert_eq!(shard.mark(ack(&ann, device, Mark::SESSIONLESS, &conv, 5, 5)), MarkReply::Done, "over HTTP");
}

#[test]
fn a_gateway_learns_rows_above_what_it_has_looked_at() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let device = shard.device(&ann, 1);
    let number = shard.open(&ann, device);
    for n in 0..4 {
        shard.done(news(&group(n), 1, &ann, Some(part(1, &[stay(1, None)]))));
    }
    let ask = |since| {
        let session = SessionSince { user: ann.clone(), device, number, since: Rev(since) };
        match shard.ask(Query::Sessions { node: NodeId(1), sessions: vec![session] }) {
            Answer::Sessions(mut news) => news.pop(),
            other => panic!("expected sessions, got {other:?}"),
        }
    };
    let revs = |since| match ask(since) {
        Some(SessionNews::Rows(page)) => page.rows.iter().map(|r| r.rev.0).collect::<Vec<_>>(),
        other => panic!("expected rows, got {other:?}"),
    };
    assert_eq!(revs(0), [1, 2, 3, 4]);
    assert_eq!(revs(2), [3, 4]);
    assert_eq!(revs(u64::MAX), [0u64; 0]);
}
