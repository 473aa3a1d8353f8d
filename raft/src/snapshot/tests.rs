use std::collections::BTreeMap;
use std::ops::ControlFlow;

use flotilla_proto::limits::SNAPSHOT_CHUNK_BYTES;
use flotilla_storage::{MemDisk, Order};
use openraft::storage::{RaftSnapshotBuilder as _, RaftStateMachine as _};

use super::*;
use crate::keys;
use crate::state::{Applier, Pointer};
use crate::testkit::{Node, SHARD, apply, entries};
use crate::types::{SnapshotData, log_id};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

fn sample(tag: &str) -> Rows {
    let row = |n: u32| (format!("row {n:05}").into_bytes(), format!("{tag} {n} {}", "x".repeat(4_000)).into_bytes());
    (0..300).map(row).collect()
}

/// A node with applied entries and many rows besides.
async fn sender(tag: &str, last: u64) -> (Node, Applier) {
    let node = Node::open(&MemDisk::new());
    let mut applier = node.applier().expect("an empty state opens");
    apply(&mut applier, entries(1, 0..last + 1)).await;
    node.put_rows(pointer(&node).generation, sample(tag));
    (node, applier)
}

fn pointer(node: &Node) -> Pointer {
    Pointer::load(&*node.engine, SHARD).expect("readable").expect("opened before")
}

fn view(node: &Node) -> SnapshotView {
    SnapshotView::take(&*node.engine, SHARD).expect("readable").expect("opened before")
}

/// All rows of the state that counts, without their prefix.
fn rows_of(node: &Node) -> BTreeMap<Vec<u8>, Bytes> {
    let view = view(node);
    let prefix = view.prefix();
    let mut rows = BTreeMap::new();
    view.read()
        .scan(&prefix, &keys::end(prefix.clone()), Order::Forward, &mut |key, value| {
            rows.insert(key[prefix.len()..].to_vec(), Bytes::copy_from_slice(value));
            ControlFlow::Continue(())
        })
        .expect("readable");
    rows
}

/// Generations that have rows.
fn generations_with_rows(node: &Node) -> Vec<u64> {
    let mut found = Vec::new();
    let (from, to) = (keys::state_start(SHARD), keys::state_end(SHARD));
    node.engine
        .scan(&from, &to, Order::Forward, &mut |key, _| {
            let generation = keys::parse_state(key).expect("a state row").0;
            if found.last() != Some(&generation) {
                found.push(generation);
            }
            ControlFlow::Continue(())
        })
        .expect("readable");
    found
}

async fn chunks(view: &SnapshotView) -> Vec<SnapshotChunk> {
    let mut stream = view.chunks();
    let mut chunks = Vec::new();
    while let Some(chunk) = stream.next().await.expect("the sender is healthy") {
        chunks.push(chunk);
    }
    chunks
}

async fn receive(node: &Node, view: &SnapshotView, sent: Vec<SnapshotChunk>) -> Result<StagedSnapshot, SnapshotError> {
    let mut sink = SnapshotSink::begin(&node.generations(), view.meta()).await?;
    for chunk in sent {
        sink.write(chunk).await?;
    }
    sink.finish()
}

#[tokio::test]
async fn snapshot_goes_over_in_bounded_chunks_and_replaces_the_state_whole() {
    let (from, _applier) = sender("new", 41).await;
    let view = view(&from);
    let sent = chunks(&view).await;
    assert!(sent.len() > 4 && sent.iter().all(|chunk| chunk.rows.len() <= SNAPSHOT_CHUNK_BYTES));

    let (to, mut applier) = sender("old", 7).await;
    let old = pointer(&to).generation;
    let staged = receive(&to, &view, sent).await.expect("nothing is wrong with it");
    assert_eq!(pointer(&to).generation, old, "nothing points at a staged snapshot");
    applier.install_snapshot(&view.meta(), SnapshotData::Staged(staged)).await.expect("installs");
    assert_eq!(rows_of(&to), rows_of(&from));
    assert_eq!(applier.applied_state().await.expect("known").0, Some(log_id(1, 41)));
    assert_eq!(generations_with_rows(&to), [pointer(&to).generation.0], "the old state is gone");
    assert!(pointer(&to).generation > old);
    assert_eq!(to.hooks.installed.lock().expect("no panic").len(), 1);
}

#[tokio::test]
async fn installed_snapshot_survives_power_loss_at_once() {
    let (from, _applier) = sender("new", 41).await;
    let disk = MemDisk::new();
    let to = Node::open(&disk);
    let mut applier = to.applier().expect("an empty state opens");
    let view = view(&from);
    let staged = receive(&to, &view, chunks(&view).await).await.expect("staged");
    applier.install_snapshot(&view.meta(), SnapshotData::Staged(staged)).await.expect("installs");
    disk.crash(0);
    let to = Node::open(&disk);
    let mut applier = to.applier().expect("the state is whole");
    assert_eq!(applier.applied_state().await.expect("known").0, Some(log_id(1, 41)));
    assert_eq!(rows_of(&to), rows_of(&from));
}

#[tokio::test]
async fn chunks_that_are_damaged_missing_swapped_or_too_few_are_refused() {
    let (from, _applier) = sender("new", 41).await;
    let view = view(&from);
    let sent = chunks(&view).await;
    let (to, _applier) = sender("old", 7).await;

    let mut damaged = sent.clone();
    let mut bytes = damaged[1].rows.to_vec();
    bytes[100] ^= 1;
    damaged[1].rows = bytes.into();
    assert_eq!(receive(&to, &view, damaged.clone()).await.err(), Some(SnapshotError::DamagedChunk(1)));

    // Even with a fitting checksum the whole does not add up.
    damaged[1].crc = crc32fast::hash(&damaged[1].rows);
    assert!(receive(&to, &view, damaged).await.is_err());

    let mut swapped = sent.clone();
    swapped.swap(1, 2);
    let refused = receive(&to, &view, swapped).await.err();
    assert_eq!(refused, Some(SnapshotError::OutOfOrder { expected: 1, found: 2 }));

    let mut missing = sent.clone();
    missing.remove(1);
    assert!(receive(&to, &view, missing).await.is_err());

    let mut short = sent.clone();
    short.pop();
    assert_eq!(receive(&to, &view, short).await.err(), Some(SnapshotError::Incomplete));

    let before = rows_of(&to);
    assert!(before.values().any(|value| value.windows(3).any(|part| part == b"old")), "the old state is untouched");
}

#[tokio::test]
async fn crash_half_way_leaves_the_old_state_whole_and_the_rest_is_swept() {
    let (from, _applier) = sender("new", 41).await;
    let view = view(&from);
    let disk = MemDisk::new();
    let to = Node::open(&disk);
    let mut applier = to.applier().expect("an empty state opens");
    apply(&mut applier, entries(1, 0..8)).await;
    to.put_rows(pointer(&to).generation, sample("old"));
    to.engine.sync().expect("synced");
    let (old_rows, old) = (rows_of(&to), pointer(&to));

    let staged = receive(&to, &view, chunks(&view).await).await.expect("staged");
    let used = staged.lease.generation;
    to.engine.sync().expect("synced");
    assert_eq!(generations_with_rows(&to), [old.generation.0, used.0]);
    disk.crash(usize::MAX);
    drop(staged);

    let to = Node::open(&disk);
    let mut applier = to.applier().expect("the old state opens");
    assert_eq!((rows_of(&to), pointer(&to)), (old_rows, old.clone()));
    assert_eq!(generations_with_rows(&to), [old.generation.0], "every start sweeps the others");
    let again = receive(&to, &view, chunks(&view).await).await.expect("staged");
    assert!(again.lease.generation > used, "a generation is never used twice");
    applier.install_snapshot(&view.meta(), SnapshotData::Staged(again)).await.expect("installs");
}

#[tokio::test]
async fn snapshot_older_than_the_state_changes_nothing() {
    let (from, _applier) = sender("older", 3).await;
    let (to, mut applier) = sender("newer", 9).await;
    let before = rows_of(&to);
    let view = view(&from);
    let staged = receive(&to, &view, chunks(&view).await).await.expect("staged");
    applier.install_snapshot(&view.meta(), SnapshotData::Staged(staged)).await.expect("ignored");
    assert_eq!(rows_of(&to), before);
    assert_eq!(applier.applied_state().await.expect("known").0, Some(log_id(1, 9)));
}

#[tokio::test]
async fn second_transfer_does_not_sweep_what_the_first_is_writing() {
    let (from, _applier) = sender("new", 41).await;
    let view = view(&from);
    let to = Node::open(&MemDisk::new());
    let generations = to.generations();
    let mut applier = to.applier_with(&generations, Default::default()).expect("an empty state opens");
    let sent = chunks(&view).await;
    let mut first = SnapshotSink::begin(&generations, view.meta()).await.expect("begins");
    first.write(sent[0].clone()).await.expect("takes it");
    let second = SnapshotSink::begin(&generations, view.meta()).await.expect("begins");
    for chunk in &sent[1..] {
        first.write(chunk.clone()).await.expect("takes it");
    }
    let staged = first.finish().expect("adds up");
    drop(second);
    applier.install_snapshot(&view.meta(), SnapshotData::Staged(staged)).await.expect("installs");
    assert_eq!(rows_of(&to), rows_of(&from));
}

#[tokio::test]
async fn built_snapshot_is_durable_and_keeps_its_instant() {
    let disk = MemDisk::new();
    let node = Node::open(&disk);
    let mut applier = node.applier().expect("an empty state opens");
    apply(&mut applier, entries(1, 0..5)).await;
    assert!(disk.tail_batches() > 0, "applied state is buffered");
    let mut builder = applier.get_snapshot_builder().await;
    apply(&mut applier, entries(1, 5..9)).await;
    let built = builder.build_snapshot().await.expect("builds");
    assert_eq!(disk.tail_batches(), 0, "what a snapshot covers is durable");
    assert_eq!(built.meta.last_log_id, Some(log_id(1, 4)));
    let SnapshotData::Live(view) = built.snapshot else { panic!("a built snapshot is a view") };
    assert_eq!(view.applied(), Some(log_id(1, 4)), "later entries do not change a view");
    let current = applier.get_current_snapshot().await.expect("readable").expect("something is applied");
    assert_eq!(current.meta.last_log_id, Some(log_id(1, 8)));
}

#[tokio::test]
async fn damaged_row_is_not_sent() {
    let disk = MemDisk::new();
    let node = Node::open(&disk);
    let mut applier = node.applier().expect("an empty state opens");
    apply(&mut applier, entries(1, 0..5)).await;
    let generation = pointer(&node).generation;
    node.put_rows(generation, sample("x"));
    assert!(disk.corrupt(&[keys::state(SHARD, generation), b"row 00200".to_vec()].concat(), 99));
    let mut stream = view(&node).chunks();
    let mut result = stream.next().await;
    while let Ok(Some(_)) = result {
        result = stream.next().await;
    }
    assert_eq!(result, Err(SnapshotError::DamagedHere));
}

#[tokio::test]
async fn damaged_counter_never_leads_to_a_generation_in_use() {
    let disk = MemDisk::new();
    let node = Node::open(&disk);
    let _applier = node.applier().expect("an empty state opens");
    for _ in 0..3 {
        node.generations().allocate().expect("allocates");
    }
    let newest = node.generations().allocate().expect("allocates").generation;
    node.put_rows(newest, sample("leftover"));
    assert!(disk.corrupt(&keys::state_generation(SHARD), 20));
    assert!(node.generations().allocate().expect("allocates").generation > newest);
}
