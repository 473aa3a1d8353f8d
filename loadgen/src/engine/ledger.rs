//! The judge: what was sent into one conversation, what was answered, and what each device saw of it.
//!
//! Pure: facts in, faults counted. Counters and two queues, because it works beside the servers on the same processors. A
//! send is forgotten once it was answered and seen by every device that is owed it; what is still there at the end is lost,
//! or its outcome is unknown. Accepted is compared with entry, and entry with entry, by seq and chain value.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::time::At;

/// Broken promises. All zero in a good run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Faults {
    /// Accepted, or seen by another device, and not delivered to a device in time.
    pub lost: u64,
    /// One send with two entries, or an entry twice on one connection.
    pub doubled: u64,
    /// A hole, or pipelined sends in another order than they were made.
    pub reordered: u64,
    /// `accepted` said one thing and an entry another, or two entries did.
    pub differing: u64,
    /// Entries that no send of this run made.
    pub foreign: u64,
    /// Conversations in which the sender never heard that everything was delivered.
    pub receipts_missing: u64,
    /// Faults that the client's oracle found in the conversations whose whole history was kept.
    pub oracle: u64,
}

impl Faults {
    pub fn add(&mut self, other: &Faults) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.differing += other.differing;
        self.foreign += other.foreign;
        self.receipts_missing += other.receipts_missing;
        self.oracle += other.oracle;
    }

    pub fn none(&self) -> bool {
        *self == Self::default()
    }
}

/// One device's position in one conversation.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    pub last: u64,
    /// Repeats up to here are those of a new connection.
    repeats_to: u64,
    /// The newest of them on this connection.
    repeated: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    New,
    Repeat,
}

impl Watch {
    pub fn on_connected(&mut self) {
        (self.repeats_to, self.repeated) = (self.last, 0);
    }

    pub fn on_entry(&mut self, seq: u64, faults: &mut Faults) -> Sight {
        if seq <= self.last {
            // Once more on each connection, not more often.
            faults.doubled += u64::from(seq > self.repeats_to || seq <= self.repeated);
            self.repeated = seq;
            return Sight::Repeat;
        }
        faults.reordered += u64::from(seq != self.last + 1);
        self.last = seq;
        Sight::New
    }
}

/// One send.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Open loop: when it should have left; closed loop: when it left.
    pub intended: At,
    /// When it (last) left; never while it has not.
    pub left: At,
    /// Which of the conversation's senders made it.
    pub sender: u16,
    pub state: State,
    /// Devices that saw it.
    seen: u16,
    /// What was said about it first: seq (0: nothing yet) and chain value.
    seq: u64,
    chain: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Open,
    Accepted,
    /// Finally: it has no effect.
    Rejected,
}

#[derive(Debug, Default)]
struct Sender {
    /// The newest of its sends that has a place: seq and number.
    newest: (u64, u64),
    /// A send left a second time, so that the order of this sender's entries is not its order of making.
    repeated: bool,
}

#[derive(Debug)]
pub struct Ledger {
    /// The high half of the cids.
    pub base: u64,
    /// Devices that are owed each entry.
    devices: u16,
    /// The number of the first of `sends`.
    first: u64,
    sends: VecDeque<Sent>,
    /// Whose entry the seqs from `first_seq` on are: a number and 1, or 0 for not known.
    places: VecDeque<u64>,
    first_seq: u64,
    senders: Vec<Sender>,
    /// Sends without a final answer.
    pub unanswered: usize,
}

/// The conversation's own entries (its creation) stand for no send.
const OWN: u64 = u64::MAX;

impl Ledger {
    /// `base`: of its own for each ledger, but for the bits of a UUID's version. The cids are of version 7, as clients draw them: each is
    /// above those before.
    pub fn new(base: u64, devices: u16, senders: usize) -> Self {
        Self {
            base: (base & !0xf000) | 0x7000,
            devices,
            first: 0,
            sends: VecDeque::new(),
            places: VecDeque::new(),
            first_seq: 1,
            senders: (0..senders).map(|_| Sender::default()).collect(),
            unanswered: 0,
        }
    }

    pub fn cid(&self, number: u64) -> u128 {
        u128::from(self.base) << 64 | u128::from(number)
    }

    pub fn make(&mut self, sender: u16, intended: At) -> u64 {
        let number = self.first + self.sends.len() as u64;
        let state = State::Open;
        self.sends.push_back(Sent { intended, left: At::NEVER, sender, state, seen: 0, seq: 0, chain: 0 });
        self.unanswered += 1;
        number
    }

    pub fn sent(&self, number: u64) -> Option<&Sent> {
        self.sends.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    fn sent_mut(&mut self, number: u64) -> Option<&mut Sent> {
        self.sends.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// It leaves now; whether it left before.
    pub fn leaves(&mut self, number: u64, now: At) -> bool {
        let Some(sent) = self.sent_mut(number) else { return false };
        let again = sent.left != At::NEVER;
        sent.left = now;
        let sender = usize::from(sent.sender);
        self.senders[sender].repeated |= again;
        again
    }

    /// Sends of one sender that have no final answer.
    pub fn open(&self, sender: u16) -> impl Iterator<Item = u64> {
        let numbered = self.sends.iter().zip(self.first..);
        numbered.filter(move |(sent, _)| sent.sender == sender && sent.state == State::Open).map(|(_, number)| number)
    }

    /// The send that was answered for the first time by this.
    pub fn on_accepted(&mut self, number: u64, seq: u64, chain: u64, faults: &mut Faults) -> Option<Sent> {
        self.place(number, seq, chain, faults);
        let sent = self.sent_mut(number)?;
        if sent.state != State::Open {
            // A refused send has no entry.
            faults.differing += u64::from(sent.state == State::Rejected);
            return None;
        }
        sent.state = State::Accepted;
        let answered = sent.clone();
        self.unanswered -= 1;
        self.forget();
        Some(answered)
    }

    /// A final refusal.
    pub fn on_rejected(&mut self, number: u64) {
        if let Some(sent) = self.sent_mut(number).filter(|sent| sent.state == State::Open) {
            sent.state = State::Rejected;
            self.unanswered -= 1;
            self.forget();
        }
    }

    /// A device saw an entry for the first time. The send that it is, unless it is none of this run.
    pub fn on_entry(&mut self, cid: u128, seq: u64, chain: u64, faults: &mut Faults) -> Option<Sent> {
        let number = cid as u64;
        if (cid >> 64) as u64 != self.base || number >= self.first + self.sends.len() as u64 {
            faults.foreign += 1;
            return None;
        }
        let Some(sent) = self.sent_mut(number) else {
            // Seen by all and done with: this is its second entry.
            faults.doubled += 1;
            return None;
        };
        sent.seen += 1;
        faults.differing += u64::from(sent.state == State::Rejected);
        self.place(number, seq, chain, faults);
        let sent = self.sent(number).cloned();
        self.forget();
        sent
    }

    /// An entry that the conversation itself makes: its creation.
    pub fn own(&mut self, seq: u64) {
        if seq >= self.first_seq {
            *self.whose(seq) = OWN;
            self.forget();
        }
    }

    fn whose(&mut self, seq: u64) -> &mut u64 {
        let at = (seq - self.first_seq) as usize;
        if at >= self.places.len() {
            self.places.resize(at + 1, 0);
        }
        &mut self.places[at]
    }

    /// Where a send is, said by an answer or an entry: all must agree.
    fn place(&mut self, number: u64, seq: u64, chain: u64, faults: &mut Faults) {
        let Some(sent) = self.sent_mut(number) else { return };
        if sent.seq != 0 {
            faults.differing += u64::from((sent.seq, sent.chain) != (seq, chain));
            return;
        }
        (sent.seq, sent.chain) = (seq, chain);
        let sender = usize::from(sent.sender);
        if seq < self.first_seq {
            // Everything there belongs to sends that are done with.
            faults.differing += 1;
            return;
        }
        let whose = self.whose(seq);
        faults.differing += u64::from(*whose != 0 && *whose != number + 1);
        *whose = number + 1;
        let sender = &mut self.senders[sender];
        let (newest_seq, newest) = sender.newest;
        faults.reordered += u64::from(!sender.repeated && newest_seq != 0 && (seq > newest_seq) != (number > newest));
        sender.newest = sender.newest.max((seq, number));
    }

    fn is_done(&self, sent: &Sent) -> bool {
        sent.state == State::Rejected || (sent.state == State::Accepted && sent.seen >= self.devices)
    }

    fn forget(&mut self) {
        while self.sends.front().is_some_and(|sent| self.is_done(sent)) {
            self.sends.pop_front();
            self.first += 1;
        }
        while self.places.front().is_some_and(|whose| *whose == OWN || (*whose != 0 && *whose <= self.first)) {
            self.places.pop_front();
            self.first_seq += 1;
        }
    }

    /// Whether nothing is awaited any more.
    pub fn is_settled(&self) -> bool {
        self.sends.iter().all(|sent| self.is_done(sent))
    }

    /// What is still awaited at the end: entries not delivered are lost; the number of sends whose outcome is unknown.
    pub fn settle(&self, faults: &mut Faults) -> u64 {
        let mut unknown = 0;
        for sent in &self.sends {
            // What anybody has seen was accepted, whether its sender was told or not.
            if sent.state == State::Accepted || sent.seq != 0 {
                faults.lost += u64::from(self.devices.saturating_sub(sent.seen));
            }
            unknown += u64::from(sent.state == State::Open);
        }
        unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two devices, one sender, and the story told as (number, seq) of answers and of entries at each device.
    #[derive(Default)]
    struct Story {
        faults: Faults,
        watches: [Watch; 2],
    }

    impl Story {
        fn sees(&mut self, ledger: &mut Ledger, device: usize, number: u64, seq: u64) {
            if self.watches[device].on_entry(seq, &mut self.faults) == Sight::New {
                ledger.on_entry(ledger.cid(number), seq, seq * 10, &mut self.faults);
            }
        }

        fn accepts(&mut self, ledger: &mut Ledger, number: u64, seq: u64) {
            ledger.on_accepted(number, seq, seq * 10, &mut self.faults);
        }
    }

    fn ledger(sends: u64) -> Ledger {
        let mut ledger = Ledger::new(7, 2, 1);
        for at in 0..sends {
            assert_eq!(ledger.make(0, At(at)), at);
            ledger.leaves(at, At(at));
        }
        ledger
    }

    #[test]
    fn a_good_run_has_no_faults_and_nothing_is_kept_of_it() {
        let (mut story, mut ledger) = (Story::default(), ledger(3));
        for (number, seq) in [(0, 1), (1, 2), (2, 3)] {
            story.sees(&mut ledger, 0, number, seq);
            story.accepts(&mut ledger, number, seq);
            story.sees(&mut ledger, 1, number, seq);
        }
        assert!(ledger.is_settled() && ledger.sends.is_empty() && ledger.places.is_empty());
        assert_eq!((ledger.settle(&mut story.faults), ledger.unanswered), (0, 0));
        assert!(story.faults.none(), "{:?}", story.faults);
    }

    #[test]
    fn accepted_and_never_delivered_is_lost_and_never_answered_is_unknown() {
        let (mut story, mut ledger) = (Story::default(), ledger(2));
        story.accepts(&mut ledger, 0, 1);
        story.sees(&mut ledger, 0, 0, 1);
        assert_eq!(ledger.settle(&mut story.faults), 1);
        assert_eq!(story.faults, Faults { lost: 1, ..Faults::default() });
    }

    #[test]
    fn what_one_device_has_seen_is_owed_to_the_other_though_nobody_was_told_accepted() {
        let (mut story, mut ledger) = (Story::default(), ledger(1));
        story.sees(&mut ledger, 0, 0, 1);
        ledger.settle(&mut story.faults);
        assert_eq!(story.faults, Faults { lost: 1, ..Faults::default() });
    }

    #[test]
    fn two_entries_of_one_send_are_doubled_or_differ() {
        let (mut story, mut ledger) = (Story::default(), ledger(1));
        story.accepts(&mut ledger, 0, 1);
        story.sees(&mut ledger, 0, 0, 1);
        story.sees(&mut ledger, 0, 0, 2);
        assert_eq!(story.faults, Faults { differing: 1, ..Faults::default() }, "while it is still awaited elsewhere");
        let (mut story, mut ledger) = (Story::default(), self::ledger(1));
        story.accepts(&mut ledger, 0, 1);
        story.sees(&mut ledger, 0, 0, 1);
        story.sees(&mut ledger, 1, 0, 1);
        story.sees(&mut ledger, 0, 0, 2);
        assert_eq!(story.faults, Faults { doubled: 1, ..Faults::default() }, "after everybody had it");
    }

    #[test]
    fn two_sends_at_one_seq_and_two_chains_at_one_seq_differ() {
        let (mut story, mut ledger) = (Story::default(), ledger(2));
        story.sees(&mut ledger, 0, 0, 1);
        story.sees(&mut ledger, 1, 1, 1);
        assert_eq!(story.faults.differing, 1);
        let (mut story, mut ledger) = (Story::default(), self::ledger(1));
        story.sees(&mut ledger, 0, 0, 1);
        ledger.on_accepted(0, 1, 11, &mut story.faults);
        assert_eq!(story.faults.differing, 1);
    }

    #[test]
    fn a_hole_is_counted() {
        let (mut story, mut ledger) = (Story::default(), ledger(3));
        story.sees(&mut ledger, 0, 0, 1);
        story.sees(&mut ledger, 0, 2, 3);
        assert_eq!(story.faults.reordered, 1);
    }

    #[test]
    fn pipelined_sends_keep_their_order_unless_one_left_twice() {
        let (mut story, mut ledger) = (Story::default(), ledger(2));
        story.accepts(&mut ledger, 1, 1);
        story.accepts(&mut ledger, 0, 2);
        assert_eq!(story.faults.reordered, 1);
        let (mut story, mut ledger) = (Story::default(), self::ledger(2));
        ledger.leaves(0, At(9));
        story.accepts(&mut ledger, 1, 1);
        story.accepts(&mut ledger, 0, 2);
        assert!(story.faults.none());
        let (mut story, mut ledger) = (Story::default(), self::ledger(2));
        story.accepts(&mut ledger, 1, 2);
        story.accepts(&mut ledger, 0, 1);
        assert!(story.faults.none(), "answers may come in any order");
    }

    #[test]
    fn a_repeat_is_a_fault_unless_the_device_connected_again() {
        let (mut story, mut ledger) = (Story::default(), ledger(3));
        story.sees(&mut ledger, 0, 0, 1);
        story.sees(&mut ledger, 0, 0, 1);
        assert_eq!(story.faults.doubled, 1);
        story.watches[0].on_connected();
        story.sees(&mut ledger, 0, 0, 1);
        story.sees(&mut ledger, 0, 1, 2);
        assert_eq!(story.faults.doubled, 1);
        story.sees(&mut ledger, 0, 1, 2);
        assert_eq!(story.faults.doubled, 2);
    }

    #[test]
    fn foreign_entries_and_entries_of_refused_sends_are_counted_and_the_creation_is_not() {
        let (mut story, mut ledger) = (Story::default(), ledger(2));
        ledger.on_entry(1, 1, 10, &mut story.faults);
        assert_eq!(story.faults.foreign, 1);
        ledger.on_rejected(1);
        ledger.on_entry(ledger.cid(1), 2, 20, &mut story.faults);
        assert_eq!(story.faults.differing, 1);
        let mut ledger = self::ledger(1);
        let mut faults = Faults::default();
        for _ in 0..2 {
            // Every member says so, one after the other.
            ledger.own(1);
            ledger.on_entry(ledger.cid(0), 2, 20, &mut faults);
        }
        ledger.on_accepted(0, 2, 20, &mut faults);
        assert!(faults.none() && ledger.is_settled(), "{faults:?}");
    }
}
