//! Live receipts of a group on real nodes: who watches hears from any node, never of a hidden read, nothing once put out, and again
//! after the leader has died.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use flotilla_client::device::random_cid;
use flotilla_proto::ids::ConvId;
use flotilla_proto::limits;
use flotilla_proto::slots::SlotTable;
use flotilla_tests::cluster::Cluster;
use flotilla_tests::raw::{Got, Raw};
use flotilla_tests::replicas;
use flotilla_tests::scene::{LIMIT, eventually, user};
use serde_json::{Value, json};

/// As documented, from the time when the shard has a leader again; an election takes a few seconds.
const BOUND: Duration = Duration::from_secs(15 + 10);

/// Delivered and read, none where it is not shown, by member: the highest that was heard.
type Marks = BTreeMap<String, (u64, Option<u64>)>;

fn learn(marks: &mut Marks, members: &Value) {
    for of in members.as_array().into_iter().flatten() {
        let known = marks.entry(of["user"].as_str().unwrap_or_default().to_owned()).or_default();
        *known = (known.0.max(of["delivered"].as_u64().unwrap_or_default()), known.1.max(of["read"].as_u64()));
    }
}

async fn watches(raw: &mut Raw, id: u32, conv: &ConvId) -> anyhow::Result<Marks> {
    let answer = raw.ask(id, "receipts", json!({"watch": [conv]})).await?;
    ensure!(answer["t"] == "reply" && answer["d"]["receipts"][0]["conv"] == conv.as_str(), "{answer}");
    let mut marks = Marks::new();
    learn(&mut marks, &answer["d"]["receipts"][0]["members"]);
    Ok(marks)
}

/// Signals, until all that was heard is as wanted.
async fn hears(raw: &mut Raw, marks: &mut Marks, wanted: impl Fn(&Marks) -> bool) -> anyhow::Result<()> {
    let end = Instant::now() + BOUND;
    while !wanted(marks) {
        ensure!(Instant::now() < end, "not within {BOUND:?}: {marks:?}");
        let left = end.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, raw.next()).await {
            Ok(Ok(Got::Frame(frame))) if frame["t"] == "signal" && frame["d"]["k"] == "receipts" => {
                learn(marks, &frame["d"]["members"]);
            }
            Ok(Ok(Got::Frame(frame))) if frame["t"] == "ping" => raw.say(&json!({"t": "pong", "d": {}})).await?,
            Ok(Ok(Got::Frame(_))) => {}
            Ok(Ok(Got::Closed(code))) => anyhow::bail!("closed with {code}"),
            Ok(Err(error)) => return Err(error).with_context(|| format!("{marks:?}")),
            Err(_) => {}
        }
    }
    Ok(())
}

/// Acked and read once it is there.
async fn reads(raw: &mut Raw, conv: &ConvId, seq: u64) -> anyhow::Result<()> {
    raw.until(|f| f["t"] == "entry" && f["d"]["conv"] == conv.as_str() && f["d"]["seq"] == seq).await?;
    raw.say(&json!({"t": "ack", "d": [{"conv": conv, "seq": seq}]})).await?;
    raw.say(&json!({"t": "read", "d": {"conv": conv, "seq": seq}})).await
}

/// Again until it is answered well: a shard may be without a leader for a moment.
async fn settled(raw: &mut Raw, t: &str, d: Value) -> anyhow::Result<Value> {
    let end = Instant::now() + LIMIT;
    for id in 1_000.. {
        let answer = raw.ask(id, t, d.clone()).await?;
        if answer["t"] != "error" {
            return Ok(answer["d"].clone());
        }
        ensure!(Instant::now() < end && answer["d"]["retryable"] == true, "{t} {d}: {answer}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    unreachable!("the loop returns")
}

async fn says(raw: &mut Raw, conv: &ConvId) -> anyhow::Result<u64> {
    let said = settled(raw, "send", json!({"conv": conv, "cid": random_cid(), "body": "aGk"})).await?;
    said["seq"].as_u64().context("a seq")
}

async fn leads(cluster: &Cluster, conv: &ConvId) -> anyhow::Result<usize> {
    let shard = SlotTable::even(limits::SHARDS_DEFAULT).shard_of_conversation(conv).context("a whole table")?;
    let mut led = None;
    eventually("the shard has a leader", LIMIT, async || {
        led = replicas::leader(cluster, u64::from(shard.0)).await.ok();
        led.is_some()
    })
    .await?;
    led.context("just seen")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_of_a_group_hear_across_nodes_and_again_after_its_leader_has_died() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let urls = cluster.urls();
    let (ann, key) = (user("ann"), random_cid());
    let conv = ConvId::group(&ann, key);
    let log = leads(&cluster, &conv).await?;
    let others: Vec<usize> = (0..3).filter(|node| *node != log).collect();
    // Frames that a socket does not wait for are dropped: so each has one thing to do.
    let mut bob = Raw::open(&urls[others[1]], "bob", "bob 1").await?;
    let mut eve = Raw::open(&urls[others[1]], "eve", "eve 1").await?;
    let mut writer = Raw::open(&urls[others[1]], "ann", "ann 1").await?;
    let mut ann = Raw::open(&urls[others[0]], "ann", "ann 2").await?;
    let mut eves = Raw::open(&urls[others[0]], "eve", "eve 2").await?;
    let mut bobs = Raw::open(&urls[others[0]], "bob", "bob 2").await?;
    settled(&mut eves, "call", json!({"method": "PATCH me/privacy", "params": {"hide_read": true}})).await?;
    let group = json!({"method": "POST groups", "key": key, "params": {"name": "crew", "members": ["bob", "eve"]}});
    settled(&mut writer, "call", group).await?;

    let mut seen = watches(&mut ann, 1, &conv).await?;
    assert_eq!(seen.keys().map(String::as_str).collect::<Vec<_>>(), ["ann", "bob", "eve"]);
    let mut seen_by_eve = watches(&mut eves, 1, &conv).await?;
    reads(&mut bob, &conv, 1).await?;
    reads(&mut eve, &conv, 1).await?;
    hears(&mut ann, &mut seen, |marks| marks["bob"] == (1, Some(1)) && marks["eve"].0 == 1).await?;
    hears(&mut eves, &mut seen_by_eve, |marks| marks["bob"].0 == 1).await?;

    // Whoever leads next knows of no watcher until it is told.
    cluster.nodes[log].kill()?;
    let seq = says(&mut writer, &conv).await?;
    reads(&mut bob, &conv, seq).await?;
    reads(&mut eve, &conv, seq).await?;
    hears(&mut ann, &mut seen, |marks| marks["bob"] == (seq, Some(seq)) && marks["eve"].0 == seq).await?;
    hears(&mut eves, &mut seen_by_eve, |marks| marks["bob"].0 == seq).await?;
    assert_eq!(seen["eve"].1, None, "it hides its reads");
    assert!(seen_by_eve.iter().all(|(user, of)| user == "eve" || of.1.is_none()), "{seen_by_eve:?}");

    // Put out while watching.
    watches(&mut bobs, 1, &conv).await?;
    let out = json!({"method": format!("DELETE conversations/{conv}/members/bob"), "params": {}});
    settled(&mut writer, "call", out).await?;
    let seq = says(&mut writer, &conv).await?;
    reads(&mut eve, &conv, seq).await?;
    hears(&mut ann, &mut seen, |marks| marks["eve"].0 == seq).await?;
    while let Ok(next) = tokio::time::timeout(Duration::from_secs(2), bobs.next()).await {
        let Got::Frame(frame) = next? else { anyhow::bail!("the watcher is gone") };
        let told = frame["d"]["members"].as_array().into_iter().flatten();
        let most = told.filter_map(|of| of["delivered"].as_u64()).max().unwrap_or_default();
        ensure!(frame["t"] != "signal" || most < seq, "who is out hears of it: {frame}");
    }
    let refused = bobs.ask(2, "receipts", json!({"watch": [conv]})).await?;
    assert_eq!(refused["d"]["code"], "not_member", "{refused}");
    Ok(())
}
