//! The wall clocks of nodes: off by a jump, or drifting. Monotonic time is everybody's own and is never touched.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use flotilla_raft::seam::clock;

use crate::cluster::place;
use crate::trace::now;

#[derive(Debug, Clone, Copy, Default)]
struct Wrong {
    off_ms: i64,
    /// Parts in a thousand, since then.
    drift: Option<(i64, Duration)>,
}

thread_local! {
    // The simulator runs everything on one thread.
    static CLOCKS: RefCell<BTreeMap<String, Wrong>> = const { RefCell::new(BTreeMap::new()) };
}

/// Once per run.
pub fn install() {
    clock::skew(|ms| {
        let wrong = CLOCKS.with(|clocks| clocks.borrow().get(&place()).copied().unwrap_or_default());
        let drifted = wrong.drift.map_or(0, |(permille, since)| {
            let elapsed = now().saturating_sub(since).as_millis();
            i64::try_from(elapsed).unwrap_or(i64::MAX / 1_000) * permille / 1_000
        });
        ms.saturating_add_signed(wrong.off_ms.saturating_add(drifted))
    });
}

fn change(machine: &str, change: impl FnOnce(&mut Wrong)) {
    CLOCKS.with(|clocks| change(clocks.borrow_mut().entry(machine.to_owned()).or_default()));
}

/// 0 puts it right.
pub fn jump(machine: &str, off_ms: i64) {
    change(machine, |wrong| wrong.off_ms = off_ms);
}

/// 0 puts it right.
pub fn drift(machine: &str, permille: i64) {
    change(machine, |wrong| wrong.drift = (permille != 0).then(|| (permille, now())));
}
