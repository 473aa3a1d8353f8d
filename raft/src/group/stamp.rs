//! Time as a leader puts it into its proposals.
//!
//! The age clock counts the leader's own monotonic time between its stamps of one term. Nothing is ever counted twice:
//! what falls between two leaders, or into a proposal that was refused, is lost, so lives only get longer.

use std::time::Duration;

use flotilla_machine::Stamp;
use flotilla_proto::ids::TsMs;
use tokio::time::Instant;

#[derive(Debug, Default)]
pub(super) struct Stamper {
    previous: Option<(u64, Instant)>,
}

impl Stamper {
    pub fn stamp(&mut self, term: u64, now: Instant, display: TsMs) -> Stamp {
        let (age_delta_ms, counted_to) = match self.previous {
            Some((previous_term, counted_to)) if previous_term == term => {
                let elapsed = now.saturating_duration_since(counted_to).as_millis() as u64;
                // The rest of a millisecond stays for the next stamp, or a busy leader's clock would stand still.
                (elapsed, counted_to + Duration::from_millis(elapsed))
            }
            _ => (0, now),
        };
        self.previous = Some((term, counted_to));
        Stamp { age_delta_ms, display }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_starts_at_zero_and_fractions_are_carried_over() {
        let start = Instant::now();
        let at = |us| start + Duration::from_micros(us);
        let mut stamper = Stamper::default();
        let mut delta = |term, us| stamper.stamp(term, at(us), TsMs(0)).age_delta_ms;
        assert_eq!(delta(1, 0), 0);
        assert_eq!(delta(1, 700), 0);
        assert_eq!(delta(1, 1_400), 1);
        assert_eq!(delta(1, 2_100), 1);
        assert_eq!(delta(2, 9_000), 0, "the first of a term");
        assert_eq!(delta(2, 12_000), 3);
    }
}
