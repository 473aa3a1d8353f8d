//! The applied state of one group: committed entries go through `machine`, in order, exactly once per state.
//!
//! Invariants:
//! - Rows, applied index and membership change in one batch; replies go out after it.
//! - State is written unlogged: after a crash it may have rolled back far below what was acknowledged, and the log replays it.
//!   Rows, index and membership roll back together; nothing that is logged may rely on them before they are durable
//!   ([`AppliedMark`]). So nobody may serve a local read before it has applied a ReadIndex taken after the start.
//! - Only one state generation of a shard counts; every start sweeps the others.

mod applier;
#[cfg(all(test, not(madsim)))]
mod conformance;
mod lane;
mod mark;
mod open;
mod pointer;

use flotilla_storage::StorageError;

pub(crate) use applier::is_damage;
pub use applier::{Applier, SnapshotBuilder};
pub use lane::ApplyLanes;
pub use mark::AppliedMark;
pub use open::{mark_damaged, open, wipe};
pub use pointer::Pointer;

/// Why a shard's state cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    #[error("{what}: this state must be rebuilt; log and vote are kept")]
    Damaged { what: String },
    #[error(transparent)]
    Storage(#[from] StorageError),
}
