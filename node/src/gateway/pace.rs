//! How fast one connection may say what has no answer: acks, reads, typing and the like.
//!
//! Requests are bounded by how many are in flight, and a client learns from their answers that it is too fast. Of the rest it would
//! never learn, so a connection that floods its node is closed. No client that keeps the protocol comes near: each entry that it was
//! sent may be acked and read by frames of its own (a bot that catches up reads thousands a second), and the burst takes a read mark for
//! every conversation of a user.
//!
//! Pure: the generic cell rate algorithm, as in `rates`, for one connection and without a lock.

use flotilla_proto::frame::ClientFrame;
use flotilla_proto::limits;

const INTERVAL_US: u64 = 1_000_000 / limits::WORDS_PER_SECOND;
const BURST_US: u64 = INTERVAL_US * limits::WORDS_BURST;

#[derive(Debug, Default)]
pub struct Pace {
    /// When the next frame would be due if all came evenly, in microseconds of the connection.
    due_us: u64,
}

impl Pace {
    /// Takes one frame; false: too many have come. `now`: milliseconds of the connection.
    pub fn take(&mut self, now: u64) -> bool {
        let now_us = now.saturating_mul(1_000);
        let due = self.due_us.max(now_us);
        if due - now_us > BURST_US - INTERVAL_US {
            return false;
        }
        self.due_us = due + INTERVAL_US;
        true
    }

    /// An entry or a gap went out: its ack and a read mark of it are not counted.
    pub fn on_sent(&mut self) {
        self.due_us = self.due_us.saturating_sub(limits::WORDS_PER_ENTRY * INTERVAL_US);
    }
}

/// Nothing answers it.
pub fn is_word(frame: &ClientFrame) -> bool {
    match frame {
        ClientFrame::Ack(_)
        | ClientFrame::Read(_)
        | ClientFrame::Typing(_)
        | ClientFrame::State(_)
        | ClientFrame::Pong => true,
        ClientFrame::Hello(_)
        | ClientFrame::Auth(_)
        | ClientFrame::Send(_)
        | ClientFrame::Edit(_)
        | ClientFrame::Delete(_)
        | ClientFrame::React(_)
        | ClientFrame::Presence(_)
        | ClientFrame::Receipts(_)
        | ClientFrame::History(_)
        | ClientFrame::Sync(_)
        | ClientFrame::Call(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many are taken in one moment.
    fn taken(pace: &mut Pace, now: u64) -> u64 {
        (0..).take_while(|_| pace.take(now)).count() as u64
    }

    #[test]
    fn a_burst_and_then_so_many_a_second() {
        let mut pace = Pace::default();
        assert_eq!(taken(&mut pace, 5), limits::WORDS_BURST);
        assert_eq!(taken(&mut pace, 5), 0);
        assert_eq!(taken(&mut pace, 1_005), limits::WORDS_PER_SECOND);
        assert_eq!(taken(&mut pace, 1_000_000), limits::WORDS_BURST, "no more is saved up");
    }

    #[test]
    fn acks_and_reads_of_what_was_sent_are_not_counted_however_many_there_are() {
        let mut pace = Pace::default();
        for _ in 0..10 * limits::WORDS_BURST {
            pace.on_sent();
            assert!(pace.take(0) && pace.take(0));
        }
        let mut pace = Pace::default();
        (0..limits::WORDS_BURST).for_each(|_| pace.on_sent());
        assert_eq!(taken(&mut pace, 0), limits::WORDS_BURST, "what was sent is no credit for later");
    }
}
