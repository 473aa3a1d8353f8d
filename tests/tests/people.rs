//! Settings, profiles, blocks, search and exports on real nodes, with users and conversations spread over their shards.

use std::time::{Duration, Instant};

use flotilla_tests::cluster::Cluster;
use flotilla_tests::probe::figure;
use flotilla_tests::raw::Raw;
use serde_json::{Value, json};

/// A shard may be without a leader for a moment; who asks then asks again.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(100);

async fn call(raw: &mut Raw, id: u32, method: &str, params: Value) -> anyhow::Result<Value> {
    raw.ask(id, "call", json!({"method": method, "params": params})).await
}

fn cid(n: u8) -> String {
    format!("0f0e0d0c-0b0a-4908-8706-0504030201{n:02x}")
}

/// Again until it is answered well: a shard may be without a leader for a moment.
async fn settled(raw: &mut Raw, method: &str, params: Value) -> anyhow::Result<Value> {
    let end = Instant::now() + PATIENCE;
    for id in 1_000.. {
        let answer = call(raw, id, method, params.clone()).await?;
        if answer["t"] == "reply" {
            return Ok(answer["d"].clone());
        }
        anyhow::ensure!(Instant::now() < end && answer["d"]["retryable"] == true, "{method}: {answer}");
        tokio::time::sleep(PAUSE).await;
    }
    unreachable!("the loop returns")
}

/// The watermarks of its peer in a user's own state of a direct conversation, once they are as wanted.
async fn peer_marks(raw: &mut Raw, conv: &str, delivered: u64, read: u64) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let list = settled(raw, "GET conversations", json!({})).await?;
        let convs = list["convs"].as_array().cloned().unwrap_or_default();
        let peer = convs.iter().find(|c| c["conv"] == conv).map(|c| c["peer"].clone()).unwrap_or_default();
        anyhow::ensure!(peer["read"].as_u64() <= Some(read), "more was shown than {read}: {peer}");
        if peer["delivered"] == delivered && peer["read"] == read {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < end, "not ({delivered}, {read}): {peer}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// As a client does: again while the user's shard has no leader, which is 4006.
async fn comes_back(url: &str, name: &str, install: &str) -> anyhow::Result<Raw> {
    let end = Instant::now() + PATIENCE;
    loop {
        match Raw::open(url, name, install).await {
            Ok(raw) => return Ok(raw),
            Err(error) => anyhow::ensure!(error.to_string().contains("4006") && Instant::now() < end, "{error:#}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Under the same cid until it is accepted.
async fn say(raw: &mut Raw, id: u32, to: &str, cid: &str) -> anyhow::Result<String> {
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = raw.ask(id, "send", json!({"to": to, "cid": cid, "body": "aGk"})).await?;
        if answer["t"] == "accepted" {
            return Ok(answer["d"]["conv"].as_str().unwrap_or_default().to_owned());
        }
        anyhow::ensure!(answer["d"]["retryable"] == true && Instant::now() < end, "{answer}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Acked and read by this device once it is there.
async fn reads(raw: &mut Raw, conv: &str, seq: u64) -> anyhow::Result<()> {
    raw.until(|f| f["t"] == "entry" && f["d"]["conv"] == conv && f["d"]["seq"] == seq).await?;
    raw.say(&json!({"t": "ack", "d": [{"conv": conv, "seq": seq}]})).await?;
    raw.say(&json!({"t": "read", "d": {"conv": conv, "seq": seq}})).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hidden_read_marks_stay_with_their_reader_and_cost_it_those_of_others() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let urls = cluster.urls();
    let mut alice = Raw::open(&urls[0], "alice", "alice 1").await?;
    let mut bob = Raw::open(&urls[1], "bob", "bob 1").await?;
    let mut tablet = Raw::open(&urls[0], "bob", "bob 2").await?;
    let conv = say(&mut alice, 1, "bob", &cid(1)).await?;
    reads(&mut bob, &conv, 1).await?;
    peer_marks(&mut alice, &conv, 1, 1).await?;

    let hidden = settled(&mut bob, "PATCH me/privacy", json!({"hide_read": true})).await?;
    assert_eq!(hidden, json!({"presence": "everyone", "hide_read": true}));
    say(&mut alice, 2, "bob", &cid(2)).await?;
    reads(&mut bob, &conv, 2).await?;
    peer_marks(&mut alice, &conv, 2, 1).await?;
    tablet.until(|f| f["t"] == "conv" && f["d"]["read"] == 2).await?;
    say(&mut bob, 3, "alice", &cid(3)).await?;
    reads(&mut alice, &conv, 3).await?;
    peer_marks(&mut bob, &conv, 3, 0).await?;

    // It is kept, whoever leads.
    cluster.nodes[2].kill()?;
    say(&mut alice, 4, "bob", &cid(4)).await?;
    reads(&mut bob, &conv, 4).await?;
    peer_marks(&mut alice, &conv, 4, 1).await?;
    let both = settled(&mut bob, "PATCH me/privacy", json!({"presence": "contacts", "hide_read": false})).await?;
    assert_eq!(both, json!({"presence": "contacts", "hide_read": false}));
    peer_marks(&mut bob, &conv, 3, 3).await?;
    say(&mut alice, 5, "bob", &cid(5)).await?;
    reads(&mut bob, &conv, 5).await?;
    peer_marks(&mut alice, &conv, 5, 5).await
}

async fn in_all(urls: &[String], name: &str) -> u64 {
    let mut all = 0;
    for url in urls {
        all += figure(url, name).await.unwrap_or_default();
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn marks_of_the_other_side_come_with_the_row_and_nobody_has_to_ask_for_it() -> anyhow::Result<()> {
    const ROUNDS: u8 = 10;
    let cluster = Cluster::start(3).await?;
    let urls = cluster.urls();
    let mut alice = Raw::open(&urls[0], "alice", "alice 1").await?;
    let mut bob = Raw::open(&urls[1], "bob", "bob 1").await?;
    let (pushed, looks) = ("flotilla_rows_pushed_total ", "flotilla_row_looks_total ");
    let before = (in_all(&urls, pushed).await, in_all(&urls, looks).await);
    for n in 1..=ROUNDS {
        let conv = say(&mut alice, n.into(), "bob", &cid(n)).await?;
        reads(&mut bob, &conv, n.into()).await?;
        let peer = |f: &serde_json::Value| f["d"]["peer"]["delivered"] == n && f["d"]["peer"]["read"] == n;
        alice.until(|f| f["t"] == "conv" && f["d"]["conv"] == conv && peer(f)).await?;
        alice.say(&json!({"t": "ack", "d": [{"conv": conv, "seq": n}]})).await?;
    }
    let after = (in_all(&urls, pushed).await, in_all(&urls, looks).await);
    let (pushed, looks) = (after.0 - before.0, after.1 - before.1);
    println!("{ROUNDS} rounds: {pushed} rows pushed, {looks} looks");
    // Where this machine is slow a row may wait for too long, and is asked for.
    anyhow::ensure!(pushed >= u64::from(ROUNDS), "{pushed} rows pushed, {looks} looks");
    Ok(())
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
    let mut stranger = comes_back(&urls[1], "friend3", "y").await?;
    let end = Instant::now() + PATIENCE;
    let refused = loop {
        let answer = stranger.ask(3, "send", json!({"to": "alice", "cid": cid(3), "body": "aGk"})).await?;
        if answer["d"]["retryable"] != true || Instant::now() > end {
            break answer;
        }
        tokio::time::sleep(PAUSE).await;
    };
    assert_eq!(refused["d"]["code"], "blocked", "also the first message: {refused}");
    let list = settled(&mut alice, "GET conversations", json!({"order": "activity"})).await?;
    assert!(list["convs"][0]["settings"]["pinned"].is_u64(), "{list}");
    settled(&mut alice, "DELETE blocks/bob", json!({})).await?;
    say(&mut bob, 4, "alice", &cid(4)).await?;
    let folded =
        settled(&mut bob, &format!("GET conversations/{conv}/messages"), json!({"fold": true, "at": 1})).await?;
    assert_eq!(folded["entries"].as_array().map(Vec::len), Some(2), "{folded}");
    Ok(())
}
