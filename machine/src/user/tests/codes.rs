//! One-time codes: how long they live, how often they are tried and issued.

use flotilla_proto::ids::*;
use flotilla_proto::limits;

use super::kit::*;
use crate::command::*;
use crate::reply::{Rejection, Reply};
use crate::table::kind;

fn issue(name: &str, code: u8, request: u128) -> Command {
    Command::IssueCode { user: user(name), code: hash(code), request: Cid(request) }
}

fn try_code(name: &str, code: u8, request: u128) -> Command {
    Command::UseCode { code: hash(code), request: Cid(request), login: login(&user(name), 1, 1) }
}

#[test]
fn a_code_logs_in_once_and_its_own_request_again() {
    let mut shard = Shard::new();
    shard.done(issue("ann", 1, 1));
    assert_eq!(shard.run(try_code("ann", 1, 7)), Reply::LoggedIn { device: DeviceId(1), new: true });
    assert_eq!(
        shard.run(try_code("ann", 1, 7)),
        Reply::LoggedIn { device: DeviceId(1), new: false },
        "the answer was lost"
    );
    assert_eq!(shard.rejected(try_code("ann", 1, 8)), Rejection::Unauthenticated);
}

#[test]
fn a_repeated_request_sends_the_same_code_again_but_not_for_ever() {
    let mut shard = Shard::new();
    for _ in 0..=limits::CODE_REPEATS_MAX {
        shard.done(issue("ann", 1, 1));
    }
    assert!(matches!(shard.rejected(issue("ann", 1, 1)), Rejection::Wait { .. }));
    shard.wait(limits::CODE_ROW_MS);
    assert!(matches!(shard.rejected(issue("ann", 1, 1)), Rejection::Wait { .. }), "a code is issued once");
    shard.done(issue("ann", 2, 2));
}

/// The gateway makes another code of the same request when some minutes have gone by, or its clock is another's.
#[test]
fn a_repeat_with_another_code_is_a_request_of_its_own() {
    let mut shard = Shard::new();
    shard.done(issue("ann", 1, 1));
    assert_eq!(shard.rejected(issue("ann", 2, 1)), Rejection::Wait { wait_ms: limits::CODE_PAUSE_MS });
    shard.wait(limits::CODE_PAUSE_MS);
    shard.done(issue("ann", 2, 1));
    assert_eq!(shard.run(try_code("ann", 1, 7)), Reply::Rejected(Rejection::Unauthenticated), "the newest is good");
    assert!(matches!(shard.run(try_code("ann", 2, 8)), Reply::LoggedIn { .. }));
}

#[test]
fn a_code_that_somebody_has_seen_is_not_issued_again() {
    let mut shard = Shard::new();
    shard.done(issue("ann", 1, 1));
    assert!(matches!(shard.run(try_code("ann", 1, 7)), Reply::LoggedIn { .. }));
    assert!(matches!(shard.rejected(issue("ann", 1, 1)), Rejection::Wait { .. }), "used");
    shard.wait(limits::CODE_LIFE_MS);
    assert!(matches!(shard.rejected(issue("ann", 1, 1)), Rejection::Wait { .. }), "its time is over");
    shard.done(issue("ann", 2, 2));
    shard.wait(limits::CODE_PAUSE_MS);
    assert!(matches!(shard.rejected(issue("ann", 1, 1)), Rejection::Wait { .. }), "not by turns either");
    assert_eq!(shard.run(try_code("ann", 1, 9)), Reply::Rejected(Rejection::Unauthenticated));
}

#[test]
fn five_wrong_tries_end_a_code() {
    let mut shard = Shard::new();
    shard.done(issue("ann", 1, 1));
    for n in 0..limits::CODE_TRIES_MAX {
        assert_eq!(shard.run(try_code("ann", 9, n.into())), Reply::Rejected(Rejection::Unauthenticated));
    }
    assert_eq!(shard.rejected(try_code("ann", 1, 99)), Rejection::Unauthenticated);
    assert_eq!(
        shard.rejected(try_code("nobody", 1, 99)),
        Rejection::Unauthenticated,
        "as for an address without a code"
    );
}

#[test]
fn a_code_ends_with_its_time_and_with_the_next_one() {
    let mut shard = Shard::new();
    shard.done(issue("ann", 1, 1));
    shard.wait(limits::CODE_LIFE_MS);
    assert_eq!(shard.rejected(try_code("ann", 1, 7)), Rejection::Unauthenticated);
    shard.done(issue("ann", 2, 2));
    shard.wait(limits::CODE_PAUSE_MS);
    shard.done(issue("ann", 3, 3));
    assert_eq!(shard.run(try_code("ann", 2, 7)), Reply::Rejected(Rejection::Unauthenticated));
    assert!(matches!(shard.run(try_code("ann", 3, 7)), Reply::LoggedIn { .. }));
}

#[test]
fn codes_of_an_address_are_limited_and_the_answer_says_for_how_long() {
    let mut shard = Shard::new();
    shard.done(issue("ann", 1, 1));
    assert_eq!(shard.rejected(issue("ann", 1, 2)), Rejection::Wait { wait_ms: limits::CODE_PAUSE_MS });
    let mut issued = 1;
    let mut request = 10;
    // As fast as is allowed, for a day.
    let mut passed = 0;
    while passed < limits::CODE_ROW_MS {
        request += 1;
        match shard.run(issue("ann", request as u8, request)) {
            Reply::Done => issued += 1,
            Reply::Rejected(Rejection::Wait { wait_ms }) => {
                assert!(wait_ms > 0);
                shard.wait(wait_ms);
                passed += wait_ms;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(issued, limits::CODES_PER_DAY);
    // Others are not held up.
    shard.done(issue("bob", 1, 1));
}

#[test]
fn a_code_never_enters_an_account_with_a_password() {
    let mut shard = Shard::new();
    shard.done(Command::Register(Register { user: user("ann"), phc: "phc".into(), request: Cid(1) }));
    shard.done(issue("ann", 1, 1));
    assert_eq!(shard.rejected(try_code("ann", 1, 7)), Rejection::Unauthenticated);
}

#[test]
fn rows_of_addresses_that_nobody_asks_for_go_away() {
    let mut shard = Shard::new();
    for n in 0..40 {
        shard.done(issue(&format!("u{n}"), 1, 1));
    }
    shard.wait(limits::CODE_ROW_MS);
    for n in 0..20 {
        shard.done(issue(&format!("v{n}"), 1, 1));
    }
    assert_eq!((shard.table_rows(kind::CODE), shard.table_rows(kind::CODE_AGE)), (20, 20));
}
