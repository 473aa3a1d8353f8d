//! The inbox without a session while something is wrong: shards that do not answer, devices that are gone, tokens that end.

use std::time::Duration;

use flotilla_machine::{Command, Query};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use serde_json::json;
use tokio::time::Instant;

use crate::backend::Route;
use crate::gateway::shared::Options;
use crate::testing::client::Node;

fn user(name: &str) -> UserId {
    UserId::parse(name).expect("a valid name")
}

/// Of a conversation with a dave the leader is gone.
fn is_cut_off(query: &Query) -> bool {
    matches!(query, Query::Entries { conv, .. } if conv.as_str().contains("dave"))
}

fn shards(route: &Route) -> ShardId {
    match route {
        Route::Conv(conv) if conv.as_str().contains("dave") => ShardId(2),
        _ => ShardId(1),
    }
}

/// Bob's conversations with several daves and with alice have something pending; those with a dave cannot be read.
async fn with_a_shard_without_leader() -> Node {
    let node = Node::start().await;
    let daves = ["adave1", "adave2", "adave3", "adave4"];
    for name in ["bob", "alice"].iter().chain(&daves) {
        node.caught_up(name, "1").await;
    }
    assert_eq!(node.get("/v1/me", "dev:bob").await.0, 200, "makes the device for http");
    for name in daves.iter().chain(&["alice"]) {
        node.caught_up(name, "2").await.send("bob", 1, &format!("hello from {name}")).await;
    }
    let mut faults = node.fake.faults();
    faults.hangs = Some(Box::new(is_cut_off));
    faults.shards = Some(shards);
    drop(faults);
    node
}

/// As a body stands in JSON.
fn encoded(body: &str) -> String {
    json!(Blob::from(body.as_bytes().to_vec())).as_str().expect("a text").to_owned()
}

/// Less than one of its questions takes.
const SOON: Duration = Duration::from_millis(limits::REQUEST_DEADLINE_MS - 500);

#[tokio::test]
async fn a_stream_goes_on_beside_a_shard_without_leader() {
    let node = with_a_shard_without_leader().await;
    let begun = Instant::now();
    let mut stream = node.open("/v1/inbox/stream", "dev:bob", &[]).await;
    assert!(stream.until(&encoded("hello from alice")).await, "{}", stream.text);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    let begun = Instant::now();
    node.caught_up("alice", "3").await.send("bob", 2, "hello again").await;
    assert!(stream.until(&encoded("hello again")).await, "{}", stream.text);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert!(!stream.text.contains("caught_up"), "there is more, and it is not said that there is not");
    node.fake.faults().hangs = None;
    assert!(stream.until(&encoded("hello from adave4")).await, "{}", stream.text);
    assert!(stream.until("caught_up").await, "{}", stream.text);
    node.fake.faults().hangs = Some(Box::new(is_cut_off));
    node.caught_up("adave1", "3").await.send("bob", 3, "never seen").await;
    node.fake.node.send_modify(|view| view.draining = true);
    let begun = Instant::now();
    assert!(stream.until(r#""t":"goaway""#).await && begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_poll_shows_what_can_be_read_beside_a_shard_without_leader() {
    let node = with_a_shard_without_leader().await;
    let begun = Instant::now();
    let (status, inbox) = node.get("/v1/inbox?wait=30s", "dev:bob").await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert_eq!((status, inbox["frames"].as_array().map(Vec::len), &inbox["more"]), (200, Some(1), &json!(true)));
}

#[tokio::test]
async fn a_stream_of_a_device_that_is_revoked_ends_also_without_a_token_that_ends() {
    let node = Node::start().await;
    node.caught_up("bob", "1").await;
    let (_, me) = node.get("/v1/me", "dev:bob").await;
    let device = DeviceId::parse(me["device"].as_str().expect("a device")).expect("an id");
    let mut stream = node.open("/v1/inbox/stream", "dev:bob", &[]).await;
    assert!(stream.until("caught_up").await);
    node.fake.apply(Command::RevokeDevice { user: user("bob"), device, request: Cid(1) });
    assert!(stream.until(r#""code":4101"#).await, "{}", stream.text);
}

#[tokio::test]
async fn what_is_remembered_of_a_device_does_not_hide_a_logout_from_who_asks_anew() {
    let node = Node::with(Options::default()).await;
    let account = json!({ "user": "alice", "password": "correct horse", "install": "x" }).to_string();
    node.post("/v1/auth/register", "", &account).await;
    let (_, tokens) = node.post("/v1/auth/login", "", &account).await;
    let device = DeviceId::parse(tokens["device"].as_str().expect("a device")).expect("an id");
    let (shared, alice) = (&node.shared, user("alice"));
    assert!(shared.check_device(&alice, device).await.is_ok());
    node.fake.apply(Command::Logout { user: alice.clone(), device });
    assert!(shared.check_device(&alice, device).await.is_ok(), "for five seconds");
    assert!(shared.check_device_now(&alice, device).await.is_err());
    assert!(shared.check_device(&alice, device).await.is_err(), "and then no more");
}

#[tokio::test]
async fn a_device_has_two_streams_and_a_third_one_takes_the_place_of_the_oldest() {
    let node = Node::start().await;
    node.caught_up("bob", "1").await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = node.open("/v1/inbox/stream", "dev:bob", &[]).await;
        assert!(stream.until("caught_up").await, "{}", stream.text);
        streams.push(stream);
    }
    assert!(streams[0].until(r#""code":4504"#).await, "{}", streams[0].text);
    node.caught_up("alice", "1").await.send("bob", 1, "hi").await;
    for stream in &mut streams[1..] {
        assert!(stream.until(&encoded("hi")).await, "{}", stream.text);
    }
}

#[tokio::test]
async fn what_fails_after_a_change_is_not_answered_as_if_nothing_had_happened() {
    let node = Node::start().await;
    for name in ["alice", "bob"] {
        node.caught_up(name, "1").await;
    }
    let alice = [("authorization", "Bearer dev:alice")];
    assert_eq!(node.get("/v1/me", "dev:alice").await.0, 200);
    node.fake.faults().refuses = Some(Box::new(|query| matches!(query, Query::Profile { .. } | Query::Block { .. })));
    for (verb, path, body) in [("PATCH", "/v1/me", r#"{"name":"Alice"}"#), ("PUT", "/v1/blocks/bob", "")] {
        let (status, problem) = node.http(verb, path, &alice, body).await;
        assert_eq!((status, &problem["code"]), (504, &json!("outcome_unknown")), "{verb} {path}: {problem}");
    }
    node.fake.faults().refuses = None;
    let (_, profile) = node.get("/v1/users/alice", "dev:bob").await;
    assert_eq!(profile["name"], "Alice", "it had been done");
}

#[tokio::test]
async fn nobody_is_logged_in_by_a_node_that_cannot_sign() {
    let node = Node::with(Options::default()).await;
    let account = json!({ "user": "alice", "password": "correct horse", "install": "x" }).to_string();
    node.post("/v1/auth/register", "", &account).await;
    let keys = node.fake.forget_keys();
    let (status, problem) = node.post("/v1/auth/login", "", &account).await;
    assert_eq!((status, &problem["code"]), (503, &json!("unavailable")));
    node.fake.learn_keys(keys);
    let (_, tokens) = node.post("/v1/auth/login", "", &account).await;
    assert_eq!(tokens["new_device"], json!(true), "nothing had happened: {tokens}");
}
