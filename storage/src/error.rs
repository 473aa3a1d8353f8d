//! What an engine can answer instead of success.
//!
//! Invariant: after any error but [`StorageError::Full`] from a write or a sync, the engine answers
//! [`StorageError::Closed`] to everything until it is opened again. Nothing that a process says after
//! a failed fsync can be trusted, so the process is meant to abort with the reason.

/// An operation that did not succeed. Cloneable, so that all waiters of a group commit get the same answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// There is no room. The write had no effect that a reader can see; reads go on.
    #[error("the disk is full ({detail}): free some space, then retry or restart")]
    Full { detail: String },
    /// The device or the file system refused. What a failed write left behind is known only after reopening.
    #[error("{doing} failed: {detail}; the process must stop, check the disk, then start again")]
    Io { doing: &'static str, detail: String },
    /// Stored bytes are not what was written.
    #[error("stored data is damaged: {what}; do not serve from it, rebuild this replica from its peers")]
    Corrupt { what: String },
    /// Somebody else has the data directory open.
    #[error("{what} is already open: stop the other process, or give this one a directory of its own")]
    Locked { what: String },
    /// Only from [`Engine::resident`](crate::Engine::resident): the answer is on disk.
    #[error("the answer is not in memory: ask a view that may wait for the disk")]
    NotResident,
    /// This handle is dead: the engine failed earlier, or its process was killed by a simulation.
    #[error("the engine is closed ({reason}): open it again, after a failure only in a new process")]
    Closed { reason: String },
}

impl StorageError {
    /// True for the one error after which the engine is still alive.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }
}
