//! A process that logs entries and applies them unlogged, killed in the middle of it: what a node does, life after life.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use super::*;

const DIR: &str = "FLOTILLA_KILLED_DIR";
const CHILD: &str = "rocks::tests::kills::child_that_is_killed";
/// Rows of the state: entry `i` is put into row `i % ROWS`.
const ROWS: u64 = 97;
/// Entries of one synced write, and how many are applied at once at most.
const TOGETHER: u64 = 20;
/// A flush and a purge follow after so many, and so many entries stay behind it.
const BETWEEN_PURGES: u64 = 2_500;
const KEPT: u64 = 100;
const POINTER: &[u8] = b"P";

fn key(kind: u8, number: u64) -> Vec<u8> {
    [&[kind][..], &number.to_be_bytes()].concat()
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes[..8].try_into().expect("eight bytes"))
}

fn rows(read: &dyn Read, kind: u8) -> Vec<(u64, u64)> {
    let mut rows = Vec::new();
    read.scan(&[kind], &[kind + 1], Order::Forward, &mut |key, value| {
        rows.push((number(&key[1..]), number(value)));
        ControlFlow::Continue(())
    })
    .expect("readable");
    rows
}

/// What has been applied, and the last entry: state and pointer fit together, and no entry between them and the log's end is gone.
fn check(read: &dyn Read) -> (u64, u64) {
    let applied = read.get(POINTER).expect("readable").map_or(0, |value| number(&value));
    let expected: Vec<_> = (0..ROWS)
        .map(|row| (row, (applied / ROWS * ROWS + row).checked_sub(if row > applied % ROWS { ROWS } else { 0 })))
        .filter_map(|(row, newest)| newest.filter(|newest| *newest > 0).map(|newest| (row, newest)))
        .collect();
    assert_eq!(rows(read, b'S'), expected, "the state of {applied}");
    let log = rows(read, b'L');
    let last = log.last().map_or(0, |(index, _)| *index);
    assert!(log.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1), "the log has a hole");
    assert!(
        log.first().is_none_or(|(index, _)| *index <= applied + 1),
        "applied {applied}, log from {:?}",
        log.first()
    );
    assert!(last >= applied, "applied {applied} is ahead of the log, which ends at {last}");
    (applied, last)
}

/// What the process said last before it was killed after so many lines: up to there all is synced.
fn killed_after(dir: &Path, lines: usize) -> u64 {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", CHILD, "--ignored", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let told = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let synced =
        told.filter_map(|line| line.expect("readable").split_once("synced ").and_then(|(_, n)| n.parse().ok()));
    let synced: Vec<u64> = synced.take(lines).collect();
    child.kill().expect("it is still there");
    child.wait().expect("it has ended");
    assert_eq!(synced.len(), lines, "it ended by itself");
    synced[lines - 1]
}

#[test]
fn a_killed_process_finds_its_state_older_and_whole_and_every_entry_that_is_missing_in_it() {
    let dir = scratch();
    let (mut rolled_back, mut purged) = (0, false);
    for lines in [150, 5, 400, 90, 260] {
        let synced = killed_after(dir.path(), lines);
        let (applied, last) = check(&*RocksEngine::open_read_only(dir.path()).expect("readable"));
        assert!(last >= synced, "{synced} was synced, the log ends at {last}");
        rolled_back = rolled_back.max(synced.saturating_sub(applied));
        purged |= rows(&*RocksEngine::open_read_only(dir.path()).expect("readable"), b'L')[0].0 > 1;
    }
    assert!(rolled_back > 10 * TOGETHER, "by {rolled_back} at most: then nothing was tried");
    assert!(purged, "nor was anything purged");
}

#[test]
#[ignore = "run by a_killed_process_finds_its_state_older_and_whole_and_every_entry_that_is_missing_in_it"]
fn child_that_is_killed() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let engine = open(Path::new(&dir));
    assert_eq!(engine.synced(), engine.last_write());
    let (applied, last) = check(&engine);
    let logged = AtomicU64::new(last);
    std::thread::scope(|scope| {
        scope.spawn(|| apply(&engine, &logged, applied));
        for end in (1..).map(|write| last + write * TOGETHER) {
            let mut batch = Batch::new();
            (end - TOGETHER + 1..=end).for_each(|index| batch.put(key(b'L', index), index.to_be_bytes().repeat(75)));
            engine.write(batch, Durability::Synced).expect("written");
            logged.store(end, Ordering::Release);
            println!("synced {end}");
        }
    });
}

fn apply(engine: &RocksEngine, logged: &AtomicU64, mut applied: u64) {
    let mut purged = applied;
    loop {
        let upto = logged.load(Ordering::Acquire).min(applied + TOGETHER);
        if upto == applied {
            std::thread::yield_now();
            continue;
        }
        let mut batch = Batch::new();
        for index in applied + 1..=upto {
            assert!(engine.get(&key(b'L', index)).expect("readable").is_some(), "entry {index}");
            batch.put(key(b'S', index % ROWS), index.to_be_bytes().to_vec());
        }
        batch.put(POINTER, upto.to_be_bytes().to_vec());
        engine.write(batch, Durability::Unlogged).expect("written");
        applied = upto;
        if applied > purged + BETWEEN_PURGES {
            engine.flush().expect("flushed");
            let mut purge = Batch::new();
            purge.delete_range(key(b'L', 0), key(b'L', applied - KEPT));
            engine.write(purge, Durability::Buffered).expect("written");
            purged = applied;
        }
    }
}
