//! Read marks that a user hides everywhere, as a gateway shows them.

use flotilla_machine::Query;
use flotilla_proto::limits::HIDE_READ_LEVEL;
use serde_json::json;

use crate::testing::client::Node;

#[tokio::test]
async fn who_hides_read_marks_shows_none_in_a_group_and_sees_none() {
    let node = Node::start().await;
    for user in ["alice", "bob"] {
        // The device that takes part in what follows.
        assert_eq!(node.get("/v1/me", &format!("dev:{user}")).await.0, 200);
    }
    let (_, group) = node.post("/v1/groups", "dev:alice", r#"{"name":"crew","members":["bob"]}"#).await;
    let conv = group["conv"].as_str().expect("its id").to_owned();
    let reads = async |user: &str, seq: u64| {
        let (_, inbox) = node.get("/v1/inbox?wait=5s", user).await;
        let ack = json!({ "upto": inbox["upto"] }).to_string();
        assert_eq!(node.post("/v1/inbox/ack", user, &ack).await.0, 200, "{inbox}");
        let read = json!({ "read": seq }).to_string();
        assert_eq!(node.post(&format!("/v1/conversations/{conv}/receipts"), user, &read).await.0, 200);
    };
    // Alice's and bob's marks, as somebody sees them.
    let marks = async |user: &str| {
        let (_, list) = node.get(&format!("/v1/conversations/{conv}/members"), user).await;
        let of = |i: usize| (list["members"][i]["delivered"].as_u64(), list["members"][i]["read"].as_u64());
        [of(0), of(1)].map(|(delivered, read)| (delivered.unwrap_or(99), read.unwrap_or(99)))
    };
    reads("dev:alice", 1).await;
    reads("dev:bob", 1).await;
    assert_eq!(marks("dev:alice").await, [(1, 1), (1, 1)]);
    let private = [("authorization", "Bearer dev:bob")];
    let (status, privacy) = node.http("PATCH", "/v1/me/privacy", &private, r#"{"hide_read":true}"#).await;
    assert_eq!((status, privacy), (200, json!({ "presence": "everyone", "hide_read": true })));
    node.post(&format!("/v1/conversations/{conv}/messages"), "dev:alice", r#"{"body":"aGk"}"#).await;
    reads("dev:bob", 2).await;
    reads("dev:alice", 2).await;
    assert_eq!(marks("dev:alice").await, [(2, 2), (2, 1)], "bob's device has it, and what he read is his");
    assert_eq!(marks("dev:bob").await, [(2, 0), (2, 1)], "and alice's marks are not shown to him");
}

/// While the level is raised a gateway may hear of it after the shards, or not at all while it is cut off from the control group.
#[tokio::test]
async fn a_gateway_that_is_behind_the_level_shows_no_read_marks_to_who_hides_its_own() {
    let node = Node::start().await;
    for user in ["alice", "bob"] {
        assert_eq!(node.get("/v1/me", &format!("dev:{user}")).await.0, 200);
    }
    let (_, group) = node.post("/v1/groups", "dev:alice", r#"{"name":"crew","members":["bob"]}"#).await;
    let conv = group["conv"].as_str().expect("its id").to_owned();
    let (_, inbox) = node.get("/v1/inbox?wait=5s", "dev:alice").await;
    let ack = json!({ "upto": inbox["upto"] }).to_string();
    assert_eq!(node.post("/v1/inbox/ack", "dev:alice", &ack).await.0, 200, "{inbox}");
    assert_eq!(node.post(&format!("/v1/conversations/{conv}/receipts"), "dev:alice", r#"{"read":1}"#).await.0, 200);
    let path = format!("/v1/conversations/{conv}/members");
    // Alice's mark as bob sees it.
    let mark = async || node.get(&path, "dev:bob").await.1["members"][0]["read"].as_u64();
    assert_eq!(mark().await, Some(1));
    let private = [("authorization", "Bearer dev:bob")];
    assert_eq!(node.http("PATCH", "/v1/me/privacy", &private, r#"{"hide_read":true}"#).await.0, 200);
    node.fake.node.send_modify(|node| node.level = HIDE_READ_LEVEL - 1);
    assert_eq!(mark().await, Some(0));
    assert_eq!(node.get("/v1/me/privacy", "dev:bob").await.1["hide_read"], true);
    node.fake.faults().refuses = Some(Box::new(|query| matches!(query, Query::ShardState)));
    let (status, refused) = node.get(&path, "dev:bob").await;
    assert_eq!((status, &refused["code"]), (503, &json!("unavailable")), "nobody can say whether bob hides: {refused}");
    assert!(refused["retry_after_ms"].is_u64(), "{refused}");
    // Below the level nobody hides, and a leader of an older build would not know the question.
    node.fake.raise_level(HIDE_READ_LEVEL - 1);
    node.fake.faults().refuses = Some(Box::new(|query| matches!(query, Query::Hiding { .. })));
    assert_eq!(mark().await, Some(1));
    assert_eq!(node.get("/v1/me/privacy", "dev:bob").await.1["hide_read"], false);
}
