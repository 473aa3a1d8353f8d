//! The watermark: a small file that says how far the engine was known to be durable.
//!
//! Invariant: the number in the file never exceeds what the engine had synced when it was written. So an
//! engine that comes back below it has lost something that was promised, votes included, and its replicas
//! must not vote again under their old ids. A legal crash (a suffix of unsynced batches) never trips it.
//!
//! The file is written beside the engine, not through it: an engine that loses its tail must not lose the
//! evidence as well. This module does not know what follows from a verdict.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::{StorageError, WriteNo, value};

const LAYOUT_VERSION: u8 = 1;

/// The engine's write number of the last batch known to be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watermark(pub WriteNo);

/// What a watermark says about an engine that has just been opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The engine holds at least everything that was known to be durable.
    Whole,
    /// There is no watermark: a new directory, or a node that died before it wrote its first.
    Unknown,
    /// Writes that were durable are gone: no replica of this engine may vote under its old id.
    TailLost { expected: WriteNo, found: WriteNo },
}

/// Compares what an engine recovered (its [`last_write`](crate::Engine::last_write) right after opening,
/// before the first write) with the watermark.
pub fn check(recovered: WriteNo, watermark: Option<Watermark>) -> Verdict {
    match watermark {
        None => Verdict::Unknown,
        Some(Watermark(expected)) if recovered < expected => Verdict::TailLost { expected, found: recovered },
        Some(_) => Verdict::Whole,
    }
}

/// Where a node keeps its watermark: a file, or a corner of a simulated disk.
pub trait WatermarkStore: Send + Sync {
    /// `None` if none was ever written. A damaged one is [`StorageError::Corrupt`]: treat it as a lost tail.
    fn read(&self) -> Result<Option<Watermark>, StorageError>;

    /// Replaces the watermark, atomically and durably. Write only what [`synced`](crate::Engine::synced) answered.
    fn write(&self, watermark: Watermark) -> Result<(), StorageError>;
}

/// Layout: the envelope of [`value`] around the number, big-endian.
pub(crate) fn encode(watermark: Watermark) -> Bytes {
    value::seal(LAYOUT_VERSION, &watermark.0.0.to_be_bytes())
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Watermark, StorageError> {
    let (version, payload) = value::open_slice(bytes).map_err(|damaged| corrupt(damaged.to_string()))?;
    if version != LAYOUT_VERSION {
        return Err(corrupt(format!("unknown layout version {version}")));
    }
    let number = payload.try_into().map_err(|_| corrupt(format!("its number has {} bytes", payload.len())))?;
    Ok(Watermark(WriteNo(u64::from_be_bytes(number))))
}

fn corrupt(why: String) -> StorageError {
    StorageError::Corrupt { what: format!("the watermark: {why}") }
}

/// A watermark in a file of its own.
pub struct WatermarkFile {
    path: PathBuf,
}

impl WatermarkFile {
    /// `path` need not exist, its directory must.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let temporary = self.path.with_extension("new");
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        // The rename itself is durable only when the directory is.
        File::open(directory)?.sync_all()
    }
}

impl WatermarkStore for WatermarkFile {
    fn read(&self) -> Result<Option<Watermark>, StorageError> {
        match fs::read(&self.path) {
            Ok(bytes) => decode(&bytes).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("reading the watermark", &self.path, &error)),
        }
    }

    fn write(&self, watermark: Watermark) -> Result<(), StorageError> {
        self.replace(&encode(watermark)).map_err(|error| failed("writing the watermark", &self.path, &error))
    }
}

fn failed(doing: &'static str, path: &Path, error: &io::Error) -> StorageError {
    let detail = format!("{}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StorageError::Full { detail },
        _ => StorageError::Io { doing, detail },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, Durability, Engine, MemDisk, MemEngine};

    fn mark(number: u64) -> Watermark {
        Watermark(WriteNo(number))
    }

    fn scratch() -> (tempfile::TempDir, WatermarkFile) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = WatermarkFile::new(dir.path().join("watermark"));
        (dir, file)
    }

    fn keeps_the_newest(store: &dyn WatermarkStore) {
        assert_eq!(store.read(), Ok(None));
        for number in [0, 7, u64::MAX] {
            store.write(mark(number)).expect("written");
            assert_eq!(store.read(), Ok(Some(mark(number))));
        }
    }

    #[test]
    fn file_and_simulated_disk_keep_the_newest_watermark() {
        let (_dir, file) = scratch();
        keeps_the_newest(&file);
        keeps_the_newest(&MemDisk::new().watermark());
    }

    #[test]
    fn half_written_replacement_leaves_the_old_watermark() {
        let (dir, file) = scratch();
        file.write(mark(3)).expect("written");
        fs::write(dir.path().join("watermark.new"), b"\x01torn").expect("left behind by a crash");
        assert_eq!(file.read(), Ok(Some(mark(3))));
        file.write(mark(4)).expect("written over the leftover");
        assert_eq!(file.read(), Ok(Some(mark(4))));
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_corrupt_never_absent() {
        let (dir, file) = scratch();
        let path = dir.path().join("watermark");
        let good = encode(mark(123_456)).to_vec();
        let flipped = (0..good.len() * 8).map(|bit| {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes
        });
        let cut = (0..good.len()).map(|len| good[..len].to_vec());
        for damaged in flipped.chain(cut) {
            fs::write(&path, &damaged).expect("written");
            assert!(matches!(file.read(), Err(StorageError::Corrupt { .. })), "{damaged:?}");
        }
    }

    #[test]
    fn newer_layout_is_refused() {
        let newer = value::seal(LAYOUT_VERSION + 1, &7u64.to_be_bytes());
        assert!(matches!(decode(&newer), Err(StorageError::Corrupt { .. })));
    }

    #[test]
    fn missing_directory_is_an_error_that_names_the_file() {
        let file = WatermarkFile::new("/nonexistent/watermark");
        assert_eq!(file.read(), Ok(None));
        let error = file.write(mark(1)).expect_err("there is no such directory");
        assert!(error.to_string().contains("/nonexistent/watermark"), "{error}");
    }

    #[test]
    fn legal_crash_is_whole_and_an_older_copy_is_a_lost_tail() {
        let disk = MemDisk::new();
        let write = |engine: &MemEngine, durability| {
            let mut batch = Batch::new();
            batch.put("key", "value");
            engine.write(batch, durability).expect("written");
        };
        let engine = MemEngine::open(&disk).expect("open");
        write(&engine, Durability::Synced);
        let old = disk.copy_durable();
        write(&engine, Durability::Synced);
        disk.watermark().write(Watermark(engine.synced())).expect("written");
        write(&engine, Durability::Buffered);

        disk.crash(0);
        let engine = MemEngine::open(&disk).expect("open");
        let watermark = disk.watermark().read().expect("readable");
        assert_eq!(check(engine.last_write(), watermark), Verdict::Whole);

        let rolled_back = MemEngine::open(&old).expect("open");
        let verdict = check(rolled_back.last_write(), watermark);
        assert_eq!(verdict, Verdict::TailLost { expected: WriteNo(2), found: WriteNo(1) });
        assert_eq!(check(WriteNo(0), None), Verdict::Unknown);
    }

    #[test]
    fn killed_process_writes_no_watermark_and_faults_apply() {
        let disk = MemDisk::new();
        let before = disk.watermark();
        before.write(mark(1)).expect("written");
        disk.crash(0);
        assert!(matches!(before.write(mark(2)), Err(StorageError::Closed { .. })));
        let after = disk.watermark();
        disk.inject(|faults| faults.full = true);
        assert!(after.write(mark(3)).is_err_and(|error| error.is_full()));
        disk.inject(|faults| *faults = crate::Faults { fail_syncs: true, ..Default::default() });
        assert!(matches!(after.write(mark(4)), Err(StorageError::Io { .. })));
        assert_eq!(after.read(), Ok(Some(mark(1))));
    }
}
