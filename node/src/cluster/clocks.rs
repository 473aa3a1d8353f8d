//! The wall clocks of other nodes, as keepalives carry them, and the median rule.
//!
//! Invariant: a leader more than 10 s off the median of the clocks it can see (its own included, the lower middle one)
//! stamps that median and raises an alarm; it never stops for a clock.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use flotilla_proto::ids::{NodeId, TsMs};
use flotilla_proto::limits::CLOCK_SKEW_MAX_MS;
use flotilla_raft::seam::clock;
use tokio::time::Instant;

/// A clock not heard of for this long is no longer seen.
const FORGET: Duration = Duration::from_secs(30);

/// Every group stamps many times a second, and an operator needs the alarm once in a while.
const ALARM_EVERY: Duration = Duration::from_secs(60);

#[derive(Default)]
pub struct Clocks {
    seen: Mutex<BTreeMap<NodeId, (TsMs, Instant)>>,
    alarm: Mutex<Alarm>,
}

/// Says when the state of the clock is worth a line in the log.
#[derive(Default)]
struct Alarm {
    raised: Option<Instant>,
}

#[derive(Debug, PartialEq, Eq)]
enum Say {
    Nothing,
    Off,
    Good,
}

impl Alarm {
    fn note(&mut self, off: bool, now: Instant) -> Say {
        match (off, self.raised) {
            (true, Some(at)) if now.duration_since(at) < ALARM_EVERY => Say::Nothing,
            (true, _) => {
                self.raised = Some(now);
                Say::Off
            }
            // Not at the first good look: a clock that moves around the limit would say both for ever.
            (false, Some(at)) if now.duration_since(at) >= ALARM_EVERY => {
                self.raised = None;
                Say::Good
            }
            (false, _) => Say::Nothing,
        }
    }
}

impl Clocks {
    pub fn observe(&self, node: NodeId, wall: TsMs) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(node, (wall, Instant::now()));
    }

    /// What a leader here stamps now.
    pub fn display(&self) -> TsMs {
        let now = Instant::now();
        let own = clock::wall();
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let others = seen.values().filter(|(_, at)| now.duration_since(*at) < FORGET);
        let others = others.map(|(wall, at)| wall.0.saturating_add(now.duration_since(*at).as_millis() as u64));
        let (stamp, off) = judge(own.0, others.collect());
        let (own_ms, median_ms) = (own.0, stamp);
        match self.alarm.lock().unwrap_or_else(PoisonError::into_inner).note(off, now) {
            Say::Nothing => {}
            Say::Off => tracing::error!(
                own_ms,
                median_ms,
                "this node's clock is off: stamping the cluster's median, check its time service"
            ),
            Say::Good => tracing::info!(own_ms, "this node's clock is near the cluster's median again"),
        }
        TsMs(stamp)
    }
}

/// The stamp, and whether the own clock was refused.
fn judge(own: u64, others: Vec<u64>) -> (u64, bool) {
    let mut all = others;
    all.push(own);
    all.sort_unstable();
    let median = all[(all.len() - 1) / 2];
    if own.abs_diff(median) > CLOCK_SKEW_MAX_MS { (median, true) } else { (own, false) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_far_off_the_median_is_not_stamped() {
        assert_eq!(judge(1_000_000, vec![1_000_400, 999_000]), (1_000_000, false));
        assert_eq!(judge(90_000_000, vec![1_000_400, 1_000_000]), (1_000_400, true));
        assert_eq!(judge(1_000, vec![]), (1_000, false));
        assert_eq!(judge(90_000_000, vec![1_000_000]), (1_000_000, true), "of two, the lower one");
    }

    #[test]
    fn a_clock_that_stays_off_is_told_once_a_minute() {
        let start = Instant::now();
        let mut alarm = Alarm::default();
        let at = |ms| start + Duration::from_millis(ms);
        let told = (0..1_200).filter(|n| alarm.note(true, at(n * 100)) == Say::Off).count();
        assert_eq!(told, 2, "of 1,200 stamps in two minutes");
        assert_eq!(alarm.note(false, at(120_100)), Say::Good);
        assert_eq!(alarm.note(false, at(120_200)), Say::Nothing);
        assert_eq!(alarm.note(true, at(120_300)), Say::Off);
        assert_eq!(alarm.note(false, at(120_400)), Say::Nothing, "around the limit: not told each time");
    }
}
