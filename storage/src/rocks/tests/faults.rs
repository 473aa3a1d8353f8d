//! Real faults of a real disk. They need what not every machine has, so they are ignored by default:
//!
//!     mount -t tmpfs -o size=8m tmpfs /mnt/small
//!     FLOTILLA_SMALL_FS=/mnt/small cargo test -p flotilla-storage --features rocksdb faults -- --ignored

use std::env;
use std::process::Command;

use super::*;

/// Writes numbered values until one is refused: the numbers accepted, and the refusal.
fn fill(engine: &RocksEngine, bytes: usize) -> (u32, StorageError) {
    for number in 0..10_000u32 {
        let mut batch = Batch::new();
        batch.put(number.to_be_bytes().to_vec(), number.to_be_bytes().repeat(bytes / 4));
        if let Err(error) = engine.write(batch, Durability::Synced) {
            return (number, error);
        }
    }
    panic!("10,000 writes and no refusal");
}

fn assert_holds(engine: &dyn Read, numbers: u32) {
    for number in 0..numbers {
        assert!(engine.get(&number.to_be_bytes()).expect("readable").is_some(), "write {number} was accepted");
    }
}

#[test]
#[ignore = "needs a small file system in FLOTILLA_SMALL_FS"]
fn full_disk_refuses_writes_serves_reads_and_recovers_when_there_is_room() {
    let small_fs = env::var("FLOTILLA_SMALL_FS").expect("FLOTILLA_SMALL_FS names a file system of a few MiB");
    let dir = tempfile::tempdir_in(&small_fs).expect("a directory on the small file system");
    let ballast = dir.path().join("ballast");
    fs::write(&ballast, vec![1; 2 << 20]).expect("room for the ballast");
    let db = dir.path().join("db");
    let engine = open(&db);
    let (accepted, error) = fill(&engine, 64 << 10);
    assert!(error.is_full(), "{error}");
    assert!(accepted > 10);
    assert_holds(&engine, accepted);
    for durability in [Durability::Synced, Durability::Buffered] {
        assert!(engine.write(set("late", "x"), durability).is_err_and(|error| error.is_full()));
    }
    drop(engine);

    fs::remove_file(&ballast).expect("removed");
    let engine = open(&db);
    assert_holds(&engine, accepted);
    engine.write(set("late", "x"), Durability::Synced).expect("there is room again");
}

const CHILD_DIR: &str = "FLOTILLA_FAILING_SYNCS_DIR";
const CHILD: &str = "rocks::tests::faults::child_that_meets_failing_syncs";

#[test]
#[ignore = "needs strace"]
fn failed_sync_closes_the_engine_and_loses_nothing_accepted() {
    let dir = scratch();
    let output = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=30+"])
        .arg(env::current_exe().expect("this test"))
        .args(["--exact", CHILD, "--ignored", "--nocapture"])
        .env(CHILD_DIR, dir.path())
        .output()
        .expect("strace is installed");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let accepted = text.split("accepted=").nth(1).and_then(|rest| rest.split_whitespace().next());
    let accepted: u32 = accepted.and_then(|number| number.parse().ok()).expect("the child tells what it wrote");
    assert!(accepted > 5, "{text}");
    assert_holds(&open(dir.path()), accepted);
}

#[test]
#[ignore = "run by failed_sync_closes_the_engine_and_loses_nothing_accepted"]
fn child_that_meets_failing_syncs() {
    let Ok(dir) = env::var(CHILD_DIR) else { return };
    let engine = open(Path::new(&dir));
    let view = engine.view();
    let (accepted, error) = fill(&engine, 64);
    assert!(matches!(error, StorageError::Io { .. }), "{error}");
    let closed = |error: StorageError| matches!(error, StorageError::Closed { .. });
    assert!(engine.failure().is_some_and(closed));
    assert!(engine.write(set("late", "x"), Durability::Buffered).is_err_and(closed));
    assert!(engine.sync().is_err_and(closed));
    assert!(engine.get(b"late").is_err_and(closed));
    assert!(view.get(b"late").is_err_and(closed));
    assert!(engine.synced().0 <= u64::from(accepted));
    println!("accepted={accepted} ");
}

const DIRECTORY: &str = "FLOTILLA_FAILING_DIRECTORY_DIR";
const DIRECTORY_CHILD: &str = "rocks::tests::faults::child_that_meets_a_failing_sync_of_its_directory";

/// The child under strace, which writes the syncs of the database's directory to `trace`.
fn traced(dir: &Path, trace: &Path, inject: &[&str]) -> String {
    let output = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=fsync", "-e", "signal=none", "-P"])
        .arg(dir)
        .arg("-o")
        .arg(trace)
        .args(inject)
        .arg(env::current_exe().expect("this test"))
        .args(["--exact", DIRECTORY_CHILD, "--ignored", "--nocapture"])
        .env(DIRECTORY, dir)
        .output()
        .expect("strace is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The kernel tells a failure once: whoever waited for that sync and does one of its own is told that all is well.
#[test]
#[ignore = "needs strace"]
fn a_failed_sync_fails_those_who_waited_for_it_too() {
    let dir = scratch();
    let [sound, broken, trace] = ["sound", "broken", "trace"].map(|name| dir.path().join(name));
    for db in [&sound, &broken] {
        fs::create_dir(db).expect("a new directory");
    }
    assert!(traced(&sound, &trace, &[]).contains("first=true second=true"));
    // The last one is that of the first write: a new log is a new name in the directory.
    let all = fs::read_to_string(&trace).expect("a trace").matches("fsync(").count();
    let inject = format!("inject=fsync:error=EIO:delay_enter=500000:when={all}");
    let text = traced(&broken, &trace, &["-e", &inject]);
    assert!(text.contains("first=false second=false"), "{text}");
}

#[test]
#[ignore = "run by a_failed_sync_fails_those_who_waited_for_it_too"]
fn child_that_meets_a_failing_sync_of_its_directory() {
    let Ok(dir) = env::var(DIRECTORY) else { return };
    // On this thread, whose calls strace counts by themselves.
    let engine = open(Path::new(&dir));
    let write = |key| engine.write(set(key, "x"), Durability::Synced).is_ok();
    let (first, second) = std::thread::scope(|scope| {
        let second = scope.spawn(|| {
            while engine.last_write().0 == 0 {
                std::thread::yield_now();
            }
            // Into the middle of the other's sync; where it comes too late nothing fails, and the test says so.
            std::thread::sleep(Duration::from_millis(100));
            write("second")
        });
        (write("first"), second.join().expect("no panic"))
    });
    assert!(first || engine.synced().0 == 0, "nothing of it is durable");
    println!("first={first} second={second} ");
}
