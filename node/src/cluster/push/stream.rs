//! The gateway's side of one (shard leader, gateway) push stream: pure, event in, verdict out.
//!
//! Invariant: while `Live`, every frame up to `last` has been looked at. A gap, a new leader or a broken connection makes
//! the stream unsynced until the gateway has presented its sessions again and read at the leader. Frames are committed
//! facts and are always looked at, even in a gap; only what may be *missing* needs the numbers.
//!
//! Why terms: 1. leader A is deposed by B; 2. A does not know and goes on sending keepalives to gateway G; 3. without
//! the term G is content and misses everything B pushes. G ignores terms below the highest it has seen.

use std::collections::BTreeSet;

use flotilla_proto::limits;
use flotilla_proto::plant::{self, Plant};

use crate::cluster::wire::StreamPosition;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// From a deposed leader, or a repeat.
    Ignore,
    Take,
    /// Look at it, and present the sessions again: something is missing.
    TakeAndSync,
}

#[derive(Debug)]
enum State {
    Unsynced,
    /// `named`: the highest number that a keepalive has named meanwhile. It proves no frame: the one it names may be lost.
    Syncing {
        seen: BTreeSet<u64>,
        named: u64,
        again: bool,
    },
    Live,
}

#[derive(Debug)]
pub struct Stream {
    term: u64,
    last: u64,
    state: State,
}

impl Default for Stream {
    fn default() -> Self {
        Self { term: 0, last: 0, state: State::Unsynced }
    }
}

impl Stream {
    pub fn is_live(&self) -> bool {
        matches!(self.state, State::Live)
    }

    pub fn needs_sync(&self) -> bool {
        matches!(self.state, State::Unsynced)
    }

    pub fn on_frame(&mut self, at: StreamPosition) -> Verdict {
        self.on_position(at, true)
    }

    /// A keepalive names the last frame sent: more than was received here means that frames were dropped.
    pub fn on_keepalive(&mut self, at: StreamPosition) -> Verdict {
        self.on_position(at, false)
    }

    pub fn on_broken(&mut self) {
        if self.is_live() && plant::on(Plant::IgnoreStreamGap) {
            return;
        }
        match &mut self.state {
            State::Syncing { again, .. } => *again = true,
            state => *state = State::Unsynced,
        }
    }

    pub fn on_sync_started(&mut self) {
        self.state = State::Syncing { seen: BTreeSet::new(), named: 0, again: false };
    }

    pub fn on_sync_failed(&mut self) {
        self.state = State::Unsynced;
    }

    /// The leader answered: `at` is where its stream stood before it read its state.
    pub fn on_synced(&mut self, at: StreamPosition) {
        let State::Syncing { seen, named, again } = std::mem::replace(&mut self.state, State::Unsynced) else {
            return;
        };
        if again || at.term < self.term {
            return;
        }
        let newer_leader = at.term > self.term;
        self.term = at.term;
        self.last = at.n;
        let (seen, named) = if newer_leader { (BTreeSet::new(), 0) } else { (seen, named) };
        for n in seen {
            match n {
                n if n <= self.last => {}
                n if n == self.last + 1 => self.last = n,
                _ => return,
            }
        }
        if named > self.last {
            return;
        }
        self.state = State::Live;
    }

    fn on_position(&mut self, at: StreamPosition, is_frame: bool) -> Verdict {
        if at.term < self.term {
            return Verdict::Ignore;
        }
        if at.term > self.term {
            self.term = at.term;
            self.last = 0;
            self.on_broken();
            return Verdict::TakeAndSync;
        }
        match &mut self.state {
            State::Unsynced => Verdict::TakeAndSync,
            State::Syncing { seen, named, again } => {
                if is_frame {
                    seen.insert(at.n);
                } else {
                    // The frame it names came, or was dropped, or was sent before the read under way: the reply tells.
                    *named = at.n.max(*named);
                }
                *again |= seen.len() > limits::PUSHES_SEEN_MAX;
                Verdict::Take
            }
            State::Live if at.n <= self.last => {
                if is_frame {
                    Verdict::Ignore
                } else {
                    Verdict::Take
                }
            }
            State::Live if is_frame && at.n == self.last + 1 => {
                self.last = at.n;
                Verdict::Take
            }
            State::Live if plant::on(Plant::IgnoreStreamGap) => {
                self.last = at.n;
                Verdict::Take
            }
            State::Live => {
                self.state = State::Unsynced;
                Verdict::TakeAndSync
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(term: u64, n: u64) -> StreamPosition {
        StreamPosition { term, n }
    }

    fn live(term: u64, n: u64) -> Stream {
        let mut stream = Stream::default();
        stream.on_sync_started();
        stream.on_synced(at(term, n));
        assert!(stream.is_live());
        stream
    }

    #[test]
    fn frames_in_order_are_taken_and_a_gap_asks_to_present_again() {
        let mut stream = live(3, 7);
        assert_eq!(stream.on_frame(at(3, 8)), Verdict::Take);
        assert_eq!(stream.on_frame(at(3, 8)), Verdict::Ignore);
        assert_eq!(stream.on_frame(at(3, 10)), Verdict::TakeAndSync);
        assert!(stream.needs_sync());
    }

    #[test]
    fn a_keepalive_that_names_a_dropped_frame_is_a_gap() {
        let mut stream = live(3, 7);
        assert_eq!(stream.on_keepalive(at(3, 7)), Verdict::Take);
        assert_eq!(stream.on_keepalive(at(3, 8)), Verdict::TakeAndSync);
    }

    #[test]
    fn a_deposed_leader_does_not_keep_a_gateway_content() {
        let mut stream = live(3, 7);
        assert_eq!(stream.on_keepalive(at(4, 0)), Verdict::TakeAndSync);
        assert_eq!(stream.on_keepalive(at(3, 7)), Verdict::Ignore);
        assert!(!stream.is_live());
    }

    #[test]
    fn frames_that_arrive_during_the_read_are_counted() {
        let mut stream = live(3, 7);
        stream.on_broken();
        stream.on_sync_started();
        assert_eq!(stream.on_frame(at(3, 9)), Verdict::Take);
        stream.on_synced(at(3, 8));
        assert!(stream.is_live());
        assert_eq!(stream.on_frame(at(3, 10)), Verdict::Take);
    }

    #[test]
    fn a_frame_lost_during_the_read_makes_it_repeat() {
        let mut stream = live(3, 7);
        stream.on_broken();
        stream.on_sync_started();
        stream.on_frame(at(3, 10));
        stream.on_synced(at(3, 8));
        assert!(stream.needs_sync(), "frame 9 is missing");
        stream.on_sync_started();
        stream.on_frame(at(3, 9));
        assert_eq!(stream.on_keepalive(at(3, 10)), Verdict::Take);
        stream.on_synced(at(3, 8));
        assert!(stream.needs_sync(), "a keepalive named frame 10, which never came");
        stream.on_sync_started();
        stream.on_frame(at(4, 1));
        stream.on_synced(at(3, 11));
        assert!(stream.needs_sync(), "the answer came from a deposed leader");
    }
}
