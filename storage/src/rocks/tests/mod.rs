//! RocksDB against the suite, and what a real directory adds: torn logs, locks, damaged files.

mod faults;
mod kills;
mod subject;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use self::subject::RocksSubject;
use super::*;
use crate::conformance;
use crate::watermark::{self, Verdict, Watermark};

fn scratch() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn small() -> RocksOptions {
    RocksOptions {
        block_cache_bytes: 1 << 20,
        write_buffer_bytes: 1 << 20,
        write_buffer_bytes_under_load: 1 << 20,
        ..Default::default()
    }
}

fn open(dir: &Path) -> RocksEngine {
    RocksEngine::open(dir, small()).expect("open")
}

fn set(key: &str, value: &str) -> Batch {
    let mut batch = Batch::new();
    batch.put(key.as_bytes().to_vec(), value.as_bytes().to_vec());
    batch
}

fn content(read: &dyn Read) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut content = BTreeMap::new();
    read.scan(b"", &[0xff; 8], Order::Forward, &mut |key, value| {
        content.insert(key.to_vec(), value.to_vec());
        ControlFlow::Continue(())
    })
    .expect("readable");
    content
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a new directory");
    for entry in fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        if entry.file_name() != "LOCK" {
            match fs::copy(entry.path(), to.join(entry.file_name())) {
                // RocksDB deletes what it no longer needs in the background.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                copied => drop(copied.expect("copied")),
            }
        }
    }
}

/// The newest write-ahead log of a database.
fn log_file(dir: &Path) -> PathBuf {
    let files = fs::read_dir(dir).expect("readable").map(|entry| entry.expect("readable").path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max().expect("a log")
}

#[test]
fn conformance_suite_passes() {
    if let Err(violation) = conformance::run(&|| Box::new(RocksSubject::new()), 32) {
        panic!("{violation}");
    }
}

/// The suite cuts in the middle of batches only; here every few bytes.
#[test]
fn log_torn_anywhere_loses_a_suffix_of_whole_batches() {
    let scratch = scratch();
    let dir = scratch.path().join("db");
    let engine = open(&dir);
    let mut states = vec![(WriteNo(0), BTreeMap::new())];
    for number in 0..12u8 {
        let mut batch = Batch::new();
        batch.put(vec![number % 5], vec![number; 20]);
        batch.delete_range(vec![number % 3], vec![number % 3 + 1]);
        batch.put("both or none", vec![number]);
        states.push((engine.write(batch, Durability::Buffered).expect("written"), content(&engine)));
    }
    let log = fs::read(log_file(&dir)).expect("readable");
    let mut came_back = BTreeMap::new();
    for cut in (0..=log.len()).step_by(7).chain([log.len()]) {
        let copy = scratch.path().join(format!("cut-{cut}"));
        copy_dir(&dir, &copy);
        fs::write(log_file(&copy), &log[..cut]).expect("torn");
        let engine = open(&copy);
        let state = (engine.last_write(), content(&engine));
        assert!(states.contains(&state), "cut at {cut} brought back {state:?}");
        came_back.insert(state.0, cut);
        drop(engine);
        fs::remove_dir_all(&copy).expect("removed");
    }
    let all: Vec<_> = states.iter().map(|(number, _)| *number).collect();
    assert_eq!(came_back.into_keys().collect::<Vec<_>>(), all, "every legal state came back from some cut");
}

/// Two logs are alive while a full memtable waits to be flushed. The disk may have written the newer one and not
/// the end of the older one: nothing of the newer one may come back then.
#[test]
fn older_log_cut_short_takes_the_newer_one_with_it() {
    let scratch = scratch();
    let dir = scratch.path().join("db");
    let mut options = small().to_rocksdb().expect("valid options");
    // Holds back the flush that would end the older log's life.
    options.set_min_write_buffer_number_to_merge(3);
    options.set_max_write_buffer_number(6);
    let engine = RocksEngine::open_with(&dir, &options, None, [1 << 20; 2]).expect("open");
    let first = log_file(&dir);
    let mut ends = vec![0];
    let mut written = 0u64;
    let mut write = || {
        let mut batch = Batch::new();
        batch.put(written.to_be_bytes().to_vec(), vec![7; 100 << 10]);
        written = engine.write(batch, Durability::Buffered).expect("written").0;
        written
    };
    while log_file(&dir) == first {
        write();
        ends.push(fs::metadata(&first).expect("the older log").len() as usize);
    }
    let written = (write(), write()).1;
    let log = fs::read(&first).expect("both logs are alive");
    ends.dedup();
    ends.pop();
    for end in ends {
        let copy = scratch.path().join(format!("end-{end}"));
        copy_dir(&dir, &copy);
        fs::write(copy.join(first.file_name().expect("a file")), &log[..end]).expect("cut");
        let engine = open(&copy);
        let found = content(&engine).len() as u64;
        assert!(found < written);
        assert_eq!(engine.last_write(), WriteNo(found), "cut at {end}: a hole came back");
        drop(engine);
        fs::remove_dir_all(&copy).expect("removed");
    }
    let whole = scratch.path().join("whole");
    copy_dir(&dir, &whole);
    assert_eq!(open(&whole).last_write(), WriteNo(written), "without damage both logs come back");
}

#[test]
fn many_range_deletes_leave_the_memtable() {
    let scratch = scratch();
    let engine = open(scratch.path());
    for number in 0..600u32 {
        let mut batch = Batch::new();
        batch.put(number.to_be_bytes().to_vec(), "x");
        batch.delete_range(number.to_be_bytes().to_vec(), (number + 1).to_be_bytes().to_vec());
        engine.write(batch, Durability::Buffered).expect("written");
    }
    // The flush happens in the background.
    let deadline = Instant::now() + Duration::from_secs(30);
    while engine.stats().table_file_bytes == 0 {
        assert!(Instant::now() < deadline, "never flushed: {:?}", engine.stats());
        std::thread::yield_now();
    }
    assert!(content(&engine).is_empty());
}

/// A disk that lies: a bit of a synced record is flipped. Nothing behind it may come back, as that would be
/// a hole; and the watermark tells that what came back is not everything.
#[test]
fn damaged_log_ends_the_history_there_and_the_watermark_notices() {
    let scratch = scratch();
    let dir = scratch.path().join("db");
    let engine = open(&dir);
    let mut states = vec![content(&engine)];
    for number in 0..8u8 {
        let mut batch = Batch::new();
        batch.put(vec![number], vec![number; 30]);
        engine.write(batch, Durability::Synced).expect("written");
        states.push(content(&engine));
    }
    let watermark = Some(Watermark(engine.synced()));
    let log = fs::read(log_file(&dir)).expect("readable");
    for bit in (0..log.len() * 8).step_by(37) {
        let copy = scratch.path().join(format!("bit-{bit}"));
        copy_dir(&dir, &copy);
        let mut damaged = log.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        fs::write(log_file(&copy), &damaged).expect("written");
        // Refusing to open is fine as well; serving a hole is not.
        if let Ok(engine) = RocksEngine::open(&copy, small()) {
            let found = content(&engine);
            let batches = states.iter().position(|state| *state == found).expect("a prefix of the batches");
            assert!(batches < 8, "bit {bit}: the damage went unnoticed");
            let verdict = watermark::check(engine.last_write(), watermark);
            let lost = Verdict::TailLost { expected: WriteNo(8), found: WriteNo(batches as u64) };
            assert_eq!(verdict, lost, "bit {bit}");
        }
        fs::remove_dir_all(&copy).expect("removed");
    }
}

#[test]
fn killed_process_loses_no_buffered_write() {
    let scratch = scratch();
    let dir = scratch.path().join("db");
    let engine = open(&dir);
    for number in 0..100u8 {
        engine.write(set(&format!("{number:03}"), "x"), Durability::Buffered).expect("written");
    }
    // The files as they are in the page cache are what a killed process leaves behind.
    let copy = scratch.path().join("copy");
    copy_dir(&dir, &copy);
    let recovered = open(&copy);
    assert_eq!(content(&recovered), content(&engine));
    assert_eq!(recovered.last_write(), engine.last_write());
    assert_eq!(recovered.synced(), recovered.last_write());
}

#[test]
fn numbers_go_on_after_flushes_and_restarts() {
    let scratch = scratch();
    let mut expected = WriteNo(0);
    for _ in 0..3 {
        let engine = open(scratch.path());
        assert_eq!(engine.last_write(), expected);
        // More than the write buffers, so that memtables are flushed and logs deleted on the way.
        for number in 0..80u32 {
            let mut batch = Batch::new();
            batch.put(number.to_be_bytes().to_vec(), vec![number as u8; 50_000]);
            expected = engine.write(batch, Durability::Buffered).expect("written");
        }
        assert_eq!(engine.last_write(), expected);
    }
    assert_eq!(expected, WriteNo(240));
}

#[test]
fn second_open_names_the_directory_and_says_what_to_do() {
    let scratch = scratch();
    let _engine = open(scratch.path());
    let error = RocksEngine::open(scratch.path(), small()).err().expect("it is locked").to_string();
    assert!(error.contains(&scratch.path().display().to_string()), "{error}");
    assert!(error.contains("already open: stop the other process"), "{error}");
}

#[test]
fn path_that_is_no_directory_is_an_io_error() {
    let scratch = scratch();
    let file = scratch.path().join("file");
    fs::write(&file, "not a database").expect("written");
    assert!(matches!(RocksEngine::open(&file, small()), Err(StorageError::Io { .. })));
    let missing = scratch.path().join("missing");
    assert!(RocksEngine::open_read_only(&missing).is_err());
    assert!(!missing.exists(), "opening read only creates nothing");
}

#[test]
fn reading_a_stopped_directory_changes_nothing_in_it() {
    let files = |dir: &Path| -> BTreeMap<_, _> {
        let entries = fs::read_dir(dir).expect("readable").map(|entry| entry.expect("readable").path());
        entries.map(|path| (path.clone(), fs::read(path).expect("readable"))).collect()
    };
    let scratch = scratch();
    let engine = open(scratch.path());
    engine.write(set("a", "only in the log"), Durability::Buffered).expect("written");
    drop(engine);
    let before = files(scratch.path());
    let read = RocksEngine::open_read_only(scratch.path()).expect("open");
    assert_eq!(read.get(b"a"), Ok(Some("only in the log".into())));
    drop(read);
    assert!(files(scratch.path()) == before);
}

#[test]
fn damaged_table_is_corrupt_and_never_the_end_of_the_data() {
    let scratch = scratch();
    let dir = scratch.path().join("db");
    let engine = open(&dir);
    for number in 0..2000u32 {
        engine.write(set(&format!("{number:05}"), &"value ".repeat(20)), Durability::Buffered).expect("written");
    }
    let copy = scratch.path().join("copy");
    engine.checkpoint(&copy).expect("a copy in tables");
    let table = fs::read_dir(&copy)
        .expect("readable")
        .map(|entry| entry.expect("readable").path())
        .find(|path| path.extension().is_some_and(|extension| extension == "sst"))
        .expect("a table");
    let mut bytes = fs::read(&table).expect("readable");
    bytes[2000] ^= 1;
    fs::write(&table, &bytes).expect("written");
    let damaged = RocksEngine::open_read_only(&copy).expect("tables are checked when they are read");
    for order in [Order::Forward, Order::Reverse] {
        let scanned = damaged.scan(b"", b"z", order, &mut |_, _| ControlFlow::Continue(()));
        assert!(matches!(scanned, Err(StorageError::Corrupt { .. })), "{order:?}: {scanned:?}");
    }
}

#[test]
fn view_outlives_the_engine() {
    let scratch = scratch();
    let engine = open(scratch.path());
    engine.write(set("a", "1"), Durability::Buffered).expect("written");
    let view = engine.view();
    engine.write(set("a", "2"), Durability::Buffered).expect("written");
    drop(engine);
    assert_eq!(view.get(b"a"), Ok(Some("1".into())));
    assert!(matches!(RocksEngine::open(scratch.path(), small()), Err(StorageError::Locked { .. })));
    drop(view);
    assert_eq!(open(scratch.path()).get(b"a"), Ok(Some("2".into())));
}

#[test]
fn syncs_are_counted_and_timed() {
    let scratch = scratch();
    let heard = Arc::new(Mutex::new(Vec::<Duration>::new()));
    let ear = heard.clone();
    let on_sync: OnSync = Arc::new(move |took| ear.lock().expect("not poisoned").push(took));
    let engine = RocksEngine::open(scratch.path(), RocksOptions { on_sync: Some(on_sync), ..small() }).expect("open");
    engine.write(set("a", "1"), Durability::Buffered).expect("written");
    assert_eq!(engine.stats().syncs, 0);
    engine.write(set("a", "1"), Durability::Synced).expect("written");
    engine.sync().expect("synced");
    let (stats, heard) = (engine.stats(), heard.lock().expect("not poisoned"));
    assert_eq!((stats.syncs, heard.len()), (2, 2));
    let total: u128 = heard.iter().map(Duration::as_micros).sum();
    assert!(u128::from(stats.total_sync_micros) <= total + 2 && stats.total_sync_micros >= stats.last_sync_micros);
}

#[test]
fn memory_stays_within_the_sizes_given() {
    let scratch = scratch();
    let options = RocksOptions { write_buffers: 2, ..small() };
    let engine = RocksEngine::open(scratch.path(), options).expect("open");
    for number in 0..3000u32 {
        let mut batch = Batch::new();
        batch.put(number.to_be_bytes().to_vec(), number.to_le_bytes().repeat(2500));
        engine.write(batch, Durability::Buffered).expect("written");
    }
    assert_eq!(content(&engine).len(), 3000);
    let stats = engine.stats();
    assert!(stats.table_file_bytes > 0, "{stats:?}");
    assert!(stats.memory_bytes() < 8 << 20, "30 MB written with 3 MiB of buffers and cache: {stats:?}");
}

/// The size reaches RocksDB: with small memtables this much would be in tables.
#[test]
fn memtables_can_be_made_larger_and_smaller_while_the_database_is_open() {
    let scratch = scratch();
    let dir = scratch.path().join("db");
    let options = RocksOptions { write_buffer_bytes_under_load: 32 << 20, ..small() };
    let engine = RocksEngine::open(&dir, options).expect("open");
    let fill = |from: u64| {
        for key in from..from + 80 {
            let mut batch = Batch::new();
            batch.put(key.to_be_bytes().to_vec(), vec![7; 100 << 10]);
            engine.write(batch, Durability::Buffered).expect("written");
        }
        engine.stats().memtable_bytes
    };
    assert!(engine.resize_memtables(Size::Large));
    // The first memtable may still be one of the old size.
    assert!(fill(0) > 6 << 20, "{:?}", engine.stats());
    assert!(engine.resize_memtables(Size::Small));
    fill(1_000);
    assert!(fill(2_000) < 6 << 20, "{:?}", engine.stats());
}
