//! (conversation, user) -> the user's stays, role and watermarks. Rows of leavers stay: former members read their intervals.
//!
//! Key: `11`, slot u16 of the conversation, conversation text, user text.

use flotilla_proto::entry::Role;
use flotilla_proto::ids::*;
use flotilla_proto::member::{Interval, MembershipPart};
use flotilla_proto::plant::{self, Plant};
use flotilla_proto::slots;
use serde::{Deserialize, Serialize};

use crate::table::{KeyBuilder, KeyReader, Table, kind};

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MemberRow {
    pub part: MembershipPart,
    /// The peer of a direct conversation has blocked this user. It may stand here before the first entry: a row without stays.
    pub blocked: bool,
    pub delivered: Seq,
    pub read: Seq,
    /// n of the user's latest own countable message.
    pub n_sent: Count,
}

impl MemberRow {
    pub fn is_member(&self) -> bool {
        self.part.is_member()
    }

    /// Opens a stay at `seq`; `n_before` countable messages came before it.
    pub fn join(&mut self, seq: Seq, n_before: Count, history_from: Seq, role: Role) {
        if !self.part.intervals.is_empty() && plant::on(Plant::LostInterval) {
            self.part.intervals.clear();
        }
        self.part.intervals.push(Interval { from: seq, n_before, until: None, n_until: Count(0), history_from });
        self.part.mseq = seq;
        self.part.role = Some(role);
    }

    /// Ends the open stay at `seq`, which is its last entry.
    pub fn leave(&mut self, seq: Seq, n_until: Count) {
        if let Some(last) = self.part.intervals.last_mut() {
            last.until = Some(seq);
            last.n_until = n_until;
        }
        self.part.mseq = seq;
        self.part.role = None;
    }

    pub fn set_role(&mut self, seq: Seq, role: Role) {
        self.part.mseq = seq;
        self.part.role = Some(role);
    }

    /// The latest seq at or below both `mark` and `head` that was delivered to this user; 0 if none was.
    pub fn clamp(&self, mark: Seq, head: Seq) -> Seq {
        let mark = mark.min(head);
        let stay = self.part.intervals.iter().rev().find(|i| i.from <= mark);
        stay.map_or(Seq::ZERO, |i| i.until.map_or(mark, |until| mark.min(until)))
    }
}

pub struct Members;

impl Table for Members {
    const NAME: &'static str = "member";
    const KIND: u8 = kind::MEMBER;
    const VERSION: u8 = 1;
    type Key = (ConvId, UserId);
    type Row = MemberRow;

    fn key((conv, user): &Self::Key) -> Vec<u8> {
        KeyBuilder::new(Self::KIND).slot(slots::of_conversation(conv)).conv(conv).user(user).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<Self::Key> {
        key.slot()?;
        Some((key.conv()?, key.user()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::assert_round_trip;
    use crate::testing::arb;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_round_trip(conv in arb::conv(), user in arb::user(), from: u64, until: u64, n_sent: u64) {
            let mut row = MemberRow { n_sent: Count(n_sent), read: Seq(until), ..Default::default() };
            row.join(Seq(from), Count(7), Seq(1), Role::Admin);
            assert_round_trip::<Members>(&(conv.clone(), user.clone()), &row);
            row.leave(Seq(until), Count(9));
            assert_round_trip::<Members>(&(conv, user), &row);
        }
    }

    #[test]
    fn a_mark_between_two_stays_falls_back_to_the_end_of_the_earlier_one() {
        let mut row = MemberRow::default();
        row.join(Seq(3), Count(2), Seq(3), Role::Member);
        row.leave(Seq(5), Count(4));
        row.join(Seq(9), Count(8), Seq(9), Role::Member);
        let clamped = |mark| row.clamp(Seq(mark), Seq(11)).0;
        assert_eq!((0..14).map(clamped).collect::<Vec<_>>(), [0, 0, 0, 3, 4, 5, 5, 5, 5, 9, 10, 11, 11, 11]);
    }
}
