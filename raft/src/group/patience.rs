//! Commands that may wait for company: they ride with the next proposal that goes anyway, or go at the node's next beat. Pure.
//!
//! Why: what a proposal costs hardly depends on how much it holds, and most commands are a shard's own work, for which nobody
//! waits. All groups of a node beat at the same times, so that what they propose then shares a sync and a frame to each peer.
//!
//! Invariant: what waits goes within [`limits::PROPOSAL_PATIENCE_MS`], in the order in which it came; no more waits than one
//! proposal holds.

use std::collections::VecDeque;
use std::time::Duration;

use flotilla_proto::limits;
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_millis(limits::PROPOSAL_PATIENCE_MS);

pub(super) struct Patience<T> {
    /// A time at which all groups of the node beat.
    beat: Instant,
    waiting: VecDeque<T>,
    due: Option<Instant>,
}

impl<T> Patience<T> {
    pub fn new(beat: Instant) -> Self {
        Self { beat, waiting: VecDeque::new(), due: None }
    }

    pub fn add(&mut self, item: T, now: Instant) {
        self.waiting.push_back(item);
        if self.waiting.len() >= limits::PROPOSAL_COMMANDS_MAX {
            self.due = Some(now);
        } else if self.due.is_none() {
            self.due = Some(next_beat(self.beat, now));
        }
    }

    /// When the first of them has waited long enough; none while nothing waits.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn pop(&mut self) -> Option<T> {
        let item = self.waiting.pop_front();
        if self.waiting.is_empty() {
            self.due = None;
        }
        item
    }
}

/// The first beat after `now`, counted from `beat`.
pub fn next_beat(beat: Instant, now: Instant) -> Instant {
    let since = now.saturating_duration_since(beat).as_nanos();
    let into = since % PATIENCE.as_nanos();
    // Below `PATIENCE`, so it fits.
    now + PATIENCE - Duration::from_nanos(into as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_goes_at_a_beat_that_all_groups_share() {
        let beat = Instant::now();
        let at = |ms: u64| beat + Duration::from_millis(ms);
        let (mut one, mut other) = (Patience::new(beat), Patience::new(beat));
        let period = limits::PROPOSAL_PATIENCE_MS;
        one.add(1, at(3 * period + 1));
        other.add(2, at(3 * period + period - 1));
        assert_eq!((one.due(), other.due()), (Some(at(4 * period)), Some(at(4 * period))));
        one.add(3, at(4 * period - 1));
        assert_eq!(one.due(), Some(at(4 * period)), "those that come later put nothing off");
        assert_eq!((one.pop(), one.due()), (Some(1), Some(at(4 * period))));
        assert_eq!((one.pop(), one.due(), one.pop()), (Some(3), None, None));
        one.add(4, at(4 * period));
        assert_eq!(one.due(), Some(at(5 * period)));
    }

    #[test]
    fn a_full_proposal_does_not_wait() {
        let now = Instant::now();
        let mut patience = Patience::new(now);
        (0..limits::PROPOSAL_COMMANDS_MAX).for_each(|n| patience.add(n, now));
        assert_eq!(patience.due(), Some(now));
    }
}
