//! How many sends one user and one conversation may make on this node, without a lock and without growing.
//!
//! Each key has a cell, chosen by hash, that holds the time at which its next send would be due if all came at the limit's
//! pace (the generic cell rate algorithm, ITU-T I.371). A send may come ahead of that by the burst. Two keys may share a
//! cell, and then share its limit: there are so many cells that this takes two busy ones out of tens of thousands.
//! Soft and local: a node forgets it at restart, and each node counts for itself.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use flotilla_proto::{limits, slots};

pub struct Rates {
    /// Made when there is first a limit.
    cells: OnceLock<Box<[AtomicU64]>>,
    /// 0: no limit.
    per_second: AtomicU32,
}

impl Rates {
    /// `per_second` 0: no limit, and no cells.
    pub fn new(per_second: u32) -> Self {
        Self { cells: OnceLock::new(), per_second: AtomicU32::new(per_second) }
    }

    /// From now on. What cells hold is when a key's next send is due, so it stays as true as it was.
    pub fn set(&self, per_second: u32) {
        self.per_second.store(per_second, Ordering::Relaxed);
    }

    pub fn per_second(&self) -> u32 {
        self.per_second.load(Ordering::Relaxed)
    }

    pub fn is_off(&self) -> bool {
        self.per_second() == 0
    }

    /// Takes one send of `key`, or says after how many milliseconds there is room. `now_us`: of a clock
    /// that never goes back.
    pub fn take(&self, key: &str, now_us: u64) -> Result<(), u64> {
        let per_second = self.per_second();
        // Between two sends at the limit's pace.
        let Some(interval_us) = 1_000_000u64.checked_div(per_second.into()) else { return Ok(()) };
        let burst_us = interval_us.saturating_mul(limits::RATE_BURST_SECONDS * u64::from(per_second));
        let cells = self.cells.get_or_init(|| (0..limits::RATE_CELLS).map(|_| AtomicU64::new(0)).collect());
        let cell = &cells[slots::spread(key.as_bytes()) as usize % cells.len()];
        let mut due = cell.load(Ordering::Relaxed);
        loop {
            let early = due.saturating_sub(now_us);
            if early > burst_us.saturating_sub(interval_us) {
                return Err((early + interval_us - burst_us).div_ceil(1_000));
            }
            let next = due.max(now_us) + interval_us;
            match cell.compare_exchange_weak(due, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => due = other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_at_once_and_then_the_pace_holds() {
        let rates = Rates::new(10);
        let burst = (0..1_000).filter(|_| rates.take("ann", 0).is_ok()).count() as u64;
        assert_eq!(burst, 10 * limits::RATE_BURST_SECONDS);
        assert!(rates.take("bob", 0).is_ok(), "another key has its own cell");
        let wait_ms = rates.take("ann", 0).expect_err("too many");
        assert!((1..=100).contains(&wait_ms), "{wait_ms}");
        assert!(rates.take("ann", (wait_ms - 1) * 1_000 - 1).is_err());
        assert!(rates.take("ann", wait_ms * 1_000).is_ok(), "what was told is enough");
        let second = (0..1_000).filter(|i| rates.take("ann", 1_000_000 + i * 1_000).is_ok()).count();
        assert!((9..=20).contains(&second), "{second} in the second after");
    }

    #[test]
    fn without_a_limit_nothing_is_kept() {
        let rates = Rates::new(0);
        assert!((0..10_000).all(|_| rates.take("ann", 0).is_ok()));
        assert!(rates.cells.get().is_none());
    }

    #[test]
    fn a_limit_that_is_changed_counts_at_once_and_none_lets_everything_through() {
        let rates = Rates::new(0);
        rates.set(1);
        let burst = (0..100).filter(|_| rates.take("ann", 0).is_ok()).count() as u64;
        assert_eq!(burst, limits::RATE_BURST_SECONDS);
        rates.set(1_000);
        assert!(rates.take("ann", 1_000_000).is_ok(), "what was sent under the old limit is within the new one");
        rates.set(0);
        assert!((0..10_000).all(|_| rates.take("ann", 0).is_ok()));
    }
}
