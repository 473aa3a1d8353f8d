//! Damaged, rolled back and wiped data directories: what cannot be trusted never votes again under its id; the node says
//! so, and comes back with new replicas.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Context;
use flotilla_client::oracle::Demand;
use flotilla_proto::ids::{ConvId, Seq};
use flotilla_tests::cluster::Cluster;
use flotilla_tests::probe::{LIMIT, agree, copy, ended, fill, groups, list, refusal, status, tool};
use flotilla_tests::scene::{Scene, Seat, eventually, text, to, user};
use flotilla_tests::surgery::{self, LOG, STATE, VOTE};
use serde_json::Value;

/// (shard, generation) of all replicas that a node runs.
fn generations(status: &Value) -> BTreeSet<(u64, u64)> {
    let id = |g: &Value| (g["shard"].as_u64().unwrap_or(0), g["replica"]["generation"].as_u64().unwrap_or(0));
    groups(status).iter().map(id).collect()
}

/// Waits until each of these shards is run by node 3 under a newer generation, votes, and nobody knows the old one.
async fn replaced(cluster: &Cluster, shards: &[u64]) -> anyhow::Result<()> {
    eventually("the lost replicas are replaced, and the old ones forgotten", LIMIT, async || {
        let Ok(all) = status(cluster).await else { return false };
        shards.iter().all(|shard| {
            let mine = groups(&all[2]).iter().find(|g| g["shard"] == *shard);
            let Some(mine) = mine.filter(|g| g["replica"]["generation"].as_u64() > Some(1)) else { return false };
            let voters = |node: &Value| groups(node).iter().find(|g| g["shard"] == *shard).map(|g| g["voters"].clone());
            all.iter().all(|node| {
                let Some(Value::Array(voters)) = voters(node) else { return false };
                voters.len() == 3 && voters.contains(&mine["replica"])
            })
        })
    })
    .await
    .with_context(|| cluster.logs())
}

async fn talk(seats: &[Seat; 2], conv: &ConvId) -> anyhow::Result<Seq> {
    let head = fill(&seats[0], &to("bob"), 30, 40).await?;
    for seat in seats {
        seat.holds(conv, head).await?;
    }
    Ok(head)
}

async fn start() -> anyhow::Result<(Cluster, Scene, [Seat; 2], ConvId)> {
    let cluster = Cluster::start(3).await?;
    let scene = Scene::new(cluster.urls());
    let seats = [scene.open("alice", 1).await?, scene.open("bob", 2).await?];
    let conv = ConvId::direct(&user("alice"), &user("bob"));
    talk(&seats, &conv).await?;
    Ok((cluster, scene, seats, conv))
}

/// Which node leads which shard; none while one has no leader.
async fn leaders(cluster: &Cluster) -> Option<BTreeSet<(u64, usize)>> {
    let all = status(cluster).await.ok()?;
    let of = |at: usize| {
        groups(&all[at])
            .iter()
            .filter(|g| g["leader"] == g["replica"])
            .map(move |g| (g["shard"].as_u64().unwrap_or(0), at))
            .collect::<Vec<_>>()
    };
    let found: BTreeSet<_> = (0..all.len()).flat_map(of).collect();
    (found.len() == 17).then_some(found)
}

async fn finish(cluster: &Cluster, scene: &Scene, seats: [Seat; 2], accepted: u64) -> anyhow::Result<()> {
    assert_eq!(agree(cluster, LIMIT).await?, 17);
    for seat in seats {
        seat.handle.close().await;
    }
    scene.verdict(Demand { accepted_min: accepted, delivered_min: 2 * accepted, ..Demand::default() })?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flipped_bits_in_logs_votes_and_state_cost_a_generation_and_no_message() -> anyhow::Result<()> {
    let (mut cluster, scene, seats, conv) = start().await?;
    assert!(status(&cluster).await.map(|s| generations(&s[2]))?.iter().all(|(_, g)| *g == 1));
    // Not killed: of a shard with so little in it a killed node has no state on the disk, only the log that brings it back.
    let stopped = cluster.nodes[2].stop(LIMIT).await?;
    assert!(stopped.success(), "{stopped:?}");
    let dir = cluster.nodes[2].dir.clone();
    surgery::flip(&dir, LOG, 0)?;
    surgery::flip(&dir, LOG, 4)?;
    surgery::flip(&dir, VOTE, 5)?;
    surgery::flip(&dir, STATE, 6)?;
    let found = refusal(&["inspect", "--verify", &dir.display().to_string()]).await?;
    for what in
        ["shard 0, generation 1: log entry", "shard 4, generation 1: log entry", "shard 5, generation 1: the vote"]
    {
        assert!(found.contains(what), "inspect finds it: {found}");
    }
    talk(&seats, &conv).await?;
    // A damaged row of the state is found when it is read; the process ends, and the next one rebuilds the state.
    cluster.spawn(2)?;
    let status_of = ended(&mut cluster, 2, LIMIT).await?;
    let log = cluster.nodes[2].log_tail();
    assert!(!status_of.success() && log.contains("node 3 stops: shard 6"), "{log}");
    cluster.spawn(2)?;
    cluster.ready(2).await?;
    assert!(cluster.nodes[2].log().contains("rebuilding the state from the log"), "{}", cluster.nodes[2].log_tail());
    talk(&seats, &conv).await?;
    replaced(&cluster, &[0, 4, 5]).await?;
    let now = generations(&status(&cluster).await?[2]);
    assert_eq!(now.iter().filter(|(_, g)| *g > 1).count(), 3, "only what was damaged: {now:?}");
    eventually("the old logs are deleted", LIMIT, async || {
        cluster.nodes[2].log().matches("deleted what a replaced replica had stored").count() == 3
    })
    .await
    .with_context(|| cluster.logs())?;
    // The damage is gone for good: the node restarts like any other.
    cluster.nodes[2].kill()?;
    let clean = tool(&["inspect", "--verify", &dir.display().to_string()]).await?;
    assert!(clean.status.success(), "{clean:?}");
    cluster.spawn(2)?;
    cluster.ready(2).await?;
    talk(&seats, &conv).await?;
    assert_eq!(generations(&status(&cluster).await?[2]), now);
    finish(&cluster, &scene, seats, 120).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_below_its_watermark_comes_back_under_new_generations() -> anyhow::Result<()> {
    let (mut cluster, scene, seats, conv) = start().await?;
    let dir = cluster.nodes[2].dir.clone();
    // A copy of the same boot, so that the boot number cannot tell.
    cluster.nodes[2].pause()?;
    copy(&dir.join("db"), &dir.with_extension("old"))?;
    cluster.nodes[2].resume()?;
    talk(&seats, &conv).await?;
    // It follows the writes within half a second: its next change covers more than the copy has.
    let watermark = std::fs::read(dir.join("watermark"))?;
    talk(&seats, &conv).await?;
    eventually("the watermark moves on", LIMIT, async || {
        std::fs::read(dir.join("watermark")).is_ok_and(|now| now != watermark)
    })
    .await?;
    cluster.nodes[2].kill()?;
    std::fs::remove_dir_all(dir.join("db"))?;
    std::fs::rename(dir.with_extension("old"), dir.join("db"))?;
    cluster.spawn(2)?;
    cluster.ready(2).await?;
    let log = cluster.nodes[2].log();
    assert!(log.contains("without writes that were synced"), "{log}");
    replaced(&cluster, &(0..=16).collect::<Vec<_>>()).await?;
    talk(&seats, &conv).await?;
    // Remembered: a restart does not bring the old ones back.
    cluster.nodes[2].kill()?;
    cluster.spawn(2)?;
    cluster.ready(2).await?;
    assert!(generations(&status(&cluster).await?[2]).iter().all(|(_, g)| *g > 1));
    talk(&seats, &conv).await?;
    finish(&cluster, &scene, seats, 150).await
}

/// The watermark follows the writes by half a second: what was lost of that, only those can tell who were told that it is
/// stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_that_the_watermark_does_not_show_is_found_out_by_the_leaders() -> anyhow::Result<()> {
    let (mut cluster, scene, seats, conv) = start().await?;
    let dir = cluster.nodes[2].dir.clone();
    cluster.nodes[2].pause()?;
    copy(&dir.join("db"), &dir.with_extension("old"))?;
    let watermark = std::fs::read(dir.join("watermark"))?;
    cluster.nodes[2].resume()?;
    // A leader knows what it was told itself, and the pause has moved leaders: it counts only what is said under settled ones.
    let deadline = Instant::now() + LIMIT;
    loop {
        let before = leaders(&cluster).await;
        talk(&seats, &conv).await?;
        agree(&cluster, LIMIT).await?;
        if before.is_some() && before == leaders(&cluster).await {
            break;
        }
        anyhow::ensure!(Instant::now() < deadline, "leaders do not settle: {before:?}");
    }
    cluster.nodes[2].kill()?;
    std::fs::remove_dir_all(dir.join("db"))?;
    std::fs::rename(dir.with_extension("old"), dir.join("db"))?;
    std::fs::write(dir.join("watermark"), watermark)?;
    cluster.spawn(2)?;
    let status_of = ended(&mut cluster, 2, LIMIT).await?;
    let log = cluster.nodes[2].log_tail();
    assert!(!status_of.success() && log.contains("has lost writes that were synced"), "{log}");
    cluster.spawn(2)?;
    cluster.ready(2).await.with_context(|| cluster.logs())?;
    replaced(&cluster, &(0..=16).collect::<Vec<_>>()).await?;
    talk(&seats, &conv).await?;
    for at in [0, 1] {
        assert!(!cluster.nodes[at].log().contains("panicked"), "{}", cluster.nodes[at].log_tail());
    }
    finish(&cluster, &scene, seats, 90).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_copy_of_a_directory_is_refused_and_the_node_rejoins_with_an_empty_one() -> anyhow::Result<()> {
    let (mut cluster, scene, seats, conv) = start().await?;
    cluster.nodes[2].kill()?;
    let dir = cluster.nodes[2].dir.clone();
    copy(&dir, &dir.with_extension("old"))?;
    cluster.spawn(2)?;
    cluster.ready(2).await?;
    talk(&seats, &conv).await?;
    cluster.nodes[2].kill()?;
    std::fs::remove_dir_all(&dir)?;
    std::fs::rename(dir.with_extension("old"), &dir)?;
    // However often it is started, and its boot number rises.
    for _ in 0..3 {
        cluster.spawn(2)?;
        let status = ended(&mut cluster, 2, Duration::from_secs(30)).await?;
        assert!(!status.success());
        let log = cluster.nodes[2].log_tail();
        assert!(log.contains("was rolled back or copied") && log.contains("flotilla cluster rejoin"), "{log}");
        std::fs::write(cluster.nodes[2].dir.with_extension("log"), "")?;
    }

    // As told: move it away, start with an empty one, rejoin.
    std::fs::remove_dir_all(&dir)?;
    cluster.spawn(2)?;
    let nodes = list(&cluster);
    eventually("the empty node answers", LIMIT, async || {
        tool(&["cluster", "rejoin", "--nodes", &nodes, "--node", "3"]).await.is_ok_and(|o| o.status.success())
    })
    .await
    .with_context(|| cluster.logs())?;
    cluster.ready(2).await?;
    replaced(&cluster, &(0..=16).collect::<Vec<_>>()).await?;
    let again = refusal(&["cluster", "rejoin", "--nodes", &nodes, "--node", "3"]).await?;
    assert!(again.contains("nothing to take back"), "{again}");
    talk(&seats, &conv).await?;
    // It is a full member again: another node may go.
    cluster.nodes[0].kill()?;
    talk(&seats, &conv).await?;
    cluster.spawn(0)?;
    cluster.ready(0).await?;
    finish(&cluster, &scene, seats, 120).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wiped_node_never_votes_under_its_old_id() -> anyhow::Result<()> {
    let (mut cluster, scene, seats, conv) = start().await?;
    cluster.nodes[1].kill()?;
    // Only nodes 1 and 3 hold this. Then 3 loses its disk and 1 stops: what 2 and an empty 3 could elect would lose it.
    talk(&seats, &conv).await?;
    cluster.nodes[2].kill()?;
    cluster.nodes[0].kill()?;
    std::fs::remove_dir_all(&cluster.nodes[2].dir)?;
    cluster.spawn(1)?;
    cluster.spawn(2)?;
    let wiped = list(&cluster);
    eventually("the empty node says what it waits for", LIMIT, async || {
        cluster.nodes[2].log_tail().contains("waiting for `flotilla init`")
    })
    .await?;
    // Neither a second init nor a readmission makes it vote.
    let nodes: Vec<&str> = wiped.split(',').collect();
    let some = format!("{},{}", nodes[1], nodes[2]);
    let mut said = String::new();
    eventually("node 2 answers", LIMIT, async || {
        said = refusal(&["init", "--nodes", &some]).await.unwrap_or_default();
        said.contains("has node 1 too")
    })
    .await
    .with_context(|| said.clone())?;
    // One node alone may hold old tables: it says nothing of how often the other has started.
    let refused = refusal(&["cluster", "rejoin", "--nodes", &some, "--node", "3"]).await?;
    assert!(refused.contains("the control group does not answer: try again"), "{refused}");
    let ticket = seats[0].handle.submit(to("bob"), text("who leads?")).await?;
    let answer = ticket.answer();
    tokio::pin!(answer);
    // Several election time-outs: nothing may be accepted by one good node out of three.
    let early = tokio::time::timeout(Duration::from_secs(8), &mut answer).await;
    assert!(early.is_err(), "accepted without a quorum: {early:?}");
    let runs = generations(&status(&cluster).await?[2]);
    assert!(runs.is_empty(), "no replica runs on the wiped node before a quorum has given it a new id: {runs:?}");
    cluster.spawn(0)?;
    tokio::time::timeout(LIMIT, answer).await.context("the cluster goes on when node 1 is back")?;
    eventually("node 3 is taken back", LIMIT, async || {
        tool(&["cluster", "rejoin", "--nodes", &wiped, "--node", "3"]).await.is_ok_and(|said| said.status.success())
    })
    .await?;
    cluster.all_ready().await?;
    replaced(&cluster, &(0..=16).collect::<Vec<_>>()).await?;
    let head = talk(&seats, &conv).await?;
    assert_eq!(head, Seq(91), "nothing was lost or doubled");
    finish(&cluster, &scene, seats, 91).await
}
