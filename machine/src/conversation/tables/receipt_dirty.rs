//! (target user shard, direct conversation, user of that shard) -> the other one's watermarks, to be shown to this user.
//!
//! Key: `17`, target shard u16, slot u16 of the conversation, conversation text, user text. The user is the one whose inbox
//! row at the target changes, as in `PeerMarks`: not the reader.

use flotilla_proto::ids::*;
use flotilla_proto::slots;
use serde::{Deserialize, Serialize};

use crate::table::{KeyBuilder, KeyReader, Table, kind};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReceiptDirtyRow {
    pub delivered: Seq,
    pub read: Seq,
}

pub struct ReceiptDirties;

impl Table for ReceiptDirties {
    const NAME: &'static str = "receipt_dirty";
    const KIND: u8 = kind::RECEIPT_DIRTY;
    const VERSION: u8 = 1;
    type Key = (ShardId, ConvId, UserId);
    type Row = ReceiptDirtyRow;

    fn key((target, conv, user): &Self::Key) -> Vec<u8> {
        let slot = slots::of_conversation(conv);
        KeyBuilder::new(Self::KIND).u16(target.0).slot(slot).conv(conv).user(user).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<Self::Key> {
        let target = ShardId(key.u16()?);
        key.slot()?;
        Some((target, key.conv()?, key.user()?))
    }
}

/// All rows of one target.
pub fn prefix(target: ShardId) -> Vec<u8> {
    KeyBuilder::new(ReceiptDirties::KIND).u16(target.0).build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::assert_round_trip;
    use crate::testing::arb;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_round_trip(target: u16, conv in arb::conv(), user in arb::user(), delivered: u64, read: u64) {
            let row = ReceiptDirtyRow { delivered: Seq(delivered), read: Seq(read) };
            assert_round_trip::<ReceiptDirties>(&(ShardId(target), conv, user), &row);
        }
    }
}
