//! One suite for every engine: what the rest of Flotilla takes for granted about its disk.
//!
//! [`run`] is given a way to make a fresh [`Subject`] and answers the first [`Violation`]. The fixed
//! cases are in `cases`, random histories against a model in `property`, kills in `crash` (only for
//! subjects that can be killed). The suite itself is tested with engines broken on purpose, in `broken`.
//!
//! It knows the traits only, no engine.

mod cases;
mod crash;
mod model;
mod property;

#[cfg(test)]
mod broken;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{Engine, Read, StorageError};

/// An engine under test, with a disk of its own.
pub trait Subject {
    /// The engine that is open now.
    fn engine(&self) -> Arc<dyn Engine>;

    /// Closes the engine (nobody else holds it, nor a view of it) and opens the same disk again.
    fn reopen(&mut self) -> Result<(), StorageError>;

    /// Opens the disk a second time, while it is open. Should fail.
    fn open_again(&self) -> Result<(), StorageError>;

    /// A path at which a checkpoint can be made.
    fn checkpoint_dir(&self) -> PathBuf;

    /// The content of a checkpoint.
    fn open_checkpoint(&self, dir: &Path) -> Result<Arc<dyn Read>, StorageError>;

    /// Kills the engine so that only the first `keep` batches of the unsynced tail survive, and opens the
    /// disk again. `false` if this subject cannot do that.
    fn crash(&mut self, _keep: usize) -> Result<bool, StorageError> {
        Ok(false)
    }
}

/// The first thing that an engine did wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub case: &'static str,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.case, self.what)
    }
}

/// Runs everything; each property with `histories` random histories.
pub fn run(fresh: &dyn Fn() -> Box<dyn Subject>, histories: u32) -> Result<(), Violation> {
    for (case, check) in cases::ALL {
        check(&mut *fresh()).map_err(|failure| Violation { case, what: failure.0 })?;
    }
    for (case, check) in [
        ("random_histories_match_the_model", property::check as Property),
        ("crashes_lose_only_suffixes_of_what_was_not_promised", crash::check),
    ] {
        check(fresh, histories).map_err(|what| Violation { case, what })?;
    }
    Ok(())
}

type Property = fn(&dyn Fn() -> Box<dyn Subject>, u32) -> Result<(), String>;

/// Why a case failed.
#[derive(Debug)]
struct Failure(String);

type Checked = Result<(), Failure>;

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Self(format!("unexpected error: {error}"))
    }
}

/// Fails the case with both values unless they are equal.
#[track_caller]
fn same<T: PartialEq + fmt::Debug>(what: &str, got: T, expected: T) -> Checked {
    if got == expected {
        return Ok(());
    }
    let line = std::panic::Location::caller();
    Err(Failure(format!("{what}: got {got:?}, expected {expected:?} ({line})")))
}

/// Fails the case unless `holds`.
#[track_caller]
fn ensure(what: &str, holds: bool) -> Checked {
    let line = std::panic::Location::caller();
    if holds { Ok(()) } else { Err(Failure(format!("violated: {what} ({line})"))) }
}
