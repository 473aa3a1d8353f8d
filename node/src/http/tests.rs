//! REST over a real socket: accounts, tokens, groups, the inbox without a session.

use flotilla_proto::ids::*;
use serde_json::{Value, json};

use crate::gateway::shared::Options;
use crate::testing::client::Node;

async fn register(node: &Node, user: &str) -> Value {
    let account = json!({ "user": user, "password": "correct horse", "install": format!("store of {user}") });
    let (status, answer) = node.post("/v1/auth/register", "", &account.to_string()).await;
    assert_eq!(status, 200, "{answer}");
    let (status, tokens) = node.post("/v1/auth/login", "", &account.to_string()).await;
    assert_eq!(status, 200, "{tokens}");
    tokens
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("{field} in {value}"))
}

#[tokio::test]
async fn register_log_in_rotate_and_log_out() {
    let node = Node::with(Options::default()).await;
    let tokens = register(&node, "alice").await;
    let access = text(&tokens, "access_token").to_owned();
    let (status, me) = node.get("/v1/me", &access).await;
    assert_eq!((status, text(&me, "user")), (200, "alice"));
    // The same install is the same device.
    let again = json!({ "user": "alice", "password": "correct horse", "install": "store of alice" }).to_string();
    let (_, second) = node.post("/v1/auth/login", "", &again).await;
    assert_eq!(second["device"], tokens["device"]);
    // Rotation: the predecessor is good until its successor was used; anything older ends the family.
    let first = text(&second, "refresh_token").to_owned();
    let rotate =
        async |token: &str| node.post("/v1/auth/refresh", "", &json!({ "refresh_token": token }).to_string()).await;
    let (status, lost) = rotate(&first).await;
    assert_eq!(status, 200, "{lost}");
    let (status, next) = rotate(&first).await;
    assert_eq!(status, 200, "a lost reply logs nobody out: {next}");
    let (status, newest) = rotate(text(&next, "refresh_token")).await;
    assert_eq!(status, 200, "{newest}");
    assert_eq!(rotate(&first).await.0, 401, "older than the predecessor");
    assert_eq!(rotate(text(&newest, "refresh_token")).await.0, 401, "the family is gone");
    let (_, third) = node.post("/v1/auth/login", "", &again).await;
    let access = text(&third, "access_token").to_owned();
    assert_eq!(node.post("/v1/auth/logout", &access, "").await.0, 200);
    assert_eq!(node.get("/v1/me", &access).await.0, 401);
}

#[tokio::test]
async fn a_node_without_keys_says_nothing_of_a_token() {
    let node = Node::with(Options::default()).await;
    let tokens = register(&node, "alice").await;
    let access = text(&tokens, "access_token").to_owned();
    let keys = node.fake.forget_keys();
    let (status, answer) = node.get("/v1/me", &access).await;
    assert_eq!((status, text(&answer, "code")), (503, "unavailable"), "not 401: the client would log out");
    node.fake.learn_keys(keys);
    assert_eq!(node.get("/v1/me", &access).await.0, 200);
}

#[tokio::test]
async fn a_wrong_password_and_a_wrong_user_look_alike_and_tries_are_limited() {
    let node = Node::with(Options::default()).await;
    register(&node, "alice").await;
    let login = async |user: &str| {
        let body = json!({ "user": user, "password": "wrong horse", "install": "x" }).to_string();
        node.post("/v1/auth/login", "", &body).await
    };
    let (status, wrong) = login("alice").await;
    let (_, nobody) = login("nobody").await;
    assert_eq!((status, text(&wrong, "code")), (401, "unauthenticated"));
    assert_eq!(wrong, nobody);
    let mut last = 401;
    for _ in 0..flotilla_proto::limits::LOGIN_BURST {
        last = login("alice").await.0;
    }
    assert_eq!(last, 429);
}

#[tokio::test]
async fn bad_requests_are_problems_with_their_codes() {
    let node = Node::start().await;
    node.caught_up("alice", "1").await;
    for (verb, path, token, key, body, status, code) in [
        ("GET", "/v1/me", "", "", "", 401, "unauthenticated"),
        ("GET", "/v1/me", "Bearer nonsense", "", "", 401, "unauthenticated"),
        ("POST", "/v1/groups", "Bearer dev:alice", "", "{}", 400, "bad_request"),
        ("POST", "/v1/groups", "Bearer dev:alice", "not-a-uuid", "{}", 400, "bad_request"),
        ("GET", "/v1/nothing", "Bearer dev:alice", "", "", 404, "not_found"),
        ("GET", "/v1/users/nobody", "Bearer dev:alice", "", "", 404, "not_found"),
        ("GET", "/v1/search", "Bearer dev:alice", "", "", 501, "unsupported"),
        ("GET", "/v1/inbox?wait=soon", "Bearer dev:alice", "", "", 400, "bad_request"),
        ("PATCH", "/v1/devices/x", "Bearer dev:alice", "", "[1]", 400, "bad_request"),
    ] {
        let headers: Vec<(&str, &str)> =
            [("authorization", token), ("idempotency-key", key)].into_iter().filter(|(_, v)| !v.is_empty()).collect();
        let (got, problem) = node.http(verb, path, &headers, body).await;
        assert_eq!((got, text(&problem, "code")), (status, code), "{verb} {path}");
        assert_eq!(problem["status"], status);
    }
    let (status, problem) = node.post("/v1/groups", "dev:alice", &"x".repeat(70_000)).await;
    assert_eq!((status, text(&problem, "code")), (413, "payload_too_large"));
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(node.http("GET", path, &[], "").await.0, 200, "{path}");
    }
    node.fake.node.send_modify(|view| view.ready = false);
    assert_eq!(node.http("GET", "/readyz", &[], "").await.0, 503);
}

#[tokio::test]
async fn a_group_lives_over_rest_and_the_inbox_repeats_until_its_own_ack() {
    let node = Node::start().await;
    for user in ["alice", "bob"] {
        node.caught_up(user, "1").await;
        assert_eq!(node.get("/v1/me", &format!("dev:{user}")).await.0, 200, "makes the device for http");
    }
    let (status, group) = node.post("/v1/groups", "dev:alice", r#"{"name":"crew","members":["bob"]}"#).await;
    assert_eq!(status, 200, "{group}");
    let conv = text(&group, "conv").to_owned();
    let (status, sent) =
        node.post(&format!("/v1/conversations/{conv}/messages"), "dev:alice", r#"{"body":"aGk"}"#).await;
    assert_eq!((status, &sent["seq"]), (200, &json!(2)), "{sent}");
    let (_, page) = node.get(&format!("/v1/conversations/{conv}/messages?limit=1"), "dev:bob").await;
    assert_eq!((&page["entries"][0]["body"], &page["more"]), (&json!("aGk"), &json!(true)));
    let (_, members) = node.get(&format!("/v1/conversations/{conv}/members"), "dev:bob").await;
    assert_eq!(members["members"].as_array().map(Vec::len), Some(2));
    let (_, first) = node.get("/v1/inbox?wait=5s", "dev:bob").await;
    assert_eq!(first["frames"].as_array().map(Vec::len), Some(2), "{first}");
    let (_, again) = node.get("/v1/inbox", "dev:bob").await;
    assert_eq!(again["frames"], first["frames"], "repeated until the ack");
    let ack = json!({ "upto": first["upto"] }).to_string();
    assert_eq!(node.post("/v1/inbox/ack", "dev:alice", &ack).await.0, 400, "another device's token");
    assert_eq!(node.post("/v1/inbox/ack", "dev:bob", &json!({ "upto": "x.y.z" }).to_string()).await.0, 400);
    assert_eq!(node.post("/v1/inbox/ack", "dev:bob", &ack).await.0, 200);
    let (_, empty) = node.get("/v1/inbox", "dev:bob").await;
    assert_eq!(empty["frames"], json!([]));
    let receipt = format!("/v1/conversations/{conv}/receipts");
    assert_eq!(node.post(&receipt, "dev:bob", r#"{"read":2}"#).await.0, 200);
    assert_eq!(node.post(&receipt, "dev:bob", r#"{"read":3}"#).await.0, 400, "not acked by this device");
    let (status, removed) = node
        .http("DELETE", &format!("/v1/conversations/{conv}/members/bob"), &[("authorization", "Bearer dev:alice")], "")
        .await;
    assert_eq!((status, &removed["seq"]), (200, &json!(3)));
    let body = r#"{"body":"aGk"}"#;
    let (status, problem) = node.post(&format!("/v1/conversations/{conv}/messages"), "dev:bob", body).await;
    assert_eq!((status, text(&problem, "code")), (403, "not_member"));
    assert!(ConvId::parse(&conv).is_ok());
}

#[tokio::test]
async fn presence_privacy_and_contacts_over_rest() {
    let node = Node::start().await;
    let _alice = node.caught_up("alice", "1").await;
    drop(node.caught_up("bob", "1").await);
    let auth = [("authorization", "Bearer dev:bob")];
    let presence = async || {
        let (status, answer) = node.get("/v1/presence?users=alice,nobody", "dev:bob").await;
        assert_eq!(status, 200, "{answer}");
        let state = |i: usize| text(&answer["presence"][i], "state").to_owned();
        (state(0), state(1))
    };
    assert_eq!(presence().await, ("online".into(), "hidden".into()));
    let private = [("authorization", "Bearer dev:alice")];
    let (status, _) = node.http("PATCH", "/v1/me/privacy", &private, r#"{"presence":"contacts"}"#).await;
    assert_eq!(status, 200);
    let (_, privacy) = node.get("/v1/me/privacy", "dev:alice").await;
    assert_eq!(privacy, json!({ "presence": "contacts", "hide_read": false }));
    assert_eq!(presence().await.0, "hidden");
    assert_eq!(node.http("PUT", "/v1/contacts/bob", &private, r#"{"name":"Bobby"}"#).await.0, 200);
    assert_eq!(presence().await.0, "online");
    let (_, contacts) = node.get("/v1/contacts", "dev:alice").await;
    assert_eq!((text(&contacts["contacts"][0], "name"), &contacts["more"]), ("Bobby", &json!(false)));
    assert_eq!(node.http("DELETE", "/v1/contacts/bob", &private, "").await.0, 200);
    assert_eq!(presence().await.0, "hidden");
    for (verb, path, body, wanted) in [
        ("PATCH", "/v1/me/privacy", r#"{"presence":"friends"}"#, 400),
        ("PATCH", "/v1/me/privacy", "{}", 400),
        ("PATCH", "/v1/me/privacy", r#"{"hide_read":"yes"}"#, 400),
        ("PATCH", "/v1/me/privacy", r#"{"hide_read":true,"hide":true}"#, 400),
        ("PUT", "/v1/contacts/carol", "{}", 404),
        ("PUT", "/v1/contacts/bob", "{}", 400),
        ("PUT", "/v1/contacts/!", "{}", 404),
        ("GET", "/v1/presence", "", 400),
        ("GET", "/v1/presence?users=a!", "", 400),
        ("GET", "/v1/contacts?limit=x", "", 400),
    ] {
        let (status, problem) = node.http(verb, path, &auth, body).await;
        assert_eq!(status, wanted, "{verb} {path}: {problem}");
    }
    let many: Vec<String> = (0..=flotilla_proto::limits::WATCH_MAX).map(|n| format!("u{n}")).collect();
    assert_eq!(node.get(&format!("/v1/presence?users={}", many.join(",")), "dev:bob").await.0, 400);
}

#[tokio::test]
async fn the_list_counts_who_is_named_in_what_is_unread() {
    let node = Node::start().await;
    node.fake.raise_level(flotilla_proto::limits::MENTIONS_LEVEL);
    for user in ["alice", "bob", "carol"] {
        node.caught_up(user, "1").await;
    }
    let (_, group) = node.post("/v1/groups", "dev:alice", r#"{"name":"crew","members":["bob","carol"]}"#).await;
    let messages = format!("/v1/conversations/{}/messages", text(&group, "conv"));
    for mentions in [json!([]), json!(["bob"]), json!(["bob", "alice"])] {
        let body = json!({ "body": "aGk", "mentions": mentions }).to_string();
        assert_eq!(node.post(&messages, "dev:alice", &body).await.0, 200);
    }
    let listed = async |token: &str| {
        let (_, page) = node.get("/v1/conversations?order=activity&previews=true", token).await;
        (page["convs"][0]["unread"].clone(), page["convs"][0]["mentions"].clone())
    };
    assert_eq!(listed("dev:bob").await, (json!(3), json!({ "count": 2, "first": 3 })));
    assert_eq!(listed("dev:carol").await, (json!(3), Value::Null));
    assert_eq!(listed("dev:alice").await, (json!(0), Value::Null), "not by oneself");
    assert_eq!(node.post(&messages, "dev:bob", &json!({ "body": "aGk" }).to_string()).await.0, 200);
    assert_eq!(listed("dev:bob").await, (json!(0), Value::Null), "who writes has read");
}

#[tokio::test]
async fn the_list_by_activity_shows_the_last_messages_and_what_is_settled() {
    let node = Node::start().await;
    for user in ["alice", "bob", "carol"] {
        node.caught_up(user, "1").await;
    }
    let (_, group) = node.post("/v1/groups", "dev:alice", r#"{"name":"crew","members":["bob"]}"#).await;
    let crew = text(&group, "conv").to_owned();
    let direct = ConvId::direct(&UserId::parse("bob").expect("valid"), &UserId::parse("carol").expect("valid"));
    let send = async |token: &str, conv: &str, body: &str| {
        let (status, sent) = node.post(&format!("/v1/conversations/{conv}/messages"), token, body).await;
        assert_eq!(status, 200, "{sent}");
    };
    send("dev:carol", direct.as_str(), &json!({ "body": "aGk" }).to_string()).await;
    send("dev:alice", &crew, &json!({ "body": "A".repeat(1_000) }).to_string()).await;
    let (_, page) = node.get("/v1/conversations?order=activity&previews=true", "dev:bob").await;
    let of = |page: &Value, i: usize| page["convs"][i].clone();
    assert_eq!((text(&of(&page, 0), "conv"), text(&of(&page, 0), "name")), (crew.as_str(), "crew"), "{page}");
    assert_eq!(
        (of(&page, 0)["last"]["cut"].clone(), of(&page, 1)["last"]["body"].clone()),
        (json!(true), json!("aGk"))
    );
    let bob = [("authorization", "Bearer dev:bob")];
    let settings = format!("/v1/conversations/{direct}/settings");
    let (status, answer) =
        node.http("PATCH", &settings, &bob, r#"{"pinned":true,"unread":true,"muted_until":7}"#).await;
    assert_eq!(status, 200, "{answer}");
    let (_, first) = node.get("/v1/conversations?order=activity&limit=1", "dev:bob").await;
    assert_eq!((text(&of(&first, 0), "conv"), &first["more"]), (direct.as_str(), &json!(true)));
    let settled = &of(&first, 0)["settings"];
    assert_eq!((&settled["unread"], &settled["muted_until"]), (&json!(true), &json!(7)));
    let next = format!("/v1/conversations?order=activity&after={}", text(&first, "next"));
    let (_, rest) = node.get(&next, "dev:bob").await;
    assert_eq!(
        (text(&of(&rest, 0), "conv"), &rest["more"], &rest["next"]),
        (crew.as_str(), &json!(false), &Value::Null)
    );
    assert_eq!(
        node.http("PATCH", &settings, &bob, r#"{"archived":true,"pinned":false,"muted_until":null}"#).await.0,
        200
    );
    let (_, shown) = node.get("/v1/conversations?order=activity&archived=false", "dev:bob").await;
    assert_eq!(shown["convs"].as_array().map(Vec::len), Some(1));
    for (path, body, wanted) in [
        (settings.as_str(), "{}", 400),
        (settings.as_str(), r#"{"pinned":"yes"}"#, 400),
        (settings.as_str(), r#"{"color":"red"}"#, 400),
        ("/v1/conversations/x/settings", r#"{"pinned":true}"#, 404),
    ] {
        assert_eq!(node.http("PATCH", path, &bob, body).await.0, wanted, "{path} {body}");
    }
    let stranger = [("authorization", "Bearer dev:alice")];
    assert_eq!(node.http("PATCH", &settings, &stranger, r#"{"pinned":true}"#).await.0, 404, "not hers");
    for query in ["after=nonsense", "archived=perhaps", "limit=x"] {
        assert_eq!(node.get(&format!("/v1/conversations?order=activity&{query}"), "dev:bob").await.0, 400, "{query}");
    }
}

#[tokio::test]
async fn profiles_are_changed_in_parts_and_read_by_others() {
    let node = Node::start().await;
    for user in ["alice", "bob"] {
        node.caught_up(user, "1").await;
    }
    let alice = [("authorization", "Bearer dev:alice")];
    let (status, me) = node.http("PATCH", "/v1/me", &alice, r#"{"name":"Alice A.","about":"hello"}"#).await;
    assert_eq!((status, text(&me, "name")), (200, "Alice A."), "{me}");
    node.http("PATCH", "/v1/me", &alice, r#"{"avatar":"media:7"}"#).await;
    let (_, seen) = node.get("/v1/users/alice", "dev:bob").await;
    assert_eq!((text(&seen, "about"), text(&seen, "avatar")), ("hello", "media:7"));
    let (_, both) = node.get("/v1/users?ids=bob,alice,nobody", "dev:bob").await;
    assert_eq!(both["users"].as_array().map(Vec::len), Some(2), "{both}");
    let (_, found) = node.get("/v1/search/users?prefix=AL", "dev:bob").await;
    assert_eq!(found, json!({ "users": ["alice"], "partial": false }));
    let long = json!({ "about": "x".repeat(1_025) }).to_string();
    for (verb, path, body, wanted) in [
        ("PATCH", "/v1/me", "{}", 400),
        ("PATCH", "/v1/me", r#"{"phc":"x"}"#, 400),
        ("PATCH", "/v1/me", long.as_str(), 400),
        ("GET", "/v1/search/users?prefix=a", "", 400),
        ("GET", "/v1/search/users", "", 400),
        ("GET", "/v1/search/users?prefix=a!", "", 400),
    ] {
        let (status, problem) = node.http(verb, path, &alice, body).await;
        assert_eq!(status, wanted, "{verb} {path}: {problem}");
    }
    let mut last = (200, Value::Null);
    for _ in 0..=flotilla_proto::limits::ASKS_BURST {
        last = node.get("/v1/search/users?prefix=al", "dev:bob").await;
    }
    assert_eq!((last.0, last.1["retry_after_ms"].is_u64()), (429, true), "searches cost more than most");
}

#[tokio::test]
async fn a_block_refuses_direct_messages_also_the_first_and_a_report_is_counted() {
    let node = Node::start().await;
    for user in ["alice", "bob"] {
        node.caught_up(user, "1").await;
    }
    let mut bob = node.caught_up("bob", "2").await;
    let alice = [("authorization", "Bearer dev:alice")];
    let (status, answer) = node.http("PUT", "/v1/blocks/bob", &alice, "").await;
    assert_eq!(status, 200, "{answer}");
    let hi = |cid| crate::testing::client::message("alice", cid, "hi");
    assert_eq!(bob.error(hi(1)).await, flotilla_proto::frame::ErrorCode::Blocked);
    let (_, blocks) = node.get("/v1/blocks", "dev:alice").await;
    assert_eq!((text(&blocks["blocks"][0], "user"), &blocks["blocks"][0]["pending"]), ("bob", &json!(false)));
    assert_eq!(node.http("PUT", "/v1/blocks/bob", &alice, "").await.0, 200, "again");
    assert_eq!(node.http("DELETE", "/v1/blocks/bob", &alice, "").await.0, 200);
    bob.send("alice", 2, "hi").await;
    assert_eq!(node.http("PUT", "/v1/blocks/bob", &alice, "").await.0, 200);
    assert_eq!(bob.error(hi(3)).await, flotilla_proto::frame::ErrorCode::Blocked);
    assert_eq!(node.http("PUT", "/v1/blocks/nobody", &alice, "").await.0, 404);
    assert_eq!(node.http("PUT", "/v1/blocks/alice", &alice, "").await.0, 400);
    assert_eq!(node.http("DELETE", "/v1/blocks/nobody", &alice, "").await.0, 200, "nothing to lift");
    let report = r#"{"reason":"spam","user":"bob","text":"buy now"}"#;
    assert_eq!(node.post("/v1/reports", "dev:alice", report).await.0, 200);
    assert_eq!(node.post("/v1/reports", "dev:alice", r#"{"reason":"spam"}"#).await.0, 400);
    assert_eq!(node.post("/v1/reports", "dev:alice", r#"{"reason":"dislike","user":"bob"}"#).await.0, 400);
    let (_, metrics) = node.http("GET", "/metrics", &[], "").await;
    assert!(metrics.as_str().is_some_and(|page| page.contains("flotilla_reports_total{reason=\"spam\"} 1")));
}

#[tokio::test]
async fn a_block_left_half_way_is_driven_through_by_the_list() {
    let node = Node::start().await;
    for user in ["alice", "bob"] {
        node.caught_up(user, "1").await;
    }
    let user = |name: &str| UserId::parse(name).expect("a user");
    // What a node that died after its first step leaves.
    node.fake.apply(flotilla_machine::Command::SetBlock {
        user: user("alice"),
        peer: user("bob"),
        on: true,
        request: Cid(7),
    });
    let (_, blocks) = node.get("/v1/blocks", "dev:alice").await;
    assert_eq!(blocks["blocks"][0]["pending"], json!(false), "{blocks}");
    let mut bob = node.caught_up("bob", "2").await;
    let error = bob.error(crate::testing::client::message("alice", 1, "hi")).await;
    assert_eq!(error, flotilla_proto::frame::ErrorCode::Blocked);
}

#[tokio::test]
async fn history_folds_jumps_to_a_date_and_goes_out_as_lines() {
    let node = Node::start().await;
    for user in ["alice", "bob"] {
        node.caught_up(user, "1").await;
    }
    let mut alice = node.caught_up("alice", "2").await;
    let conv = alice.send("bob", 1, "one").await.conv;
    alice.send("bob", 2, "two").await;
    let edit = |seq, cid| {
        use flotilla_proto::frame::{ClientFrame, Edit};
        ClientFrame::Edit(Edit {
            conv: conv.clone(),
            seq: Seq(seq),
            cid: Cid(cid),
            age_s: None,
            after: None,
            body: Blob::from(b"uno".to_vec()),
        })
    };
    let id = alice.ask(edit(1, 3)).await;
    alice.answer(id).await;
    let messages = format!("/v1/conversations/{conv}/messages");
    let (_, raw) = node.get(&messages, "dev:bob").await;
    assert_eq!(raw["entries"].as_array().map(Vec::len), Some(3));
    let (_, folded) = node.get(&format!("{messages}?fold=true"), "dev:bob").await;
    assert_eq!(
        (&folded["entries"][0]["body"], &folded["entries"][0]["edited"]),
        (&json!("dW5v"), &json!(3)),
        "{folded}"
    );
    assert_eq!(folded["entries"].as_array().map(Vec::len), Some(2));
    let (_, newest) = node.get(&format!("{messages}?fold=true&limit=1"), "dev:bob").await;
    assert_eq!((&newest["entries"], &newest["next"], &newest["more"]), (&json!([]), &json!(3), &json!(true)));
    let (_, before) = node.get(&format!("{messages}?fold=true&limit=1&before=3"), "dev:bob").await;
    assert_eq!(before["entries"][0]["seq"], 2);
    let ts = raw["entries"][1]["ts"].as_u64().expect("a time");
    let (_, dated) = node.get(&format!("{messages}?at={ts}"), "dev:bob").await;
    assert_eq!(dated["entries"][0]["seq"], 2, "{dated}");
    let (_, later) = node.get(&format!("{messages}?at={}", ts + 1_000_000_000), "dev:bob").await;
    assert_eq!(later["entries"], json!([]));
    for query in ["at=1&before=2", "at=x", "fold=perhaps", "before=1&after=2"] {
        assert_eq!(node.get(&format!("{messages}?{query}"), "dev:bob").await.0, 400, "{query}");
    }
    // The export: chunks of lines, the last of which says that it is whole.
    let (status, lines) = node.get(&format!("/v1/conversations/{conv}/export"), "dev:bob").await;
    let lines = lines.as_str().map(str::to_owned).unwrap_or_else(|| lines.to_string());
    assert_eq!(status, 200);
    let seqs = (1..=3).filter(|seq| lines.contains(&format!(r#""seq":{seq},"#))).count();
    assert!(seqs == 3 && lines.contains(r#"{"end":true,"entries":3,"head":3}"#), "{lines}");
    assert_eq!(node.get(&format!("/v1/conversations/{conv}/export"), "dev:carol").await.0, 403);
    assert_eq!(node.http("GET", &format!("/v1/conversations/{conv}/export"), &[], "").await.0, 401);
    assert_eq!(node.get("/v1/conversations/x/export", "dev:bob").await.0, 404);
}

#[tokio::test]
async fn a_stream_goes_on_behind_its_last_event_and_begins_again_without_an_ack() {
    let node = Node::start().await;
    for user in ["alice", "bob"] {
        node.caught_up(user, "1").await;
        assert_eq!(node.get("/v1/me", &format!("dev:{user}")).await.0, 200, "makes the device for http");
    }
    let (_, group) = node.post("/v1/groups", "dev:alice", r#"{"name":"crew","members":["bob"]}"#).await;
    let path = format!("/v1/conversations/{}/messages", text(&group, "conv"));
    let send = async |body: &str| {
        let (status, answer) = node.post(&path, "dev:alice", &json!({ "body": body }).to_string()).await;
        assert_eq!(status, 200, "{answer}");
    };
    let mut stream = node.open("/v1/inbox/stream", "dev:bob", &[]).await;
    assert!(stream.until(r#""t":"caught_up""#).await, "{}", stream.text);
    assert!(stream.text.contains("text/event-stream") && stream.text.contains(r#""seq":1"#), "{}", stream.text);
    send("b25l").await;
    assert!(stream.until("b25l").await, "what comes later is sent on the same stream");
    assert!(stream.until("\n\n").await);
    let id = stream.last_id();
    drop(stream);
    send("dHdv").await;
    let mut resumed = node.open("/v1/inbox/stream", "dev:bob", &[("last-event-id", &id)]).await;
    assert!(resumed.until("dHdv").await);
    assert!(!resumed.text.contains("b25l"), "behind the last event: {}", resumed.text);
    let mut again = node.open("/v1/inbox/stream", "dev:bob", &[]).await;
    assert!(again.until("dHdv").await);
    assert!(again.text.contains("b25l"), "nothing was acked: {}", again.text);
    assert!(again.until("\n\n").await);
    let ack = json!({ "upto": again.last_id() }).to_string();
    assert_eq!(node.post("/v1/inbox/ack", "dev:alice", &ack).await.0, 400, "another device's token");
    assert_eq!(node.post("/v1/inbox/ack", "dev:bob", &ack).await.0, 200);
    let (_, empty) = node.get("/v1/inbox", "dev:bob").await;
    assert_eq!(empty["frames"], json!([]));
    let (head, _) =
        node.ask("GET", "/v1/inbox/stream", &[("authorization", "Bearer dev:bob"), ("last-event-id", "x.y.z")]).await;
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    let (head, _) = node.ask("GET", "/v1/inbox/stream", &[]).await;
    assert!(head.starts_with("HTTP/1.1 401"), "{head}");
}

#[tokio::test]
async fn a_stream_without_acks_holds_still_and_is_closed_and_a_draining_node_sends_it_away() {
    let timings = crate::gateway::shared::Timings { unacked_max_ms: 1_500, ..Default::default() };
    let node = Node::with(Options { dev_auth: true, timings, ..Options::default() }).await;
    for user in ["alice", "bob"] {
        node.caught_up(user, "1").await;
        assert_eq!(node.get("/v1/me", &format!("dev:{user}")).await.0, 200);
    }
    let (_, group) = node.post("/v1/groups", "dev:alice", r#"{"name":"crew","members":["bob"]}"#).await;
    let path = format!("/v1/conversations/{}/messages", text(&group, "conv"));
    for _ in 0..flotilla_proto::limits::WINDOW_ENTRIES_PER_CONV {
        assert_eq!(node.post(&path, "dev:alice", r#"{"body":"aGk"}"#).await.0, 200);
    }
    let mut stream = node.open("/v1/inbox/stream", "dev:bob", &[]).await;
    assert!(stream.until(r#""code":4003"#).await, "{}", stream.text);
    let sent = stream.text.matches(r#""t":"entry""#).count();
    assert_eq!(sent, flotilla_proto::limits::WINDOW_ENTRIES_PER_CONV, "no more than the window");
    let mut other = node.open("/v1/inbox/stream", "dev:alice", &[]).await;
    assert!(other.until("data: ").await);
    node.fake.node.send_modify(|view| view.draining = true);
    assert!(other.until(r#""t":"goaway""#).await, "{}", other.text);
}

#[tokio::test]
async fn exports_that_nobody_reads_give_their_turns_back() {
    let timings = crate::gateway::shared::Timings { socket_full_max_ms: 4_000, ..Default::default() };
    let node = Node::with(Options { dev_auth: true, timings, ..Options::default() }).await;
    node.caught_up("bob", "1").await;
    let mut alice = node.caught_up("alice", "1").await;
    // More than the sockets of one connection hold.
    let body = "x".repeat(flotilla_proto::limits::BODY_BYTES_MAX);
    let mut conv = None;
    for cid in 1..=384 {
        conv = Some(alice.send("bob", cid, &body).await.conv);
    }
    let path = format!("/v1/conversations/{}/export", conv.expect("sent"));
    let turns = &node.shared.exports;
    let mut deaf = Vec::new();
    for _ in 0..flotilla_proto::limits::EXPORTS_AT_ONCE {
        let mut stream = node.open(&path, "dev:bob", &[]).await;
        assert!(stream.until("HTTP/1.1 200").await);
        deaf.push(stream);
    }
    assert_eq!(turns.available_permits(), 0);
    let (status, problem) = node.get(&path, "dev:bob").await;
    assert_eq!((status, text(&problem, "code")), (429, "too_many_requests"));
    let all = flotilla_proto::limits::EXPORTS_AT_ONCE as u32;
    let back = tokio::time::timeout(crate::testing::client::PATIENCE, turns.acquire_many(all)).await;
    assert!(back.is_ok(), "nobody read, and the turns are free again");
}

#[tokio::test]
async fn a_path_asked_with_another_verb_says_which_it_takes_before_it_asks_for_anything() {
    let node = Node::start().await;
    for (verb, path, allow) in [
        ("GET", "/v1/auth/login", "POST"),
        ("POST", "/v1/me", "GET, PATCH"),
        ("DELETE", "/v1/contacts", "GET"),
        ("HEAD", "/v1/me", "GET, PATCH"),
        ("OPTIONS", "/v1/groups", "POST"),
        ("PATCH", "/v1/conversations/x/members/bob", "PATCH, DELETE"),
        ("POST", "/livez", "GET, HEAD"),
        ("DELETE", "/v1/openapi.json", "GET, HEAD"),
        ("PUT", "/docs", "GET, HEAD"),
    ] {
        let (head, body) = node.ask(verb, path, &[]).await;
        if allow.contains(verb) {
            assert!(head.starts_with("HTTP/1.1 401"), "{verb} {path}: {head}");
            continue;
        }
        assert!(head.starts_with("HTTP/1.1 405"), "{verb} {path}: {head}");
        let told = head.lines().filter_map(|line| line.strip_prefix("allow: ")).collect::<Vec<_>>();
        assert_eq!(told, [allow], "{verb} {path}: {head}");
        if verb != "HEAD" {
            let problem: Value = serde_json::from_str(&body).expect("a problem");
            assert_eq!(problem["code"], "method_not_allowed");
            assert_eq!(problem["details"]["allow"].as_array().map(Vec::len), Some(allow.split(", ").count()));
        }
    }
    assert!(node.ask("POST", "/nowhere", &[]).await.0.starts_with("HTTP/1.1 404"));
    assert!(node.ask("HEAD", "/livez", &[]).await.0.starts_with("HTTP/1.1 200"));
    let mut alice = node.caught_up("alice", "1").await;
    let call = flotilla_proto::frame::Call { method: "DELETE me".into(), params: Value::Null, key: None };
    let code = alice.error(flotilla_proto::frame::ClientFrame::Call(call)).await;
    assert_eq!(code, flotilla_proto::frame::ErrorCode::MethodNotAllowed);
}
