//! (conversation) -> what it is and how far its log goes.
//!
//! Key: `10`, slot u16, conversation text. The kind of a conversation is in its id.
//! The row counts current members per user shard, so that an append knows whom to tell without reading members.

use flotilla_proto::entry::HistoryAccess;
use flotilla_proto::ids::*;
use flotilla_proto::member::Mode;
use flotilla_proto::slots;
use serde::{Deserialize, Serialize};

use crate::table::{KeyBuilder, KeyReader, Table, kind};

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConversationRow {
    pub name: String,
    pub history: HistoryAccess,
    pub mode: Mode,
    /// The last member has left.
    pub archived: bool,
    pub head: Seq,
    pub n_head: Count,
    /// The chain value of the entry at the head.
    pub chain: Hash32,
    pub last_ts: TsMs,
    pub last_id: MsgId,
    /// Current members per user shard, in order of shards, none of them zero.
    pub targets: Vec<TargetCount>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetCount {
    pub shard: ShardId,
    pub members: u32,
}

impl ConversationRow {
    pub fn members(&self) -> u32 {
        self.targets.iter().map(|t| t.members).sum()
    }

    pub fn count_in(&mut self, shard: ShardId) {
        match self.targets.binary_search_by_key(&shard, |t| t.shard) {
            Ok(at) => self.targets[at].members += 1,
            Err(at) => self.targets.insert(at, TargetCount { shard, members: 1 }),
        }
    }

    pub fn count_out(&mut self, shard: ShardId) {
        if let Ok(at) = self.targets.binary_search_by_key(&shard, |t| t.shard) {
            self.targets[at].members = self.targets[at].members.saturating_sub(1);
            if self.targets[at].members == 0 {
                self.targets.remove(at);
            }
        }
    }
}

pub struct Conversations;

impl Table for Conversations {
    const NAME: &'static str = "conversation";
    const KIND: u8 = kind::CONVERSATION;
    const VERSION: u8 = 1;
    type Key = ConvId;
    type Row = ConversationRow;

    fn key(conv: &ConvId) -> Vec<u8> {
        KeyBuilder::new(Self::KIND).slot(slots::of_conversation(conv)).conv(conv).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<ConvId> {
        key.slot()?;
        key.conv()
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
        fn rows_round_trip(conv in arb::conv(), name: String, head: u64, n: u64, shards in prop::collection::vec(0u16..9, 0..20)) {
            let mut row = ConversationRow { name, head: Seq(head), n_head: Count(n), ..Default::default() };
            for shard in &shards {
                row.count_in(ShardId(*shard));
            }
            prop_assert_eq!(row.members() as usize, shards.len());
            assert_round_trip::<Conversations>(&conv, &row);
            for shard in &shards {
                row.count_out(ShardId(*shard));
            }
            prop_assert!(row.targets.is_empty());
        }
    }
}
