//! (conversation, sender) -> floor: the age stamp of the sender's newest evicted dedup row. No row: nothing was evicted.
//!
//! Key: `15`, slot u16, conversation text, sender text.

use flotilla_proto::ids::*;
use flotilla_proto::slots;
use serde::{Deserialize, Serialize};

use crate::table::{KeyBuilder, KeyReader, Table, kind};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SenderRow {
    pub floor: AgeMs,
}

pub struct Senders;

impl Table for Senders {
    const NAME: &'static str = "sender";
    const KIND: u8 = kind::SENDER;
    const VERSION: u8 = 1;
    type Key = (ConvId, UserId);
    type Row = SenderRow;

    fn key((conv, sender): &Self::Key) -> Vec<u8> {
        KeyBuilder::new(Self::KIND).slot(slots::of_conversation(conv)).conv(conv).user(sender).build()
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
        fn rows_round_trip(conv in arb::conv(), sender in arb::user(), floor: u64) {
            assert_round_trip::<Senders>(&(conv, sender), &SenderRow { floor: AgeMs(floor) });
        }
    }
}
