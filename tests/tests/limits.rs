//! Limits on clients that an operator changes while the cluster runs: they count at once, on every node, and after restarts.

use std::time::Duration;

use anyhow::ensure;
use flotilla_client::device::random_cid;
use flotilla_tests::cluster::Cluster;
use flotilla_tests::raw::{Raw, hello};
use flotilla_tests::scene::eventually;
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(30);

/// What a new connection is told.
async fn told(url: &str, user: &str) -> Option<u64> {
    let mut raw = Raw::dial(url, Some("flotilla.v1.json")).await.ok()?;
    raw.say(&hello(user, &format!("{user}-{}", random_cid()))).await.ok()?;
    let ready = raw.until(|frame| frame["t"] == "ready").await.ok()?;
    ready["d"]["limits"]["sends_per_user"].as_u64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_changed_on_all_nodes_at_run_time_and_survive_a_restart_of_all() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let set = cluster.tool(&["cluster", "limits", "sends_per_user=2"]).await?;
    let said = String::from_utf8_lossy(&set.stdout).into_owned();
    ensure!(set.status.success() && said.contains("sends_per_user           2"), "{said}{:?}", set.stderr);
    for url in cluster.urls() {
        eventually("every node says so in `ready`", LIMIT, async || told(&url, "alice").await == Some(2)).await?;
    }
    // Ten seconds' worth at once, then no more.
    let url = cluster.urls().remove(1);
    let mut raw = Raw::open(&url, "bob", "bob-store").await?;
    let mut refused = None;
    for id in 1..=40 {
        let answer =
            raw.ask(id, "send", json!({"to": "alice", "cid": random_cid(), "kind": "message", "body": "AAAA"})).await?;
        if answer["t"] == "error" {
            refused = Some(answer["d"].clone());
            break;
        }
    }
    let refused = refused.expect("forty sends are more than twenty and what came in meanwhile");
    ensure!(refused["code"] == "too_many_requests" && refused["retry_after_ms"].is_u64(), "{refused}");

    let wrong = cluster.tool(&["cluster", "limits", "logins_per_minute=0"]).await?;
    let why = String::from_utf8_lossy(&wrong.stderr).into_owned();
    ensure!(!wrong.status.success() && why.contains("allowed is 1 to 100000"), "{why}");

    for node in &mut cluster.nodes {
        node.kill()?;
    }
    for at in 0..3 {
        cluster.spawn(at)?;
    }
    cluster.all_ready().await?;
    for url in cluster.urls() {
        eventually("and after a restart", LIMIT, async || told(&url, "alice").await == Some(2)).await?;
    }
    let back = cluster.tool(&["cluster", "limits", "sends_per_user=default"]).await?;
    ensure!(back.status.success(), "{:?}", back.stderr);
    for url in cluster.urls() {
        eventually("each node's own again", LIMIT, async || told(&url, "alice").await.is_none()).await?;
    }
    Ok(())
}
