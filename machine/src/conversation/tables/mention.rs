//! (conversation, member, n of a message that names it) -> that message's seq.
//!
//! Key: `20`, slot u16 of the conversation, conversation text, user text, n u64. By n, because unread is counted in n: what is
//! unread of a user's mentions is one range.
//!
//! Invariant: a row for every countable message that names somebody who was a member at its seq and is not its sender. Rows
//! stay, as the n of a message that is deleted stays: it counts until it is read.

use flotilla_proto::ids::*;
use flotilla_proto::slots;

use crate::table::{KeyBuilder, KeyReader, Table, kind};

pub struct Mentions;

impl Table for Mentions {
    const NAME: &'static str = "mention";
    const KIND: u8 = kind::MENTION;
    const VERSION: u8 = 1;
    type Key = (ConvId, UserId, Count);
    type Row = Seq;

    fn key((conv, user, n): &Self::Key) -> Vec<u8> {
        KeyBuilder::new(Self::KIND).slot(slots::of_conversation(conv)).conv(conv).user(user).u64(n.0).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<Self::Key> {
        key.slot()?;
        Some((key.conv()?, key.user()?, Count(key.u64()?)))
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
        fn rows_round_trip(conv in arb::conv(), user in arb::user(), n: u64, seq: u64) {
            assert_round_trip::<Mentions>(&(conv, user, Count(n)), &Seq(seq));
        }
    }
}
