//! (conversation, sender, cid) -> the whole first answer and the hash of what was asked.
//!
//! Key: `13`, slot u16, conversation text, sender text, cid u128. Rows live for the dedup window; [`super::dedup_age`] finds
//! the old ones.

use flotilla_proto::ids::*;
use flotilla_proto::slots;
use serde::{Deserialize, Serialize};

use crate::reply::Accepted;
use crate::table::{KeyBuilder, KeyReader, Table, kind};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DedupRow {
    pub body_hash: Hash32,
    pub answer: Accepted,
    /// The age clock when it was accepted.
    pub age: AgeMs,
}

pub struct Dedups;

impl Table for Dedups {
    const NAME: &'static str = "dedup";
    const KIND: u8 = kind::DEDUP;
    const VERSION: u8 = 1;
    type Key = (ConvId, UserId, Cid);
    type Row = DedupRow;

    fn key((conv, sender, cid): &Self::Key) -> Vec<u8> {
        KeyBuilder::new(Self::KIND).slot(slots::of_conversation(conv)).conv(conv).user(sender).u128(cid.0).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<Self::Key> {
        key.slot()?;
        Some((key.conv()?, key.user()?, Cid(key.u128()?)))
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
        fn rows_round_trip(conv in arb::conv(), sender in arb::user(), cid: u128, seq: u64, age: u64, hash: [u8; 32]) {
            let answer = Accepted {
                conv: conv.clone(),
                seq: Seq(seq),
                n: Count(seq),
                msg_id: MsgId(age),
                ts: TsMs(age),
                chain: Hash32(hash),
                dup: false,
            };
            let row = DedupRow { body_hash: Hash32(hash), answer, age: AgeMs(age) };
            assert_round_trip::<Dedups>(&(conv, sender, Cid(cid)), &row);
        }
    }
}
