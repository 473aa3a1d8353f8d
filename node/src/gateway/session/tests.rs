//! Revisions that were looked at, and positions that may be forgotten.

use std::sync::Arc;

use flotilla_proto::entry::Entry;
use flotilla_proto::ids::*;
use flotilla_proto::member::{Interval, MembershipPart};

use super::*;

fn conv(n: u128) -> ConvId {
    ConvId::parse(&format!("g{n:032x}")).expect("valid")
}

fn page(rows: Vec<InboxRow>, rev: u64) -> RowsPage {
    RowsPage { rows, more: false, rev: Rev(rev) }
}

fn live(rev: u64) -> Session {
    let mut session = Session::new(Rev(rev), Rev(rev), None);
    assert!(matches!(session.next(0, true), Some(Action::AskChanged { .. })));
    session.on_changed(page(vec![], rev), 0);
    assert!(matches!(session.next(0, true), Some(Action::AskPending { .. })));
    session.on_pending(page(vec![], rev), 0);
    assert!(matches!(session.next(0, true), Some(Action::CaughtUp { .. })));
    session
}

#[test]
fn a_join_told_by_conv_and_head_of_one_revision_is_looked_at() {
    let mut session = live(10);
    session.on_push(Push::Conv { conv: conv(1), rev: Rev(11) }, 0);
    let head = |rev| Push::Head { conv: conv(1), head: Seq(1), n_head: Count(1), revs: vec![rev], entries: vec![] };
    session.on_push(head(Rev(11)), 0);
    let mut asked = None;
    while let Some(action) = session.next(limits::CONV_GATHER_MS, true) {
        if let Action::AskChanged { since, .. } = action {
            asked = Some(since);
        }
    }
    assert_eq!(asked, Some(Rev(10)), "the row of revision 11 must be in the answer");
    session.on_push(head(Rev(11)), 300);
    session.on_changed_failed(300);
    assert!(matches!(session.next(9_999, true), Some(Action::AskChanged { since: Rev(10), .. })));
}

fn entry(conv: &ConvId, seq: u64) -> Arc<Entry> {
    Arc::new(Entry {
        conv: conv.clone(),
        seq: Seq(seq),
        n: Count(seq),
        msg_id: MsgId(seq),
        ts: TsMs(seq),
        from: UserId::parse("alice").expect("valid"),
        device: DeviceId(9),
        cid: Cid(seq.into()),
        what: None,
        kind: "message".into(),
        body_hash: Hash32::default(),
        chain: Hash32::default(),
    })
}

fn row(conv: &ConvId, head: u64, cursor: u64) -> InboxRow {
    let zero = Seq(0);
    let stay = Interval { from: Seq(1), n_before: Count(0), until: None, n_until: Count(0), history_from: Seq(1) };
    InboxRow {
        conv: conv.clone(),
        rev: Rev(20),
        head: Seq(head),
        n_head: Count(head),
        part: MembershipPart { mseq: Seq(1), intervals: vec![stay], ..Default::default() },
        read: zero,
        n_read: Count(0),
        n_sent: Count(0),
        delivered: zero,
        last_id: MsgId(head),
        last_ts: TsMs(head),
        peer_delivered: zero,
        peer_read: zero,
        cursor: Seq(cursor),
        settings: Default::default(),
    }
}

fn news(conv: &ConvId, head: u64) -> Push {
    let entries = vec![entry(conv, head)];
    Push::Head { conv: conv.clone(), head: Seq(head), n_head: Count(head), revs: vec![], entries }
}

/// Answers questions for positions with `cursors` (else with a cursor at the head of 1); gives what was sent of
/// `watched`, and the marks that left.
fn drive(session: &mut Session, now: u64, watched: &ConvId, cursor: u64) -> (Vec<u64>, Vec<Want>) {
    let (mut sent, mut marks) = (vec![], vec![]);
    while let Some(action) = session.next(now, true) {
        match action {
            Action::AskRow(conv) if conv == *watched => session.on_row(&conv, Some(row(&conv, 1, cursor)), now),
            Action::AskRow(conv) => session.on_row(&conv, Some(row(&conv, 1, 1)), now),
            Action::Send(conv, item) if conv == *watched => sent.push(item.last().0),
            Action::Marks(batch) => marks = batch,
            _ => {}
        }
    }
    (sent, marks)
}

fn push_out(session: &mut Session, watched: &ConvId, cursor: u64) -> Vec<u64> {
    (0..limits::IDLE_POSITIONS_MAX as u128 + 1)
        .flat_map(|n| {
            session.on_push(news(&conv(1_000 + n), 1), 1_000);
            drive(session, 1_000, watched, cursor).0
        })
        .collect()
}

#[test]
fn a_position_whose_ack_is_on_its_way_is_not_forgotten() {
    let (mut session, c) = (live(10), conv(1));
    session.on_push(news(&c, 1), 0);
    assert_eq!(drive(&mut session, 0, &c, 0).0, [1]);
    session.on_ack(AckItem { conv: c.clone(), seq: Seq(1) }, 0);
    let (_, marks) = drive(&mut session, 1_000, &c, 0);
    assert_eq!(marks.len(), 1, "and no answer yet");
    assert_eq!(push_out(&mut session, &c, 0), [0u64; 0]);
    session.on_push(news(&c, 2), 1_000);
    assert_eq!(drive(&mut session, 1_000, &c, 0).0, [2], "1 was sent and acked on this connection");
    session.on_marks(&[MarkReply::Done], 1_000);
    session.on_ack(AckItem { conv: c.clone(), seq: Seq(2) }, 1_000);
    drive(&mut session, 2_000, &c, 1);
    session.on_marks(&[MarkReply::Done], 2_000);
    push_out(&mut session, &c, 2);
    assert!(!session.window.knows(&c), "idle: it may be forgotten now");
}

#[test]
fn rows_read_before_a_position_was_forgotten_do_not_bring_it_back() {
    let (mut session, c) = (live(10), conv(1));
    session.on_push(news(&c, 1), 0);
    assert_eq!(drive(&mut session, 0, &c, 0).0, [1]);
    session.on_push(Push::Resync, 0);
    drive(&mut session, limits::CONV_GATHER_MS, &c, 0);
    assert!(session.asking, "the rows are being read");
    session.on_ack(AckItem { conv: c.clone(), seq: Seq(1) }, 1_000);
    drive(&mut session, 2_000, &c, 0);
    session.on_marks(&[MarkReply::Done], 2_000);
    push_out(&mut session, &c, 1);
    assert!(!session.window.knows(&c));
    session.on_changed(page(vec![row(&c, 1, 0)], 20), 2_000);
    assert_eq!(drive(&mut session, 2_000, &c, 1).0, [0u64; 0], "its ack came after the row was read");
}

/// The same while the position is being asked for again.
#[test]
fn rows_read_before_a_position_was_forgotten_do_not_become_the_new_one() {
    let (mut session, c) = (live(10), conv(1));
    session.on_push(news(&c, 1), 0);
    assert_eq!(drive(&mut session, 0, &c, 0).0, [1]);
    session.on_ack(AckItem { conv: c.clone(), seq: Seq(1) }, 0);
    drive(&mut session, 1_000, &c, 0);
    session.on_marks(&[MarkReply::Done], 1_000);
    push_out(&mut session, &c, 1);
    assert!(!session.window.knows(&c), "forgotten");
    // Read at the leader before the ack; revision 11 is missing.
    let old = InboxRow { rev: Rev(12), ..row(&c, 1, 0) };
    session.on_push(Push::Row { row: Arc::new(old), revs: vec![Rev(12)] }, 1_000);
    session.on_push(news(&c, 2), 1_000);
    let mut asked = 0;
    while let Some(action) = session.next(1_000, true) {
        asked += usize::from(action == Action::AskRow(c.clone()));
    }
    assert_eq!(asked, 1, "and asked for again");
    session.on_push(pushed(2, 11, &[11]), 1_000);
    assert_eq!(drive(&mut session, 1_000, &c, 1).0, [0u64; 0], "the held row is older than the ack");
    session.on_row(&c, Some(row(&c, 2, 1)), 1_000);
    assert_eq!(drive(&mut session, 1_000, &c, 1).0, [2]);
}

#[test]
fn heads_that_rode_together_leave_no_hole_in_the_revisions() {
    let mut session = live(10);
    let told = |session: &mut Session, revs: &[u64]| {
        let revs = revs.iter().map(|rev| Rev(*rev)).collect();
        session.on_push(Push::Head { conv: conv(1), head: Seq(2), n_head: Count(2), revs, entries: vec![] }, 0);
        session.last_rev
    };
    assert_eq!(told(&mut session, &[11, 13]), Rev(11), "12 is missing");
    assert_eq!(told(&mut session, &[12]), Rev(13), "of another conversation");
    assert_eq!(told(&mut session, &[15]), Rev(13));
    session.on_push(Push::Conv { conv: conv(2), rev: Rev(14) }, 0);
    assert_eq!(told(&mut session, &[16]), Rev(13), "a look is owed");
    while let Some(action) = session.next(limits::CONV_GATHER_MS, true) {
        if let Action::AskChanged { since, .. } = action {
            assert_eq!(since, Rev(13), "not everything since the session opened");
            break;
        }
    }
    session.on_changed(page(vec![], 14), 300);
    assert_eq!(session.last_rev, Rev(16), "what was told meanwhile counts");
}

fn pushed(n: u128, rev: u64, revs: &[u64]) -> Push {
    let row = InboxRow { rev: Rev(rev), ..row(&conv(n), 1, 1) };
    Push::Row { row: Arc::new(row), revs: revs.iter().copied().map(Rev).collect() }
}

/// The revisions of `conv` frames, and what was asked for.
fn shown(session: &mut Session, now: u64) -> (Vec<u64>, Option<(u64, Option<u64>)>) {
    let (mut revs, mut asked) = (vec![], None);
    while let Some(action) = session.next(now, true) {
        match action {
            Action::Conv(row) => revs.push(row.rev.0),
            Action::AskChanged { since, at_least } => asked = Some((since.0, at_least.map(|rev| rev.0))),
            _ => {}
        }
    }
    (revs, asked)
}

#[test]
fn a_row_that_came_with_a_push_spares_the_look() {
    let mut session = live(10);
    session.on_push(pushed(1, 11, &[11]), 0);
    assert_eq!(shown(&mut session, 0), (vec![11], None));
    // The row was read after two changes, and a head between them rides behind.
    session.on_push(pushed(1, 14, &[12, 14]), 0);
    assert_eq!(shown(&mut session, 0), (vec![], None), "13 may be of another conversation");
    session.on_push(pushed(2, 13, &[13]), 0);
    assert_eq!(shown(&mut session, limits::CONV_GATHER_MS), (vec![13, 14], None));
    session.on_push(pushed(1, 14, &[14]), 0);
    assert_eq!(shown(&mut session, 9_999), (vec![], None), "it was shown");
}

#[test]
fn a_row_above_a_revision_that_does_not_come_is_read() {
    let mut session = live(10);
    session.on_push(pushed(1, 12, &[12]), 0);
    assert_eq!(shown(&mut session, 0), (vec![], None));
    assert_eq!(session.wake_at(0), Some(limits::CONV_GATHER_MS));
    assert_eq!(shown(&mut session, limits::CONV_GATHER_MS), (vec![], Some((10, Some(12)))));
    let row = |n, rev| InboxRow { rev: Rev(rev), ..row(&conv(n), 1, 1) };
    session.on_changed(page(vec![row(2, 11), row(1, 12)], 12), 300);
    assert_eq!(shown(&mut session, 9_999), (vec![11, 12], None));
}

/// An answer below a row that was dropped for it would leave that row untold: its revision counts as looked at.
#[test]
fn a_look_that_is_owed_reaches_the_rows_that_are_held() {
    let mut session = live(10);
    session.on_push(pushed(1, 15, &[15]), 0);
    session.on_push(Push::Conv { conv: conv(2), rev: Rev(13) }, 0);
    assert_eq!(shown(&mut session, limits::CONV_GATHER_MS), (vec![], Some((10, Some(15)))));
}

#[test]
fn more_rows_than_fit_are_read() {
    let mut session = live(10);
    let last = 12 + limits::ROWS_HELD_MAX as u64;
    (12..=last).for_each(|rev| session.on_push(pushed(rev.into(), rev, &[rev]), 0));
    assert_eq!(shown(&mut session, limits::CONV_GATHER_MS), (vec![], Some((10, Some(last)))));
}

#[test]
fn rows_behind_a_full_socket_become_one_look() {
    let mut session = live(10);
    let last = 10 + 2 * limits::ROWS_HELD_MAX as u64;
    (11..=last).for_each(|rev| session.on_push(pushed(1, rev, &[rev]), 0));
    assert_eq!(session.convs.len(), limits::ROWS_HELD_MAX);
    let first = 10 + limits::ROWS_HELD_MAX as u64;
    let (shown, asked) = shown(&mut session, limits::CONV_GATHER_MS);
    assert_eq!((shown.last(), asked), (Some(&first), Some((first, Some(last)))));
}

#[test]
fn a_row_that_a_look_brings_is_not_looked_at_again() {
    let mut session = live(10);
    session.on_push(Push::Conv { conv: conv(1), rev: Rev(11) }, 0);
    assert_eq!(shown(&mut session, limits::CONV_GATHER_MS), (vec![], Some((10, Some(11)))));
    session.on_push(pushed(1, 12, &[12]), 250);
    session.on_changed(page(vec![InboxRow { rev: Rev(12), ..row(&conv(1), 1, 1) }], 12), 300);
    assert_eq!(shown(&mut session, 9_999), (vec![12], None));
    session.on_push(pushed(1, 13, &[13]), 10_000);
    assert_eq!(shown(&mut session, 10_000), (vec![13], None), "and rows that are pushed count again");
}

#[test]
fn what_changed_after_the_answer_was_made_is_looked_at() {
    let mut session = live(10);
    session.on_push(Push::Conv { conv: conv(1), rev: Rev(11) }, 0);
    shown(&mut session, limits::CONV_GATHER_MS);
    session.on_push(pushed(2, 13, &[13]), 250);
    session.on_changed(page(vec![InboxRow { rev: Rev(12), ..row(&conv(1), 1, 1) }], 12), 300);
    assert_eq!(shown(&mut session, 9_999), (vec![12], Some((12, Some(13)))));
}

/// What lies at the cursor was acked on another connection: its n is not known here, and 0 would count everything as unread.
#[test]
fn a_read_mark_at_the_cursor_asks_for_the_count_there() {
    let mut session = Session::new(Rev(10), Rev(10), None);
    session.next(0, true);
    session.on_changed(page(vec![], 10), 0);
    session.next(0, true);
    session.on_pending(page(vec![row(&conv(1), 7, 5)], 10), 0);
    session.on_read(AckItem { conv: conv(1), seq: Seq(5) }, 0);
    let actions: Vec<Action> = std::iter::from_fn(|| session.next(limits::MARKS_GATHER_MS, true)).take(8).collect();
    assert!(actions.contains(&Action::AskCount { conv: conv(1), seq: Seq(5) }), "{actions:?}");
    assert!(!actions.iter().any(|action| matches!(action, Action::Marks(_))), "{actions:?}");
}
