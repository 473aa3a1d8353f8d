//! What one stream has sent: how far in each conversation, and what of it waits for an ack.
//!
//! Invariant: a place never goes back while the stream lasts; what is unacked is bounded. Knows no log and no frame.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use flotilla_proto::ids::*;
use flotilla_proto::limits;

/// What went out on one stream and is not acked.
#[derive(Default)]
pub struct Sent {
    unacked: BTreeMap<ConvId, Place>,
    /// How far it ever went in each conversation. A look that a deposed leader answers may show acks and heads of before: nothing
    /// is sent again because of it.
    highest: BTreeMap<ConvId, (Seq, Count)>,
}

#[derive(Default)]
struct Place {
    upto: Seq,
    n: Count,
    unacked: VecDeque<Seq>,
}

impl Sent {
    /// The last one that was sent, and the count there.
    pub fn place(&self, conv: &ConvId) -> (Seq, Count) {
        self.highest.get(conv).copied().unwrap_or((Seq::ZERO, Count(0)))
    }

    pub fn has(&self, conv: &ConvId) -> bool {
        self.unacked.contains_key(conv)
    }

    fn unacked(&self) -> usize {
        self.unacked.values().map(|place| place.unacked.len()).sum()
    }

    /// For conversations that are not among them yet: so many.
    pub fn new_max(&self) -> usize {
        if self.unacked() < limits::WINDOW_ENTRIES {
            limits::INBOX_STREAM_CONVERSATIONS_MAX.saturating_sub(self.unacked.len())
        } else {
            0
        }
    }

    /// Something waits for an ack.
    pub fn is_full(&self) -> bool {
        self.new_max() == 0 || self.unacked.values().any(|place| place.unacked.len() >= limits::WINDOW_ENTRIES_PER_CONV)
    }

    pub fn room(&self, conv: &ConvId) -> usize {
        let here = match self.unacked.get(conv) {
            Some(place) => place.unacked.len(),
            None if self.unacked.len() >= limits::INBOX_STREAM_CONVERSATIONS_MAX => return 0,
            None => 0,
        };
        let all = limits::WINDOW_ENTRIES.saturating_sub(self.unacked());
        all.min(limits::WINDOW_ENTRIES_PER_CONV.saturating_sub(here))
    }

    pub fn put(&mut self, conv: ConvId, upto: Seq, n: Count) {
        if !self.highest.contains_key(&conv) && self.highest.len() >= limits::CONVERSATIONS_PER_USER_MAX {
            self.highest.pop_first();
        }
        let highest = self.highest.entry(conv.clone()).or_default();
        *highest = (highest.0.max(upto), highest.1.max(n));
        let place = self.unacked.entry(conv).or_default();
        place.upto = place.upto.max(upto);
        place.n = place.n.max(n);
        place.unacked.push_back(upto);
    }

    pub fn on_cursor(&mut self, conv: &ConvId, cursor: Seq) {
        let Some(place) = self.unacked.get_mut(conv) else { return };
        while place.unacked.front().is_some_and(|seq| *seq <= cursor) {
            place.unacked.pop_front();
        }
        if place.upto <= cursor {
            self.unacked.remove(conv);
        }
    }

    pub fn are_among(&self, seen: &BTreeSet<ConvId>) -> bool {
        self.unacked.keys().all(|conv| seen.contains(conv))
    }

    /// Nothing is pending in the others: all of it was acked.
    pub fn keep(&mut self, pending: &BTreeSet<ConvId>) {
        self.unacked.retain(|conv, _| pending.contains(conv));
    }

    pub fn marks(&self) -> Vec<(ConvId, Seq, Count)> {
        self.unacked.iter().map(|(conv, place)| (conv.clone(), place.upto, place.n)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conv(number: usize) -> ConvId {
        ConvId::parse(&format!("g{number:032x}")).expect("valid")
    }

    #[test]
    fn what_is_unacked_bounds_what_is_sent_and_an_ack_makes_room() {
        let mut sent = Sent::default();
        for seq in 1..=limits::WINDOW_ENTRIES_PER_CONV as u64 {
            assert!(sent.room(&conv(1)) > 0);
            sent.put(conv(1), Seq(seq), Count(seq));
        }
        assert_eq!(sent.room(&conv(1)), 0);
        assert!(sent.is_full() && sent.room(&conv(2)) > 0, "another conversation goes on");
        sent.on_cursor(&conv(1), Seq(3));
        assert_eq!((sent.room(&conv(1)), sent.is_full()), (3, false));
        let all = Seq(limits::WINDOW_ENTRIES_PER_CONV as u64);
        assert_eq!(sent.place(&conv(1)).0, all);
        sent.on_cursor(&conv(1), Seq(limits::WINDOW_ENTRIES_PER_CONV as u64));
        assert!(sent.marks().is_empty());
        assert_eq!(sent.place(&conv(1)).0, all, "whatever a later look says of the cursor");
    }

    #[test]
    fn a_place_outlasts_the_acks_and_what_is_remembered_is_bounded() {
        let mut sent = Sent::default();
        sent.put(conv(1), Seq(7), Count(5));
        sent.keep(&BTreeSet::new());
        assert_eq!((sent.has(&conv(1)), sent.place(&conv(1))), (false, (Seq(7), Count(5))));
        for number in 0..=limits::CONVERSATIONS_PER_USER_MAX {
            sent.put(conv(number), Seq(1), Count(1));
            sent.on_cursor(&conv(number), Seq(1));
        }
        assert_eq!(sent.highest.len(), limits::CONVERSATIONS_PER_USER_MAX);
    }

    #[test]
    fn the_places_of_a_stream_fit_a_header() {
        let mut sent = Sent::default();
        for number in 0..limits::INBOX_STREAM_CONVERSATIONS_MAX {
            assert!(sent.room(&conv(number)) > 0);
            sent.put(conv(number), Seq(u64::MAX), Count(u64::MAX));
        }
        assert_eq!(sent.room(&conv(limits::INBOX_STREAM_CONVERSATIONS_MAX)), 0);
        let longest = limits::CONV_ID_BYTES_MAX + 2 * 20 + 16;
        assert!((limits::INBOX_STREAM_CONVERSATIONS_MAX * longest + 512) * 4 / 3 < limits::INBOX_TOKEN_BYTES_MAX);
        sent.keep(&BTreeSet::from([conv(3)]));
        assert_eq!(sent.marks().len(), 1);
    }
}
