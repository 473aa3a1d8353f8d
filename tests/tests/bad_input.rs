//! What must not hurt: frames, tokens, sizes and connections that are wrong. Each gets the error of PROTOCOL.md, and the
//! node goes on.

use std::time::Duration;

use flotilla_client::device::random_cid;
use flotilla_client::http::Http;
use flotilla_proto::limits;
use flotilla_tests::cluster::Cluster;
use flotilla_tests::raw::{Got, Raw, hello};
use flotilla_tests::scene::eventually;
use serde_json::{Value, json};
use tokio::net::TcpStream;

fn body(bytes: usize) -> String {
    use std::fmt::Write;
    // base64url of zeroes, without padding.
    let mut text = String::new();
    for _ in 0..(bytes * 4).div_ceil(3) {
        let _ = write!(text, "A");
    }
    text
}

fn send(to: &str, bytes: usize) -> Value {
    json!({"to": to, "cid": random_cid(), "kind": "message", "body": body(bytes)})
}

async fn lives(url: &str) -> anyhow::Result<()> {
    let http = Http::new(url);
    eventually("the node lives and is ready", Duration::from_secs(10), async || http.is_ready().await).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_frames_get_their_code_and_those_before_them_count() -> anyhow::Result<()> {
    let cluster = Cluster::start(1).await?;
    let url = cluster.urls().remove(0);
    let mut bob = Raw::open(&url, "bob", "bob-store").await?;

    // Malformed, after a good frame in the same message.
    let mut raw = Raw::open(&url, "alice", "store-1").await?;
    let good = json!({"t": "send", "id": 1, "d": send("bob", 3)});
    raw.text(format!("{good}\n{{not json")).await?;
    assert_eq!(raw.closed().await?, 4500);
    bob.until(|f| f["t"] == "entry" && f["d"]["seq"] == 1).await?;

    // Before hello.
    let mut raw = Raw::dial(&url, Some("flotilla.v1.json")).await?;
    raw.say(&json!({"t": "send", "id": 1, "d": send("bob", 3)})).await?;
    assert_eq!(raw.closed().await?, 4508);

    // Too large, before and after hello.
    let mut raw = Raw::dial(&url, Some("flotilla.v1.json")).await?;
    raw.text(" ".repeat(limits::MESSAGE_BYTES_MAX_BEFORE_HELLO + 1)).await?;
    assert_eq!(raw.closed().await?, 4507);
    let mut raw = Raw::open(&url, "alice", "store-1").await?;
    raw.text(" ".repeat(limits::MESSAGE_BYTES_MAX + 1)).await?;
    assert_eq!(raw.closed().await?, 4507);

    // Unknown ones: answered with an id, ignored without.
    let mut raw = Raw::open(&url, "alice", "store-1").await?;
    raw.say(&json!({"t": "teleport", "d": {}})).await?;
    let answer = raw.ask(7, "teleport", json!({})).await?;
    assert_eq!((&answer["t"], &answer["d"]["code"]), (&json!("error"), &json!("unsupported")));
    let answer = raw.ask(8, "send", json!({"cid": "not a uuid", "to": "bob"})).await?;
    assert_eq!(answer["d"]["code"], "bad_request", "{answer}");

    // Too many frames in one message.
    let pong = json!({"t": "pong", "d": {}}).to_string();
    raw.text(vec![pong; limits::FRAMES_PER_MESSAGE_MAX + 1].join("\n")).await?;
    assert_eq!(raw.closed().await?, 4500);

    // Subprotocols: none offered means JSON, only unknown ones are refused by a code that a browser can see.
    let mut raw = Raw::dial(&url, None).await?;
    raw.say(&hello("alice", "store-1")).await?;
    raw.until(|f| f["t"] == "ready").await?;
    lives(&url).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_tokens_and_late_hellos_are_closed_with_their_code() -> anyhow::Result<()> {
    let cluster = Cluster::start(1).await?;
    let url = cluster.urls().remove(0);
    for token in ["", "garbage", "dev:", "dev:not a user", "a.b.c", &"x".repeat(9_000)] {
        let mut raw = Raw::dial(&url, Some("flotilla.v1.json")).await?;
        let mut frame = hello("x", "store");
        frame["d"]["token"] = json!(token);
        raw.say(&frame).await?;
        assert_eq!(raw.closed().await?, 4502, "token {:?}", &token[..token.len().min(20)]);
    }
    // The install secret of another store: the server makes another device and says so, or refuses; never takes it over.
    let mut raw = Raw::dial(&url, Some("flotilla.v1.json")).await?;
    raw.say(&hello("alice", "mine")).await?;
    let mine = raw.until(|f| f["t"] == "ready").await?["d"]["device"].clone();
    let mut thief = Raw::dial(&url, Some("flotilla.v1.json")).await?;
    let mut frame = hello("alice", "other");
    frame["d"]["device"] = mine.clone();
    thief.say(&frame).await?;
    if let Got::Frame(ready) = thief.next().await? {
        assert_ne!(ready["d"]["device"], mine, "{ready}");
    }
    // Silence.
    let mut silent = Raw::dial(&url, Some("flotilla.v1.json")).await?;
    assert_eq!(silent.closed().await?, 4503);
    lives(&url).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_commands_are_rejected_and_the_connection_stays() -> anyhow::Result<()> {
    let cluster = Cluster::start(1).await?;
    let url = cluster.urls().remove(0);
    let _bob = Raw::open(&url, "bob", "bob-store").await?;
    let mut raw = Raw::open(&url, "alice", "store-1").await?;
    let code = |answer: &Value| answer["d"]["code"].as_str().unwrap_or("none").to_owned();

    let largest = raw.ask(1, "send", send("bob", limits::BODY_BYTES_MAX)).await?;
    assert_eq!(largest["t"], "accepted", "{largest}");
    let too_large = raw.ask(2, "send", send("bob", limits::BODY_BYTES_MAX + 1)).await?;
    assert_eq!(code(&too_large), "payload_too_large");
    let empty = raw.ask(3, "send", send("bob", 0)).await?;
    assert!(empty["t"] == "accepted" || code(&empty) == "validation_failed", "{empty}");

    let nobody = raw.ask(4, "send", send("nobody-here", 3)).await?;
    assert_eq!(code(&nobody), "not_found");
    let stranger = "g00000000000000000000000000000000";
    let mut into = send("bob", 3);
    into["to"] = Value::Null;
    into["conv"] = json!(stranger);
    let outside = raw.ask(5, "send", into).await?;
    assert!(["not_member", "not_found"].contains(&code(&outside).as_str()), "{outside}");
    let page = raw.ask(6, "history", json!({"conv": stranger, "limit": 5})).await?;
    assert!(["not_member", "not_found"].contains(&code(&page).as_str()), "{page}");
    let others = "d05carol04dave";
    let page = raw.ask(7, "history", json!({"conv": others})).await?;
    assert!(["not_member", "not_found"].contains(&code(&page).as_str()), "{page}");

    let mut first = send("bob", 3);
    first["cid"] = json!("00000000-0000-4000-8000-000000000001");
    let accepted = raw.ask(8, "send", first.clone()).await?;
    assert_eq!((&accepted["t"], &accepted["d"]["dup"]), (&json!("accepted"), &json!(false)));
    let again = raw.ask(9, "send", first.clone()).await?;
    assert_eq!(again["d"]["dup"], true);
    assert_eq!(again["d"]["seq"], accepted["d"]["seq"]);
    first["body"] = json!("b3RoZXI");
    let mismatch = raw.ask(10, "send", first).await?;
    assert_eq!(code(&mismatch), "idempotency_mismatch");
    let mut early = send("bob", 3);
    early["after"] = json!(random_cid());
    let early = raw.ask(11, "send", early).await?;
    assert_eq!((code(&early).as_str(), &early["d"]["retryable"]), ("out_of_order", &json!(true)));
    // An ack of what was never sent must not eat anything, and must not close.
    raw.say(&json!({"t": "ack", "d": [{"conv": others, "seq": 99}, {"conv": stranger, "seq": 1}]})).await?;
    let alive = raw.ask(12, "send", send("bob", 1)).await?;
    assert_eq!(alive["t"], "accepted");
    lives(&url).await
}

/// 300 by default; `FLOTILLA_SILENT=10000` for the whole number (raise `ulimit -n` first).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_connections_that_never_speak_keep_nobody_out() -> anyhow::Result<()> {
    let cluster = Cluster::start(1).await?;
    let url = cluster.urls().remove(0);
    let count = std::env::var("FLOTILLA_SILENT").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    let address = flotilla_client::net::authority(&url)?.to_owned();
    let mut silent = Vec::new();
    for i in 0..count {
        // Half of them do not even ask for a WebSocket.
        if i % 2 == 0 {
            silent.push((Some(TcpStream::connect(&address).await?), None));
        } else {
            silent.push((None, Raw::dial(&url, None).await.ok()));
        }
    }
    let mut raw = Raw::open(&url, "alice", "store").await?;
    let answer = raw.ask(1, "send", send("alice", 3)).await?;
    assert_eq!(answer["t"], "accepted", "{answer}");
    drop(silent);
    lives(&url).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_never_reads_slows_nobody_down() -> anyhow::Result<()> {
    let cluster = Cluster::start(1).await?;
    let url = cluster.urls().remove(0);
    let _stuck = Raw::open(&url, "bob", "stuck").await?;
    let mut reader = Raw::open(&url, "bob", "reads").await?;
    let mut alice = Raw::open(&url, "alice", "store").await?;
    // Twice the window of one conversation, with large bodies: the stuck socket must not hold up the other device.
    for id in 1..=(2 * limits::WINDOW_ENTRIES_PER_CONV as u32) {
        let answer = alice.ask(id, "send", send("bob", 8 * 1024)).await?;
        assert_eq!(answer["t"], "accepted", "{answer}");
        let entry = reader.until(|f| f["t"] == "entry").await?;
        assert_eq!(entry["d"]["seq"], id);
        alice.say(&json!({"t": "ack", "d": [{"conv": entry["d"]["conv"], "seq": id}]})).await?;
        reader.say(&json!({"t": "ack", "d": [{"conv": entry["d"]["conv"], "seq": id}]})).await?;
    }
    lives(&url).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_of_another_node_is_refused_with_a_reason() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(3).await?;
    cluster.nodes[0].kill()?;
    cluster.nodes[1].kill()?;
    let other = cluster.nodes[1].dir.clone();
    cluster.nodes[0].dir = other;
    cluster.spawn(0)?;
    let mut ended = false;
    eventually("the node refuses to start", Duration::from_secs(20), async || {
        ended = ended || cluster.nodes[0].exited().is_ok_and(|status| status.is_some_and(|s| !s.success()));
        ended
    })
    .await?;
    let log = cluster.nodes[0].log_tail().to_lowercase();
    assert!(log.contains("node"), "it says whose directory that is: {log}");
    Ok(())
}
