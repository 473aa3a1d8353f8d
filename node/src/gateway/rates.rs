//! How many sends one user and one conversation may make on this node, without a lock and without growing.
//!
//! Each key has a cell, chosen by hash, that holds the time at which its next send would be due if all came at the limit's
//! pace (the generic cell rate algorithm, ITU-T I.371). A send may come ahead of that by the burst. Two keys may share a
//! cell, and then share its limit: there are so many cells that this takes two busy ones out of tens of thousands.
//! Soft and local: a node forgets it at restart, and each node counts for itself.

use std::sync::atomic::{AtomicU64, Ordering};

use flotilla_proto::{limits, slots};

pub struct Rates {
    cells: Box<[AtomicU64]>,
    /// Between two sends at the limit's pace, in microseconds; 0: no limit.
    interval_us: u64,
    burst_us: u64,
}

impl Rates {
    /// `per_second` 0: no limit, and no cells.
    pub fn new(per_second: u32) -> Self {
        let interval_us = 1_000_000u64.checked_div(per_second.into()).unwrap_or(0);
        let cells = if interval_us == 0 { 0 } else { limits::RATE_CELLS };
        Self {
            cells: (0..cells).map(|_| AtomicU64::new(0)).collect(),
            interval_us,
            burst_us: interval_us.saturating_mul(limits::RATE_BURST_SECONDS * u64::from(per_second)),
        }
    }

    pub fn is_off(&self) -> bool {
        self.cells.is_empty()
    }

    /// Takes one send of `key`, or says after how many milliseconds there is room. `now_us`: of a clock
    /// that never goes back.
    pub fn take(&self, key: &str, now_us: u64) -> Result<(), u64> {
        if self.is_off() {
            return Ok(());
        }
        let cell = &self.cells[slots::spread(key.as_bytes()) as usize % self.cells.len()];
        let mut due = cell.load(Ordering::Relaxed);
        loop {
            let early = due.saturating_sub(now_us);
            if early > self.burst_us.saturating_sub(self.interval_us) {
                return Err((early + self.interval_us - self.burst_us).div_ceil(1_000));
            }
            let next = due.max(now_us) + self.interval_us;
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
        assert!(rates.cells.is_empty() && (0..10_000).all(|_| rates.take("ann", 0).is_ok()));
    }
}
