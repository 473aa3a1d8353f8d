//! Whether a group takes another send. Pure, but for the time that it is told.
//!
//! Why: a queue bounded by its length alone may hold more than can be done before everybody in it has given up. 1. Sends come faster
//! than they can be done, 2. each waits for longer than its sender does, 3. it is done even so, and its sender asks again: what is
//! done then is done for nobody, and the other work of the node (leases, heartbeats) waits with it. Measured before this was here
//! (loadgen/README.md, "More than can be done"): waits of 16 s, and thousands of outcomes that nobody knew.
//!
//! So once a command has waited for too long, sends are refused, which their senders are told at once, until one has waited for less, or none is
//! proposed for a while. A shard's own work and everything else is taken: what was accepted is delivered, and who is here may stay. Where a
//! commit alone takes longer than that (a disk that fails), sends get in once in a while only.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flotilla_proto::limits;
use tokio::time::Instant;

const WAIT_MAX: Duration = Duration::from_millis(limits::SEND_WAIT_MS_MAX);
/// What was seen so long ago says nothing any more: a queue that nobody empties is not long because of sends.
const FORGOTTEN: Duration = Duration::from_millis(limits::SEND_WAIT_MS_MAX);

const SAID_ONCE_IN: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Admission {
    begin: Instant,
    /// Milliseconds since `begin`, up to when sends are refused.
    refused_until: AtomicU64,
    waited_ms: AtomicU64,
}

impl Admission {
    pub fn new(begin: Instant) -> Self {
        Self { begin, refused_until: AtomicU64::new(0), waited_ms: AtomicU64::new(0) }
    }

    fn at(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.begin))
    }

    /// A proposal begins; the oldest command in it that somebody waits for came `waited` ago. True: sends are refused from now on.
    pub fn on_proposal(&self, waited: Duration, now: Instant) -> bool {
        self.waited_ms.store(millis(waited), Ordering::Relaxed);
        let refuses = waited > WAIT_MAX;
        let until = if refuses { self.at(now + FORGOTTEN) } else { 0 };
        self.refused_until.store(until, Ordering::Relaxed);
        refuses
    }

    pub fn admits_send(&self, now: Instant) -> bool {
        self.at(now) >= self.refused_until.load(Ordering::Relaxed)
    }

    /// How long the oldest command of the newest proposal had waited.
    pub fn waited(&self) -> Duration {
        Duration::from_millis(self.waited_ms.load(Ordering::Relaxed))
    }
}

/// When something may be said again, so that a long overload does not fill the log.
#[derive(Debug, Default)]
pub(super) struct Said(Option<Instant>);

impl Said {
    pub fn again(&mut self, now: Instant) -> bool {
        let again = self.0.is_none_or(|said| now.saturating_duration_since(said) > SAID_ONCE_IN);
        if again {
            self.0 = Some(now);
        }
        again
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_millis(limits::SEND_WAIT_MS_MAX + 1);

    #[test]
    fn sends_are_refused_while_commands_wait_for_too_long_and_taken_again_after() {
        let now = Instant::now();
        let admission = Admission::new(now);
        assert!(admission.admits_send(now));
        assert!(!admission.on_proposal(WAIT_MAX, now), "not too long yet");
        assert!(admission.admits_send(now));
        assert!(admission.on_proposal(LONG, now));
        assert!(!admission.admits_send(now) && !admission.admits_send(now + FORGOTTEN / 2));
        assert!(admission.on_proposal(LONG, now + FORGOTTEN / 2));
        assert!(!admission.admits_send(now + FORGOTTEN));
        assert!(!admission.on_proposal(Duration::ZERO, now + FORGOTTEN));
        assert!(admission.admits_send(now + FORGOTTEN));
        assert_eq!(admission.waited(), Duration::ZERO);
    }

    #[test]
    fn a_long_overload_is_said_once_in_a_while() {
        let (mut said, now) = (Said::default(), Instant::now());
        assert!(said.again(now) && !said.again(now + SAID_ONCE_IN));
        assert!(said.again(now + 2 * SAID_ONCE_IN));
    }

    #[test]
    fn where_nothing_is_proposed_any_more_sends_are_taken_again() {
        let now = Instant::now();
        let admission = Admission::new(now);
        admission.on_proposal(LONG, now);
        assert!(!admission.admits_send(now + FORGOTTEN - Duration::from_millis(1)));
        assert!(admission.admits_send(now + FORGOTTEN), "or a queue that is empty would be refused for ever");
    }
}
