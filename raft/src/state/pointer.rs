//! The row that says which state generation of a shard counts, and up to where it is applied.
//!
//! It changes in the same batch as the rows it speaks of, so it is never ahead of them nor behind.

use flotilla_proto::codec;
use flotilla_proto::ids::{Generation, ShardId};
use flotilla_storage::{Batch, Read, value};
use serde::{Deserialize, Serialize};

use super::StateError;
use crate::keys::{self, StateGeneration};
use crate::types::{LogId, StoredMembership};

const POINTER_VERSION: u8 = 1;
const POINTER_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer {
    pub generation: StateGeneration,
    /// The replica that this state belongs to: one that comes back under a new generation starts from nothing.
    pub replica: Generation,
    pub applied: Option<LogId>,
    pub membership: StoredMembership,
}

#[derive(Serialize, Deserialize)]
struct Row {
    generation: u64,
    replica: Generation,
    applied: Option<LogId>,
    membership: StoredMembership,
}

impl Pointer {
    pub fn load(read: &dyn Read, shard: ShardId) -> Result<Option<Self>, StateError> {
        let Some(stored) = read.get(&keys::pointer(shard))? else { return Ok(None) };
        let damaged = |what: String| StateError::Damaged { what: format!("the pointer of shard {shard}: {what}") };
        let (_, payload) = value::open(&stored).map_err(|error| damaged(error.to_string()))?;
        let row: Row =
            codec::decode(POINTER_VERSION, &payload, POINTER_BYTES_MAX).map_err(|error| damaged(error.to_string()))?;
        Ok(Some(Self {
            generation: StateGeneration(row.generation),
            replica: row.replica,
            applied: row.applied,
            membership: row.membership,
        }))
    }

    pub fn put(&self, shard: ShardId, batch: &mut Batch) {
        let row = Row {
            generation: self.generation.0,
            replica: self.replica,
            applied: self.applied,
            membership: self.membership.clone(),
        };
        let payload = codec::encode(POINTER_VERSION, &row).expect("ids and sets always encode");
        batch.put(keys::pointer(shard), value::seal(POINTER_VERSION, &payload));
    }
}
