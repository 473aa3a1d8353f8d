//! A store in a directory: one append-only file of checksummed, versioned records, and a lock against a second process.
//!
//! File: 8 bytes magic, then records: length u32 | crc32 of the body u32 | body = version byte + JSON of a list of changes.
//! One record is one transaction, synced before it counts. A torn last record is cut off at the next start (its commit never
//! returned); a damaged one before the end is an error. Records of commands that are answered are dropped by compaction;
//! entries are kept.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::{BoxFuture, FutureExt};

use super::{Change, Saved, Store, StoreError};

const MAGIC: &[u8; 8] = b"FLOTCLI1";
const RECORD_VERSION: u8 = 1;
const RECORD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Compact at the start, once this many records are superseded.
const DEAD_RECORDS_MAX: u64 = 10_000;

#[derive(Debug)]
pub struct FileStore {
    saved: Saved,
    log: Arc<Mutex<Log>>,
}

#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
    _lock: File,
}

impl FileStore {
    /// Blocking: call it before the runtime matters, or off it.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir).map_err(|e| io("cannot make", dir, e))?;
        let lock = lock(&dir.join("lock"))?;
        let path = dir.join("store.log");
        let mut scan = scan(&path)?;
        if scan.dead > DEAD_RECORDS_MAX {
            compact(&path, &scan.saved)?;
            scan = self::scan(&path)?;
        }
        let file = open_at(&path, scan.end)?;
        sync_dir(dir)?;
        Ok(Self { saved: scan.saved, log: Arc::new(Mutex::new(Log { path, file, _lock: lock })) })
    }

    /// Rewrites the file without what is superseded. Blocking.
    pub fn compact(&mut self) -> Result<(), StoreError> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        compact(&log.path, &self.saved)?;
        let scan = scan(&log.path)?;
        log.file = open_at(&log.path, scan.end)?;
        Ok(())
    }
}

impl Store for FileStore {
    fn load(&self) -> Saved {
        self.saved.clone()
    }

    fn commit(&mut self, changes: Vec<Change>) -> BoxFuture<'_, Result<(), StoreError>> {
        let log = self.log.clone();
        async move {
            let record = record(&changes);
            // The simulator marks it deprecated; nothing there has a store of files or a terminal.
            #[allow(deprecated)]
            let written = tokio::task::spawn_blocking(move || {
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                let path = log.path.clone();
                log.file.write_all(&record).map_err(|e| io("cannot write", &path, e))?;
                log.file.sync_data().map_err(|e| io("cannot sync", &path, e))
            });
            written.await.map_err(|e| StoreError::Task(e.to_string()))??;
            for change in &changes {
                self.saved.apply(change);
            }
            Ok(())
        }
        .boxed()
    }
}

fn io(what: &'static str, path: &Path, source: std::io::Error) -> StoreError {
    StoreError::Io { what, path: path.display().to_string(), source }
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|e| io("cannot open", path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked { path: path.display().to_string() }),
        Err(TryLockError::Error(e)) => Err(io("cannot lock", path, e)),
    }
}

fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| io("cannot sync", dir, e))
}

fn open_at(path: &Path, end: u64) -> Result<File, StoreError> {
    let mut file = OpenOptions::new().read(true).write(true).open(path).map_err(|e| io("cannot open", path, e))?;
    file.set_len(end).map_err(|e| io("cannot cut", path, e))?;
    file.seek(SeekFrom::End(0)).map_err(|e| io("cannot seek", path, e))?;
    file.sync_all().map_err(|e| io("cannot sync", path, e))?;
    Ok(file)
}

fn record(changes: &[Change]) -> Vec<u8> {
    let mut body = vec![RECORD_VERSION];
    serde_json::to_writer(&mut body, changes).expect("changes have text keys and memory is the sink");
    let mut out = Vec::with_capacity(body.len() + 8);
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    out.extend_from_slice(&body);
    out
}

struct Scan {
    saved: Saved,
    /// Where the last whole record ends.
    end: u64,
    dead: u64,
}

fn scan(path: &Path) -> Result<Scan, StoreError> {
    let mut scan = Scan { saved: Saved::default(), end: MAGIC.len() as u64, dead: 0 };
    let mut reader = Records::open(path)?;
    while let Some((changes, end)) = reader.next()? {
        for change in &changes {
            scan.saved.apply(change);
        }
        scan.dead += changes.iter().filter(|c| !c.is_content()).count() as u64;
        scan.end = end;
    }
    scan.dead = scan.dead.saturating_sub(scan.saved.changes().len() as u64);
    Ok(scan)
}

/// State first, then the entries of the old file in their order.
fn compact(path: &Path, saved: &Saved) -> Result<(), StoreError> {
    let fresh = path.with_extension("tmp");
    let file = File::create(&fresh).map_err(|e| io("cannot make", &fresh, e))?;
    let mut out = BufWriter::new(file);
    let failed = |e| io("cannot write", &fresh, e);
    out.write_all(MAGIC).map_err(failed)?;
    out.write_all(&record(&saved.changes())).map_err(failed)?;
    let mut reader = Records::open(path)?;
    while let Some((mut changes, _)) = reader.next()? {
        changes.retain(Change::is_content);
        if !changes.is_empty() {
            out.write_all(&record(&changes)).map_err(failed)?;
        }
    }
    let file = out.into_inner().map_err(|e| io("cannot write", &fresh, e.into_error()))?;
    file.sync_all().map_err(|e| io("cannot sync", &fresh, e))?;
    std::fs::rename(&fresh, path).map_err(|e| io("cannot replace", path, e))?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Reads whole records one by one; stops before a torn tail.
struct Records {
    path: PathBuf,
    file: BufReader<File>,
    at: u64,
    len: u64,
}

impl Records {
    fn open(path: &Path) -> Result<Self, StoreError> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(|e| io("cannot open", path, e))?;
        let len = file.metadata().map_err(|e| io("cannot read", path, e))?.len();
        let mut magic = [0u8; 8];
        if len < MAGIC.len() as u64 {
            // New, or a crash in its first write.
            file.set_len(0).and_then(|()| file.write_all(MAGIC)).map_err(|e| io("cannot write", path, e))?;
            file.seek(SeekFrom::Start(0)).map_err(|e| io("cannot seek", path, e))?;
        }
        file.read_exact(&mut magic).map_err(|e| io("cannot read", path, e))?;
        if magic != *MAGIC {
            let path = path.display().to_string();
            return Err(StoreError::Damaged { path, at: 0, why: "not a Flotilla client store".into() });
        }
        let at = MAGIC.len() as u64;
        Ok(Self { path: path.to_owned(), file: BufReader::new(file), at, len: len.max(at) })
    }

    fn damaged(&self, why: impl Into<String>) -> StoreError {
        StoreError::Damaged { path: self.path.display().to_string(), at: self.at, why: why.into() }
    }

    fn next(&mut self) -> Result<Option<(Vec<Change>, u64)>, StoreError> {
        let left = self.len - self.at;
        if left < 8 {
            return Ok(None);
        }
        let mut head = [0u8; 8];
        self.file.read_exact(&mut head).map_err(|e| io("cannot read", &self.path, e))?;
        let size = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let sum = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        let end = self.at + 8 + u64::from(size);
        if end > self.len {
            return Ok(None);
        }
        if size == 0 || size as usize > RECORD_BYTES_MAX {
            return Err(self.damaged(format!("a record of {size} bytes")));
        }
        let mut body = vec![0u8; size as usize];
        self.file.read_exact(&mut body).map_err(|e| io("cannot read", &self.path, e))?;
        if crc32fast::hash(&body) != sum {
            // The last one: torn. Before the end it was once whole.
            return if end == self.len { Ok(None) } else { Err(self.damaged("checksum")) };
        }
        if body[0] != RECORD_VERSION {
            let path = self.path.display().to_string();
            return Err(StoreError::Newer { path, found: body[0], known: RECORD_VERSION });
        }
        let changes = serde_json::from_slice(&body[1..]).map_err(|e| self.damaged(e.to_string()))?;
        self.at = end;
        Ok(Some((changes, end)))
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::entry::What;
    use flotilla_proto::ids::{Blob, Cid, ConvId, Seq, UserId};

    use super::super::SavedCommand;
    use super::*;

    fn conv() -> ConvId {
        let user = |name| UserId::parse(name).expect("valid");
        ConvId::direct(&user("alice"), &user("bob"))
    }

    fn command(cid: u128) -> Change {
        let body = Blob::from(vec![1, 2, 255]);
        let what = What::Message { kind: "message".into(), body, reply_to: None, mentions: vec![], media: None };
        Change::Command(SavedCommand { cid: Cid(cid), conv: conv(), to: None, what, saved_ms: 5 })
    }

    fn at(seq: u64) -> Change {
        Change::Position { conv: conv(), seq: Seq(seq) }
    }

    fn commit(store: &mut FileStore, changes: Vec<Change>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        runtime.block_on(store.commit(changes)).expect("commits");
    }

    #[test]
    fn what_was_committed_is_there_after_a_crash_at_any_byte_of_the_next_commit() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut store = FileStore::open(dir.path()).expect("opens");
        commit(&mut store, vec![Change::Install("x".into()), command(1), command(2), at(7)]);
        commit(&mut store, vec![Change::Answered(Cid(1)), at(9), at(8)]);
        let whole = store.load();
        assert_eq!(whole.commands.len(), 1);
        assert_eq!(whole.positions[&conv()], Seq(9), "a position never goes back");
        let path = dir.path().join("store.log");
        let before = std::fs::metadata(&path).expect("exists").len();
        commit(&mut store, vec![command(3)]);
        drop(store);
        let bytes = std::fs::read(&path).expect("readable");
        for cut in before..bytes.len() as u64 {
            std::fs::write(&path, &bytes[..cut as usize]).expect("writable");
            let reopened = FileStore::open(dir.path()).expect("a torn tail is cut off");
            assert_eq!(reopened.load(), whole);
        }
    }

    #[test]
    fn damage_before_the_end_is_an_error_and_not_a_loss() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut store = FileStore::open(dir.path()).expect("opens");
        commit(&mut store, vec![command(1)]);
        commit(&mut store, vec![command(2)]);
        drop(store);
        let path = dir.path().join("store.log");
        let mut bytes = std::fs::read(&path).expect("readable");
        bytes[30] ^= 1;
        std::fs::write(&path, &bytes).expect("writable");
        assert!(matches!(FileStore::open(dir.path()), Err(StoreError::Damaged { .. })));
    }

    #[test]
    fn a_second_process_is_refused_and_compaction_keeps_what_counts() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut store = FileStore::open(dir.path()).expect("opens");
        assert!(matches!(FileStore::open(dir.path()), Err(StoreError::Locked { .. })));
        for i in 0..50 {
            commit(&mut store, vec![command(i), at(i as u64)]);
            commit(&mut store, vec![Change::Answered(Cid(i))]);
        }
        commit(&mut store, vec![command(99)]);
        let size = || std::fs::metadata(dir.path().join("store.log")).expect("exists").len();
        let (before, saved) = (size(), store.load());
        store.compact().expect("compacts");
        assert!(size() * 10 < before);
        commit(&mut store, vec![at(100)]);
        drop(store);
        let reopened = FileStore::open(dir.path()).expect("opens").load();
        assert_eq!(reopened.commands, saved.commands);
        assert_eq!(reopened.positions[&conv()], Seq(100));
    }
}
