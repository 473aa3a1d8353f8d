//! A node that hangs: alive, its sockets open, and silent. Its clients go elsewhere by themselves, and those who wait for a
//! leader there are not held up until it wakes.

use std::time::Duration;

use anyhow::{Context, ensure};
use flotilla_client::Outcome;
use flotilla_client::oracle::Demand;
use flotilla_tests::cluster::Cluster;
use flotilla_tests::scene::{LIMIT, Scene, to};
use tokio::time::{Instant, timeout};

/// The longest wait for an answer, a reconnect, an election; far below the silence that ends an idle connection.
const AWAY_LIMIT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_leaves_a_node_that_hangs() -> anyhow::Result<()> {
    let cluster = Cluster::start(3).await?;
    let scene = Scene::new(cluster.urls());
    let (alice, bob) = (scene.open("alice", 1).await?, scene.open("bob", 1).await?);
    let conv = alice.say(to("bob"), "hello").await?.conv;
    let url = alice.handle.status().await.and_then(|s| s.connected).context("alice is connected")?;
    let node = cluster.nodes.iter().find(|n| n.url() == url).context("one of ours")?;
    node.pause()?;
    let paused = Instant::now();
    let sent = timeout(AWAY_LIMIT, alice.handle.send(to("bob"), "is anybody there?")).await;
    println!("accepted {} ms after the node fell silent", paused.elapsed().as_millis());
    node.resume()?;
    let sent = sent.context("alice stays with a node that hangs")??;
    ensure!(matches!(sent, Outcome::Accepted(_)), "{sent:?}");
    timeout(LIMIT, bob.holds(&conv, flotilla_proto::ids::Seq(2))).await??;
    timeout(LIMIT, alice.holds(&conv, flotilla_proto::ids::Seq(2))).await??;
    for seat in [alice, bob] {
        seat.handle.close().await;
    }
    scene.verdict(Demand { accepted_min: 2, delivered_min: 4, ..Demand::default() })?;
    Ok(())
}
