//! A node that was away for longer than the log is kept catches up by snapshot, while writes go on.
//!
//! 6,000 entries by default; `FLOTILLA_AWAY=100000` for the long form, `FLOTILLA_AWAY_SNAPSHOT=N` for another
//! `--snapshot-entries`. The memory of sender and receiver is printed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use flotilla_proto::ids::{ConvId, Seq};
use flotilla_tests::cluster::Cluster;
use flotilla_tests::probe::{self, agree, fill, groups, memory_kib, number, reset_memory};
use flotilla_tests::scene::{Scene, eventually, to, user};
use serde_json::Value;

const BODY_BYTES: usize = 256;
/// What a transfer may add on either side, besides what writes in the meantime cost.
const GROWTH_KIB_MAX: u64 = 64 * 1024;

fn by_shard(status: &Value, what: &str) -> BTreeMap<u64, u64> {
    let pair = |g: &Value| (g["shard"].as_u64().unwrap_or(0), g[what].as_u64().unwrap_or(0));
    groups(status).iter().map(pair).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_that_was_away_catches_up_by_snapshot_while_writes_go_on() -> anyhow::Result<()> {
    let entries = number("FLOTILLA_AWAY", 6_000);
    let limit = Duration::from_secs(60 + entries / 100);
    let mut cluster = Cluster::bare(3)?;
    for at in 0..3 {
        let every = number("FLOTILLA_AWAY_SNAPSHOT", 100).to_string();
        cluster.nodes[at].args = vec!["--snapshot-entries".into(), every];
        cluster.spawn(at)?;
    }
    cluster.init().await?;
    cluster.all_ready().await?;
    let scene = Scene::new(cluster.urls()[..2].to_vec());
    let names = ["alice", "bob", "carol", "dave"];
    let mut seats = Vec::new();
    for name in names {
        seats.push(scene.open(name, 1).await?);
    }
    for (i, seat) in seats.iter().enumerate() {
        fill(seat, &to(names[(i + 1) % 4]), 5, BODY_BYTES).await?;
    }
    let before = probe::status(&cluster).await?;
    let old = by_shard(&before[2], "last_log");
    // A process that starts costs this much before anything is transferred.
    let receiver_start = memory_kib(cluster.nodes[2].pid().context("runs")?)?;
    cluster.nodes[2].kill()?;

    // Four conversations at once, so that several shards pass the threshold.
    let heads = futures::future::try_join_all(seats.iter().enumerate().map(|(i, seat)| async move {
        let peer = names[(i + 1) % 4];
        let head = fill(seat, &to(peer), entries / 4, BODY_BYTES).await?;
        Ok::<_, anyhow::Error>((ConvId::direct(seat.handle.user(), &user(peer)), head))
    }))
    .await?;
    let full = probe::status(&cluster).await?;
    let purged = by_shard(&full[0], "purged");
    let gone: Vec<u64> = old.iter().filter(|(shard, last)| purged[shard] > **last).map(|(s, _)| *s).collect();
    assert!(!gone.is_empty(), "nothing is purged beyond what node 3 has: {old:?} {purged:?}");

    let pids = [cluster.nodes[0].pid().context("runs")?, cluster.nodes[1].pid().context("runs")?];
    let start = [reset_memory(pids[0])?, reset_memory(pids[1])?];
    let stop = Arc::new(AtomicBool::new(false));
    let writing = {
        let (stop, seat) = (stop.clone(), seats.pop().context("four seats")?);
        tokio::spawn(async move {
            let mut head = Seq(0);
            while !stop.load(Ordering::Relaxed) {
                head = fill(&seat, &to("alice"), 10, BODY_BYTES).await?;
            }
            Ok::<_, anyhow::Error>(head)
        })
    };
    let began = tokio::time::Instant::now();
    cluster.spawn(2)?;
    let pid = cluster.nodes[2].pid().context("runs")?;
    eventually("node 3 holds what was purged elsewhere", limit, async || {
        let Ok(now) = probe::status(&cluster).await else { return false };
        let applied = by_shard(&now[2], "applied");
        gone.iter().all(|shard| applied.get(shard).is_some_and(|a| *a >= purged[shard]))
    })
    .await
    .with_context(|| cluster.logs())?;
    let took = began.elapsed();
    let end = [memory_kib(pids[0])?, memory_kib(pids[1])?];
    let receiver = memory_kib(pid)?;
    stop.store(true, Ordering::Relaxed);
    let head = writing.await??;
    let now = probe::status(&cluster).await?;
    let jumped = by_shard(&now[2], "purged");
    for shard in &gone {
        // Only a snapshot purges what it never had: it would have had to apply those entries one by one.
        assert!(jumped[shard] > old[shard], "shard {shard}: {jumped:?} {old:?}");
    }
    assert_eq!(agree(&cluster, limit).await?, 17);

    println!(
        "{entries} entries away, {} shards by snapshot in {took:?}; memory in KiB: senders {start:?} -> {end:?}, receiver {receiver_start} -> {receiver}",
        gone.len()
    );
    let digested = [memory_kib(pids[0])?, memory_kib(pids[1])?, memory_kib(pid)?];
    println!("after the digests of all rows, which go through the block cache: {digested:?}");
    for at in 0..2 {
        assert!(end[at].saturating_sub(start[at]) < GROWTH_KIB_MAX, "sender {at}: {start:?} -> {end:?}");
    }
    assert!(receiver.saturating_sub(receiver_start) < GROWTH_KIB_MAX, "receiver: {receiver_start} -> {receiver}");
    // What was accepted before, during and after is served by the node that was away.
    let url = vec![cluster.nodes[2].url()];
    let late = scene.open_at("alice", 9, url, flotilla_client::store::MemStore::new()).await?;
    for (conv, top) in heads.iter().filter(|(conv, _)| conv.peer_of(&user("alice")).is_some()) {
        let top = if conv.peer_of(&user("alice")) == Some(user("dave")) { head } else { *top };
        let page = flotilla_proto::frame::History {
            conv: conv.clone(),
            before: None,
            after: Some(Seq(top.0 - 5)),
            around: None,
            limit: Some(5),
        };
        assert_eq!(late.handle.history(page).await?.entries.len(), 5, "{conv} up to {top}");
    }
    Ok(())
}
