//! Whether this node is so busy that it must refuse sends: a pulse that should come every 20 ms comes much too late.
//!
//! Why: all tasks of a node wait in one queue for a thread, those of its connections and those of Raft alike. 1. Clients ask for more than the
//! processors can do, 2. a task waits for a second until its turn, 3. heartbeats and keepalives come too late, leaders are taken for dead, sessions
//! are closed, 4. everybody reconnects, asks again, and nothing is done any more. A send that is refused right where it came
//! in costs a fraction of one that is done, so what can be done is done, in order, for those who were let in.
//!
//! What was measured: loadgen/README.md, "More than can be done".

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flotilla_proto::limits;
use tokio::time::Instant;

const PULSE: Duration = Duration::from_millis(20);
const LATE_MAX: Duration = Duration::from_millis(limits::TASK_WAIT_MS_MAX);
const SAID_ONCE_IN: Duration = Duration::from_secs(10);

pub struct Pressure {
    begin: Instant,
    /// When the next pulse should come, in microseconds since `begin`.
    due: AtomicU64,
    /// How late the last one came, in microseconds.
    late: AtomicU64,
}

impl Default for Pressure {
    fn default() -> Self {
        Self { begin: Instant::now(), due: AtomicU64::new(u64::MAX), late: AtomicU64::new(0) }
    }
}

impl Pressure {
    fn at(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.begin).as_micros()).unwrap_or(u64::MAX)
    }

    fn expect(&self, due: Instant) {
        self.due.store(self.at(due), Ordering::Relaxed);
    }

    fn on_pulse(&self, now: Instant) {
        let late = self.at(now).saturating_sub(self.due.load(Ordering::Relaxed));
        self.late.store(late, Ordering::Relaxed);
    }

    /// How long a task waits for its turn: as the last pulse found, or longer, if the next one is overdue by more.
    pub fn wait(&self, now: Instant) -> Duration {
        let overdue = self.at(now).saturating_sub(self.due.load(Ordering::Relaxed));
        Duration::from_micros(overdue.max(self.late.load(Ordering::Relaxed)))
    }

    /// Sends are refused.
    pub fn is_high(&self) -> bool {
        self.wait(Instant::now()) > LATE_MAX
    }
}

pub async fn run(pressure: Arc<Pressure>) {
    let mut said: Option<Instant> = None;
    loop {
        let due = Instant::now() + PULSE;
        pressure.expect(due);
        tokio::time::sleep_until(due).await;
        let now = Instant::now();
        pressure.on_pulse(now);
        if pressure.is_high() && said.is_none_or(|said| now.saturating_duration_since(said) > SAID_ONCE_IN) {
            said = Some(now);
            tracing::warn!(wait = ?pressure.wait(now), "overloaded: tasks wait for their turn, sends are refused now and then");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sends_are_refused_while_the_pulse_is_late_and_once_it_is_overdue() {
        let pressure = Pressure::default();
        let start = pressure.begin + Duration::from_secs(1);
        assert_eq!(pressure.wait(start), Duration::ZERO, "nothing is expected yet");
        pressure.expect(start);
        assert_eq!(pressure.wait(start), Duration::ZERO);
        assert_eq!(pressure.wait(start + LATE_MAX), LATE_MAX, "overdue, whenever it comes");
        pressure.on_pulse(start + 2 * LATE_MAX);
        pressure.expect(start + 3 * LATE_MAX);
        assert_eq!(pressure.wait(start + 2 * LATE_MAX), 2 * LATE_MAX, "as late as the last one");
        pressure.on_pulse(start + 3 * LATE_MAX);
        pressure.expect(start + 4 * LATE_MAX);
        assert_eq!(pressure.wait(start + 3 * LATE_MAX), Duration::ZERO, "and in time again");
    }
}
