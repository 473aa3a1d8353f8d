//! Delivery, model-tested: one user with two devices, a conversation that grows by three entries, two connections one after
//! the other on the first device, and a shard that answers late, loses pushes and fails, in any order.
//!
//! What must hold in every run: seq order without a skip, at least once until acked, the window's bounds, and a cursor that
//! moves by its own device's acks only, never above what was sent.
//!
//! Beside it there is a second conversation, and both their rows change otherwise, too. A client keeps the highest revision that it
//! was shown and asks for what is above it when it comes back: so whatever changed up to there it must have been shown.

use std::sync::Arc;

use flotilla_machine::command::MarkKind;
use flotilla_machine::query::{EntriesPage, InboxRow, RowsPage};
use flotilla_machine::reply::MarkReply;
use flotilla_proto::entry::Entry;
use flotilla_proto::frame::AckItem;
use flotilla_proto::ids::*;
use flotilla_proto::member::{Interval, MembershipPart};
use proptest::prelude::*;

use super::marks::Want;
use super::session::{Action, Session};
use super::window::Item;
use crate::backend::Push;

const ENTRIES: u64 = 3;

/// What happens next; a number picks among what is possible.
#[derive(Debug, Clone)]
enum Step {
    Append {
        pushed: bool,
        with_entry: bool,
    },
    /// Answers the nth open question of a device; `good` false: it fails.
    Answer {
        device: usize,
        nth: usize,
        good: bool,
    },
    Ack {
        device: usize,
        back: u64,
    },
    AckTooHigh {
        device: usize,
    },
    /// Something else than the head of a row changes.
    Change {
        which: usize,
    },
    /// The shard's leader tells both sessions what has changed since it last did; `lost` are the pushes that do not arrive.
    Tell {
        with_rows: bool,
        lost: [[bool; 2]; 2],
    },
    Resync {
        device: usize,
    },
    Reconnect {
        device: usize,
    },
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    let device = 0..2usize;
    prop_oneof![
        3 => (any::<bool>(), any::<bool>()).prop_map(|(pushed, with_entry)| Step::Append { pushed, with_entry }),
        8 => (device.clone(), 0..4usize, prop::bool::weighted(0.8))
            .prop_map(|(device, nth, good)| Step::Answer { device, nth, good }),
        3 => (device.clone(), 0..3u64).prop_map(|(device, back)| Step::Ack { device, back }),
        1 => device.clone().prop_map(|device| Step::AckTooHigh { device }),
        3 => (0..2usize).prop_map(|which| Step::Change { which }),
        3 => (prop::bool::weighted(0.8), any::<[[u8; 2]; 2]>()).prop_map(|(with_rows, odds)| Step::Tell {
            with_rows,
            lost: odds.map(|of| of.map(|odd| odd < 25)),
        }),
        1 => device.clone().prop_map(|device| Step::Resync { device }),
        1 => device.prop_map(|device| Step::Reconnect { device }),
        2 => Just(Step::Wait),
    ]
}

struct Connection {
    session: Session,
    open: Vec<Action>,
    /// The last seq sent on this connection.
    sent: u64,
    caught_up: bool,
    /// The revision of the last `conv`.
    last_shown: u64,
}

/// What a device keeps across connections.
#[derive(Debug, Clone, Copy, Default)]
struct Store {
    /// The rows' revisions that it was shown.
    rows: [u64; 2],
    /// What it asks for when it comes back: everything above.
    rev: u64,
}

struct World {
    now: u64,
    conv: ConvId,
    /// A leaver's second stay begins at this seq; those before it and after the first stay are a gap.
    part: MembershipPart,
    log: Vec<Arc<Entry>>,
    rev: u64,
    /// The revisions of both rows, and those of the changes that must be shown.
    rows: [u64; 2],
    changes: [Vec<u64>; 2],
    /// What the leader has not told yet.
    untold: [Vec<u64>; 2],
    stores: [Store; 2],
    cursors: [u64; 2],
    /// Highest seq that each device has really been sent, on any connection.
    seen: [u64; 2],
    connections: [Connection; 2],
    window: u32,
}

fn entry(conv: &ConvId, seq: u64) -> Arc<Entry> {
    let user = UserId::parse("alice").expect("valid");
    Arc::new(Entry {
        conv: conv.clone(),
        seq: Seq(seq),
        n: Count(seq),
        msg_id: MsgId(seq),
        ts: TsMs(seq),
        from: user,
        device: DeviceId(9),
        cid: Cid(seq.into()),
        what: None,
        kind: "message".into(),
        body_hash: Hash32::default(),
        chain: Hash32::default(),
    })
}

impl World {
    fn new(window: u32, with_gap: bool) -> Self {
        let stay = |from: u64, until: Option<u64>| Interval {
            from: Seq(from),
            n_before: Count(from - 1),
            until: until.map(Seq),
            n_until: Count(until.unwrap_or(0)),
            history_from: Seq(from),
        };
        let intervals = if with_gap { vec![stay(1, Some(1)), stay(3, None)] } else { vec![stay(1, None)] };
        let conv = ConvId::parse(&format!("g{:032x}", 1)).expect("valid");
        let open = || Connection {
            session: Session::new(Rev(0), Rev(1), Some(window)),
            open: vec![],
            sent: 0,
            caught_up: false,
            last_shown: 0,
        };
        Self {
            now: 0,
            part: MembershipPart { mseq: Seq(1), intervals, ..Default::default() },
            log: vec![entry(&conv, 1)],
            conv,
            rev: 1,
            rows: [1, 0],
            changes: [vec![1], vec![]],
            untold: [vec![], vec![]],
            stores: [Store::default(); 2],
            cursors: [0; 2],
            seen: [0; 2],
            connections: [open(), open()],
            window,
        }
    }

    fn head(&self) -> u64 {
        self.log.len() as u64
    }

    fn row(&self, device: usize) -> InboxRow {
        let head = self.head();
        InboxRow {
            conv: self.conv.clone(),
            rev: Rev(self.rows[0]),
            head: Seq(head),
            n_head: Count(head),
            part: self.part.clone(),
            read: Seq(0),
            n_read: Count(0),
            n_sent: Count(0),
            delivered: Seq(0),
            last_id: MsgId(head),
            last_ts: TsMs(head),
            peer_delivered: Seq(0),
            peer_read: Seq(0),
            cursor: Seq(self.cursors[device]),
            settings: Default::default(),
        }
    }

    /// The other conversation: nothing was ever said there.
    fn other_row(&self, device: usize) -> InboxRow {
        let conv = ConvId::parse(&format!("g{:032x}", 2)).expect("valid");
        let part = MembershipPart { mseq: Seq(1), ..Default::default() };
        let (rev, zero) = (Rev(self.rows[1]), Seq(0));
        InboxRow { conv, rev, part, head: zero, n_head: Count(0), cursor: zero, ..self.row(device) }
    }

    fn both_rows(&self, device: usize) -> [InboxRow; 2] {
        [self.row(device), self.other_row(device)]
    }

    fn shown(&mut self, device: usize, row: &InboxRow) -> Result<(), TestCaseError> {
        let which = usize::from(row.conv != self.conv);
        let c = &mut self.connections[device];
        prop_assert!(row.rev.0 > c.last_shown, "conv frames in the order of revisions");
        c.last_shown = row.rev.0;
        self.stores[device].rows[which] = row.rev.0;
        self.comes_back_from(device, row.rev)
    }

    /// Everything up to `rev` must have been shown, but for rows that have changed again since.
    fn comes_back_from(&mut self, device: usize, rev: Rev) -> Result<(), TestCaseError> {
        let store = &mut self.stores[device];
        store.rev = store.rev.max(rev.0);
        for which in (0..2).filter(|which| self.rows[*which] <= store.rev) {
            let (last, shown) = (self.changes[which].last(), store.rows[which]);
            let all = last.is_none_or(|change| *change <= shown);
            prop_assert!(all, "change {last:?} was not shown, and {} would not ask for it", store.rev);
        }
        Ok(())
    }

    fn tell(&mut self, with_rows: bool, lost: [[bool; 2]; 2]) {
        let untold = std::mem::take(&mut self.untold);
        for device in 0..2 {
            let rows = self.both_rows(device).into_iter().zip(&untold).zip(lost[device]);
            for ((row, revs), _) in rows.filter(|((_, revs), lost)| !lost && !revs.is_empty()) {
                let revs: Vec<_> = revs.iter().copied().map(Rev).collect();
                let push = match with_rows {
                    true => Push::Row { row: Arc::new(row), revs },
                    false => Push::Conv { conv: row.conv, rev: *revs.last().expect("some") },
                };
                self.connections[device].session.on_push(push, self.now);
            }
        }
    }

    /// Does everything that a device's session asks for, but for answers.
    fn run(&mut self, device: usize) -> Result<(), TestCaseError> {
        while let Some(action) = self.connections[device].session.next(self.now, true) {
            match action {
                Action::Send(_, item) => self.sent(device, item)?,
                Action::CaughtUp { rev, .. } => {
                    self.connections[device].caught_up = true;
                    self.comes_back_from(device, rev)?;
                }
                Action::Conv(row) => self.shown(device, &row)?,
                Action::Confirm(_) => {}
                Action::Close(code) => return Err(TestCaseError::fail(format!("closed with {code}"))),
                question => self.connections[device].open.push(question),
            }
        }
        Ok(())
    }

    fn sent(&mut self, device: usize, item: Item) -> Result<(), TestCaseError> {
        let c = &mut self.connections[device];
        let (first, last) = match &item {
            Item::Entry(e) => (e.seq.0, e.seq.0),
            Item::Gap { from, to, .. } => (from.0, to.0),
        };
        let expected = if c.sent == 0 { self.cursors[device] + 1 } else { c.sent + 1 };
        // The position may have been read before the last ack arrived: a repeat is allowed, a skip is not.
        prop_assert!(first == expected || (c.sent == 0 && first < expected), "sent {first}, expected {expected}");
        match item {
            Item::Entry(e) => prop_assert!(self.part.receives(e.seq), "entry {} is not the user's", e.seq),
            Item::Gap { from, to, .. } => {
                prop_assert!((from.0..=to.0).all(|s| !self.part.receives(Seq(s))), "a gap hides {from}..{to}")
            }
        }
        c.sent = last;
        self.seen[device] = self.seen[device].max(last);
        let unacked = last.saturating_sub(self.cursors[device]);
        prop_assert!(unacked <= u64::from(self.window) + ENTRIES, "the window is bounded");
        Ok(())
    }

    fn answer(&mut self, device: usize, nth: usize, good: bool) {
        if self.connections[device].open.is_empty() {
            return;
        }
        let nth = nth % self.connections[device].open.len();
        let question = self.connections[device].open.remove(nth);
        let (now, row, rev) = (self.now, self.row(device), Rev(self.rev));
        let mut rows = self.both_rows(device);
        rows.sort_by_key(|row| row.rev);
        let is_pending = row.cursor < row.part.effective_head(row.head);
        let cursors = &mut self.cursors;
        let (log, part, head) = (&self.log, &self.part, self.log.len() as u64);
        let s = &mut self.connections[device].session;
        match (question, good) {
            (Action::AskChanged { since, .. }, true) => {
                let rows = rows.into_iter().filter(|row| row.rev > since).collect();
                s.on_changed(RowsPage { rows, more: false, rev }, now);
            }
            (Action::AskChanged { .. }, false) => s.on_changed_failed(now),
            (Action::AskPending { .. }, true) => {
                let rows = if is_pending { vec![row] } else { vec![] };
                s.on_pending(RowsPage { rows, more: false, rev }, now);
            }
            (Action::AskPending { .. }, false) => s.on_pending_failed(now),
            (Action::AskRow(conv), true) => s.on_row(&conv, Some(row), now),
            (Action::AskRow(conv), false) => s.on_row_failed(&conv, now),
            (Action::AskLog { conv, from, to, .. }, true) => {
                // A page may be short; that is never a gap.
                let fits = |e: &&Arc<Entry>| e.seq >= from && e.seq <= to && part.may_read(e.seq);
                let entries: Vec<Entry> = log.iter().filter(fits).take(1).map(|e| (**e).clone()).collect();
                let more = entries.last().is_some_and(|e| e.seq < to);
                let (head, n_head) = (Seq(head), Count(head));
                s.on_log(
                    &conv,
                    from,
                    to,
                    EntriesPage { entries, more, floor: Seq(1), head, n_head, part: part.clone() },
                    now,
                );
            }
            (Action::AskLog { conv, from, to, .. }, false) => s.on_log_failed(&conv, from, to, now),
            (Action::Marks(batch), true) => {
                let reply = |w: &Want| {
                    assert_eq!(w.kind, MarkKind::Ack);
                    cursors[device] = cursors[device].max(w.seq.0);
                    MarkReply::Done
                };
                let replies: Vec<MarkReply> = batch.iter().map(reply).collect();
                s.on_marks(&replies, now);
            }
            (Action::Marks(_), false) => s.on_marks_failed(now),
            (other, _) => panic!("not a question: {other:?}"),
        }
    }

    fn apply(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Append { pushed, with_entry } if self.head() < ENTRIES + 1 => {
                self.rev += 1;
                self.rows[0] = self.rev;
                let seq = self.head() + 1;
                let new = entry(&self.conv, seq);
                self.log.push(new.clone());
                for c in self.connections.iter_mut().filter(|_| *pushed) {
                    let entries = if *with_entry && self.part.receives(Seq(seq)) { vec![new.clone()] } else { vec![] };
                    let (head, n_head, revs) = (Seq(seq), Count(seq), vec![Rev(self.rev)]);
                    c.session.on_push(Push::Head { conv: self.conv.clone(), head, n_head, revs, entries }, self.now);
                }
            }
            Step::Append { .. } => {}
            Step::Answer { device, nth, good } => self.answer(*device, *nth, *good),
            Step::Ack { device, back } => {
                let seq = self.connections[*device].sent.saturating_sub(*back);
                let item = AckItem { conv: self.conv.clone(), seq: Seq(seq) };
                self.connections[*device].session.on_ack(item, self.now);
            }
            Step::AckTooHigh { device } => {
                let item = AckItem { conv: self.conv.clone(), seq: Seq(self.head() + 7) };
                self.connections[*device].session.on_ack(item, self.now);
            }
            Step::Change { which } => {
                self.rev += 1;
                self.rows[*which] = self.rev;
                self.changes[*which].push(self.rev);
                self.untold[*which].push(self.rev);
            }
            Step::Tell { with_rows, lost } => self.tell(*with_rows, *lost),
            Step::Resync { device } => self.connections[*device].session.on_push(Push::Resync, self.now),
            Step::Reconnect { device } => {
                let since = Rev(self.stores[*device].rev);
                let session = Session::new(since, Rev(self.rev), Some(self.window));
                let (open, sent, caught_up, last_shown) = (vec![], 0, false, 0);
                self.connections[*device] = Connection { session, open, sent, caught_up, last_shown };
            }
            Step::Wait => self.now += 300,
        }
        for device in 0..2 {
            self.run(device)?;
            prop_assert!(self.cursors[device] <= self.seen[device], "a cursor passed what was sent to its device");
        }
        Ok(())
    }

    /// Faults end: everything is answered, lost pushes are made good, all is acked.
    fn heal(&mut self) -> Result<(), TestCaseError> {
        for device in 0..2 {
            self.connections[device].session.on_push(Push::Resync, self.now);
        }
        for _ in 0..200 {
            self.now += 500;
            for device in 0..2 {
                self.run(device)?;
                self.answer(device, 0, true);
                self.run(device)?;
                let seq = Seq(self.connections[device].sent);
                self.connections[device].session.on_ack(AckItem { conv: self.conv.clone(), seq }, self.now);
            }
        }
        let head = self.part.effective_head(Seq(self.head())).0;
        for device in 0..2 {
            prop_assert!(self.connections[device].caught_up, "device {device} never caught up");
            prop_assert_eq!(self.seen[device], head, "device {} misses entries", device);
            prop_assert_eq!(self.cursors[device], head, "device {} has not acked all", device);
            for (changes, shown) in self.changes.iter().zip(self.stores[device].rows) {
                prop_assert!(changes.last().is_none_or(|change| *change <= shown), "device {} misses a row", device);
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_device_gets_every_entry_in_order_whatever_happens(
        window in 1..4u32, with_gap: bool, steps in prop::collection::vec(step(), 0..60),
    ) {
        let mut world = World::new(window, with_gap);
        for step in &steps {
            world.apply(step)?;
        }
        world.heal()?;
    }
}

/// The checker fires when something is broken: a session that is told of an entry which the log does not hold.
#[test]
fn a_skip_is_noticed() {
    let mut world = World::new(3, false);
    world.connections[0].sent = 1;
    let skipped = Item::Entry(entry(&world.conv, 3));
    assert!(world.sent(0, skipped).is_err());
}
