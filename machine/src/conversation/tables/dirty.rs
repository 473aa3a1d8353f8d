//! (target user shard, conversation) -> what the target has not confirmed.
//!
//! Key: `16`, target shard u16, slot u16 of the conversation, conversation text. The target comes first because a pump walks
//! what one target is owed.
//!
//! Invariant: no row means that the target holds the head and all membership parts of its users.

use flotilla_proto::ids::*;
use flotilla_proto::slots;
use serde::{Deserialize, Serialize};

use crate::table::{KeyBuilder, KeyReader, Table, kind};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DirtyRow {
    /// The head that the target last confirmed.
    pub from: Seq,
    /// The head that it is owed, with its counts. The conversation may have gone on where no member is left on the target.
    pub head: Seq,
    pub n_head: Count,
    pub last_id: MsgId,
    pub last_ts: TsMs,
    /// The highest `mseq` owed, 0 if none; the roster says to whom.
    pub parts: Seq,
}

impl DirtyRow {
    /// Takes a confirmation, of any age. True if nothing is owed any more.
    pub fn confirm(&mut self, head: Seq, parts_left: Seq) -> bool {
        self.from = self.from.max(head.min(self.head));
        self.parts = parts_left;
        self.from >= self.head && self.parts == Seq::ZERO
    }
}

pub struct Dirties;

impl Table for Dirties {
    const NAME: &'static str = "dirty";
    const KIND: u8 = kind::DIRTY;
    const VERSION: u8 = 1;
    type Key = (ShardId, ConvId);
    type Row = DirtyRow;

    fn key((target, conv): &Self::Key) -> Vec<u8> {
        KeyBuilder::new(Self::KIND).u16(target.0).slot(slots::of_conversation(conv)).conv(conv).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<Self::Key> {
        let target = ShardId(key.u16()?);
        key.slot()?;
        Some((target, key.conv()?))
    }
}

/// All rows of one target.
pub fn prefix(target: ShardId) -> Vec<u8> {
    KeyBuilder::new(Dirties::KIND).u16(target.0).build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::assert_round_trip;
    use crate::testing::arb;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_round_trip(target: u16, conv in arb::conv(), from: u64, head: u64, parts: u64) {
            let row = DirtyRow {
                from: Seq(from),
                head: Seq(head),
                n_head: Count(head),
                last_id: MsgId(from),
                last_ts: TsMs(parts),
                parts: Seq(parts),
            };
            assert_round_trip::<Dirties>(&(ShardId(target), conv), &row);
        }
    }
}
