//! What a run counts: histograms, a line for each second, gaps.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::ledger::{Faults, Sent};
use super::time::At;

pub const TICK: Duration = Duration::from_secs(1);
/// Longest time that is told apart, in microseconds.
const LONGEST_US: u64 = 120_000_000;
/// One per cent.
const DIGITS: u8 = 2;
/// Gaps that are kept at most.
const GAPS_MAX: usize = 1_000_000;

pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, DIGITS).expect("the bounds are in order")
}

/// What is measured: sends intended within it, and answers and entries that came within it.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub from: At,
    pub to: At,
    /// Sends are due at fixed instants: the generator itself can be late.
    pub is_open: bool,
    /// Times between two `accepted` of a conversation above this are kept.
    pub gap: Option<Duration>,
}

impl Default for Window {
    fn default() -> Self {
        Self { from: At::NEVER, to: At::NEVER, is_open: false, gap: None }
    }
}

impl Window {
    pub fn measures(&self, at: At) -> bool {
        at >= self.from && at < self.to
    }
}

/// One second of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Second {
    pub at: At,
    pub accepted: u64,
    pub delivered: u64,
    pub errors: u64,
    /// Milliseconds: p50 and p99.
    pub accept_ms: [f64; 2],
    pub deliver_ms: [f64; 2],
    pub online: usize,
}

/// A conversation in which nothing was accepted for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    pub conv: u32,
    pub from: At,
    pub to: At,
    /// When the send left that ended it.
    pub left: At,
}

/// A shard in which nothing was accepted for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardGap {
    pub shard: u16,
    pub from: At,
    pub to: At,
}

pub struct Tally {
    pub sent: u64,
    pub accept: Histogram<u64>,
    pub deliver: Histogram<u64>,
    /// How far behind the intended times the generator itself was.
    pub late: Histogram<u64>,
    pub accepted_in_window: u64,
    /// To devices other than the sender's own.
    pub delivered_in_window: u64,
    pub entries_in_window: u64,
    pub errors: BTreeMap<String, u64>,
    pub errors_in_all: u64,
    pub reconnects: u64,
    pub unanswered: u64,
    pub faults: Faults,
    pub seconds: Vec<Second>,
    pub gaps: Vec<Gap>,
    /// The same by shard: no conversation of it had an `accepted`.
    pub shard_gaps: Vec<ShardGap>,
    /// When each shard had its last one.
    pub by_shard: BTreeMap<u16, At>,
    now: Second,
    accept_now: Histogram<u64>,
    deliver_now: Histogram<u64>,
}

impl Tally {
    pub fn new() -> Self {
        Self {
            sent: 0,
            accept: histogram(),
            deliver: histogram(),
            late: histogram(),
            accepted_in_window: 0,
            delivered_in_window: 0,
            entries_in_window: 0,
            errors: BTreeMap::new(),
            errors_in_all: 0,
            reconnects: 0,
            unanswered: 0,
            faults: Faults::default(),
            seconds: Vec::new(),
            gaps: Vec::new(),
            shard_gaps: Vec::new(),
            by_shard: BTreeMap::new(),
            now: Second::default(),
            accept_now: histogram(),
            deliver_now: histogram(),
        }
    }

    pub fn error(&mut self, what: &str) {
        match self.errors.get_mut(what) {
            Some(count) => *count += 1,
            None => drop(self.errors.insert(what.to_owned(), 1)),
        }
        self.errors_in_all += 1;
        self.now.errors += 1;
    }

    pub fn late(&mut self, us: u64) {
        self.late.saturating_record(us.max(1));
    }

    pub fn accepted(&mut self, conv: u32, sent: &Sent, previous: At, now: At, window: &Window) {
        let took = now.since(sent.intended).max(1);
        self.now.accepted += 1;
        self.accept_now.saturating_record(took);
        if window.measures(sent.intended) {
            self.accept.saturating_record(took);
        }
        self.accepted_in_window += u64::from(window.measures(now));
        if let Some(gap) = window.gap
            && previous != At(0)
            && now.since(previous) >= gap.as_micros() as u64
            && self.gaps.len() < GAPS_MAX
        {
            self.gaps.push(Gap { conv, from: previous, to: now, left: sent.left });
        }
    }

    /// Something was accepted in a shard.
    pub fn of_shard(&mut self, shard: u16, now: At, window: &Window) {
        let Some(gap) = window.gap else { return };
        if let Some(from) = self.by_shard.insert(shard, now)
            && now.since(from) >= gap.as_micros() as u64
            && self.shard_gaps.len() < GAPS_MAX
        {
            self.shard_gaps.push(ShardGap { shard, from, to: now });
        }
    }

    pub fn entry(&mut self, sent: &Sent, own: bool, now: At, window: &Window) {
        self.entries_in_window += u64::from(window.measures(now));
        if own {
            return;
        }
        let took = now.since(sent.intended).max(1);
        self.now.delivered += 1;
        self.deliver_now.saturating_record(took);
        if window.measures(sent.intended) {
            self.deliver.saturating_record(took);
        }
        self.delivered_in_window += u64::from(window.measures(now));
    }

    /// A second is over.
    pub fn second(&mut self, at: At, online: usize) -> &Second {
        let mut second = std::mem::take(&mut self.now);
        let ms = |histogram: &Histogram<u64>| [0.5, 0.99].map(|q| histogram.value_at_quantile(q) as f64 / 1_000.0);
        (second.at, second.online) = (at, online);
        (second.accept_ms, second.deliver_ms) = (ms(&self.accept_now), ms(&self.deliver_now));
        self.accept_now.reset();
        self.deliver_now.reset();
        self.seconds.push(second);
        &self.seconds[self.seconds.len() - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::super::ledger::Ledger;
    use super::*;

    /// One send a millisecond for ten seconds; the server answers nothing between second 4 and second 5, and each send
    /// within 100 us otherwise. `from_intended`: latency counts from when a send was due, else from when it left, which is
    /// when the one before was answered.
    fn stalled(from_intended: bool) -> Histogram<u64> {
        let window = Window { from: At(0), to: At(10_000_000), is_open: true, gap: None };
        let (mut tally, mut ledger) = (Tally::new(), Ledger::new(1, 1, 1));
        let mut free = At(0);
        for n in 0..10_000 {
            let due = At(n * 1_000);
            let leaves = due.max(free);
            let answered =
                if leaves.0 / 1_000_000 == 4 { At(5_000_000) } else { leaves.after(Duration::from_micros(100)) };
            let number = ledger.make(0, if from_intended { due } else { leaves });
            let sent = ledger.sent(number).cloned().expect("just made");
            tally.accepted(0, &sent, At(0), answered, &window);
            free = answered;
        }
        tally.accept
    }

    #[test]
    fn a_stall_counts_for_every_send_that_was_due_in_it() {
        let slow = |histogram: Histogram<u64>| histogram.count_between(50_000, LONGEST_US);
        assert_eq!(slow(stalled(false)), 1, "this is what omission looks like");
        let honest = stalled(true);
        assert!((900..=1_100).contains(&slow(honest.clone())), "a tenth of the sends was due in the stall: {honest:?}");
        assert!(honest.value_at_quantile(0.95) > 400_000, "{}", honest.value_at_quantile(0.95));
    }

    #[test]
    fn only_what_falls_into_the_window_is_measured_and_every_second_has_its_line() {
        let window = Window { from: At(1_000), to: At(2_000), is_open: true, gap: Some(Duration::from_micros(400)) };
        let (mut tally, mut ledger) = (Tally::new(), Ledger::new(1, 1, 1));
        let mut previous = At(0);
        for (intended, answered) in [(900, 1_100), (1_100, 1_200), (1_900, 2_100)] {
            let number = ledger.make(0, At(intended));
            let sent = ledger.sent(number).cloned().expect("just made");
            tally.accepted(3, &sent, previous, At(answered), &window);
            previous = At(answered);
        }
        assert_eq!((tally.accept.len(), tally.accepted_in_window), (2, 2));
        let gap = Gap { conv: 3, from: At(1_200), to: At(2_100), left: At::NEVER };
        assert_eq!(tally.gaps, [gap]);
        tally.error("overloaded");
        let second = tally.second(At(5), 7).clone();
        assert_eq!((second.accepted, second.errors, second.online), (3, 1, 7));
        assert_eq!(tally.second(At(6), 7).accepted, 0);
    }
}
