//! What may arrive on one device in one conversation: every entry once, in `seq` order, without a hole.
//!
//! Pure: entries in, verdicts counted. A repeat is allowed for what was pending when the device connected again.

use flotilla_proto::ids::Seq;
use serde::Serialize;

/// Broken promises. All zero in a good run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Faults {
    /// Accepted and not delivered to a device in time.
    pub lost: u64,
    /// One send with two entries, or an entry twice on one connection.
    pub doubled: u64,
    /// A hole, or pipelined sends in another order than they were made.
    pub reordered: u64,
    /// `accepted` said one thing and the entry another.
    pub differing: u64,
    /// Entries that no send of this run made.
    pub foreign: u64,
}

impl Faults {
    pub fn add(&mut self, other: &Faults) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.differing += other.differing;
        self.foreign += other.foreign;
    }

    pub fn none(&self) -> bool {
        *self == Self::default()
    }
}

/// One device's position in one conversation.
#[derive(Debug, Default)]
pub struct Watch {
    last: Seq,
    /// Repeats up to here are those of a new connection.
    repeats_to: Seq,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    New,
    Repeat,
}

impl Watch {
    pub fn on_connected(&mut self) {
        self.repeats_to = self.last;
    }

    pub fn on_entry(&mut self, seq: Seq, faults: &mut Faults) -> Sight {
        if seq <= self.last {
            faults.doubled += u64::from(seq > self.repeats_to);
            return Sight::Repeat;
        }
        faults.reordered += u64::from(seq != self.last.next());
        self.last = seq;
        Sight::New
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn see(watch: &mut Watch, seqs: &[u64]) -> Faults {
        let mut faults = Faults::default();
        for seq in seqs {
            watch.on_entry(Seq(*seq), &mut faults);
        }
        faults
    }

    #[test]
    fn a_hole_is_counted_and_an_order_without_one_is_not() {
        assert!(see(&mut Watch::default(), &[1, 2, 3]).none());
        assert_eq!(see(&mut Watch::default(), &[1, 3]).reordered, 1);
    }

    #[test]
    fn a_repeat_is_a_fault_unless_the_device_connected_again() {
        let mut watch = Watch::default();
        assert_eq!(see(&mut watch, &[1, 2, 2]).doubled, 1);
        watch.on_connected();
        assert!(see(&mut watch, &[1, 2, 3]).none());
        assert_eq!(see(&mut watch, &[3]).doubled, 1);
    }
}
