//! (conversation, user shard) -> the users of that shard to be told: current members, and leavers until the shard has
//! confirmed their closing part.
//!
//! Key: `1f`, slot u16 of the conversation, conversation text, target shard u16.
//! One row per target, not per member: a notify reads one row, and only membership changes and the clearing of parts
//! write it.

use flotilla_proto::ids::*;
use flotilla_proto::slots;
use serde::{Deserialize, Serialize};

use crate::table::{KeyBuilder, KeyReader, Table, kind};

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RosterRow {
    /// In order of users.
    pub users: Vec<Listed>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    pub user: UserId,
    pub current: bool,
    /// The `mseq` of the membership part that the target has not confirmed; 0 if it has.
    pub owed: Seq,
}

impl RosterRow {
    /// Notes that `user`'s part of `mseq` is owed.
    pub fn owe(&mut self, user: &UserId, current: bool, mseq: Seq) {
        match self.users.binary_search_by(|l| l.user.cmp(user)) {
            Ok(at) => (self.users[at].current, self.users[at].owed) = (current, mseq),
            Err(at) => self.users.insert(at, Listed { user: user.clone(), current, owed: mseq }),
        }
    }

    /// The target holds all parts up to `mseq`: forgets those debts, and the leavers that nothing is owed to any more.
    pub fn confirm(&mut self, mseq: Seq) {
        for listed in &mut self.users {
            if listed.owed <= mseq {
                listed.owed = Seq::ZERO;
            }
        }
        self.users.retain(|l| l.current || l.owed > Seq::ZERO);
    }

    /// The highest `mseq` owed; 0 if none.
    pub fn owed(&self) -> Seq {
        self.users.iter().map(|l| l.owed).max().unwrap_or(Seq::ZERO)
    }
}

pub struct Rosters;

impl Table for Rosters {
    const NAME: &'static str = "roster";
    const KIND: u8 = kind::ROSTER;
    const VERSION: u8 = 1;
    type Key = (ConvId, ShardId);
    type Row = RosterRow;

    fn key((conv, target): &Self::Key) -> Vec<u8> {
        KeyBuilder::new(Self::KIND).slot(slots::of_conversation(conv)).conv(conv).u16(target.0).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<Self::Key> {
        key.slot()?;
        Some((key.conv()?, ShardId(key.u16()?)))
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
        fn rows_round_trip(conv in arb::conv(), shard: u16, users in prop::collection::vec((arb::user(), any::<bool>(), 1u64..99), 0..9), confirmed in 0u64..99) {
            let mut row = RosterRow::default();
            for (user, current, mseq) in &users {
                row.owe(user, *current, Seq(*mseq));
            }
            assert_round_trip::<Rosters>(&(conv, ShardId(shard)), &row);
            prop_assert!(row.users.is_sorted_by(|a, b| a.user < b.user));
            let debts = row.users.iter().filter(|l| l.owed.0 > confirmed).count();
            row.confirm(Seq(confirmed));
            prop_assert_eq!(row.users.iter().filter(|l| l.owed > Seq::ZERO).count(), debts);
        }
    }
}
