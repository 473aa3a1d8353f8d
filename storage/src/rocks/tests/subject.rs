//! RocksDB as the conformance suite sees it, kills included.
//!
//! A kill is played on a copy of the directory whose log is cut: behind the batches that the suite wants
//! kept, and half of the next one, as a power loss may leave it. So the histories with kills that judge the
//! in-memory engine judge this one too, and whatever it brings back is something that the model of the disk
//! allows.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tempfile::TempDir;

use super::{copy_dir, log_file, scratch, small};
use crate::conformance::Subject;
use crate::rocks::RocksEngine;
use crate::{Batch, Durability, Engine, Order, Read, StorageError, Visitor, WriteNo};

pub(super) struct RocksSubject {
    dir: TempDir,
    lives: u32,
    engine: Option<Arc<Recorded>>,
}

impl RocksSubject {
    pub(super) fn new() -> Self {
        let mut subject = Self { dir: scratch(), lives: 0, engine: None };
        subject.reopen().expect("a new directory");
        subject
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join(format!("life-{}", self.lives))
    }

    fn recorded(&self) -> &Arc<Recorded> {
        self.engine.as_ref().expect("it is only missing while reopening")
    }
}

impl Subject for RocksSubject {
    fn engine(&self) -> Arc<dyn Engine> {
        self.recorded().clone()
    }

    fn reopen(&mut self) -> Result<(), StorageError> {
        self.engine = None;
        self.engine = Some(Arc::new(Recorded::open(self.path())?));
        Ok(())
    }

    fn open_again(&self) -> Result<(), StorageError> {
        RocksEngine::open(&self.path(), small()).map(drop)
    }

    fn checkpoint_dir(&self) -> PathBuf {
        self.dir.path().join("checkpoint")
    }

    fn open_checkpoint(&self, dir: &Path) -> Result<Arc<dyn Read>, StorageError> {
        RocksEngine::open_read_only(dir)
    }

    fn crash(&mut self, keep: usize) -> Result<bool, StorageError> {
        let cut = self.recorded().cut(keep);
        let old = self.path();
        self.lives += 1;
        copy_dir(&old, &self.path());
        let log = log_file(&self.path());
        let bytes = fs::read(&log).expect("readable");
        fs::write(&log, &bytes[..cut]).expect("torn");
        self.reopen()?;
        fs::remove_dir_all(old).expect("removed");
        Ok(true)
    }
}

/// An engine, and how long its log was after each batch that no sync has covered.
struct Recorded {
    engine: RocksEngine,
    dir: PathBuf,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    synced_bytes: usize,
    tail: Vec<usize>,
}

impl Recorded {
    fn open(dir: PathBuf) -> Result<Self, StorageError> {
        let engine = RocksEngine::open(&dir, small())?;
        let recorded = Self { engine, dir, log: Mutex::default() };
        recorded.note_sync();
        Ok(recorded)
    }

    fn log_bytes(&self) -> usize {
        fs::metadata(log_file(&self.dir)).expect("there is always a log").len() as usize
    }

    fn note_sync(&self) {
        let synced_bytes = self.log_bytes();
        *self.log.lock().expect("not poisoned") = Log { synced_bytes, tail: Vec::new() };
    }

    /// Where to cut the log so that `keep` batches of the tail survive and the next one is torn.
    fn cut(&self, keep: usize) -> usize {
        let log = self.log.lock().expect("not poisoned");
        let whole = keep.min(log.tail.len()).checked_sub(1).map_or(log.synced_bytes, |last| log.tail[last]);
        log.tail.get(keep).map_or(whole, |next| (whole + next) / 2)
    }
}

impl Read for Recorded {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.engine.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], order: Order, visit: Visitor<'_>) -> Result<(), StorageError> {
        self.engine.scan(from, to, order, visit)
    }
}

impl Engine for Recorded {
    fn write(&self, batch: Batch, durability: Durability) -> Result<WriteNo, StorageError> {
        let empty = batch.is_empty();
        let number = self.engine.write(batch, durability)?;
        match durability {
            Durability::Synced => self.note_sync(),
            Durability::Buffered if empty => {}
            Durability::Unlogged => {}
            Durability::Buffered => self.log.lock().expect("not poisoned").tail.push(self.log_bytes()),
        }
        Ok(number)
    }

    fn sync(&self) -> Result<WriteNo, StorageError> {
        let number = self.engine.sync()?;
        self.note_sync();
        Ok(number)
    }

    fn flush(&self) -> Result<WriteNo, StorageError> {
        let number = self.engine.flush()?;
        self.note_sync();
        Ok(number)
    }

    fn last_write(&self) -> WriteNo {
        self.engine.last_write()
    }

    fn synced(&self) -> WriteNo {
        self.engine.synced()
    }

    fn failure(&self) -> Option<StorageError> {
        self.engine.failure()
    }

    fn view(&self) -> Arc<dyn Read> {
        self.engine.view()
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), StorageError> {
        self.engine.checkpoint(dir)
    }
}
