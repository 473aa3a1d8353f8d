//! Whether a leader that was forsaken has been heard since.
//!
//! openraft gives back a lease that was voided with the next term only. (1. One follower is refused by a leader that lives, and voids its
//! lease, 2. the leader goes on, 3. an hour later another follower is refused by mistake, 4. the first one grants its pre-vote, and
//! the leader is unseated.) Until that next term the lease is kept here: whoever has heard from the leader since says no.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::types::Vote;

pub(super) struct Forsaken {
    lease: Duration,
    /// Whether `leader` is there, changed with it under its lock: most replicas never forsake anybody, and pay a load for each append.
    any: AtomicBool,
    leader: Mutex<Option<Leader>>,
}

struct Leader {
    vote: Vote,
    heard: Option<Instant>,
}

impl Forsaken {
    pub fn new(lease: Duration) -> Self {
        Self { lease, any: AtomicBool::new(false), leader: Mutex::default() }
    }

    /// The leader of this vote is taken for dead, until it is heard again.
    pub fn forsake(&self, vote: Vote) {
        let mut leader = self.lock();
        *leader = Some(Leader { vote, heard: None });
        self.any.store(true, Ordering::Release);
    }

    /// A leader said something.
    pub fn heard(&self, vote: &Vote, now: Instant) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut leader = self.lock();
        match &mut *leader {
            Some(forsaken) if forsaken.vote == *vote => forsaken.heard = Some(now),
            // The next one: openraft minds its lease.
            Some(forsaken) if forsaken.vote < *vote => {
                *leader = None;
                self.any.store(false, Ordering::Release);
            }
            _ => {}
        }
    }

    /// It was forsaken, and has been heard again, a lease ago or less.
    pub fn is_back(&self, vote: &Vote, now: Instant) -> bool {
        if !self.any.load(Ordering::Acquire) {
            return false;
        }
        let leader = self.lock();
        let heard = leader.as_ref().filter(|leader| leader.vote == *vote).and_then(|leader| leader.heard);
        heard.is_some_and(|heard| now.saturating_duration_since(heard) <= self.lease)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Leader>> {
        self.leader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(1);

    fn of(term: u64) -> Vote {
        Vote::new_committed(term, 7)
    }

    #[test]
    fn only_who_was_heard_after_it_was_forsaken_is_back_and_for_a_lease() {
        let (forsaken, start) = (Forsaken::new(LEASE), Instant::now());
        assert!(!forsaken.is_back(&of(3), start), "nobody was forsaken");
        forsaken.heard(&of(3), start);
        forsaken.forsake(of(3));
        assert!(!forsaken.is_back(&of(3), start), "what it said before counts no more");
        forsaken.heard(&of(3), start);
        assert!(forsaken.is_back(&of(3), start + LEASE));
        assert!(!forsaken.is_back(&of(3), start + LEASE + Duration::from_millis(1)));
        forsaken.heard(&of(3), start + LEASE * 5);
        assert!(forsaken.is_back(&of(3), start + LEASE * 5));
        forsaken.forsake(of(3));
        assert!(!forsaken.is_back(&of(3), start + LEASE * 5), "it refuses again");
    }

    #[test]
    fn the_next_leader_needs_no_help_and_an_older_one_gives_none() {
        let (forsaken, start) = (Forsaken::new(LEASE), Instant::now());
        forsaken.forsake(of(3));
        forsaken.heard(&of(2), start);
        assert!(!forsaken.is_back(&of(3), start) && !forsaken.is_back(&of(2), start));
        forsaken.heard(&of(3), start);
        assert!(forsaken.is_back(&of(3), start) && !forsaken.is_back(&of(4), start));
        forsaken.heard(&of(4), start);
        assert!(!forsaken.is_back(&of(3), start) && !forsaken.is_back(&of(4), start));
        assert!(forsaken.lock().is_none());
    }
}
