//! Settings, profiles, blocks, search and exports on real nodes, with users and conversations spread over their shards.

use std::time::{Duration, Instant};

use flotilla_tests::cluster::Cluster;
use flotilla_tests::raw::Raw;
use serde_json::{Value, json};

async fn call(raw: &mut Raw, id: u32, method: &str, params: Value) -> anyhow::Result<Value> {
    raw.ask(id, "call", json!({"method": method, "params": params})).await
}

fn cid(n: u8) -> String {
    format!("0f0e0d0c-0b0a-4908-8706-0504030201{n:02x}")
}

/// Again until it is answered well: a shard may be without a leader for a moment.
async fn settled(raw: &mut Raw, method: &str, params: Value) -> anyhow::Result<Value> {
    let end = Instant::now() + Duration::from_secs(20);
    for id in 1_000.. {
        let answer = call(raw, id, method, params.clone()).await?;
        if answer["t"] == "reply" {
            return Ok(answer["d"].clone());
        }
        anyhow::ensure!(Instant::now() < end && answer["d"]["retryable"] == true, "{method}: {answer}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    unreachable!("the loop returns")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_settle_block_and_find_each_other_and_a_killed_node_changes_nothing() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let urls = cluster.urls();
    for n in 0..20 {
        drop(Raw::open(&urls[n % 3], &format!("friend{n}"), "x").await?);
    }
    let mut alice = Raw::open(&urls[0], "alice", "alice 1").await?;
    let mut tablet = Raw::open(&urls[1], "alice", "alice 2").await?;
    let mut bob = Raw::open(&urls[1], "bob", "bob 1").await?;

    settled(&mut bob, "PATCH me", json!({"name": "Bob B.", "about": "hello"})).await?;
    assert_eq!(settled(&mut alice, "GET users/bob", json!({})).await?["name"], "Bob B.");
    let found = settled(&mut alice, "GET search/users", json!({"prefix": "friend", "limit": 50})).await?;
    assert_eq!((found["users"].as_array().map(Vec::len), &found["partial"]), (Some(20), &json!(false)), "{found}");

    let send = json!({"to": "alice", "cid": cid(1), "body": "aGk"});
    let conv = bob.ask(1, "send", send).await?["d"]["conv"].as_str().unwrap_or_default().to_owned();
    tablet.until(|f| f["t"] == "conv" && f["d"]["conv"] == conv).await?;
    let settings = format!("PATCH conversations/{conv}/settings");
    settled(&mut alice, &settings, json!({"pinned": true, "unread": true})).await?;
    tablet.until(|f| f["t"] == "conv" && f["d"]["settings"]["unread"] == true).await?;
    let list = settled(&mut tablet, "GET conversations", json!({"order": "activity", "previews": true})).await?;
    assert_eq!(list["convs"][0]["last"]["body"], "aGk", "{list}");

    settled(&mut alice, "PUT blocks/bob", json!({})).await?;
    let refused = bob.ask(2, "send", json!({"to": "alice", "cid": cid(2), "body": "aGk"})).await?;
    assert_eq!(refused["d"]["code"], "blocked", "{refused}");
    settled(&mut alice, "PUT blocks/friend3", json!({})).await?;

    // What was answered is kept, whoever leads.
    cluster.nodes[2].kill()?;
    let list = settled(&mut alice, "GET blocks", json!({})).await?;
    assert_eq!(list["blocks"].as_array().map(Vec::len), Some(2), "{list}");
    assert!(list["blocks"].as_array().is_some_and(|all| all.iter().all(|b| b["pending"] == false)), "{list}");
    let mut stranger = Raw::open(&urls[1], "friend3", "y").await?;
    let end = Instant::now() + Duration::from_secs(20);
    let refused = loop {
        let answer = stranger.ask(3, "send", json!({"to": "alice", "cid": cid(3), "body": "aGk"})).await?;
        if answer["d"]["retryable"] != true || Instant::now() > end {
            break answer;
        }
    };
    assert_eq!(refused["d"]["code"], "blocked", "also the first message: {refused}");
    let list = settled(&mut alice, "GET conversations", json!({"order": "activity"})).await?;
    assert!(list["convs"][0]["settings"]["pinned"].is_u64(), "{list}");
    settled(&mut alice, "DELETE blocks/bob", json!({})).await?;
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = bob.ask(4, "send", json!({"to": "alice", "cid": cid(4), "body": "aGk"})).await?;
        if answer["t"] == "accepted" {
            break;
        }
        anyhow::ensure!(answer["d"]["retryable"] == true && Instant::now() < end, "{answer}");
    }
    let folded =
        settled(&mut bob, &format!("GET conversations/{conv}/messages"), json!({"fold": true, "at": 1})).await?;
    assert_eq!(folded["entries"].as_array().map(Vec::len), Some(2), "{folded}");
    Ok(())
}
