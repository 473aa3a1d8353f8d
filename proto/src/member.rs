//! When a user was a member, and what that makes readable and unread.
//!
//! Invariant: intervals are in order, do not overlap, and only the last may be open. Both ends are inclusive: a member gets
//! the entry of its own join and of its own kick or leave.

use serde::{Deserialize, Serialize};

use crate::entry::Role;
use crate::ids::{Count, Seq};

/// Who writes the heads of a conversation into members' rows. Pull is reserved: built later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    #[default]
    Push,
    Pull,
}

/// One stay in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Interval {
    pub from: Seq,
    /// Countable messages before `from`.
    pub n_before: Count,
    /// The last entry of the stay; none while it lasts.
    pub until: Option<Seq>,
    /// Countable messages up to `until`; meaningless while it lasts.
    pub n_until: Count,
    /// May page from here; at most `from`.
    pub history_from: Seq,
}

impl Interval {
    pub fn contains(&self, seq: Seq) -> bool {
        self.from <= seq && self.until.is_none_or(|until| seq <= until)
    }
}

/// The membership part of an inbox row: the one with the highest `mseq` wins whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct MembershipPart {
    /// Seq of the last membership entry about this user.
    pub mseq: Seq,
    pub intervals: Vec<Interval>,
    pub mode: Mode,
    pub role: Option<Role>,
}

impl MembershipPart {
    /// The higher `mseq` wins whole; merging in any order, with repeats, gives the same part.
    pub fn merge(&mut self, other: &MembershipPart) -> bool {
        let newer = other.mseq > self.mseq;
        if newer {
            self.clone_from(other);
        }
        newer
    }

    pub fn is_member(&self) -> bool {
        self.intervals.last().is_some_and(|i| i.until.is_none())
    }

    /// A member whom nobody tells of new heads: the conversation itself knows them.
    pub fn is_pulled(&self) -> bool {
        self.mode == Mode::Pull && self.is_member()
    }

    /// The head as this user may see it: never past the end of its last stay.
    pub fn effective_head(&self, head: Seq) -> Seq {
        match self.intervals.last() {
            None => Seq::ZERO,
            Some(last) => last.until.map_or(head, |until| head.min(until)),
        }
    }

    /// The countable n at the effective head.
    pub fn effective_n(&self, n_head: Count) -> Count {
        match self.intervals.last() {
            None => Count(0),
            Some(last) => last.until.map_or(n_head, |_| n_head.min(last.n_until)),
        }
    }

    /// Is this entry delivered to the user?
    pub fn receives(&self, seq: Seq) -> bool {
        self.intervals.iter().any(|i| i.contains(seq))
    }

    /// Is anything of (cursor, head] delivered to the user?
    pub fn pending(&self, cursor: Seq, head: Seq) -> bool {
        self.intervals
            .iter()
            .any(|i| i.from.max(cursor.next()) <= i.until.map_or(head, |until| head.min(until)) && cursor < head)
    }

    /// The highest entry at or below `seq` that is delivered to the user.
    pub fn floor(&self, seq: Seq) -> Option<Seq> {
        let reached = self.intervals.iter().filter(|i| i.from <= seq);
        reached.map(|i| i.until.map_or(seq, |until| seq.min(until))).max()
    }

    /// In order, without overlap, only the last one open: what every part of a conversation's log satisfies.
    pub fn is_well_formed(&self) -> bool {
        let each = self.intervals.iter().all(|i| i.until.is_none_or(|until| i.from <= until) && i.from > Seq::ZERO);
        let ordered = self.intervals.windows(2).all(|w| w[0].until.is_some_and(|until| until < w[1].from));
        each && ordered
    }

    /// May this entry be paged by the user?
    pub fn may_read(&self, seq: Seq) -> bool {
        self.intervals.iter().any(|i| i.history_from <= seq && i.until.is_none_or(|until| seq <= until))
    }

    /// Sum over the stays of max(0, min(n_head, n_until) - max(n_read, n_sent, n_before)).
    pub fn unread(&self, n_head: Count, n_read: Count, n_sent: Count) -> u64 {
        let seen = n_read.max(n_sent);
        self.intervals
            .iter()
            .map(|i| {
                let top = if i.until.is_some() { n_head.min(i.n_until) } else { n_head };
                top.0.saturating_sub(seen.max(i.n_before).0)
            })
            .fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stay(from: u64, until: Option<u64>) -> Interval {
        Interval {
            from: Seq(from),
            n_before: Count(from - 1),
            until: until.map(Seq),
            n_until: Count(until.unwrap_or(0)),
            history_from: Seq(from),
        }
    }

    #[test]
    fn a_member_sees_both_ends_of_a_stay_and_nothing_between_stays() {
        let part =
            MembershipPart { mseq: Seq(9), intervals: vec![stay(2, Some(5)), stay(9, None)], ..Default::default() };
        let seen: Vec<u64> = (1..12).filter(|s| part.receives(Seq(*s))).collect();
        assert_eq!(seen, [2, 3, 4, 5, 9, 10, 11]);
        assert_eq!(part.unread(Count(11), Count(0), Count(0)), 4 + 3);
        assert_eq!(part.unread(Count(11), Count(10), Count(0)), 1);
    }

    #[test]
    fn only_entries_inside_a_stay_are_pending() {
        let part = MembershipPart { intervals: vec![stay(2, Some(5)), stay(9, None)], ..Default::default() };
        for cursor in 0..12 {
            for head in 0..12 {
                let expected = (cursor + 1..=head).any(|s| part.receives(Seq(s)));
                assert_eq!(part.pending(Seq(cursor), Seq(head)), expected, "({cursor}, {head}]");
            }
        }
        assert!(!part.pending(Seq(u64::MAX), Seq(u64::MAX)));
        let floors: Vec<u64> = (0..11).map(|s| part.floor(Seq(s)).map_or(0, |s| s.0)).collect();
        assert_eq!(floors, [0, 0, 2, 3, 4, 5, 5, 5, 5, 9, 10]);
        assert!(part.is_well_formed());
        let overlapping = MembershipPart { intervals: vec![stay(2, None), stay(9, None)], ..Default::default() };
        assert!(!overlapping.is_well_formed());
    }

    #[test]
    fn head_of_a_leaver_stops_at_its_own_end() {
        let part = MembershipPart { mseq: Seq(5), intervals: vec![stay(2, Some(5))], ..Default::default() };
        assert_eq!(part.effective_head(Seq(60)), Seq(5));
        assert_eq!(MembershipPart::default().effective_head(Seq(60)), Seq::ZERO);
    }
}
