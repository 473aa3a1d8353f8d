use std::sync::atomic::Ordering;
use std::time::Duration;

use flotilla_storage::{Batch, Durability, MemDisk};
use openraft::RaftLogReader as _;
use openraft::storage::RaftLogStorage as _;

use super::OpenError;
use crate::keys;
use crate::state::AppliedMark;
use crate::testkit::{GENERATION, Node, SHARD, append, entries, submit};
use crate::types::{Entry, Vote, log_id};
use flotilla_proto::ids::ShardId;

fn indexes(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.log_id.index()).collect()
}

fn durable_up_to(index: u64) -> AppliedMark {
    let mark = AppliedMark::default();
    mark.is_durable(index);
    mark
}

#[tokio::test]
async fn many_appends_of_many_groups_share_few_syncs_and_answer_in_order() {
    let disk = MemDisk::new();
    let node = Node::open(&disk);
    let mut waiting = Vec::new();
    for shard in 0..8 {
        let mut log = node.log(ShardId(shard)).await.expect("an empty log opens");
        for index in 0..32 {
            waiting.push(submit(&mut log, entries(1, index..index + 1)).await);
        }
    }
    for done in waiting {
        done.await.expect("answered").expect("written");
    }
    let stats = node.writer.stats();
    assert_eq!(stats.writes.load(Ordering::Relaxed), 256);
    let syncs = stats.syncs.load(Ordering::Relaxed);
    assert!(syncs < 128, "{syncs} syncs for 256 appends");
    assert_eq!(disk.tail_batches(), 0);
}

#[tokio::test]
async fn callback_comes_with_the_sync_and_never_before() {
    let disk = MemDisk::new();
    disk.inject(|faults| faults.stall = Duration::from_millis(100));
    let node = Node::open(&disk);
    let mut log = node.log(SHARD).await.expect("an empty log opens");
    let done = submit(&mut log, entries(1, 0..3)).await;
    let mut done = std::pin::pin!(done);
    assert!(futures::poll!(done.as_mut()).is_pending());
    assert!(disk.durable().get(&keys::log(SHARD, GENERATION, 0)).expect("readable").is_none());
    assert_eq!(indexes(&log.get_log_reader().await.try_get_log_entries(0..9).await.expect("reads")), [0, 1, 2]);
    done.await.expect("answered").expect("written");
    assert!(disk.durable().get(&keys::log(SHARD, GENERATION, 2)).expect("readable").is_some());
}

#[tokio::test]
async fn failed_sync_is_never_answered_with_ok_and_nothing_later_is() {
    let disk = MemDisk::new();
    let node = Node::open(&disk);
    let mut log = node.log(SHARD).await.expect("an empty log opens");
    append(&mut log, entries(1, 0..1)).await;
    disk.inject(|faults| faults.fail_syncs = true);
    let done = submit(&mut log, entries(1, 1..2)).await;
    done.await.expect("answered").expect_err("the sync failed");
    crate::testkit::eventually("the hook hears of it", || node.hooks.fatals().len() == 1).await;
    disk.inject(|faults| faults.fail_syncs = false);
    log.save_vote(&Vote::new(2, 1)).await.expect_err("the writer has stopped");
}

#[tokio::test]
async fn power_loss_between_append_and_sync_loses_only_what_was_not_answered() {
    let disk = MemDisk::new();
    let node = Node::open(&disk);
    let mut log = node.log(SHARD).await.expect("an empty log opens");
    log.save_vote(&Vote::new(1, 7)).await.expect("saved");
    append(&mut log, entries(1, 0..5)).await;
    disk.inject(|faults| faults.stall = Duration::from_secs(60));
    let _never_answered = submit(&mut log, entries(1, 5..9)).await;
    disk.crash(0);
    disk.inject(|faults| faults.stall = Duration::ZERO);

    let node = Node::open(&disk);
    let mut log = node.log(SHARD).await.expect("the log is whole");
    assert_eq!(log.get_log_state().await.expect("known").last_log_id, Some(log_id(1, 4)));
    let mut reader = log.get_log_reader().await;
    assert_eq!(reader.read_vote().await.expect("known"), Some(Vote::new(1, 7)));
    assert_eq!(reader.try_get_log_entries(..).await.expect("reads"), entries(1, 0..5));
}

#[tokio::test]
async fn old_entries_come_from_disk_and_new_ones_from_memory_without_a_seam() {
    let disk = MemDisk::new();
    let node = Node::open(&disk);
    let mut log = node.log_with(SHARD, durable_up_to(9), 300).await.expect("an empty log opens");
    append(&mut log, entries(1, 0..50)).await;
    let first_cached = log.log.lock().cache.first().expect("some stay");
    assert!(first_cached > 10, "the bound holds: {first_cached}");
    let mut reader = log.get_log_reader().await;
    assert_eq!(reader.try_get_log_entries(5..50).await.expect("reads"), entries(1, 5..50));
    assert_eq!(reader.try_get_log_entries(first_cached..50).await.expect("reads"), entries(1, first_cached..50));
    log.purge(log_id(1, 9)).await.expect("queued");
    assert_eq!(indexes(&reader.try_get_log_entries(..).await.expect("reads"))[0], 10);
}

#[tokio::test]
async fn truncated_entries_stay_gone_and_their_successors_are_read() {
    let disk = MemDisk::new();
    let node = Node::open(&disk);
    let mut log = node.log_with(SHARD, AppliedMark::default(), 0).await.expect("an empty log opens");
    append(&mut log, entries(1, 0..10)).await;
    log.truncate_after(Some(log_id(1, 4))).await.expect("truncated");
    append(&mut log, entries(2, 5..7)).await;
    let expected = [entries(1, 0..5), entries(2, 5..7)].concat();
    assert_eq!(log.get_log_reader().await.try_get_log_entries(..).await.expect("reads"), expected);
    disk.crash(0);
    let node = Node::open(&disk);
    let mut log = node.log(SHARD).await.expect("the log is whole");
    assert_eq!(log.get_log_reader().await.try_get_log_entries(..).await.expect("reads"), expected);
}

#[tokio::test]
#[should_panic(expected = "applied state is durable only up to Some(3)")]
async fn purging_above_the_durable_state_stops_the_process() {
    let node = Node::open(&MemDisk::new());
    let mut log = node.log_with(SHARD, durable_up_to(3), 1 << 20).await.expect("an empty log opens");
    append(&mut log, entries(1, 0..10)).await;
    log.purge(log_id(1, 3)).await.expect("queued");
    log.purge(log_id(1, 4)).await.ok();
}

#[tokio::test]
async fn damage_is_found_at_the_start_wherever_it_is() {
    let disk = MemDisk::new();
    let node = Node::open(&disk);
    let mut log = node.log(SHARD).await.expect("an empty log opens");
    log.save_vote(&Vote::new(1, 7)).await.expect("saved");
    append(&mut log, entries(1, 0..10)).await;
    let whole = disk.copy_durable();
    let damaged_keys = [
        keys::log(SHARD, GENERATION, 0),
        keys::log(SHARD, GENERATION, 5),
        keys::log(SHARD, GENERATION, 9),
        keys::vote(SHARD, GENERATION),
    ];
    for key in damaged_keys {
        for bit in [0, 77, 200] {
            let disk = whole.copy_durable();
            assert!(disk.corrupt(&key, bit));
            let opened = Node::open(&disk).log(SHARD).await;
            assert!(matches!(opened, Err(OpenError::Damaged { .. })), "bit {bit} of {key:?}");
        }
    }
    let node = Node::open(&whole);
    let mut batch = Batch::new();
    batch.delete(keys::log(SHARD, GENERATION, 4));
    node.engine.write(batch, Durability::Synced).expect("written");
    assert!(matches!(node.log(SHARD).await, Err(OpenError::Damaged { .. })), "a hole is no end of the log");
}
