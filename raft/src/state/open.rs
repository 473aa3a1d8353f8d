//! Opening, wiping and marking a shard's state. All of these block on the disk.

use flotilla_proto::ids::{Generation, ShardId};
use flotilla_storage::{Batch, Durability, Engine, value};

use super::{AppliedMark, Pointer, StateError};
use crate::keys;
use crate::snapshot::Generations;
use crate::types::StoredMembership;

const MARKER_VERSION: u8 = 1;

/// The state of this replica as it is on disk; a new, empty one if there is none, or if it belongs to an earlier replica.
///
/// Everything that is there is made durable first, so that what openraft takes for applied stays applied.
pub fn open(generations: &Generations, replica: Generation, mark: &AppliedMark) -> Result<Pointer, StateError> {
    let engine = generations.engine();
    engine.flush()?;
    if engine.get(&keys::state_damaged(generations.shard()))?.is_some() {
        return Err(StateError::Damaged { what: format!("shard {} was marked as damaged", generations.shard()) });
    }
    let pointer = match Pointer::load(&**engine, generations.shard())? {
        Some(pointer) if pointer.replica == replica => pointer,
        _ => wipe(generations, replica)?,
    };
    generations.sweep()?;
    if let Some(applied) = pointer.applied {
        mark.is_durable(applied.index());
    }
    Ok(pointer)
}

/// Starts an empty state under a new generation. The caller makes sure that the log, or a snapshot, can fill it.
pub fn wipe(generations: &Generations, replica: Generation) -> Result<Pointer, StateError> {
    let lease = generations.allocate()?;
    let pointer =
        Pointer { generation: lease.generation, replica, applied: None, membership: StoredMembership::default() };
    let mut batch = Batch::new();
    pointer.put(generations.shard(), &mut batch);
    batch.delete(keys::state_damaged(generations.shard()));
    generations.engine().write(batch, Durability::Synced)?;
    generations.sweep()?;
    Ok(pointer)
}

/// Remembers across restarts that this shard's state cannot be trusted.
pub fn mark_damaged(engine: &dyn Engine, shard: ShardId) {
    let mut batch = Batch::new();
    batch.put(keys::state_damaged(shard), value::seal(MARKER_VERSION, &[]));
    // If even this fails, the next read of the row finds the damage again.
    if let Err(error) = engine.write(batch, Durability::Synced) {
        tracing::error!(%shard, %error, "cannot remember that the state is damaged");
    }
}
