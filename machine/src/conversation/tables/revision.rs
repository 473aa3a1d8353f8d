//! (conversation, seq of a message) -> the seqs of its edits, so that a deletion redacts them too.
//!
//! Key: `18`, slot u16, conversation text, seq u64. At most `EDITS_PER_MESSAGE_MAX` seqs.

use flotilla_proto::ids::*;
use flotilla_proto::slots;

use crate::table::{KeyBuilder, KeyReader, Table, kind};

pub struct Revisions;

impl Table for Revisions {
    const NAME: &'static str = "revision";
    const KIND: u8 = kind::REVISION;
    const VERSION: u8 = 1;
    type Key = (ConvId, Seq);
    type Row = Vec<Seq>;

    fn key((conv, seq): &Self::Key) -> Vec<u8> {
        KeyBuilder::new(Self::KIND).slot(slots::of_conversation(conv)).conv(conv).u64(seq.0).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<Self::Key> {
        key.slot()?;
        Some((key.conv()?, Seq(key.u64()?)))
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
        fn rows_round_trip(conv in arb::conv(), seq: u64, edits: Vec<u64>) {
            assert_round_trip::<Revisions>(&(conv, Seq(seq)), &edits.into_iter().map(Seq).collect());
        }
    }
}
