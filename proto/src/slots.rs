//! Conversations and users hash into 4,096 fixed slots; a table in state maps slots to shards.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::ids::{ConvId, ShardId, Slot, UserId};
use crate::limits::SLOTS;

const KIND_CONVERSATION: u8 = b'c';
const KIND_USER: u8 = b'u';

fn slot(kind: u8, id: &str) -> Slot {
    let mut key = [0u8; crate::limits::CONV_ID_BYTES_MAX + 1];
    key[0] = kind;
    let bytes = id.as_bytes();
    key[1..=bytes.len()].copy_from_slice(bytes);
    Slot((xxh3_64_with_seed(&key[..=bytes.len()], 0) % u64::from(SLOTS)) as u16)
}

pub fn of_conversation(id: &ConvId) -> Slot {
    slot(KIND_CONVERSATION, id.as_str())
}

pub fn of_user(id: &UserId) -> Slot {
    slot(KIND_USER, id.as_str())
}

/// A hash that spreads ids, the same everywhere. For tables in memory; slots have their own.
pub fn spread(bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, 1)
}

/// Which shard owns each slot. A version tells two tables apart; the higher one is newer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotTable {
    pub version: u64,
    /// Exactly `SLOTS` long; checked by [`SlotTable::is_whole`] wherever a table comes from outside.
    shards: Vec<ShardId>,
}

impl SlotTable {
    /// Slots dealt to shards 1..=`shards` in turn, so that neighbours differ.
    pub fn even(shards: u16) -> Self {
        let shards = shards.max(1);
        let deal = (0..SLOTS).map(|s| ShardId(1 + s % shards)).collect();
        Self { version: 1, shards: deal }
    }

    /// The table that names these owners, slot 0 first. May be partial: see [`SlotTable::is_whole`].
    pub fn from_owners(version: u64, owners: Vec<ShardId>) -> Self {
        Self { version, shards: owners }
    }

    pub fn is_whole(&self) -> bool {
        self.shards.len() == usize::from(SLOTS) && self.shards.iter().all(|s| *s != ShardId::CONTROL)
    }

    /// The owner of a slot; none only for a slot out of range or a table that is not whole.
    pub fn shard(&self, slot: Slot) -> Option<ShardId> {
        self.shards.get(usize::from(slot.0)).copied()
    }

    pub fn shard_of_user(&self, user: &UserId) -> Option<ShardId> {
        self.shard(of_user(user))
    }

    pub fn shard_of_conversation(&self, conv: &ConvId) -> Option<ShardId> {
        self.shard(of_conversation(conv))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_fixed_for_ever() {
        let alice = UserId::parse("alice").expect("valid");
        let bob = UserId::parse("bob").expect("valid");
        let golden = (of_user(&alice), of_user(&bob), of_conversation(&ConvId::direct(&alice, &bob)));
        assert_eq!(golden, GOLDEN, "changing the hash loses every row already stored");
    }

    const GOLDEN: (Slot, Slot, Slot) = (Slot(1_920), Slot(3_053), Slot(759));

    #[test]
    fn an_even_table_is_whole_and_uses_every_shard() {
        let table = SlotTable::even(16);
        assert!(table.is_whole());
        for shard in 1..=16 {
            assert_eq!((0..SLOTS).filter(|s| table.shard(Slot(*s)) == Some(ShardId(shard))).count(), 256);
        }
    }
}
