//! Presence and typing across real nodes, and what a watcher is told while nodes die.

use std::time::Duration;

use flotilla_tests::cluster::Cluster;
use flotilla_tests::raw::{Got, Raw};
use serde_json::{Value, json};

fn state(frame: &Value) -> Option<&str> {
    (frame["t"] == "signal" && frame["d"]["k"] == "presence").then(|| frame["d"]["state"].as_str()).flatten()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_learns_who_comes_goes_and_dies_with_a_node() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let urls = cluster.urls();
    drop(Raw::open(&urls[1], "bob", "bob 1").await?);
    let mut alice = Raw::open(&urls[0], "alice", "alice 1").await?;
    let snapshot = alice.ask(1, "presence", json!({"watch": ["bob", "nobody"]})).await?;
    assert_eq!(snapshot["d"]["presence"][1]["state"], "hidden", "{snapshot}");

    let bob = Raw::open(&urls[1], "bob", "bob 1").await?;
    alice.until(|f| state(f) == Some("online")).await?;
    drop(bob);
    let gone = alice.until(|f| state(f) == Some("offline")).await?;
    assert!(gone["d"]["at"].is_u64(), "when he was last here: {gone}");

    // Typing goes from node to node, and only to members.
    let mut bob = Raw::open(&urls[2], "bob", "bob 2").await?;
    alice.until(|f| state(f) == Some("online")).await?;
    let send = json!({"to": "bob", "cid": "0f0e0d0c-0b0a-4908-8706-050403020100", "body": "aGk"});
    let sent = alice.ask(2, "send", send).await?;
    alice.say(&json!({"t": "typing", "d": {"conv": sent["d"]["conv"]}})).await?;
    let typing = bob.until(|f| f["t"] == "signal" && f["d"]["k"] == "typing").await?;
    assert_eq!(typing["d"]["user"], "alice");

    // The node of bob dies with his session; whoever leads then knows of no watcher until it is told again.
    cluster.nodes[2].kill()?;
    alice.until(|f| state(f) == Some("offline")).await?;
    let mut bob = Raw::open(&urls[1], "bob", "bob 2").await?;
    alice.until(|f| state(f) == Some("online")).await?;
    bob.say(&json!({"t": "state", "d": {"state": "background"}})).await?;
    alice.say(&json!({"t": "typing", "d": {"conv": sent["d"]["conv"]}})).await?;
    while let Ok(next) = tokio::time::timeout(Duration::from_secs(1), bob.next()).await {
        match next? {
            Got::Frame(frame) => assert_ne!(frame["t"], "signal", "held back in the background: {frame}"),
            Got::Closed(code) => anyhow::bail!("closed with {code}"),
        }
    }
    Ok(())
}
