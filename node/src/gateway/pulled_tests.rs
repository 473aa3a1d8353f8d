//! Channels over real sockets, with the real rules and fan-out done at once: nothing of pull mode is seen by clients.

use flotilla_machine::Query;
use flotilla_proto::frame::{ClientFrame, ServerFrame};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use serde_json::{Value, json};

use crate::testing::client::{Client, Node};

async fn node() -> Node {
    let node = Node::start().await;
    node.fake.raise_level(limits::PULL_LEVEL);
    node
}

async fn channel(node: &Node, members: &[&str]) -> ConvId {
    let body = json!({ "name": "news", "kind": "channel", "members": members }).to_string();
    let (status, made) = node.post("/v1/groups", "dev:ann", &body).await;
    assert_eq!(status, 200, "{made}");
    ConvId::parse(made["conv"].as_str().expect("an id")).expect("valid")
}

async fn says(node: &Node, conv: &ConvId) -> u64 {
    let path = format!("/v1/conversations/{conv}/messages");
    let (status, sent) = node.post(&path, "dev:ann", r#"{"body":"aGk"}"#).await;
    assert_eq!(status, 200, "{sent}");
    sent["seq"].as_u64().expect("a seq")
}

/// The next entry, acked.
async fn takes(client: &mut Client, conv: &ConvId) -> u64 {
    let entry = client.entry().await;
    assert_eq!(entry.conv, *conv);
    client.ack(conv, entry.seq.0).await;
    entry.seq.0
}

#[tokio::test]
async fn a_member_gets_a_channel_in_order_across_connections_and_nothing_after_it_was_removed() {
    let node = node().await;
    node.caught_up("ann", "1").await;
    let mut bob = node.caught_up("bob", "1").await;
    let conv = channel(&node, &["bob"]).await;
    assert_eq!(takes(&mut bob, &conv).await, 1);
    for seq in 2..=4 {
        assert_eq!(says(&node, &conv).await, seq);
        assert_eq!(takes(&mut bob, &conv).await, seq);
    }
    drop(bob);
    says(&node, &conv).await;
    says(&node, &conv).await;
    let mut bob = node.device("bob", "1").await;
    let first = takes(&mut bob, &conv).await;
    assert!(first <= 5, "what was acked last may come again");
    for seq in first + 1..=6 {
        assert_eq!(takes(&mut bob, &conv).await, seq);
    }
    let (status, _) = node
        .http("DELETE", &format!("/v1/conversations/{conv}/members/bob"), &[("authorization", "Bearer dev:ann")], "")
        .await;
    assert_eq!(status, 200);
    says(&node, &conv).await;
    assert_eq!(takes(&mut bob, &conv).await, 7, "its own removal");
    // Whatever comes next is not of the channel.
    let direct = node.caught_up("ann", "2").await.send("bob", 9, "hello").await;
    assert_eq!(bob.entry().await.conv, direct.conv);
}

#[tokio::test]
async fn a_new_device_begins_at_the_head_and_the_list_counts_what_is_unread() {
    let node = node().await;
    node.caught_up("ann", "1").await;
    let mut old = node.caught_up("bob", "1").await;
    let conv = channel(&node, &["bob"]).await;
    assert_eq!(takes(&mut old, &conv).await, 1);
    for _ in 0..3 {
        says(&node, &conv).await;
    }
    let mut new = node.caught_up("bob", "2").await;
    let seq = says(&node, &conv).await;
    assert_eq!(takes(&mut new, &conv).await, seq, "nothing of what was said before it came");
    let (_, list) = node.get("/v1/conversations", "dev:bob").await;
    let of_channel = list["convs"].as_array().and_then(|convs| convs.iter().find(|c| c["conv"] == json!(conv)));
    let of_channel: &Value = of_channel.expect("listed");
    assert_eq!((&of_channel["head"], &of_channel["unread"]), (&json!(seq), &json!(4)), "{of_channel}");
    // And the old one misses nothing.
    for wanted in 2..=seq {
        assert_eq!(takes(&mut old, &conv).await, wanted);
    }
}

#[tokio::test]
async fn a_channel_that_cannot_answer_is_behind_and_follows() {
    let node = node().await;
    node.caught_up("ann", "1").await;
    let mut bob = node.caught_up("bob", "1").await;
    let conv = channel(&node, &["bob"]).await;
    assert_eq!(takes(&mut bob, &conv).await, 1);
    drop(bob);
    says(&node, &conv).await;
    node.fake.faults().logs_down = true;
    let mut bob = Client::connect(node.addr, flotilla_proto::frame::Encoding::Json).await;
    bob.hello("bob", "1", Some(RevTokenOf::of(&node))).await;
    match bob.until(|f| matches!(f, ServerFrame::CaughtUp(_))).await {
        ServerFrame::CaughtUp(caught) => assert_eq!(caught.behind, std::slice::from_ref(&conv)),
        _ => unreachable!("just matched"),
    }
    node.fake.faults().logs_down = false;
    says(&node, &conv).await;
    let mut last = 0;
    while last < 3 {
        last = takes(&mut bob, &conv).await;
    }
}

/// In a rolling upgrade the leader of a user's shard may run a build from before pull mode.
#[tokio::test]
async fn a_leader_of_an_older_build_is_not_asked_for_places_that_cannot_be() {
    let node = Node::start().await;
    node.fake.raise_level(limits::PULL_LEVEL - 1);
    node.fake.faults().refuses = Some(Box::new(|query| matches!(query, Query::Unplaced { .. })));
    node.caught_up("ann", "1").await;
    assert_eq!(node.get("/v1/me", "dev:bob").await.0, 200, "makes the device for http");
    let (status, page) = node.get("/v1/inbox", "dev:bob").await;
    assert_eq!(status, 200, "{page}");
    let mut stream = node.open("/v1/inbox/stream", "dev:bob", &[]).await;
    assert!(stream.until(r#""t":"caught_up""#).await, "{}", stream.text);
}

/// While the level is raised a gateway may hear of it after the shards.
#[tokio::test]
async fn a_gateway_that_is_behind_the_level_lets_no_device_in_without_its_places() {
    let node = node().await;
    node.caught_up("ann", "1").await;
    node.caught_up("bob", "1").await;
    let conv = channel(&node, &["bob"]).await;
    node.fake.node.send_modify(|node| node.level = limits::PULL_LEVEL - 1);
    let mut new = Client::connect(node.addr, flotilla_proto::frame::Encoding::Json).await;
    new.say(ClientFrame::Hello(Client::hello_frame("dev:bob", "2"))).await;
    assert_eq!(new.closed().await, 4006);
    assert_eq!(node.get("/v1/me", "dev:bob").await.0, 200, "makes the device for http");
    let (status, refused) = node.get("/v1/inbox", "dev:bob").await;
    assert_eq!((status, &refused["code"]), (503, &json!("unavailable")), "{refused}");
    says(&node, &conv).await;
    node.fake.node.send_modify(|node| node.level = limits::PULL_LEVEL);
    let mut new = node.caught_up("bob", "2").await;
    assert_eq!(node.get("/v1/inbox", "dev:bob").await.0, 200);
    let seq = says(&node, &conv).await;
    assert_eq!(takes(&mut new, &conv).await, seq, "from its place on");
    let (_, inbox) = node.get("/v1/inbox?wait=5s", "dev:bob").await;
    let last = inbox["frames"].as_array().and_then(|frames| frames.last());
    assert_eq!(last.map(|frame| &frame["d"]["seq"]), Some(&json!(seq)), "{inbox}");
}

#[tokio::test]
async fn a_device_is_asked_about_its_places_once_and_not_at_all_where_there_can_be_none() {
    let node = node().await;
    let mut ann = node.caught_up("ann", "1").await;
    assert_eq!(node.fake.faults().unplaced_asked, 0, "no conversations yet");
    channel(&node, &[]).await;
    ann.entry().await;
    drop(ann);
    for _ in 0..3 {
        node.caught_up("ann", "2").await;
    }
    assert_eq!(node.fake.faults().unplaced_asked, 2, "where it takes its place, and that none is left");
    assert_eq!(node.get("/v1/inbox", "dev:ann").await.0, 200);
    let asked = node.fake.faults().unplaced_asked;
    for _ in 0..3 {
        assert_eq!(node.get("/v1/inbox", "dev:ann").await.0, 200);
    }
    assert_eq!(node.fake.faults().unplaced_asked, asked);
}

/// The `rev` of a device that has caught up: it has its places.
struct RevTokenOf;

impl RevTokenOf {
    fn of(node: &Node) -> flotilla_proto::frame::RevToken {
        flotilla_proto::frame::RevToken::new(node.fake.node.borrow().epoch, Rev(1))
    }
}

#[tokio::test]
async fn over_http_a_channel_is_polled_and_streamed_like_any_group() {
    let node = node().await;
    for user in ["ann", "bob"] {
        node.caught_up(user, "1").await;
        assert_eq!(node.get("/v1/me", &format!("dev:{user}")).await.0, 200, "makes the device for http");
    }
    let conv = channel(&node, &["bob"]).await;
    let (_, first) = node.get("/v1/inbox?wait=5s", "dev:bob").await;
    assert_eq!(first["frames"].as_array().map(Vec::len), Some(1), "{first}");
    let ack = json!({ "upto": first["upto"] }).to_string();
    assert_eq!(node.post("/v1/inbox/ack", "dev:bob", &ack).await.0, 200);
    let mut stream = node.open("/v1/inbox/stream", "dev:bob", &[]).await;
    assert!(stream.until(r#""t":"caught_up""#).await);
    let seq = says(&node, &conv).await;
    assert!(stream.until(&format!(r#""seq":{seq}"#)).await, "{}", stream.text);
    let body = r#"{"body":"aGk"}"#;
    let (status, problem) = node.post(&format!("/v1/conversations/{conv}/messages"), "dev:bob", body).await;
    assert_eq!((status, &problem["code"]), (403, &json!("forbidden")), "only admins write in a channel");
}
