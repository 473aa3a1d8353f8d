//! The in-memory engine as the conformance suite sees it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{MemDisk, MemEngine};
use crate::conformance::Subject;
use crate::{Engine, Read, StorageError};

/// An engine on a simulated disk, possibly wrapped into something that changes its behaviour.
pub struct MemSubject {
    disk: MemDisk,
    engine: Option<Arc<dyn Engine>>,
    wrap: fn(MemEngine) -> Arc<dyn Engine>,
}

impl MemSubject {
    pub fn new(wrap: fn(MemEngine) -> Arc<dyn Engine>) -> Self {
        let disk = MemDisk::new();
        let engine = Some(wrap(MemEngine::open(&disk).expect("a new disk is neither locked nor faulty")));
        Self { disk, engine, wrap }
    }
}

impl Default for MemSubject {
    fn default() -> Self {
        Self::new(|engine| Arc::new(engine))
    }
}

impl Subject for MemSubject {
    fn engine(&self) -> Arc<dyn Engine> {
        self.engine.clone().expect("it is only missing while reopening")
    }

    fn reopen(&mut self) -> Result<(), StorageError> {
        self.engine = None;
        self.engine = Some((self.wrap)(MemEngine::open(&self.disk)?));
        Ok(())
    }

    fn open_again(&self) -> Result<(), StorageError> {
        MemEngine::open(&self.disk).map(drop)
    }

    fn checkpoint_dir(&self) -> PathBuf {
        "checkpoint".into()
    }

    fn open_checkpoint(&self, dir: &Path) -> Result<Arc<dyn Read>, StorageError> {
        let missing = || StorageError::Io { doing: "opening a checkpoint", detail: dir.display().to_string() };
        let copy = self.disk.checkpoint(dir).ok_or_else(missing)?;
        Ok(Arc::new(MemEngine::open(&copy)?))
    }

    fn crash(&mut self, keep: usize) -> Result<bool, StorageError> {
        self.disk.crash(keep);
        self.reopen()?;
        Ok(true)
    }
}
