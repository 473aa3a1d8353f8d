//! The order of everything on one connection from `ready` on: `conv` in rev order, pending entries with live traffic behind
//! them, `caught_up`, then live.
//!
//! Invariants: no `conv` before its rev is committed (rows come from committed views only); `caught_up` only after every
//! entry that was pending when the session opened, but for conversations whose shard cannot answer; `last_rev` rises only
//! over revisions that were looked at.
//!
//! Pure: [`Session::next`] says what to do, `on_*` takes what happened. It knows no socket, no encoding, no shard.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use flotilla_machine::command::MarkKind;
use flotilla_machine::query::{EntriesPage, InboxRow, RowsPage};
use flotilla_machine::reply::MarkReply;
use flotilla_proto::frame::{AckItem, CloseCode};
use flotilla_proto::ids::{ConvId, Count, Rev, Seq};
use flotilla_proto::limits;
use flotilla_proto::plant::{self, Plant};

use super::held::Held;
use super::marks::{Marks, Verdict, Want};
use super::window::{Acked, Ask, DeliveryWindow, Item};
use crate::backend::Push;
use flotilla_machine::effect::Ended;

/// What the shell does next. Questions are answered by the `on_*` of their name, or by its `_failed`.
#[derive(Debug, PartialEq)]
pub enum Action {
    AskChanged {
        since: Rev,
        /// At least this new; a lower answer must be asked for again at the leader.
        at_least: Option<Rev>,
    },
    AskPending {
        after: Option<ConvId>,
    },
    AskRow(ConvId),
    AskLog {
        conv: ConvId,
        from: Seq,
        to: Seq,
        fresh: bool,
    },
    /// The countable n of one readable entry.
    AskCount {
        conv: ConvId,
        seq: Seq,
    },
    Conv(Box<InboxRow>),
    Send(ConvId, Item),
    CaughtUp {
        rev: Rev,
        behind: Vec<ConvId>,
    },
    Marks(Vec<Want>),
    /// Everything up to this rev has been looked at.
    Confirm(Rev),
    Close(CloseCode),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Rows changed since the client's rev.
    Changed,
    /// The list of conversations with something pending.
    Pending,
    /// Pending entries are sent.
    CatchUp,
    Live,
}

/// A read mark on its way: first a position (the gate), then the n at its seq.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reading {
    seq: Seq,
    asking: bool,
    retry_at: u64,
}

pub struct Session {
    window: DeliveryWindow,
    marks: Marks,
    phase: Phase,
    /// Everything up to here has been looked at.
    last_rev: Rev,
    /// Revisions above it whose heads or rows have come; between them some are missing, or a look comes first.
    revs_told: BTreeSet<Rev>,
    held: Held,
    confirmed: Rev,
    confirm_at: u64,
    convs: VecDeque<InboxRow>,
    /// A question about rows is under way.
    asking: bool,
    /// How many positions the window had forgotten when it was asked.
    asked_at: u64,
    retry_at: u64,
    pending_after: Option<ConvId>,
    pending: Vec<InboxRow>,
    /// Heads that `caught_up` waits for.
    targets: BTreeMap<ConvId, Seq>,
    behind: Vec<ConvId>,
    /// Rows changed (or may have): look from then on; at least at this rev, none: at the leader.
    look: Option<(u64, Option<Rev>)>,
    reading: BTreeMap<ConvId, Reading>,
    close: Option<CloseCode>,
    /// Acks above what was sent: bugs of the client.
    pub bad_acks: u64,
}

impl Session {
    /// `since`: the rev of the client's store. `opened`: the user's rev when the session opened.
    pub fn new(since: Rev, opened: Rev, window: Option<u32>) -> Self {
        Self {
            window: DeliveryWindow::new(window),
            marks: Marks::default(),
            phase: Phase::Changed,
            last_rev: since,
            revs_told: BTreeSet::new(),
            held: Held::default(),
            confirmed: opened,
            confirm_at: 0,
            convs: VecDeque::new(),
            asking: false,
            asked_at: 0,
            retry_at: 0,
            pending_after: None,
            pending: Vec::new(),
            targets: BTreeMap::new(),
            behind: Vec::new(),
            look: None,
            reading: BTreeMap::new(),
            close: None,
            bad_acks: 0,
        }
    }

    pub fn is_live(&self) -> bool {
        self.phase == Phase::Live
    }

    /// What to do now; none: wait for news or for [`Session::wake_at`]. Without `room` nothing is sent or read.
    pub fn next(&mut self, now: u64, room: bool) -> Option<Action> {
        if let Some(code) = self.close {
            return Some(Action::Close(code));
        }
        if let Some(batch) = self.marks.take(now) {
            return Some(Action::Marks(batch));
        }
        if self.is_live() && self.last_rev > self.confirmed && now >= self.confirm_at {
            self.confirmed = self.last_rev;
            self.confirm_at = now + limits::READ_RETRY_MS;
            return Some(Action::Confirm(self.last_rev));
        }
        if !room {
            return None;
        }
        if let Some(row) = self.convs.pop_front() {
            return Some(Action::Conv(Box::new(row)));
        }
        match self.phase {
            Phase::Changed => self.ask(now, |s| Action::AskChanged { since: s.last_rev, at_least: None }),
            Phase::Pending => self.ask(now, |s| Action::AskPending { after: s.pending_after.clone() }),
            Phase::CatchUp | Phase::Live => self.deliver(now),
        }
    }

    fn ask(&mut self, now: u64, question: impl FnOnce(&Self) -> Action) -> Option<Action> {
        if self.asking || self.retry_at > now {
            return None;
        }
        self.asking = true;
        self.asked_at = self.window.evictions();
        Some(question(self))
    }

    fn deliver(&mut self, now: u64) -> Option<Action> {
        if let Some((conv, item)) = self.window.next_send(now) {
            if let Item::Entry(entry) = &item
                && plant::on(Plant::AckOnSend)
            {
                self.put(conv.clone(), MarkKind::Ack, entry.seq, entry.n, now);
            }
            return Some(Action::Send(conv, item));
        }
        if let Some(ask) = self.window.next_ask(now) {
            return Some(match ask {
                Ask::Row(conv) => Action::AskRow(conv),
                Ask::Log { conv, from, to, fresh } => Action::AskLog { conv, from, to, fresh },
            });
        }
        if let Some(action) = self.next_reading(now) {
            return Some(action);
        }
        if self.phase == Phase::CatchUp {
            return self.caught_up();
        }
        let (_, at_least) = self.owed_look().filter(|(at, _)| *at <= now)?;
        let action = self.ask(now, |s| Action::AskChanged { since: s.last_rev, at_least })?;
        self.look = None;
        // They are above what was looked at, so they are in the answer.
        self.held.clear();
        Some(action)
    }

    /// The answer to a look that comes anyway must reach the rows that are held, too: they are dropped for it.
    fn owed_look(&self) -> Option<(u64, Option<Rev>)> {
        match (self.look, self.held.look()) {
            (Some((at, Some(rev))), Some((_, Some(held)))) => Some((at, Some(rev.max(held)))),
            (look, held) => look.or(held),
        }
    }

    fn caught_up(&mut self) -> Option<Action> {
        let window = &self.window;
        let behind = &mut self.behind;
        self.targets.retain(|conv, target| {
            if window.sent(conv).is_some_and(|sent| sent >= *target) {
                return false;
            }
            if window.is_behind(conv) {
                behind.push(conv.clone());
                return false;
            }
            true
        });
        if !self.targets.is_empty() {
            return None;
        }
        self.phase = Phase::Live;
        Some(Action::CaughtUp { rev: self.last_rev, behind: std::mem::take(&mut self.behind) })
    }

    /// When [`Session::next`] may have something to do without any news.
    pub fn wake_at(&self, now: u64) -> Option<u64> {
        let reads = self.window.has_retries() || self.reading.values().any(|r| !r.asking);
        let soon = |on: bool| on.then_some(now + limits::READ_RETRY_MS);
        [
            self.marks.due_at(),
            self.owed_look().filter(|_| self.is_live() && !self.asking).map(|(at, _)| at.max(self.retry_at)),
            soon(reads || self.retry_at > now || (self.is_live() && self.last_rev > self.confirmed)),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// An entry has been unacked for too long: close 4003.
    pub fn is_slow(&mut self, now: u64, unacked_max_ms: u64) -> bool {
        self.window.is_slow(now, unacked_max_ms)
    }

    // Answers about rows.

    pub fn on_changed(&mut self, page: RowsPage, now: u64) {
        self.asking = false;
        let top = page.rows.iter().map(|r| r.rev).max().unwrap_or(self.last_rev);
        self.last_rev = self.last_rev.max(if page.more { top } else { page.rev.max(top) });
        if self.phase != Phase::Changed {
            let is_old = self.window.evictions() != self.asked_at;
            for row in &page.rows {
                if is_old {
                    self.window.on_old_row(row, now);
                } else {
                    self.window.on_row(row, now);
                }
            }
        }
        // What was told while it was asked may be in the answer already.
        self.look = self.look.filter(|(_, rev)| rev.is_none_or(|rev| rev > self.last_rev));
        if page.more {
            if self.phase == Phase::Live {
                self.look = Some((now, None));
            }
        } else if self.phase == Phase::Changed {
            self.phase = Phase::Pending;
        }
        self.convs.extend(page.rows);
        self.rise(now);
    }

    pub fn on_changed_failed(&mut self, now: u64) {
        self.asking = false;
        self.retry_at = now + limits::READ_RETRY_MS;
        if self.phase == Phase::Live {
            self.look = Some((self.retry_at, None));
        }
    }

    pub fn on_pending(&mut self, page: RowsPage, now: u64) {
        self.asking = false;
        self.pending_after = page.rows.last().map(|r| r.conv.clone());
        let more = page.more && self.pending_after.is_some();
        self.pending.extend(page.rows);
        if more {
            return;
        }
        let mut rows = std::mem::take(&mut self.pending);
        rows.sort_by(|a, b| (b.last_ts, &b.conv).cmp(&(a.last_ts, &a.conv)));
        for row in rows {
            self.window.on_row(&row, now);
            if self.window.knows(&row.conv) {
                let target = row.part.effective_head(row.head);
                self.targets.insert(row.conv, target);
            }
        }
        self.phase = Phase::CatchUp;
    }

    /// Conversations that cannot say now how far they go: `caught_up` does not wait for them, and names them.
    pub fn on_behind(&mut self, convs: Vec<ConvId>) {
        self.behind.extend(convs);
    }

    pub fn on_pending_failed(&mut self, now: u64) {
        self.asking = false;
        self.retry_at = now + limits::READ_RETRY_MS;
    }

    pub fn on_row(&mut self, conv: &ConvId, row: Option<InboxRow>, now: u64) {
        match row {
            Some(row) => {
                if let Some(reading) = self.reading.get(conv).copied() {
                    self.on_reading_row(&row, reading, now);
                }
                self.window.on_row(&row, now);
            }
            None => {
                self.reading.remove(conv);
                self.window.on_no_row(conv, now);
            }
        }
    }

    pub fn on_row_failed(&mut self, conv: &ConvId, now: u64) {
        self.reading_failed(conv, now);
        self.window.on_row_failed(conv, now);
    }

    pub fn on_log(&mut self, conv: &ConvId, from: Seq, to: Seq, page: EntriesPage, now: u64) {
        self.window.on_page(conv, from, to, page, now);
    }

    pub fn on_log_failed(&mut self, conv: &ConvId, from: Seq, to: Seq, now: u64) {
        self.window.on_log_failed(conv, from, to, now);
    }

    // News.

    pub fn on_push(&mut self, push: Push, now: u64) {
        match push {
            Push::Head { conv, head, n_head, revs, entries } => {
                self.told(revs, now);
                self.window.on_head(&conv, head, n_head, entries, now);
            }
            Push::Conv { rev, .. } => self.look_soon(Some(rev), now),
            Push::Row { row, revs } => self.on_pushed_row(row, revs, now),
            Push::Resync => self.look_soon(None, now),
            // Signals are the connection's business.
            Push::Presence { .. } | Push::Typing { .. } | Push::Receipts { .. } => {}
            Push::End(ended) => self.close = Some(close_code(ended)),
            Push::Close(code) => self.close = Some(CloseCode::parse(code).unwrap_or(CloseCode::NotReady)),
        }
    }

    /// Spares a look at the rows where all that such a look would bring is here.
    fn on_pushed_row(&mut self, row: Arc<InboxRow>, mut revs: Vec<Rev>, now: u64) {
        let rev = row.rev;
        if rev <= self.last_rev {
            return;
        }
        let is_owed = self.look.is_some() || self.asking;
        // Behind a full socket one look stands for all that waits.
        let has_room = self.convs.len() < limits::ROWS_HELD_MAX;
        // The news that fill a hole come with the leader's next look, at most.
        let until = look_at(now + limits::CONV_GATHER_MS / 2);
        if !self.is_live() || is_owed || !has_room || !self.held.put(row, until) {
            return self.look_soon(Some(rev), now);
        }
        revs.retain(|told| *told < rev);
        revs.push(rev);
        self.told(revs, now);
    }

    fn told(&mut self, revs: Vec<Rev>, now: u64) {
        self.revs_told.extend(revs.into_iter().filter(|rev| *rev > self.last_rev));
        while self.revs_told.len() > limits::REVS_TOLD_MAX {
            self.revs_told.pop_last();
        }
        self.rise(now);
    }

    /// Revisions without a hole between were all looked at. While a look at the rows is owed it must begin below what it is
    /// owed for: news of a join are a `Conv` and a `Head` of one and the same revision.
    fn rise(&mut self, now: u64) {
        if !self.is_live() || self.look.is_some() || self.asking {
            return;
        }
        while let Some(rev) = self.revs_told.first().filter(|rev| rev.0 <= self.last_rev.0 + 1).copied() {
            self.revs_told.pop_first();
            self.last_rev = self.last_rev.max(rev);
        }
        while let Some(row) = self.held.take(self.last_rev) {
            // It may have been read before this session forgot the position.
            self.window.on_old_row(&row, now);
            self.convs.push_back(Arc::unwrap_or_clone(row));
        }
    }

    fn look_soon(&mut self, rev: Option<Rev>, now: u64) {
        let due = look_at(now);
        self.look = Some(match (self.look, rev) {
            (Some((at, Some(seen))), Some(rev)) => (at, Some(seen.max(rev))),
            (Some((at, _)), _) => (at, None),
            (None, rev) => (due, rev),
        });
    }

    // Acks and reads: one gate for both.

    pub fn on_ack(&mut self, item: AckItem, now: u64) {
        match self.window.on_ack(&item.conv, item.seq, now) {
            Acked::Mark { n } => self.put(item.conv, MarkKind::Ack, item.seq, n, now),
            Acked::Old => {}
            Acked::TooHigh => self.bad_acks += 1,
        }
    }

    pub fn on_read(&mut self, item: AckItem, now: u64) {
        match self.window.gate(&item.conv) {
            Some(gate) if item.seq > gate => self.bad_acks += 1,
            Some(_) => match self.window.n_at(&item.conv, item.seq) {
                Some(n) => self.put(item.conv, MarkKind::Read, item.seq, n, now),
                None => self.want_reading(item),
            },
            None => self.want_reading(item),
        }
    }

    fn want_reading(&mut self, item: AckItem) {
        if self.reading.len() >= limits::WINDOW_ENTRIES && !self.reading.contains_key(&item.conv) {
            return;
        }
        let waiting = self.reading.entry(item.conv).or_insert(Reading { seq: item.seq, asking: false, retry_at: 0 });
        waiting.seq = waiting.seq.max(item.seq);
    }

    fn next_reading(&mut self, now: u64) -> Option<Action> {
        let (conv, reading) = self.reading.iter_mut().find(|(_, r)| !r.asking && r.retry_at <= now)?;
        reading.asking = true;
        let conv = conv.clone();
        let seq = reading.seq;
        Some(match self.window.gate(&conv) {
            Some(_) => Action::AskCount { conv, seq },
            None => Action::AskRow(conv),
        })
    }

    /// A read in a conversation where nothing was sent on this connection: the row is the gate.
    fn on_reading_row(&mut self, row: &InboxRow, reading: Reading, now: u64) {
        let head = row.part.effective_head(row.head);
        if reading.seq > row.cursor.max(self.window.gate(&row.conv).unwrap_or_default()) {
            self.reading.remove(&row.conv);
            self.bad_acks += 1;
        } else if reading.seq == head {
            self.reading.remove(&row.conv);
            let n = row.part.effective_n(row.n_head);
            self.put(row.conv.clone(), MarkKind::Read, reading.seq, n, now);
        } else {
            // The window learns the position, so that the next step asks for n.
            self.window.on_head(&row.conv, head, row.part.effective_n(row.n_head), Vec::new(), now);
            if let Some(reading) = self.reading.get_mut(&row.conv) {
                reading.asking = false;
            }
        }
    }

    /// None: the entry cannot be read by this user.
    pub fn on_count(&mut self, conv: &ConvId, seq: Seq, n: Option<Count>, now: u64) {
        let Some(reading) = self.reading.get_mut(conv) else { return };
        reading.asking = false;
        if reading.seq == seq {
            self.reading.remove(conv);
        }
        if let Some(n) = n {
            self.put(conv.clone(), MarkKind::Read, seq, n, now);
        }
    }

    pub fn reading_failed(&mut self, conv: &ConvId, now: u64) {
        if let Some(reading) = self.reading.get_mut(conv) {
            reading.asking = false;
            reading.retry_at = now + limits::READ_RETRY_MS;
        }
    }

    fn put(&mut self, conv: ConvId, kind: MarkKind, seq: Seq, n: Count, now: u64) {
        let (head, n_head) = self.window.head(&conv, seq, n);
        self.marks.put(Want { conv, kind, seq, n, head, n_head }, now);
    }

    pub fn on_marks(&mut self, replies: &[MarkReply], now: u64) {
        let window = &mut self.window;
        match self.marks.done(replies, now, |conv, seq| window.on_ack_done(conv, seq)) {
            Verdict::Fine => {}
            // The newer session's own news will close this one with the right code.
            Verdict::Stale => {}
            Verdict::Revoked => self.close = Some(CloseCode::DeviceRevoked),
        }
    }

    pub fn on_marks_failed(&mut self, now: u64) {
        self.marks.failed(now);
    }

    /// Marks that wait when the connection ends.
    pub fn last_marks(&mut self) -> Option<Vec<Want>> {
        self.marks.take_now()
    }
}

/// As marks do: connections of one user shard count in step, so looks at it share a round of its quorum.
fn look_at(now: u64) -> u64 {
    (now / limits::CONV_GATHER_MS + 1) * limits::CONV_GATHER_MS
}

/// What the end of a session means for its connection.
pub fn close_code(ended: Ended) -> CloseCode {
    match ended {
        Ended::Superseded => CloseCode::Superseded,
        Ended::Replaced => CloseCode::SessionReplaced,
        Ended::Revoked => CloseCode::DeviceRevoked,
        Ended::LoggedOut => CloseCode::ReauthRequired,
        Ended::Fenced => CloseCode::NotReady,
    }
}

#[cfg(test)]
mod tests;
