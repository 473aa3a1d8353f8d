//! The engine of real nodes: one RocksDB with one write-ahead log.
//!
//! Invariants:
//! - Every logged write goes through the log, in order. Files are never ingested or dropped behind its back.
//! - RocksDB writes memtables out in order, and logged and unlogged rows share them: so what a crash leaves of the unlogged writes is
//!   all of them up to some write, and all logged ones up to it with them.
//! - After a failed write or sync the handle answers `Closed` until the database is opened again: what
//!   the kernel says after a failed fsync means nothing. After a full disk it refuses writes with `Full` until
//!   then, and serves reads; RocksDB's own recovery from a full disk is not relied on.
//! - [`Engine::synced`] never exceeds what is durable, also when callers write at the same time. What a synced write puts can be
//!   read before it is durable, and after its sync has failed: only its answer promises anything.

mod buffers;
mod error;
mod options;
mod sync_meter;
#[cfg(test)]
mod tests;
mod view;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{DB, WriteBatch, WriteOptions, properties};

pub use options::{OnSync, RocksOptions};

use self::buffers::{Buffers, Size};
use self::error::{translate, translate_open};
use self::sync_meter::SyncMeter;
use self::view::{Tier, View};
use crate::{Batch, Durability, Engine, Op, Order, Read, StorageError, Visitor, WriteNo};

/// An open RocksDB. It is closed when the engine and all its views are dropped.
pub struct RocksEngine {
    shared: Arc<Shared>,
    /// Held by whoever writes, so that the number of a write is known exactly: RocksDB puts in one batch after the other anyway.
    writing: Mutex<()>,
    /// The last logged write, the last unlogged one, and up to where all are in tables.
    logged: AtomicU64,
    unlogged: AtomicU64,
    flushed: AtomicU64,
    synced: AtomicU64,
    /// Held by whoever syncs: RocksDB does one at a time anyway.
    syncing: Mutex<()>,
    /// Held by whoever flushes. Not `syncing`: a memtable takes a tenth of a second to write out, for which no sync may wait.
    flushing: Mutex<()>,
    meter: SyncMeter,
    buffers: Buffers,
    /// Of a memtable, small and large.
    buffer_bytes: [usize; 2],
}

/// What the engine and its views hold on to.
struct Shared {
    db: DB,
    dir: PathBuf,
    /// Set once, by the first write or sync that failed.
    failed: OnceLock<StorageError>,
}

/// Figures for metrics. Sizes are those of this moment, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RocksStats {
    pub syncs: u64,
    pub last_sync_micros: u64,
    pub total_sync_micros: u64,
    pub memtable_bytes: u64,
    pub block_cache_bytes: u64,
    pub table_reader_bytes: u64,
    pub table_file_bytes: u64,
}

impl RocksStats {
    /// What the database holds in memory.
    pub fn memory_bytes(&self) -> u64 {
        self.memtable_bytes + self.block_cache_bytes + self.table_reader_bytes
    }
}

impl RocksEngine {
    /// Opens or creates the database in `dir`, and locks it.
    pub fn open(dir: &Path, options: RocksOptions) -> Result<Self, StorageError> {
        let [calm, under_load] = [options.write_buffer_bytes, options.write_buffer_bytes_under_load];
        let buffer_bytes = [calm, under_load].map(|bytes| buffers::apart(bytes, options.number));
        let options = RocksOptions { write_buffer_bytes: buffer_bytes[0], ..options };
        let rocksdb = options.to_rocksdb().map_err(|error| translate_open(dir, &error))?;
        Self::open_with(dir, &rocksdb, options.on_sync, buffer_bytes)
    }

    fn open_with(
        dir: &Path,
        options: &rocksdb::Options,
        on_sync: Option<OnSync>,
        buffer_bytes: [usize; 2],
    ) -> Result<Self, StorageError> {
        let db = DB::open(options, dir).map_err(|error| translate_open(dir, &error))?;
        // Recovery flushed what it replayed into synced tables: all that came back is durable.
        let last = || AtomicU64::new(db.latest_sequence_number());
        let (logged, unlogged, flushed, synced) = (last(), last(), last(), last());
        Ok(Self {
            shared: Arc::new(Shared::new(db, dir)),
            writing: Mutex::default(),
            logged,
            unlogged,
            flushed,
            synced,
            syncing: Mutex::default(),
            flushing: Mutex::default(),
            meter: SyncMeter::new(on_sync),
            buffers: Buffers::new(Instant::now()),
            buffer_bytes,
        })
    }

    /// Reads a database that no process has open, or a checkpoint, without changing a byte of it.
    pub fn open_read_only(dir: &Path) -> Result<Arc<dyn Read>, StorageError> {
        Ok(Arc::new(open_copy(dir)?))
    }

    pub fn stats(&self) -> RocksStats {
        // A property that the database does not know reads as 0: figures are not worth an error.
        let figure = |name: &properties::PropName| self.shared.db.property_int_value(name).ok().flatten().unwrap_or(0);
        RocksStats {
            syncs: self.meter.syncs(),
            last_sync_micros: self.meter.last_micros(),
            total_sync_micros: self.meter.total_micros(),
            memtable_bytes: figure(properties::CUR_SIZE_ALL_MEM_TABLES),
            block_cache_bytes: figure(properties::BLOCK_CACHE_USAGE),
            table_reader_bytes: figure(properties::ESTIMATE_TABLE_READERS_MEM),
            table_file_bytes: figure(properties::TOTAL_SST_FILES_SIZE),
        }
    }

    /// Of the next memtable, and of this one where it is not that large yet. False: it was refused, and is as it was or, where
    /// only the file of options could not be written, in force until the next start.
    fn resize_memtables(&self, size: Size) -> bool {
        let bytes = self.buffer_bytes[usize::from(size == Size::Large)];
        self.shared.db.set_options(&[("write_buffer_size", &bytes.to_string())]).is_ok()
    }

    /// In two steps: while RocksDB syncs as a part of a write, no other write can begin; beside a sync of its own they go on.
    fn write_synced(&self, batch: WriteBatch) -> Result<WriteNo, StorageError> {
        self.write_one(batch, &self.logged, &WriteOptions::default())?;
        self.sync()
    }

    fn write_unlogged(&self, batch: WriteBatch) -> Result<WriteNo, StorageError> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.write_one(batch, &self.unlogged, &options)
    }

    /// Writes, and remembers the number as that of the newest write of its kind. Exactly: (1. a logged batch gets number 7, 2. an
    /// unlogged one 9, 3. a sync says that 9 is durable, 4. the node dies and finds 7), which looks like a lost tail.
    fn write_one(
        &self,
        batch: WriteBatch,
        newest: &AtomicU64,
        options: &WriteOptions,
    ) -> Result<WriteNo, StorageError> {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let written = self.shared.db.write_opt(batch, options);
        written.map_err(|error| self.shared.fail("a write", &error))?;
        let number = self.last_write();
        newest.store(number.0, Ordering::Release);
        Ok(number)
    }

    fn make_durable(
        &self,
        doing: &'static str,
        covered: u64,
        work: impl FnOnce() -> Result<(), rocksdb::Error>,
    ) -> Result<WriteNo, StorageError> {
        work().map_err(|error| self.shared.fail(doing, &error))?;
        self.synced.fetch_max(covered, Ordering::AcqRel);
        Ok(WriteNo(covered))
    }
}

impl Read for RocksEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.shared.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], order: Order, visit: Visitor<'_>) -> Result<(), StorageError> {
        self.shared.scan(from, to, order, visit)
    }
}

impl Engine for RocksEngine {
    fn write(&self, batch: Batch, durability: Durability) -> Result<WriteNo, StorageError> {
        self.shared.check_writable()?;
        self.buffers.wrote(batch.bytes(), Instant::now(), |size| self.resize_memtables(size));
        match durability {
            Durability::Synced if batch.is_empty() => self.sync(),
            Durability::Buffered | Durability::Unlogged if batch.is_empty() => Ok(self.last_write()),
            Durability::Synced => self.write_synced(encode(batch)),
            Durability::Buffered => self.write_one(encode(batch), &self.logged, &WriteOptions::default()),
            Durability::Unlogged => self.write_unlogged(encode(batch)),
        }
    }

    fn sync(&self) -> Result<WriteNo, StorageError> {
        // The kernel tells a failed sync once. (1. A's sync of a new log's directory fails, 2. B, who waited for it, does the same
        // again, 3. which succeeds and says nothing about what A's should have made durable.) So B looks behind A's failure.
        let _turn = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.check_writable()?;
        // What is written from here on may be newer than what the sync has seen.
        let covered = self.logged.load(Ordering::Acquire);
        self.make_durable("a sync", covered, || self.meter.measure(|| self.shared.db.flush_wal(true)))
    }

    fn flush(&self) -> Result<WriteNo, StorageError> {
        if self.unlogged.load(Ordering::Acquire) <= self.flushed.load(Ordering::Acquire) {
            return self.sync();
        }
        let _turn = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.check_writable()?;
        let covered = self.last_write();
        let flushed = self.make_durable("a flush", covered.0, || self.shared.db.flush())?;
        self.flushed.fetch_max(flushed.0, Ordering::AcqRel);
        Ok(flushed)
    }

    fn bulk(&self, begins: bool) {
        self.buffers.bulk(begins);
    }

    fn last_write(&self) -> WriteNo {
        WriteNo(self.shared.db.latest_sequence_number())
    }

    fn synced(&self) -> WriteNo {
        WriteNo(self.synced.load(Ordering::Acquire))
    }

    fn failure(&self) -> Option<StorageError> {
        self.shared.check_writable().err()
    }

    fn view(&self) -> Arc<dyn Read> {
        Arc::new(View::new(self.shared.clone(), Tier::All))
    }

    fn resident(&self) -> Option<Arc<dyn Read>> {
        Some(Arc::new(View::new(self.shared.clone(), Tier::Memory)))
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), StorageError> {
        let covered = self.flush()?;
        let failed = |error| translate("a checkpoint", &error);
        Checkpoint::new(&self.shared.db).map_err(failed)?.create_checkpoint(dir).map_err(failed)?;
        let copied = open_copy(dir)?.db.latest_sequence_number();
        if copied < covered.0 {
            let what = format!("the checkpoint {} ends at write {copied}, not {}", dir.display(), covered.0);
            return Err(StorageError::Corrupt { what });
        }
        Ok(())
    }
}

impl Shared {
    fn new(db: DB, dir: &Path) -> Self {
        Self { db, dir: dir.to_path_buf(), failed: OnceLock::new() }
    }

    /// Remembers the first failure, after which nothing is written any more.
    fn fail(&self, doing: &'static str, error: &rocksdb::Error) -> StorageError {
        let error = translate(doing, error);
        let after = match &error {
            StorageError::Full { .. } => error.clone(),
            other => StorageError::Closed { reason: format!("{}: {other}", self.dir.display()) },
        };
        // Of failures at the same time, the first one is the reason.
        let _ = self.failed.set(after);
        error
    }

    fn check_writable(&self) -> Result<(), StorageError> {
        self.failed.get().cloned().map_or(Ok(()), Err)
    }

    fn check_readable(&self) -> Result<(), StorageError> {
        match self.failed.get() {
            Some(closed @ StorageError::Closed { .. }) => Err(closed.clone()),
            _ => Ok(()),
        }
    }
}

/// What RocksDB writes before the operations of a batch, and at most beside the bytes of each: a tag and two lengths.
const BATCH_HEADER: usize = 12;
const OP_OVERHEAD: usize = 11;

fn encode(batch: Batch) -> WriteBatch {
    let mut encoded = WriteBatch::with_capacity_bytes(BATCH_HEADER + batch.bytes() + batch.len() * OP_OVERHEAD);
    for op in batch.into_ops() {
        match op {
            Op::Put(key, value) => encoded.put(key, value),
            Op::Delete(key) => encoded.delete(key),
            Op::DeleteRange { from, to } => encoded.delete_range(from, to),
        }
    }
    encoded
}

fn open_copy(dir: &Path) -> Result<Shared, StorageError> {
    // RocksDB would make the directory before it says that there is nothing in it.
    if !dir.join("CURRENT").is_file() {
        let detail = format!("{} holds no database", dir.display());
        return Err(StorageError::Io { doing: "opening a copy", detail });
    }
    let opened = options::for_a_copy().and_then(|options| DB::open_for_read_only(&options, dir, false));
    Ok(Shared::new(opened.map_err(|error| translate_open(dir, &error))?, dir))
}
