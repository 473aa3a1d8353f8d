//! What only a simulated disk can do: crashes at chosen places, and injected faults.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::conformance;

fn set(key: &'static str, value: &'static str) -> Batch {
    let mut batch = Batch::new();
    batch.put(key, value);
    batch
}

fn value(read: &dyn Read, key: &str) -> Option<String> {
    read.get(key.as_bytes()).expect("readable").map(|value| String::from_utf8_lossy(&value).into_owned())
}

fn open(disk: &MemDisk) -> MemEngine {
    MemEngine::open(disk).expect("open")
}

fn synced(engine: &MemEngine, key: &'static str, value: &'static str) {
    engine.write(set(key, value), Durability::Synced).expect("written");
}

fn buffered(engine: &MemEngine, key: &'static str, value: &'static str) {
    engine.write(set(key, value), Durability::Buffered).expect("written");
}

fn is_closed<T>(result: Result<T, StorageError>) -> bool {
    matches!(result, Err(StorageError::Closed { .. }))
}

fn is_injected<T>(result: Result<T, StorageError>) -> bool {
    matches!(result, Err(StorageError::Io { .. }))
}

/// Every way to use the handle answers that it is dead, and nothing reaches the disk.
fn assert_dead(engine: &MemEngine) {
    assert!(is_closed(engine.write(set("zombie", "x"), Durability::Synced)));
    assert!(is_closed(engine.write(Batch::new(), Durability::Buffered)));
    assert!(is_closed(engine.sync()));
    assert!(is_closed(engine.flush()));
    assert!(is_closed(engine.get(b"a")));
    assert!(is_closed(engine.view().get(b"a")));
    assert!(is_closed(engine.view().scan(b"", b"z", Order::Forward, &mut |_, _| ControlFlow::Continue(()))));
    assert!(is_closed(engine.checkpoint(Path::new("zombie"))));
    assert!(engine.disk().checkpoint(Path::new("zombie")).is_none());
}

#[test]
fn conformance_suite_passes() {
    if let Err(violation) = conformance::run(&|| Box::new(MemSubject::default()), 256) {
        panic!("{violation}");
    }
}

#[test]
fn crash_keeps_the_synced_prefix_and_as_much_of_the_tail_as_told() {
    for (keep, expected) in [(0, "1"), (1, "2"), (2, "3"), (usize::MAX, "3")] {
        let engine = MemEngine::new();
        synced(&engine, "a", "1");
        buffered(&engine, "a", "2");
        buffered(&engine, "a", "3");
        let disk = engine.disk().clone();
        assert_eq!(disk.tail_batches(), 2);
        let lost = engine.crash(keep);
        assert_eq!(lost, 2 - keep.min(2));
        assert_dead(&engine);
        assert_eq!(value(&open(&disk), "a").as_deref(), Some(expected));
        let counters = disk.counters();
        assert_eq!((counters.crashes, counters.batches_lost), (1, lost as u64));
        assert_eq!(counters.unsynced_bytes_lost, 2 * lost as u64);
        assert_eq!((counters.batches_written, counters.bytes_written, counters.syncs), (3, 6, 1));
    }
}

fn unlogged(engine: &MemEngine, key: &'static str, value: &'static str) {
    engine.write(set(key, value), Durability::Unlogged).expect("written");
}

#[test]
fn any_crash_takes_what_was_not_logged_and_a_sync_does_not_help() {
    let engine = MemEngine::new();
    unlogged(&engine, "state", "flushed");
    engine.flush().expect("flushed");
    unlogged(&engine, "state", "newer");
    synced(&engine, "log", "1");
    assert_eq!(value(&*engine.disk().durable(), "state").as_deref(), Some("flushed"));
    assert_eq!(value(&engine, "state").as_deref(), Some("newer"));
    let disk = engine.disk().clone();
    assert_eq!((disk.tail_batches(), disk.unlogged_batches()), (0, 1));
    assert_eq!(engine.crash(usize::MAX), 0);
    let engine = open(&disk);
    assert_eq!(value(&engine, "state").as_deref(), Some("flushed"));
    assert_eq!(value(&engine, "log").as_deref(), Some("1"));
    assert_eq!(disk.counters().batches_lost, 1);
}

#[test]
fn what_fills_up_is_written_out_one_table_later() {
    let disk = MemDisk::new();
    disk.set_table_bytes(4);
    let engine = open(&disk);
    for (number, key) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        unlogged(&engine, key, "1");
        // Two writes fill a table; the first one is on the disk when the second one is full.
        assert_eq!(disk.unlogged_batches(), if number < 3 { number + 1 } else { number - 1 });
    }
    disk.crash(0);
    let engine = open(&disk);
    let left: Vec<_> = ["a", "b", "c", "d", "e"].into_iter().filter(|key| value(&engine, key).is_some()).collect();
    assert_eq!(left, ["a", "b"]);
    assert_eq!(engine.last_write(), WriteNo(2));
}

#[test]
fn a_full_disk_writes_nothing_out_when_it_is_closed() {
    let disk = MemDisk::new();
    let engine = open(&disk);
    unlogged(&engine, "a", "1");
    disk.inject(|faults| faults.full = true);
    assert!(engine.flush().is_err_and(|error| error.is_full()));
    drop(engine);
    disk.inject(|faults| faults.full = false);
    assert_eq!(value(&open(&disk), "a"), None);
}

#[test]
fn batch_is_never_cut_in_the_middle() {
    let engine = MemEngine::new();
    synced(&engine, "b", "old");
    let mut batch = set("a", "1");
    batch.delete_range("b", "c");
    batch.put("c", "1");
    engine.write(batch, Durability::Buffered).expect("written");
    engine.crash(0);
    let engine = open(engine.disk());
    assert_eq!(engine.last_write(), WriteNo(1));
    assert_eq!(value(&engine, "a"), None);
    assert_eq!(value(&engine, "b").as_deref(), Some("old"));
    assert_eq!(value(&engine, "c"), None);
}

#[test]
fn what_one_opening_saw_no_later_crash_takes_away() {
    let engine = MemEngine::new();
    buffered(&engine, "a", "1");
    let disk = engine.disk().clone();
    disk.crash(usize::MAX);
    let engine = open(&disk);
    assert_eq!(engine.synced(), engine.last_write());
    disk.crash(0);
    assert_eq!(value(&open(&disk), "a").as_deref(), Some("1"));
}

#[test]
fn killed_handle_neither_holds_nor_frees_the_lock_of_its_successor() {
    let disk = MemDisk::new();
    let old = open(&disk);
    let old_view = old.view();
    disk.crash(0);
    let new = open(&disk);
    drop((old, old_view));
    assert!(matches!(MemEngine::open(&disk), Err(StorageError::Locked { .. })));
    synced(&new, "a", "1");
    drop(new);
    assert_eq!(value(&open(&disk), "a").as_deref(), Some("1"));
}

#[test]
fn view_holds_the_lock_like_a_real_engine() {
    let disk = MemDisk::new();
    let view = open(&disk).view();
    assert!(matches!(MemEngine::open(&disk), Err(StorageError::Locked { .. })));
    drop(view);
    open(&disk);
}

#[test]
fn failed_write_has_no_effect_and_closes_the_engine() {
    let engine = MemEngine::new();
    synced(&engine, "a", "1");
    let view = engine.view();
    engine.disk().inject(|faults| faults.fail_writes = true);
    assert!(is_injected(engine.write(set("a", "2"), Durability::Buffered)));
    engine.disk().inject(|faults| faults.fail_writes = false);
    assert_dead(&engine);
    assert!(is_closed(view.get(b"a")));
    drop(view);
    let disk = engine.disk().clone();
    drop(engine);
    assert_eq!(value(&open(&disk), "a").as_deref(), Some("1"));
}

#[test]
fn failed_sync_closes_the_engine_and_leaves_the_batch_to_chance() {
    for (keep, expected) in [(0, "1"), (1, "2")] {
        let engine = MemEngine::new();
        synced(&engine, "a", "1");
        engine.disk().inject(|faults| faults.fail_syncs = true);
        assert!(is_injected(engine.write(set("a", "2"), Durability::Synced)));
        assert_dead(&engine);
        assert_eq!(engine.synced(), WriteNo(1));
        engine.disk().inject(|faults| faults.fail_syncs = false);
        engine.crash(keep);
        assert_eq!(value(&open(engine.disk()), "a").as_deref(), Some(expected));
    }
}

#[test]
fn buffered_writes_do_not_notice_failing_syncs() {
    let engine = MemEngine::new();
    engine.disk().inject(|faults| faults.fail_syncs = true);
    buffered(&engine, "a", "1");
    assert_eq!(engine.failure(), None);
    assert!(is_injected(engine.sync()));
    assert!(is_closed(engine.failure().map_or(Ok(()), Err)));
    assert!(is_closed(engine.sync()));
}

#[test]
fn full_disk_refuses_writes_until_there_is_room_and_serves_reads() {
    let engine = MemEngine::new();
    synced(&engine, "a", "1");
    engine.disk().inject(|faults| faults.full = true);
    for durability in [Durability::Synced, Durability::Buffered] {
        assert!(engine.write(set("a", "2"), durability).is_err_and(|error| error.is_full()));
    }
    assert_eq!(value(&engine, "a").as_deref(), Some("1"));
    engine.sync().expect("a sync needs no room");
    engine.disk().inject(|faults| faults.full = false);
    synced(&engine, "a", "3");
    assert_eq!(value(&engine, "a").as_deref(), Some("3"));
    assert_eq!(engine.last_write(), WriteNo(2));
}

#[test]
fn failing_reads_fail_and_recover() {
    let engine = MemEngine::new();
    synced(&engine, "a", "1");
    let view = engine.view();
    engine.disk().inject(|faults| faults.fail_reads = true);
    assert!(is_injected(engine.get(b"a")));
    assert!(is_injected(view.get(b"a")));
    assert!(is_injected(engine.scan(b"", b"z", Order::Reverse, &mut |_, _| ControlFlow::Continue(()))));
    buffered(&engine, "a", "2");
    engine.disk().inject(|faults| faults.fail_reads = false);
    assert_eq!(value(&*view, "a").as_deref(), Some("1"));
    assert_eq!(value(&engine, "a").as_deref(), Some("2"));
}

#[test]
fn stall_is_told_to_the_caller_and_never_slept() {
    let engine: Arc<dyn Engine> = Arc::new(MemEngine::new());
    assert_eq!(engine.stall(), Duration::ZERO);
    let disk = MemDisk::new();
    let engine = open(&disk);
    disk.inject(|faults| faults.stall = Duration::from_secs(30));
    assert_eq!(engine.stall(), Duration::from_secs(30));
    synced(&engine, "a", "1");
}

#[test]
fn corrupt_flips_exactly_one_bit_and_the_envelope_notices() {
    let disk = MemDisk::new();
    let engine = open(&disk);
    let mut batch = Batch::new();
    let sealed = crate::value::seal(1, b"payload");
    batch.put("key", sealed.clone());
    batch.put("empty", "");
    engine.write(batch, Durability::Synced).expect("written");
    assert!(disk.corrupt(b"key", 13));
    let damaged = engine.get(b"key").expect("readable").expect("present");
    let flipped: u32 = sealed.iter().zip(&damaged[..]).map(|(was, is)| (was ^ is).count_ones()).sum();
    assert_eq!(flipped, 1);
    assert!(crate::value::open(&damaged).is_err());
    assert!(!disk.corrupt(b"absent", 0));
    assert!(!disk.corrupt(b"empty", 0));
    disk.crash(0);
    assert!(crate::value::open(&open(&disk).get(b"key").expect("readable").expect("present")).is_err());
}

#[test]
fn durable_reader_sees_what_a_power_loss_would_leave() {
    let disk = MemDisk::new();
    let engine = open(&disk);
    let durable = disk.durable();
    synced(&engine, "a", "1");
    buffered(&engine, "a", "2");
    buffered(&engine, "b", "2");
    assert_eq!(value(&*durable, "a").as_deref(), Some("1"));
    assert_eq!(value(&*durable, "b"), None);
    engine.sync().expect("synced");
    assert_eq!(value(&*durable, "a").as_deref(), Some("2"));
    disk.inject(|faults| faults.fail_reads = true);
    disk.crash(0);
    assert_eq!(value(&*durable, "b").as_deref(), Some("2"));
}

#[test]
fn rolled_back_disk_is_the_old_one_and_a_wiped_one_is_empty() {
    let disk = MemDisk::new();
    let engine = open(&disk);
    synced(&engine, "a", "old");
    let image = disk.copy_durable();
    synced(&engine, "a", "new");
    disk.roll_back_to(&image);
    assert_dead(&engine);
    let engine = open(&disk);
    assert_eq!(value(&engine, "a").as_deref(), Some("old"));
    assert_eq!(engine.last_write(), WriteNo(1));
    disk.wipe();
    assert_dead(&engine);
    let engine = open(&disk);
    assert_eq!(value(&engine, "a"), None);
    assert_eq!(engine.last_write(), WriteNo(0));
}

#[test]
fn memory_holds_no_more_versions_than_views_and_the_tail_need() {
    let engine = MemEngine::new();
    let disk = engine.disk().clone();
    let mut views = Vec::new();
    for round in 0..100 {
        buffered(&engine, "a", "1");
        if round == 50 {
            views.push(engine.view());
        }
    }
    assert_eq!(disk.versions_kept(), 100, "a crash may cut anywhere in the tail");
    engine.sync().expect("synced");
    assert_eq!(disk.versions_kept(), 50, "the view's version and all after it");
    drop(views);
    assert_eq!(disk.versions_kept(), 1);
    let mut batch = Batch::new();
    batch.delete("a");
    engine.write(batch, Durability::Synced).expect("written");
    assert_eq!(disk.versions_kept(), 0);
}
