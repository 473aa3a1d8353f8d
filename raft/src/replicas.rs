//! Which replicas this node holds, told by its own disk: what a start opens before anybody can be asked.
//!
//! A retired replica leaves a mark for ever: its id must never take part in a group again with an empty log. All of these
//! block on the disk.

use std::ops::ControlFlow;

use flotilla_proto::ids::{Generation, ShardId};
use flotilla_storage::{Batch, Durability, Engine, Order, Read, StorageError, value};

use crate::keys;
use crate::state::Pointer;

const ROW_VERSION: u8 = 1;
const ALIVE: &[u8] = &[1];
const RETIRED: &[u8] = &[2];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplicaError {
    #[error("generation {generation} of shard {shard} was retired here: it needs a new one")]
    Retired { shard: ShardId, generation: Generation },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The replicas that were added and not retired.
pub fn list(read: &dyn Read) -> Result<Vec<(ShardId, Generation)>, StorageError> {
    let mut alive = Vec::new();
    let mut damage = Ok(());
    let from = vec![keys::REPLICA];
    read.scan(&from, &keys::end(from.clone()), Order::Forward, &mut |key, stored| {
        match (keys::parse_replica(key), value::open_slice(stored)) {
            (Some(replica), Ok((_, ALIVE))) => alive.push(replica),
            (Some(_), Ok((_, RETIRED))) => {}
            _ => {
                damage = Err(StorageError::Corrupt { what: "a row of this node's replicas".into() });
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    damage.map(|()| alive)
}

/// Whether this directory has held the replica since it was made, and still does. Of any other, log and vote are lost.
pub fn is_here(read: &dyn Read, shard: ShardId, generation: Generation) -> Result<bool, StorageError> {
    let Some(stored) = read.get(&keys::replica(shard, generation))? else { return Ok(false) };
    let (_, mark) = value::open_slice(&stored)?;
    Ok(mark == ALIVE)
}

/// Remembers a replica before it is first opened. Adding it again changes nothing.
pub fn add(engine: &dyn Engine, shard: ShardId, generation: Generation) -> Result<(), ReplicaError> {
    let key = keys::replica(shard, generation);
    match engine.get(&key)? {
        Some(stored) if stored == value::seal(ROW_VERSION, ALIVE) => return Ok(()),
        Some(_) => return Err(ReplicaError::Retired { shard, generation }),
        None => {}
    }
    let mut batch = Batch::new();
    batch.put(key, value::seal(ROW_VERSION, ALIVE));
    engine.write(batch, Durability::Synced)?;
    Ok(())
}

/// Forgets all that a replica has stored, and remembers that it was here. It must not be running.
pub fn retire(engine: &dyn Engine, shard: ShardId, generation: Generation) -> Result<(), ReplicaError> {
    let mut batch = Batch::new();
    batch.put(keys::replica(shard, generation), value::seal(ROW_VERSION, RETIRED));
    batch.delete(keys::vote(shard, generation));
    batch.delete(keys::purged(shard, generation));
    batch.delete_range(keys::log(shard, generation, 0), keys::log_end(shard, generation));
    // A state that belongs to a later replica of the shard stays. One whose pointer is damaged belongs to nobody.
    let owner = Pointer::load(engine, shard).ok().flatten().map(|pointer| pointer.replica);
    if owner.is_none_or(|owner| owner == generation) {
        batch.delete(keys::pointer(shard));
        batch.delete(keys::state_damaged(shard));
        batch.delete_range(keys::state_start(shard), keys::state_end(shard));
    }
    engine.write(batch, Durability::Synced)?;
    Ok(())
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use flotilla_storage::MemDisk;

    use super::*;
    use crate::testkit::{GENERATION, Node, SHARD, append, entries};

    #[tokio::test]
    async fn retired_replica_is_forgotten_and_never_comes_back() {
        let node = Node::open(&MemDisk::new());
        let engine = &*node.engine;
        add(engine, SHARD, GENERATION).expect("added");
        add(engine, SHARD, GENERATION).expect("again is fine");
        assert_eq!(is_here(engine, SHARD, GENERATION), Ok(true));
        assert_eq!(is_here(engine, SHARD, Generation(7)), Ok(false), "never heard of");
        add(engine, SHARD, Generation(9)).expect("added");
        let mut log = node.log(SHARD).await.expect("an empty log opens");
        append(&mut log, entries(1, 0..5)).await;
        drop(node.applier().expect("an empty state opens"));

        retire(engine, SHARD, GENERATION).expect("retired");
        assert_eq!(list(engine), Ok(vec![(SHARD, Generation(9))]));
        assert_eq!(is_here(engine, SHARD, GENERATION), Ok(false));
        let refused = add(engine, SHARD, GENERATION);
        assert_eq!(refused, Err(ReplicaError::Retired { shard: SHARD, generation: GENERATION }));
        assert_eq!(engine.get(&keys::log(SHARD, GENERATION, 3)), Ok(None));
        assert_eq!(Pointer::load(engine, SHARD), Ok(None));
    }
}
