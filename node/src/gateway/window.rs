//! What one connection has sent and may send next: position, head, holes, and unacked entries per conversation.
//!
//! Invariants: entries and gaps of a conversation leave in seq order without a hole, from the device's own cursor on; at
//! most `limit` are unacked on the connection and `WINDOW_ENTRIES_PER_CONV` in one conversation; a position is read, never
//! guessed; a hole becomes a `gap` only for a trim floor or for intervals of membership, never for a short read.
//!
//! Pure: news and answers come in, entries and questions come out. It knows no socket, no shard and no clock but `now`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use flotilla_machine::query::{EntriesPage, InboxRow};
use flotilla_proto::entry::{Entry, What};
use flotilla_proto::frame::{Gap, GapReason};
use flotilla_proto::ids::{ConvId, Count, Seq};
use flotilla_proto::limits;
use flotilla_proto::member::MembershipPart;
use flotilla_proto::plant::{self, Plant};

/// Something that takes a place in the window.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    Entry(Arc<Entry>),
    Gap { from: Seq, to: Seq, reason: GapReason },
}

impl Item {
    fn first(&self) -> Seq {
        match self {
            Item::Entry(e) => e.seq,
            Item::Gap { from, .. } => *from,
        }
    }

    pub fn last(&self) -> Seq {
        match self {
            Item::Entry(e) => e.seq,
            Item::Gap { to, .. } => *to,
        }
    }

    fn bytes(&self) -> usize {
        const FIXED: usize = 256;
        let content = match self {
            Item::Entry(e) => match &e.what {
                Some(What::Message { body, .. } | What::Edit { body, .. }) => body.0.len(),
                _ => 0,
            },
            Item::Gap { .. } => 0,
        };
        FIXED + content
    }

    pub fn into_gap(self, conv: &ConvId) -> Result<Gap, Arc<Entry>> {
        match self {
            Item::Entry(entry) => Err(entry),
            Item::Gap { from, to, reason } => Ok(Gap { conv: conv.clone(), from, to, reason, chain_before: None }),
        }
    }
}

/// What must be read before anything more can be sent in a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    Row(ConvId),
    /// `fresh`: an earlier answer was not new enough, ask the leader.
    Log {
        conv: ConvId,
        from: Seq,
        to: Seq,
        fresh: bool,
    },
}

/// What an ack means here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acked {
    /// Move the cursor. `n` is the countable n at `seq` as far as it is known.
    Mark { n: Count },
    /// Acked before, or before this connection.
    Old,
    /// Above what was sent: a bug of the client, ignored.
    TooHigh,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    last: Seq,
    n: Count,
    at: u64,
}

#[derive(Debug, Default)]
struct Conv {
    /// The device's cursor when this connection first looked; none: not read yet.
    base: Option<Seq>,
    next: Seq,
    /// The countable n is known only of what was acked on this connection.
    acked: (Seq, Option<Count>),
    /// Highest sent item and its n.
    sent: (Seq, Count),
    head: Seq,
    n_head: Count,
    unacked: VecDeque<Sent>,
    /// Contiguous; starts at `next` once the position is known.
    buffer: VecDeque<Item>,
    asking: bool,
    /// The last read failed: again at this time.
    retry_at: u64,
    failed: bool,
    /// An ack is on its way to the user's shard: a row read now may still say a lower cursor.
    acking: bool,
    touched: u64,
    in_ready: bool,
    in_wanting: bool,
}

impl Conv {
    /// First seq that neither was sent nor waits in the buffer.
    fn need(&self) -> Seq {
        self.buffer.back().map_or(self.next, |item| item.last().next())
    }

    fn held(&self) -> usize {
        self.unacked.len() + self.buffer.len()
    }

    fn room(&self) -> usize {
        limits::WINDOW_ENTRIES_PER_CONV.saturating_sub(self.held())
    }

    fn is_idle(&self) -> bool {
        self.base.is_some()
            && self.unacked.is_empty()
            && self.buffer.is_empty()
            && !self.asking
            && !self.acking
            && self.need() > self.head
    }
}

pub struct DeliveryWindow {
    limit: usize,
    convs: BTreeMap<ConvId, Conv>,
    /// Have something buffered, in the order of their turn.
    ready: VecDeque<ConvId>,
    /// Have something to be read.
    wanting: VecDeque<ConvId>,
    unacked: usize,
    buffered: usize,
    buffered_bytes: usize,
    /// Entries that reads in flight may bring.
    reserved: usize,
    reads: usize,
    /// No unacked item was sent before this; may be lower than the oldest one's time.
    unacked_since: u64,
    /// Positions forgotten so far.
    evictions: u64,
}

impl DeliveryWindow {
    /// `asked`: what the client will take; the protocol's own bound is the ceiling.
    pub fn new(asked: Option<u32>) -> Self {
        let limit = asked.map_or(limits::WINDOW_ENTRIES, |n| (n as usize).clamp(1, limits::WINDOW_ENTRIES));
        Self {
            limit,
            convs: BTreeMap::new(),
            ready: VecDeque::new(),
            wanting: VecDeque::new(),
            unacked: 0,
            buffered: 0,
            buffered_bytes: 0,
            reserved: 0,
            reads: 0,
            unacked_since: 0,
            evictions: 0,
        }
    }

    pub fn unacked(&self) -> usize {
        self.unacked
    }

    pub fn knows(&self, conv: &ConvId) -> bool {
        self.convs.contains_key(conv)
    }

    /// Highest seq sent without a hole, or the cursor if nothing was; none while the position is unknown.
    pub fn sent(&self, conv: &ConvId) -> Option<Seq> {
        let c = self.convs.get(conv)?;
        c.base.map(|_| c.next.prev())
    }

    /// The one gate: acks and reads are valid up to here.
    pub fn gate(&self, conv: &ConvId) -> Option<Seq> {
        let c = self.convs.get(conv)?;
        c.base.map(|base| base.max(c.next.prev()))
    }

    /// The committed head that is known here, at least `(seq, n)`.
    pub fn head(&self, conv: &ConvId, seq: Seq, n: Count) -> (Seq, Count) {
        self.convs.get(conv).filter(|c| c.head > seq).map_or((seq, n), |c| (c.head, c.n_head.max(n)))
    }

    /// The countable n at `seq`, if it is at hand.
    pub fn n_at(&self, conv: &ConvId, seq: Seq) -> Option<Count> {
        let c = self.convs.get(conv)?;
        let acked = c.acked.1.map_or((Seq::ZERO, Count(0)), |n| (c.acked.0, n));
        let known = [(c.head, c.n_head), c.sent, acked];
        let hit = known.iter().find(|(s, _)| *s == seq && *s > Seq::ZERO).map(|(_, n)| *n);
        hit.or_else(|| c.unacked.iter().find(|u| u.last == seq).map(|u| u.n))
    }

    /// The last read of this conversation failed and none has succeeded since.
    pub fn is_behind(&self, conv: &ConvId) -> bool {
        self.convs.get(conv).is_some_and(|c| c.failed)
    }

    /// Committed news, with the entries that came along.
    pub fn on_head(&mut self, conv: &ConvId, head: Seq, n_head: Count, entries: Vec<Arc<Entry>>, now: u64) {
        if !self.convs.contains_key(conv) {
            self.evict_idle();
        }
        let c = self.convs.entry(conv.clone()).or_default();
        c.touched = now;
        if head > c.head {
            (c.head, c.n_head) = (head, n_head);
        }
        if c.base.is_none() && !c.failed {
            c.retry_at = 0;
        }
        for entry in entries {
            self.take_pushed(conv, entry);
        }
        self.line_up(conv);
    }

    /// A pushed entry is kept where it continues what is known and there is room; else the log will be read.
    fn take_pushed(&mut self, conv: &ConvId, entry: Arc<Entry>) {
        let Some(c) = self.convs.get_mut(conv) else { return };
        // Its body may be hidden from a reader of a later stay: only a read of the log decides that.
        if matches!(entry.what, Some(What::Edit { .. })) {
            return;
        }
        let continues = if c.base.is_none() && c.buffer.is_empty() { true } else { entry.seq == c.need() };
        let continues = continues || (entry.seq > c.need() && plant::on(Plant::AckGateHole));
        let item = Item::Entry(entry);
        let fits = c.room() > 0 && self.buffered_bytes + item.bytes() <= limits::PUSHED_BYTES_WAITING_MAX;
        if continues && fits && item.last() <= c.head {
            self.buffered += 1;
            self.buffered_bytes += item.bytes();
            c.buffer.push_back(item);
        }
    }

    /// A row that was asked for before a position was forgotten (`evictions` has risen since) tells of the head only: its
    /// cursor may lie below what was sent and acked here meanwhile. The position is read again.
    pub fn on_old_row(&mut self, row: &InboxRow, now: u64) {
        if self.convs.get(&row.conv).is_some_and(|c| c.base.is_some()) {
            return self.on_row(row, now);
        }
        let head = row.part.effective_head(row.head);
        if row.cursor < head {
            self.on_head(&row.conv, head, row.part.effective_n(row.n_head), Vec::new(), now);
        }
    }

    /// The user's row: gives the position where none was known, and the head.
    pub fn on_row(&mut self, row: &InboxRow, now: u64) {
        let head = row.part.effective_head(row.head);
        let n_head = row.part.effective_n(row.n_head);
        if !self.convs.contains_key(&row.conv) {
            if row.cursor >= head {
                return;
            }
            self.evict_idle();
        }
        let c = self.convs.entry(row.conv.clone()).or_default();
        c.touched = now;
        if c.base.is_none() {
            if std::mem::take(&mut c.asking) {
                self.reads = self.reads.saturating_sub(1);
            }
            c.failed = false;
            c.base = Some(row.cursor);
            c.next = row.cursor.next();
            c.acked = (row.cursor, None);
            self.align(&row.conv);
        }
        let Some(c) = self.convs.get_mut(&row.conv) else { return };
        if !row.part.is_member() && head >= c.need().prev() {
            // The last stay has ended: nothing above it is ours, whatever was heard before.
            (c.head, c.n_head) = (head, n_head);
        } else if head > c.head {
            (c.head, c.n_head) = (head, n_head);
        }
        self.line_up(&row.conv);
    }

    /// Drops what was buffered below the position, or all of it if it does not start there.
    fn align(&mut self, conv: &ConvId) {
        let Some(c) = self.convs.get_mut(conv) else { return };
        while c.buffer.front().is_some_and(|item| item.first() < c.next) {
            drop_front(c, &mut self.buffered, &mut self.buffered_bytes);
        }
        if c.buffer.front().is_some_and(|item| item.first() > c.next) {
            while !c.buffer.is_empty() {
                drop_front(c, &mut self.buffered, &mut self.buffered_bytes);
            }
        }
    }

    /// There is no row yet: the next news asks again.
    pub fn on_no_row(&mut self, conv: &ConvId, now: u64) {
        if let Some(c) = self.convs.get_mut(conv).filter(|c| c.base.is_none() && c.asking) {
            c.asking = false;
            c.retry_at = now + limits::READ_RETRY_MS;
            self.reads = self.reads.saturating_sub(1);
        }
        self.line_up(conv);
    }

    pub fn on_row_failed(&mut self, conv: &ConvId, now: u64) {
        if let Some(c) = self.convs.get_mut(conv).filter(|c| c.base.is_none()) {
            c.failed = true;
        }
        self.on_no_row(conv, now);
    }

    /// Entries read from the log, asked for by `Ask::Log { from, to }`.
    pub fn on_page(&mut self, conv: &ConvId, from: Seq, to: Seq, page: EntriesPage, now: u64) {
        self.read_ended(conv, from, to);
        let Some(c) = self.convs.get_mut(conv) else { return };
        let before = c.need();
        let head = page.part.effective_head(page.head);
        if head > c.head {
            (c.head, c.n_head) = (head, page.part.effective_n(page.n_head));
        }
        for item in explain(&page, before, c.head) {
            if c.room() == 0 {
                break;
            }
            self.buffered += 1;
            self.buffered_bytes += item.bytes();
            c.buffer.push_back(item);
        }
        c.failed = c.need() == before && before <= c.head;
        c.retry_at = if c.failed { now + limits::READ_RETRY_MS } else { 0 };
        self.line_up(conv);
    }

    pub fn on_log_failed(&mut self, conv: &ConvId, from: Seq, to: Seq, now: u64) {
        self.read_ended(conv, from, to);
        if let Some(c) = self.convs.get_mut(conv) {
            c.failed = true;
            c.retry_at = now + limits::READ_RETRY_MS;
        }
        self.line_up(conv);
    }

    fn read_ended(&mut self, conv: &ConvId, from: Seq, to: Seq) {
        self.reads = self.reads.saturating_sub(1);
        self.reserved = self.reserved.saturating_sub(span(from, to));
        if let Some(c) = self.convs.get_mut(conv) {
            c.asking = false;
        }
    }

    pub fn on_ack(&mut self, conv: &ConvId, seq: Seq, now: u64) -> Acked {
        // A conversation that nothing is known of was not sent in: what may be acked there is acked already.
        let Some(gate) = self.gate(conv) else { return Acked::Old };
        let Some(c) = self.convs.get_mut(conv) else { return Acked::Old };
        if seq > gate {
            return Acked::TooHigh;
        }
        if seq <= c.acked.0 {
            return Acked::Old;
        }
        let mut n = c.acked.1;
        while let Some(front) = c.unacked.front().filter(|u| u.last <= seq) {
            n = Some(front.n.max(n.unwrap_or_default()));
            c.unacked.pop_front();
            self.unacked -= 1;
        }
        c.acked = (seq, n);
        c.acking = true;
        c.touched = now;
        self.line_up(conv);
        Acked::Mark { n: n.unwrap_or_default() }
    }

    /// The user's shard has moved the cursor up to `seq`, or will not hear of it any more.
    pub fn on_ack_done(&mut self, conv: &ConvId, seq: Seq) {
        if let Some(c) = self.convs.get_mut(conv).filter(|c| c.acked.0 <= seq) {
            c.acking = false;
        }
    }

    /// The next entry or gap to send, if the window is open.
    pub fn next_send(&mut self, now: u64) -> Option<(ConvId, Item)> {
        while self.unacked < self.limit {
            let conv = self.ready.front()?.clone();
            let taken = self.convs.get_mut(&conv).and_then(|c| {
                if c.unacked.len() >= limits::WINDOW_ENTRIES_PER_CONV {
                    return None;
                }
                let item = drop_front(c, &mut self.buffered, &mut self.buffered_bytes)?;
                assert!(
                    item.first() == c.next || plant::on(Plant::AckGateHole),
                    "what is sent continues what was sent: {} after {}",
                    item.first(),
                    c.next.prev()
                );
                let n = match &item {
                    Item::Entry(e) => e.n,
                    Item::Gap { .. } => c.sent.1,
                };
                c.next = item.last().next();
                c.sent = (item.last(), n);
                c.unacked.push_back(Sent { last: item.last(), n, at: now });
                Some(item)
            });
            match taken {
                Some(item) => {
                    if self.unacked == 0 {
                        self.unacked_since = now;
                    }
                    self.unacked += 1;
                    return Some((conv, item));
                }
                None => {
                    self.ready.pop_front();
                    if let Some(c) = self.convs.get_mut(&conv) {
                        c.in_ready = false;
                    }
                    self.line_up(&conv);
                }
            }
        }
        None
    }

    /// The next question, if there is room for its answer.
    pub fn next_ask(&mut self, now: u64) -> Option<Ask> {
        let mut turns = self.wanting.len();
        while turns > 0 && self.reads < limits::LOG_READS_AT_ONCE {
            turns -= 1;
            let conv = self.wanting.pop_front()?;
            let total = self.unacked + self.buffered + self.reserved;
            let Some(c) = self.convs.get_mut(&conv) else { continue };
            c.in_wanting = false;
            if !wants(c) {
                continue;
            }
            let room = c.room().min(self.limit.saturating_sub(total));
            if c.retry_at > now || (c.base.is_some() && room == 0) {
                c.in_wanting = true;
                self.wanting.push_back(conv);
                continue;
            }
            c.asking = true;
            self.reads += 1;
            if c.base.is_none() {
                return Some(Ask::Row(conv));
            }
            let from = c.need();
            let to = Seq(from.0.saturating_add(room as u64 - 1)).min(c.head);
            self.reserved += span(from, to);
            return Some(Ask::Log { conv, from, to, fresh: c.failed });
        }
        None
    }

    /// A read waits for its time to be tried again.
    pub fn has_retries(&self) -> bool {
        !self.wanting.is_empty()
    }

    /// An item has been unacked for `max` milliseconds. Asked for at every frame: the conversations are looked through only
    /// when the oldest item may be that old.
    pub fn is_slow(&mut self, now: u64, max: u64) -> bool {
        if self.unacked == 0 || now.saturating_sub(self.unacked_since) < max {
            return false;
        }
        let oldest = self.convs.values().filter_map(|c| c.unacked.front()).map(|u| u.at).min();
        self.unacked_since = oldest.unwrap_or(now);
        now.saturating_sub(self.unacked_since) >= max
    }

    /// Rises when a position is forgotten.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Puts a conversation into the queues that it belongs to.
    fn line_up(&mut self, conv: &ConvId) {
        let Some(c) = self.convs.get_mut(conv) else { return };
        let can_send = c.base.is_some() && !c.buffer.is_empty() && c.unacked.len() < limits::WINDOW_ENTRIES_PER_CONV;
        if can_send && !c.in_ready {
            c.in_ready = true;
            self.ready.push_back(conv.clone());
        }
        if wants(c) && !c.in_wanting {
            c.in_wanting = true;
            self.wanting.push_back(conv.clone());
        }
    }

    /// Forgets the position that was not used for longest; it is read again when needed.
    fn evict_idle(&mut self) {
        if self.convs.len() < limits::IDLE_POSITIONS_MAX {
            return;
        }
        let idle = self.convs.iter().filter(|(_, c)| c.is_idle() && !c.in_ready && !c.in_wanting);
        if let Some(conv) = idle.min_by_key(|(_, c)| c.touched).map(|(id, _)| id.clone()) {
            self.convs.remove(&conv);
            self.evictions += 1;
        }
    }
}

fn span(from: Seq, to: Seq) -> usize {
    (to.0 + 1).saturating_sub(from.0) as usize
}

fn wants(c: &Conv) -> bool {
    !c.asking && if c.base.is_none() { true } else { c.need() <= c.head && c.room() > 0 }
}

fn drop_front(c: &mut Conv, buffered: &mut usize, bytes: &mut usize) -> Option<Item> {
    let item = c.buffer.pop_front()?;
    *buffered -= 1;
    *bytes -= item.bytes();
    Some(item)
}

/// Entries from `need` on and the gaps that the page itself proves. Stops before a hole that it does not explain.
pub fn explain(page: &EntriesPage, mut need: Seq, head: Seq) -> Vec<Item> {
    let mut items = Vec::with_capacity(page.entries.len());
    if page.floor > need && need <= head {
        let to = page.floor.prev().min(head);
        items.push(Item::Gap { from: need, to, reason: GapReason::Retention });
        need = to.next();
    }
    // Seqs above the view's own head say nothing about membership.
    let last = head.min(page.head);
    for entry in &page.entries {
        if entry.seq < need || !page.part.receives(entry.seq) {
            continue;
        }
        if entry.seq > need {
            if !is_outside(&page.part, need, entry.seq.prev()) {
                return items;
            }
            items.push(Item::Gap { from: need, to: entry.seq.prev(), reason: GapReason::NotAMember });
        }
        items.push(Item::Entry(Arc::new(entry.clone())));
        need = entry.seq.next();
    }
    let stay = page.part.intervals.iter().map(|i| i.from).find(|from| *from >= need);
    let end = stay.map_or(last, |from| from.prev().min(last));
    if need <= end && is_outside(&page.part, need, end) {
        items.push(Item::Gap { from: need, to: end, reason: GapReason::NotAMember });
    }
    items
}

fn is_outside(part: &MembershipPart, from: Seq, to: Seq) -> bool {
    part.intervals.iter().all(|i| i.from > to || i.until.is_some_and(|until| until < from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversations_are_looked_through_only_when_the_oldest_item_may_be_too_old() {
        let mut window = DeliveryWindow::new(None);
        let conv = |n: u128| ConvId::parse(&format!("g{n:032x}")).expect("valid");
        let gap = |seq| Item::Gap { from: Seq(seq), to: Seq(seq), reason: GapReason::NotAMember };
        for n in [1, 2] {
            let c = Conv { base: Some(Seq(0)), next: Seq(1), head: Seq(1), buffer: [gap(1)].into(), ..Conv::default() };
            window.convs.insert(conv(n), c);
            (window.buffered, window.buffered_bytes) = (window.buffered + 1, window.buffered_bytes + gap(1).bytes());
            window.line_up(&conv(n));
        }
        assert!(window.next_send(0).is_some() && window.next_send(50).is_some());
        window.on_ack(&conv(1), Seq(1), 60);
        assert!(!window.is_slow(999, 1_000));
        assert_eq!(window.unacked_since, 0, "nobody has looked");
        assert!(!window.is_slow(1_000, 1_000), "the one of time 0 is acked");
        assert_eq!(window.unacked_since, 50);
        assert!(window.is_slow(1_050, 1_000));
        window.on_ack(&conv(2), Seq(1), 1_060);
        assert!(!window.is_slow(9_999, 1_000), "nothing is unacked");
    }
}
