//! The simulated disk: what survives a crash, and the faults that a test or a simulator injects.
//!
//! Invariants:
//! - Everything up to `synced` survives every crash; of the tail behind it, a prefix of whole batches.
//! - `synced <= last`; numbers never go back except by a crash, down to a batch boundary at or above `synced`.
//!
//! The disk outlives the engines opened on it. It never sleeps: a stall is a duration for the caller to read.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::versions::Versions;
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

/// One whole batch that a crash may drop.
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
    pub(super) synced: u64,
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

    /// Power loss or kill: the first `keep` batches of the unsynced tail survive, the rest is gone, and
    /// every handle opened before is dead. `usize::MAX` is a kill with the page cache kept.
    ///
    /// Returns how many batches were lost.
    pub fn crash(&self, keep: usize) -> usize {
        self.state().crash(keep)
    }

    /// Number of whole batches that a crash could drop now.
    pub fn tail_batches(&self) -> usize {
        self.state().tail.len()
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
        state.synced = image.synced;
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
        self.mark_synced();
        Ok(self.generation)
    }

    pub(super) fn close(&mut self, generation: u64) {
        if generation == self.generation {
            self.locked = false;
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
            self.append(batch);
        }
        match durability {
            Durability::Buffered => Ok(self.last),
            Durability::Synced => self.sync(),
        }
    }

    fn append(&mut self, batch: Batch) {
        let bytes = batch.bytes() as u64;
        for op in batch.into_ops() {
            self.last += 1;
            self.versions.apply(self.last, op);
        }
        self.tail.push_back(TailBatch { end: self.last, bytes });
        self.counters.batches_written += 1;
        self.counters.bytes_written += bytes;
    }

    pub(super) fn sync(&mut self) -> Result<u64, StorageError> {
        if self.faults.fail_syncs {
            return Err(self.fail("a sync"));
        }
        self.counters.syncs += 1;
        self.mark_synced();
        Ok(self.synced)
    }

    fn mark_synced(&mut self) {
        self.tail.clear();
        self.synced = self.last;
        self.collect();
    }

    fn fail(&mut self, doing: &'static str) -> StorageError {
        let error = injected(doing);
        self.failed = Some(error.to_string());
        error
    }

    fn crash(&mut self, keep: usize) -> usize {
        let lost = self.tail.split_off(keep.min(self.tail.len()));
        self.last = self.tail.back().map_or(self.synced, |batch| batch.end);
        assert!(self.last >= self.synced, "a crash never loses what was synced");
        self.versions.truncate(self.last);
        self.generation += 1;
        self.locked = false;
        self.failed = None;
        self.views.clear();
        self.counters.crashes += 1;
        self.counters.batches_lost += lost.len() as u64;
        self.counters.unsynced_bytes_lost += lost.iter().map(|batch| batch.bytes).sum::<u64>();
        lost.len()
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

    /// Everything from the last synced number on must stay readable: a crash may cut there.
    fn collect(&mut self) {
        let oldest_view = self.views.keys().next().copied().unwrap_or(u64::MAX);
        self.versions.collect(oldest_view.min(self.synced));
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
    fn at(&self, state: &State) -> u64 {
        if self.durable { state.synced } else { state.last }
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
