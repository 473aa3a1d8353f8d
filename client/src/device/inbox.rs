//! Positions and acks: what of each conversation is stored here, what is a repeat, what is a hole. Pure.
//!
//! Invariant: a position moves by one, or over a named gap; it is acked only after the store has it.

use std::collections::BTreeMap;

use flotilla_proto::frame::AckItem;
use flotilla_proto::ids::{ConvId, Seq};
use flotilla_proto::limits;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// The next one: store it, then ack.
    New,
    /// Stored before: ack again.
    Repeat,
    /// Something between is missing and no gap said so.
    Hole { stored: Seq },
}

#[derive(Debug, Default)]
pub struct Inbox {
    positions: BTreeMap<ConvId, Seq>,
    /// Stored, not yet acked on this connection.
    due: BTreeMap<ConvId, Seq>,
    due_entries: usize,
    due_since_ms: Option<u64>,
    /// Holes seen and not closed: where they begin. The second sight of the same one is believed.
    holes: BTreeMap<ConvId, Seq>,
}

impl Inbox {
    pub fn restored(positions: BTreeMap<ConvId, Seq>) -> Self {
        Self { positions, ..Self::default() }
    }

    pub fn positions(&self) -> &BTreeMap<ConvId, Seq> {
        &self.positions
    }

    /// Another device id: the server's cursors are other ones.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// An entry arrived. `New` moves the position: the caller stores it in the same transaction.
    pub fn on_entry(&mut self, conv: &ConvId, seq: Seq) -> Sight {
        self.on_range(conv, seq, seq)
    }

    /// A gap arrived: nothing in `from..=to` will come.
    pub fn on_gap(&mut self, conv: &ConvId, from: Seq, to: Seq) -> Sight {
        self.on_range(conv, from, to)
    }

    fn on_range(&mut self, conv: &ConvId, from: Seq, to: Seq) -> Sight {
        match self.positions.get(conv).copied() {
            Some(stored) if to <= stored => return Sight::Repeat,
            Some(stored) if from > stored.next() => return Sight::Hole { stored },
            // Where a new device starts is the server's word.
            _ => {}
        }
        self.positions.insert(conv.clone(), to);
        self.holes.remove(conv);
        Sight::New
    }

    /// First sight of a hole: false, come again on a new connection. Second sight: true, the position jumps.
    pub fn believe_hole(&mut self, conv: &ConvId, stored: Seq, seq: Seq) -> bool {
        if self.holes.get(conv) != Some(&stored) {
            self.holes.insert(conv.clone(), stored);
            return false;
        }
        self.holes.remove(conv);
        self.positions.insert(conv.clone(), seq);
        true
    }

    /// What came on this connection up to `seq` is stored: its ack is due. Not more, also where more is stored from before: a
    /// server takes no ack of what it has not sent on this connection. (1. Acks of 200 entries are lost with their node, 2. they
    /// come again, 128 at once, 3. acked as 200 none of them counts, and the window stays full for ever.)
    pub fn stored(&mut self, conv: &ConvId, seq: Seq, now_ms: u64) {
        let due = self.due.entry(conv.clone()).or_default();
        *due = seq.max(*due);
        self.due_entries += 1;
        self.due_since_ms.get_or_insert(now_ms);
    }

    /// Enough entries or enough time.
    pub fn acks_due(&self, now_ms: u64) -> bool {
        self.due_entries >= limits::CLIENT_ACK_ENTRIES || self.wake_ms().is_some_and(|at| at <= now_ms)
    }

    pub fn wake_ms(&self) -> Option<u64> {
        self.due_since_ms.map(|since| since + limits::CLIENT_ACK_DELAY_MS)
    }

    /// The acks that are due, at most one frame of them.
    pub fn take_acks(&mut self) -> Vec<AckItem> {
        let mut items = Vec::new();
        while items.len() < limits::CLIENT_ACKS_PER_FRAME_MAX {
            let Some((conv, seq)) = self.due.pop_first() else { break };
            items.push(AckItem { conv, seq });
        }
        if self.due.is_empty() {
            (self.due_entries, self.due_since_ms) = (0, None);
        }
        items
    }

    /// Acks die with their connection: what was not acked comes again.
    pub fn disconnected(&mut self) {
        self.due.clear();
        (self.due_entries, self.due_since_ms) = (0, None);
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::ids::UserId;

    use super::*;

    fn conv() -> ConvId {
        let user = |name| UserId::parse(name).expect("valid");
        ConvId::direct(&user("alice"), &user("bob"))
    }

    #[test]
    fn repeats_are_acked_holes_are_not_and_a_gap_closes_one() {
        let mut inbox = Inbox::default();
        let c = conv();
        assert_eq!(inbox.on_entry(&c, Seq(5)), Sight::New, "a new device starts where the server says");
        assert_eq!(inbox.on_entry(&c, Seq(6)), Sight::New);
        assert_eq!(inbox.on_entry(&c, Seq(5)), Sight::Repeat);
        assert_eq!(inbox.on_entry(&c, Seq(8)), Sight::Hole { stored: Seq(6) });
        assert_eq!(inbox.on_gap(&c, Seq(7), Seq(7)), Sight::New);
        assert_eq!(inbox.on_entry(&c, Seq(8)), Sight::New);
        assert!(!inbox.believe_hole(&c, Seq(8), Seq(10)));
        assert!(inbox.believe_hole(&c, Seq(8), Seq(10)));
        assert_eq!(inbox.on_entry(&c, Seq(11)), Sight::New);
    }

    #[test]
    fn what_comes_again_is_acked_as_far_as_it_has_come() {
        let mut inbox = Inbox::restored(BTreeMap::from([(conv(), Seq(200))]));
        let c = conv();
        for seq in 1..=128 {
            assert_eq!(inbox.on_entry(&c, Seq(seq)), Sight::Repeat);
            inbox.stored(&c, Seq(seq), 1_000);
        }
        assert_eq!(inbox.take_acks(), [AckItem { conv: c, seq: Seq(128) }], "the server has sent no more");
    }

    #[test]
    fn acks_are_cumulative_and_due_by_count_or_by_time() {
        let mut inbox = Inbox::default();
        let c = conv();
        for seq in 1..=3 {
            inbox.on_entry(&c, Seq(seq));
            inbox.stored(&c, Seq(seq), 1_000);
        }
        assert!(!inbox.acks_due(1_199));
        assert!(inbox.acks_due(1_200));
        assert_eq!(inbox.take_acks(), [AckItem { conv: c.clone(), seq: Seq(3) }]);
        assert!(!inbox.acks_due(9_999));
        for seq in 4..4 + limits::CLIENT_ACK_ENTRIES as u64 {
            inbox.on_entry(&c, Seq(seq));
            inbox.stored(&c, Seq(seq), 2_000);
        }
        assert!(inbox.acks_due(2_000));
    }
}
