//! Index of dedup rows by age, the oldest first: what eviction walks.
//!
//! Key: `14`, age u64, slot u16, conversation text, sender text, cid u128. The row is empty.

use flotilla_proto::ids::*;
use flotilla_proto::slots;

use crate::table::{KeyBuilder, KeyReader, Table, kind};

pub struct DedupAges;

impl Table for DedupAges {
    const NAME: &'static str = "dedup_age";
    const KIND: u8 = kind::DEDUP_AGE;
    const VERSION: u8 = 1;
    type Key = (AgeMs, ConvId, UserId, Cid);
    type Row = ();

    fn key((age, conv, sender, cid): &Self::Key) -> Vec<u8> {
        let slot = slots::of_conversation(conv);
        KeyBuilder::new(Self::KIND).u64(age.0).slot(slot).conv(conv).user(sender).u128(cid.0).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<Self::Key> {
        let age = AgeMs(key.u64()?);
        key.slot()?;
        Some((age, key.conv()?, key.user()?, Cid(key.u128()?)))
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
        fn rows_round_trip(age: u64, conv in arb::conv(), sender in arb::user(), cid: u128) {
            assert_round_trip::<DedupAges>(&(AgeMs(age), conv, sender, Cid(cid)), &());
        }
    }
}
