//! The simulated disk: what survives a crash, and the faults that a test or a simulator injects.
//!
//! Invariants:
//! - Every logged write up to `synced` survives every crash; of the tail behind it, a prefix of whole batches.
//! - Every unlogged write up to `flushed` survives every crash, and none behind it: not even a kill that leaves the page cache.
//! - `flushed <= synced <= last`; numbers never go back except by a crash, down to a batch boundary at or above `synced`.
//!
//! As in RocksDB, what fills up in memory is written out by and by: `flushed` follows in steps, one such table behind.
//!
//! The disk outlives the engines opened on it. It never sleeps: a stall is a duration for the caller to read.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::versions::{Cut, Versions};
use crate::{Batch, Durability, Order, Read, StorageError, Visitor};

/// What goes wrong from now on, until changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Writes fail without effect; the engine is closed by the first.
    pub fail_writes: bool,
    /// Syncs fail. The batch of a failed synced write is in the unsynced tail, so a crash may keep it.
    pub fail_syncs: bool,
    /// Reads fail. The engine stays open.
    pub fail_reads: bool,
    /// Writes are refused without effect until there is room again. The engine stays open.
    pub full: bool,
    /// What [`Engine::stall`](crate::Engine::stall) answers.
    pub stall: Duration,
}

/// What has happened to a disk since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub batches_written: u64,
    pub bytes_written: u64,
    pub syncs: u64,
    pub crashes: u64,
    pub batches_lost: u64,
    pub unsynced_bytes_lost: u64,
}

/// Bytes that fill a table in memory, unless a disk is told otherwise.
const TABLE_BYTES: u64 = 256 * 1024;

/// One whole logged batch that a crash may drop.
#[derive(Clone, Copy)]
struct TailBatch {
    end: u64,
    bytes: u64,
}

#[derive(Clone, Default)]
pub(super) struct State {
    pub(super) versions: Versions,
    tail: VecDeque<TailBatch>,
    pub(super) last: u64,
    /// The last logged write.
    logged: u64,
    pub(super) synced: u64,
    flushed: u64,
    tables: Tables,
    /// Counts crashes; handles of an older generation are dead.
    pub(super) generation: u64,
    pub(super) locked: bool,
    failed: Option<String>,
    /// How many views read at each number.
    views: BTreeMap<u64, usize>,
    pub(super) faults: Faults,
    counters: Counters,
    pub(super) watermark: Option<Bytes>,
    checkpoints: BTreeMap<PathBuf, MemDisk>,
}

/// What is in memory only, as far as it decides what is written out by itself.
#[derive(Clone)]
struct Tables {
    table_bytes: u64,
    /// Bytes in the table that is being filled.
    filling: u64,
    /// Ends of the batches written behind `flushed` that were not logged, and their bytes.
    unlogged: VecDeque<TailBatch>,
    /// The last write in the table that is full and not written out yet.
    full: Option<u64>,
}

impl Default for Tables {
    fn default() -> Self {
        Self { table_bytes: TABLE_BYTES, filling: 0, unlogged: VecDeque::new(), full: None }
    }
}

/// A disk that survives the engines opened on it. Clones are handles to the same disk.
#[derive(Clone, Default)]
pub struct MemDisk {
    state: Arc<Mutex<State>>,
}

impl MemDisk {
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock, except on broken invariants, where the test ends anyway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Power loss or kill: the first `keep` batches of the unsynced tail survive, the rest is gone, as is what was not logged and
    /// not flushed, and every handle opened before is dead. `usize::MAX` is a kill with the page cache kept.
    ///
    /// Returns how many batches of the tail were lost.
    pub fn crash(&self, keep: usize) -> usize {
        self.state().crash(keep)
    }

    /// Number of whole logged batches that a crash could drop now.
    pub fn tail_batches(&self) -> usize {
        self.state().tail.len()
    }

    /// Number of unlogged batches that every crash drops now.
    pub fn unlogged_batches(&self) -> usize {
        self.state().tables.unlogged.len()
    }

    /// How much fills a table in memory, which is written out when the next one is full too.
    pub fn set_table_bytes(&self, bytes: u64) {
        self.state().tables.table_bytes = bytes;
    }

    /// Changes the faults in force, for example `disk.inject(|faults| faults.full = true)`.
    pub fn inject(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.state().faults);
    }

    pub fn faults(&self) -> Faults {
        self.state().faults
    }

    pub fn counters(&self) -> Counters {
        self.state().counters
    }

    /// Flips one bit of the newest stored value of `key`; `bit` counts from the value's first byte and
    /// wraps at its end. False if there is no such key or its value is empty.
    pub fn corrupt(&self, key: &[u8], bit: usize) -> bool {
        let mut flipped = false;
        self.state().versions.damage(key, |value| {
            if let Some(index) = (bit / 8).checked_rem(value.len()) {
                value[index] ^= 1 << (bit % 8);
                flipped = true;
            }
        });
        flipped
    }

    /// Reads what would survive a power loss at this instant. For checkers: it works while an engine is
    /// open and after it died, ignores faults, and moves on with every sync.
    pub fn durable(&self) -> Arc<dyn Read> {
        Arc::new(DiskRead { disk: self.clone(), durable: true })
    }

    /// Whether a write or a sync has failed since the disk was opened: its process must not go on.
    pub fn has_failed(&self) -> bool {
        self.state().failed.is_some()
    }

    /// Reads everything written, synced or not, like [`MemDisk::durable`].
    pub fn written(&self) -> Arc<dyn Read> {
        Arc::new(DiskRead { disk: self.clone(), durable: false })
    }

    /// An independent disk with what would survive a power loss now: a backup to roll back to, or the
    /// disk of a cloned machine.
    pub fn copy_durable(&self) -> MemDisk {
        let mut copy = self.state().clone();
        copy.crash(0);
        copy.checkpoints.clear();
        copy.counters = Counters::default();
        copy.faults = Faults::default();
        MemDisk { state: Arc::new(Mutex::new(copy)) }
    }

    /// Replaces the content by that of `image`, as if an old copy had been restored. Kills open handles.
    pub fn roll_back_to(&self, image: &MemDisk) {
        let image = image.copy_durable();
        let image = std::mem::take(&mut *image.state());
        let mut state = self.state();
        state.crash(0);
        state.versions = image.versions;
        state.last = image.last;
        state.logged = image.logged;
        state.synced = image.synced;
        state.flushed = image.flushed;
        state.watermark = image.watermark;
    }

    /// As [`MemDisk::roll_back_to`], but for the watermark, which stands beside the engine: a disk that has lost what it had
    /// said was synced.
    pub fn forget_since(&self, image: &MemDisk) {
        let watermark = self.state().watermark.clone();
        self.roll_back_to(image);
        self.state().watermark = watermark;
    }

    /// The number of the last write.
    pub fn last(&self) -> crate::WriteNo {
        crate::WriteNo(self.state().last)
    }

    /// An empty directory in place of the old one. Kills open handles.
    pub fn wipe(&self) {
        self.roll_back_to(&MemDisk::new());
    }

    /// The copy that a checkpoint into `dir` made.
    pub fn checkpoint(&self, dir: &Path) -> Option<MemDisk> {
        self.state().checkpoints.get(dir).cloned()
    }

    /// Versions of keys kept in memory, for tests of garbage collection.
    pub fn versions_kept(&self) -> usize {
        self.state().versions.len()
    }
}

impl State {
    pub(super) fn check_generation(&self, generation: u64) -> Result<(), StorageError> {
        if generation != self.generation {
            return Err(StorageError::Closed { reason: "its process was killed".into() });
        }
        Ok(())
    }

    pub(super) fn check_alive(&self, generation: u64) -> Result<(), StorageError> {
        self.check_generation(generation)?;
        match &self.failed {
            Some(reason) => Err(StorageError::Closed { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    pub(super) fn check_readable(&self, generation: u64) -> Result<(), StorageError> {
        self.check_alive(generation)?;
        if self.faults.fail_reads {
            return Err(injected("a read"));
        }
        Ok(())
    }

    /// Takes the lock of a new engine. All that was recovered is durable from here on, as in RocksDB,
    /// whose recovery flushes what it replayed.
    pub(super) fn open(&mut self) -> Result<u64, StorageError> {
        if self.locked {
            return Err(StorageError::Locked { what: "the simulated disk".into() });
        }
        if self.faults.fail_reads {
            return Err(injected("a read while opening"));
        }
        self.locked = true;
        self.failed = None;
        self.forget_unlogged();
        self.mark_flushed(self.last);
        Ok(self.generation)
    }

    /// What was not logged is written out, if the disk takes it.
    pub(super) fn close(&mut self, generation: u64) {
        if generation != self.generation {
            return;
        }
        self.locked = false;
        let Faults { fail_writes, fail_syncs, full, .. } = self.faults;
        if self.failed.is_none() && !fail_writes && !fail_syncs && !full {
            self.mark_flushed(self.last);
        }
    }

    pub(super) fn write(&mut self, batch: Batch, durability: Durability) -> Result<u64, StorageError> {
        if self.faults.full {
            return Err(StorageError::Full { detail: "injected".into() });
        }
        if self.faults.fail_writes {
            return Err(self.fail("a write"));
        }
        if !batch.is_empty() {
            self.append(batch, durability != Durability::Unlogged);
        }
        match durability {
            Durability::Buffered | Durability::Unlogged => Ok(self.last),
            Durability::Synced => self.sync(),
        }
    }

    fn append(&mut self, batch: Batch, is_logged: bool) {
        let bytes = batch.bytes() as u64;
        for op in batch.into_ops() {
            self.last += 1;
            self.versions.apply(self.last, is_logged, op);
        }
        let written = TailBatch { end: self.last, bytes };
        if is_logged {
            self.logged = self.last;
            self.tail.push_back(written);
        } else {
            self.tables.unlogged.push_back(written);
        }
        self.counters.batches_written += 1;
        self.counters.bytes_written += bytes;
        self.fill(bytes);
    }

    /// The table that is being filled is full: the one before it is written out, for there is no room for three.
    fn fill(&mut self, bytes: u64) {
        self.tables.filling += bytes;
        let Faults { fail_writes, full, .. } = self.faults;
        if self.tables.filling < self.tables.table_bytes || fail_writes || full {
            return;
        }
        self.tables.filling = 0;
        if let Some(upto) = self.tables.full.replace(self.last) {
            self.mark_flushed(upto);
        }
    }

    pub(super) fn sync(&mut self) -> Result<u64, StorageError> {
        if self.faults.fail_syncs {
            return Err(self.fail("a sync"));
        }
        self.counters.syncs += 1;
        self.tail.clear();
        self.synced = self.synced.max(self.logged);
        if self.tables.unlogged.is_empty() {
            self.mark_flushed(self.synced);
        }
        Ok(self.synced)
    }

    pub(super) fn flush(&mut self) -> Result<u64, StorageError> {
        if self.faults.full {
            return Err(StorageError::Full { detail: "injected".into() });
        }
        if self.faults.fail_writes {
            return Err(self.fail("a flush"));
        }
        self.sync()?;
        self.mark_flushed(self.last);
        Ok(self.flushed)
    }

    /// Everything up to `upto`, logged or not, is in a table on the disk.
    fn mark_flushed(&mut self, upto: u64) {
        self.flushed = self.flushed.max(upto);
        self.synced = self.synced.max(self.flushed);
        self.tail.retain(|batch| batch.end > upto);
        self.tables.unlogged.retain(|batch| batch.end > upto);
        self.tables.full.take_if(|full| *full <= upto);
        self.collect();
    }

    fn durable(&self) -> Cut {
        Cut { logged: self.synced, unlogged: self.flushed }
    }

    fn fail(&mut self, doing: &'static str) -> StorageError {
        let error = injected(doing);
        self.failed = Some(error.to_string());
        error
    }

    fn crash(&mut self, keep: usize) -> usize {
        let lost = self.tail.split_off(keep.min(self.tail.len()));
        self.logged = self.tail.back().map_or(self.synced, |batch| batch.end);
        let unlogged = self.forget_unlogged();
        assert!(self.last >= self.synced, "a crash never loses what was synced");
        self.generation += 1;
        self.locked = false;
        self.failed = None;
        self.views.clear();
        self.counters.crashes += 1;
        self.counters.batches_lost += (lost.len() + unlogged.len()) as u64;
        self.counters.unsynced_bytes_lost += lost.iter().chain(&unlogged).map(|batch| batch.bytes).sum::<u64>();
        lost.len()
    }

    /// What a process leaves behind that has ended, one way or another: what was logged, and what was written out.
    fn forget_unlogged(&mut self) -> VecDeque<TailBatch> {
        self.last = self.logged.max(self.flushed);
        self.versions.truncate(Cut { logged: self.logged, unlogged: self.flushed });
        (self.tables.filling, self.tables.full) = (0, None);
        std::mem::take(&mut self.tables.unlogged)
    }

    /// The number that a new view reads at. A dead handle's view reads nothing, so nothing is kept for it.
    pub(super) fn add_view(&mut self, generation: u64) -> u64 {
        if generation == self.generation {
            *self.views.entry(self.last).or_default() += 1;
        }
        self.last
    }

    pub(super) fn drop_view(&mut self, at: u64, generation: u64) {
        if generation != self.generation {
            return;
        }
        if let Some(count) = self.views.get_mut(&at) {
            *count -= 1;
            if *count == 0 {
                self.views.remove(&at);
                self.collect();
            }
        }
    }

    /// Everything from the last flushed number on must stay readable: a crash may cut there.
    fn collect(&mut self) {
        let oldest_view = self.views.keys().next().copied().unwrap_or(u64::MAX);
        self.versions.collect(oldest_view.min(self.flushed));
    }

    pub(super) fn add_checkpoint(&mut self, dir: &Path, copy: MemDisk) {
        self.checkpoints.insert(dir.to_path_buf(), copy);
    }

    pub(super) fn has_checkpoint(&self, dir: &Path) -> bool {
        self.checkpoints.contains_key(dir)
    }
}

pub(super) fn injected(doing: &'static str) -> StorageError {
    StorageError::Io { doing, detail: "injected fault".into() }
}

struct DiskRead {
    disk: MemDisk,
    durable: bool,
}

impl DiskRead {
    fn at(&self, state: &State) -> Cut {
        if self.durable { state.durable() } else { Cut::at(state.last) }
    }
}

impl Read for DiskRead {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let state = self.disk.state();
        Ok(state.versions.get(key, self.at(&state)).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], order: Order, visit: Visitor<'_>) -> Result<(), StorageError> {
        scan_pages(from, to, order, visit, |range, limit| {
            let state = self.disk.state();
            Ok(state.versions.page(range, order, self.at(&state), limit))
        })
    }
}

const PAGE_FIRST: usize = 8;
const PAGE_MAX: usize = 256;

/// Scans in pages, so that no lock is held while the visitor runs: it may read and write the engine.
pub(super) fn scan_pages(
    from: &[u8],
    to: &[u8],
    order: Order,
    visit: Visitor<'_>,
    page: impl Fn((Bound<&[u8]>, Bound<&[u8]>), usize) -> Result<Vec<(Bytes, Bytes)>, StorageError>,
) -> Result<(), StorageError> {
    if from >= to {
        return Ok(());
    }
    let mut edge: Option<Bytes> = None;
    let mut limit = PAGE_FIRST;
    loop {
        let range = match (&edge, order) {
            (None, _) => (Bound::Included(from), Bound::Excluded(to)),
            (Some(edge), Order::Forward) => (Bound::Excluded(&edge[..]), Bound::Excluded(to)),
            (Some(edge), Order::Reverse) => (Bound::Included(from), Bound::Excluded(&edge[..])),
        };
        let pairs = page(range, limit)?;
        for (key, value) in &pairs {
            if visit(key, value).is_break() {
                return Ok(());
            }
        }
        let Some((last, _)) = pairs.last().filter(|_| pairs.len() == limit) else { return Ok(()) };
        edge = Some(last.clone());
        limit = (limit * 2).min(PAGE_MAX);
    }
}
