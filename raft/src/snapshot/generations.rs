//! Which state generations of a shard are in use, and numbers for new ones.
//!
//! Invariants:
//! - A number is stored durably before its first row is written, so it is never used again after a crash.
//! - Rows of a generation are deleted only while nobody can still write, install or point at it: the counter-example is
//!   (1) a second leader starts to stream, (2) its sink sweeps the leftovers, (3) the first leader's sink finishes and
//!   installs a state with holes. So every sink and staged snapshot holds a [`Lease`], and a sweep spares them.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flotilla_proto::ids::ShardId;
use flotilla_storage::{Batch, Durability, Engine, Order, StorageError, value};

use crate::keys::{self, StateGeneration};
use crate::state::{Pointer, StateError};

const COUNTER_VERSION: u8 = 1;

/// The generations of one shard on this node. Clones share it.
#[derive(Clone)]
pub struct Generations {
    engine: Arc<dyn Engine>,
    shard: ShardId,
    leased: Arc<Mutex<BTreeSet<StateGeneration>>>,
    /// Held while a number is stored; the leases' own lock never waits for a disk.
    allocating: Arc<Mutex<()>>,
}

/// A generation that a sink writes or that waits for its installation.
pub struct Lease {
    pub generation: StateGeneration,
    leased: Arc<Mutex<BTreeSet<StateGeneration>>>,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease({})", self.generation.0)
    }
}

// Memory only: whatever rows are left behind go with the next sweep or start.
impl Drop for Lease {
    fn drop(&mut self) {
        lock(&self.leased).remove(&self.generation);
    }
}

fn lock(leased: &Mutex<BTreeSet<StateGeneration>>) -> MutexGuard<'_, BTreeSet<StateGeneration>> {
    leased.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Generations {
    pub fn new(engine: Arc<dyn Engine>, shard: ShardId) -> Self {
        Self { engine, shard, leased: Arc::default(), allocating: Arc::default() }
    }

    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// A number never used before, stored durably. Blocks on the disk.
    pub fn allocate(&self) -> Result<Lease, StorageError> {
        let _one_at_a_time = self.allocating.lock().unwrap_or_else(PoisonError::into_inner);
        let next = StateGeneration(self.highest()?.0 + 1);
        let mut batch = Batch::new();
        batch.put(keys::state_generation(self.shard), value::seal(COUNTER_VERSION, &next.0.to_be_bytes()));
        self.engine.write(batch, Durability::Synced)?;
        lock(&self.leased).insert(next);
        Ok(Lease { generation: next, leased: self.leased.clone() })
    }

    fn highest(&self) -> Result<StateGeneration, StorageError> {
        let Some(stored) = self.engine.get(&keys::state_generation(self.shard))? else {
            return Ok(StateGeneration(0));
        };
        let number = value::open(&stored).ok().and_then(|(_, payload)| payload[..].try_into().ok());
        match number {
            Some(number) => Ok(StateGeneration(u64::from_be_bytes(number))),
            None => self.highest_in_use(),
        }
    }

    /// When the counter is damaged: a generation that has no rows and that nothing points at is as good as new.
    fn highest_in_use(&self) -> Result<StateGeneration, StorageError> {
        tracing::error!(shard = %self.shard, "the counter of state generations is damaged");
        let pointed = Pointer::load(&*self.engine, self.shard).ok().flatten().map(|pointer| pointer.generation);
        let mut highest = pointed.unwrap_or(StateGeneration(0));
        let (from, to) = (keys::state_start(self.shard), keys::state_end(self.shard));
        self.engine.scan(&from, &to, Order::Reverse, &mut |key, _| {
            highest = highest.max(keys::parse_state(key).unwrap_or(highest));
            ControlFlow::Break(())
        })?;
        Ok(highest)
    }

    /// Deletes the rows of every generation but the current and the leased ones.
    pub fn sweep(&self) -> Result<(), StateError> {
        let keep = {
            // Pointer and leases under one lock: an installation flips the pointer before it lets its lease go, so a
            // generation is seen in at least one of the two.
            let leased = lock(&self.leased);
            let mut keep = leased.clone();
            keep.extend(Pointer::load(&*self.engine, self.shard)?.map(|pointer| pointer.generation));
            keep
        };
        let mut batch = Batch::new();
        let mut from = keys::state_start(self.shard);
        for generation in keep {
            let kept = keys::state(self.shard, generation);
            batch.delete_range(from, kept.clone());
            from = keys::end(kept);
        }
        batch.delete_range(from, keys::state_end(self.shard));
        self.engine.write(batch, Durability::Buffered)?;
        Ok(())
    }
}
