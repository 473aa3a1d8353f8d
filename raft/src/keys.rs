//! Every key that this crate writes. Big-endian, the kind byte first. Kinds are never reused.
//!
//! | kind | key | value |
//! |---|---|---|
//! | 1 | shard, replica generation, index | log entry |
//! | 2 | shard, replica generation | vote |
//! | 3 | shard, replica generation | log id purged up to |
//! | 4 | shard, replica generation | this node's replica of the shard: alive or retired |
//! | 5 | shard | pointer: which state generation counts, and up to where it is applied |
//! | 6 | shard | the highest state generation ever used |
//! | 7 | shard | set when the state was found damaged |
//! | 8 | shard, state generation, then the machine's own key | a row of the shard's state |

use flotilla_proto::ids::{Generation, ShardId};

pub const LOG: u8 = 1;
pub const VOTE: u8 = 2;
pub const PURGED: u8 = 3;
pub const REPLICA: u8 = 4;
pub const POINTER: u8 = 5;
pub const STATE_GENERATION: u8 = 6;
pub const STATE_DAMAGED: u8 = 7;
pub const STATE: u8 = 8;

/// One life of a shard's state on this node. A snapshot is installed under a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateGeneration(pub u64);

fn of_replica(kind: u8, shard: ShardId, generation: Generation) -> Vec<u8> {
    let mut key = Vec::with_capacity(15);
    key.push(kind);
    key.extend_from_slice(&shard.0.to_be_bytes());
    key.extend_from_slice(&generation.0.to_be_bytes());
    key
}

fn of_shard(kind: u8, shard: ShardId) -> Vec<u8> {
    let mut key = Vec::with_capacity(3);
    key.push(kind);
    key.extend_from_slice(&shard.0.to_be_bytes());
    key
}

pub fn log(shard: ShardId, generation: Generation, index: u64) -> Vec<u8> {
    let mut key = of_replica(LOG, shard, generation);
    key.extend_from_slice(&index.to_be_bytes());
    key
}

/// The index of a log key.
pub fn log_index(key: &[u8]) -> Option<u64> {
    key.get(7..15)?.try_into().ok().map(u64::from_be_bytes)
}

/// The end of all log keys of one replica, exclusive.
pub fn log_end(shard: ShardId, generation: Generation) -> Vec<u8> {
    end(of_replica(LOG, shard, generation))
}

pub fn vote(shard: ShardId, generation: Generation) -> Vec<u8> {
    of_replica(VOTE, shard, generation)
}

pub fn purged(shard: ShardId, generation: Generation) -> Vec<u8> {
    of_replica(PURGED, shard, generation)
}

pub fn replica(shard: ShardId, generation: Generation) -> Vec<u8> {
    of_replica(REPLICA, shard, generation)
}

/// Shard and generation of a replica key.
pub fn parse_replica(key: &[u8]) -> Option<(ShardId, Generation)> {
    let shard = u16::from_be_bytes(key.get(1..3)?.try_into().ok()?);
    let generation = u32::from_be_bytes(key.get(3..7)?.try_into().ok()?);
    Some((ShardId(shard), Generation(generation)))
}

pub fn pointer(shard: ShardId) -> Vec<u8> {
    of_shard(POINTER, shard)
}

pub fn state_generation(shard: ShardId) -> Vec<u8> {
    of_shard(STATE_GENERATION, shard)
}

pub fn state_damaged(shard: ShardId) -> Vec<u8> {
    of_shard(STATE_DAMAGED, shard)
}

/// What stands in front of the machine's own keys.
pub fn state(shard: ShardId, generation: StateGeneration) -> Vec<u8> {
    let mut key = of_shard(STATE, shard);
    key.extend_from_slice(&generation.0.to_be_bytes());
    key
}

/// The state generation of a state row's key.
pub fn parse_state(key: &[u8]) -> Option<StateGeneration> {
    key.get(3..11)?.try_into().ok().map(|bytes| StateGeneration(u64::from_be_bytes(bytes)))
}

/// The first key of a shard's state, whatever the generation.
pub fn state_start(shard: ShardId) -> Vec<u8> {
    of_shard(STATE, shard)
}

/// The end of a shard's state, exclusive.
pub fn state_end(shard: ShardId) -> Vec<u8> {
    end(of_shard(STATE, shard))
}

/// The exclusive end of everything below a prefix.
pub fn end(prefix: Vec<u8>) -> Vec<u8> {
    flotilla_storage::key::prefix_end(&prefix).expect("every kind byte is below 0xff")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_order_is_the_order_of_indexes_and_groups_do_not_overlap() {
        let (shard, generation) = (ShardId(1), Generation(2));
        assert!(log(shard, generation, 255) < log(shard, generation, 256));
        assert!(log(shard, generation, u64::MAX) < log_end(shard, generation));
        assert_eq!(log_end(shard, generation), of_replica(LOG, shard, Generation(3)));
        assert!(log_end(ShardId(1), Generation(u32::MAX)) <= log(ShardId(2), Generation(0), 0));
        assert_eq!(log_index(&log(shard, generation, 77)), Some(77));
        assert_eq!(parse_replica(&replica(shard, generation)), Some((shard, generation)));
        assert!(state(shard, StateGeneration(u64::MAX)) < state_end(shard));
    }
}
