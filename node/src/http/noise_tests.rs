//! What the fuzzer of the API (`scripts/fuzz-api`) leaves out, because it is no REST, does not end, or needs an issuer: the
//! handshake of a WebSocket, the inbox as a stream, tokens of an issuer. Whatever is sent, the answer is one that the documents
//! name and none of 5xx; and each status that they name can be had.

use std::collections::BTreeSet;

use flotilla_machine::{Query, Rejection};
use flotilla_proto::ids::Cid;
use flotilla_proto::limits;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::fits;
use super::login_tests::TestIssuer;
use crate::backend::CallError;
use crate::gateway::shared::Options;
use crate::testing::client::Node;
use crate::testing::noise::{Heard, Noise, hear, heard};

const ROUNDS: usize = 300;
const STREAM: &str = "/v1/inbox/stream";
const EXTERNAL: &str = "/v1/auth/external";

/// A request by its parts; what ends a line never stands in one of them.
fn request(line: &str, headers: &[(&str, Vec<u8>)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{line}\r\nhost: x\r\n").into_bytes();
    for (name, value) in headers {
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(b"\r\n");
    }
    if !body.is_empty() {
        bytes.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

/// Some of these as they are, some left out, some with noise instead.
fn some_of<'a>(noise: &mut Noise, headers: &[(&'a str, &str)]) -> Vec<(&'a str, Vec<u8>)> {
    let mut some = Vec::new();
    for (name, value) in headers {
        match noise.draw(0..10) {
            0 => {}
            1 | 2 => some.push((*name, noise.header())),
            3 => some.extend([(*name, noise.header()), (*name, value.as_bytes().to_vec())]),
            _ => some.push((*name, value.as_bytes().to_vec())),
        }
    }
    some
}

/// The answer has a status that the document names for the operation, and if it is a problem the shape of one.
fn check(verb: &str, path: &str, answer: Option<Heard>, asked: &[u8]) -> Heard {
    let asked = String::from_utf8_lossy(asked);
    let answer = answer.unwrap_or_else(|| panic!("no answer to {asked:?}"));
    assert!(answer.status < 500, "{answer:?} to {asked:?}");
    if !answer.is_of_http() {
        assert!(fits::named(verb, path).contains(&answer.status), "{answer:?} to {asked:?}");
        if answer.status >= 400 {
            fits::check_answer(verb, path, answer.status, &answer.json());
            let code = &answer.json()["code"];
            assert!(code.is_string() && code != "internal", "{answer:?} to {asked:?}");
        }
    }
    answer
}

async fn node() -> Node {
    let options = Options { dev_auth: true, origins: vec!["https://chat.example".into()], ..Options::default() };
    let node = Node::with(options).await;
    assert_eq!(node.get("/v1/me", "dev:bob").await.0, 200, "makes the device for http");
    node
}

const HANDSHAKE: [(&str, &str); 6] = [
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("sec-websocket-protocol", "flotilla.v1.json"),
    ("origin", "https://chat.example"),
];

#[tokio::test]
async fn any_handshake_of_a_websocket_is_answered_as_the_documents_say() {
    let (node, mut noise, mut seen) = (node().await, Noise::new(), BTreeSet::new());
    for _ in 0..ROUNDS {
        let mut headers = some_of(&mut noise, &HANDSHAKE);
        if noise.happens(1, 4) {
            headers.push(("authorization", noise.header()));
        }
        let query = if noise.happens(1, 2) { format!("?{}", noise.query(&["token", "v"])) } else { String::new() };
        let version = if noise.happens(1, 10) { "HTTP/1.0" } else { "HTTP/1.1" };
        let asked = request(&format!("GET /v1/ws{query} {version}"), &headers, b"");
        seen.insert(check("GET", "/v1/ws", heard(&node, &asked).await, &asked).status);
    }
    assert!(seen.is_superset(&[101, 400].into()), "{seen:?}");
    for verb in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let headers = HANDSHAKE.map(|(name, value)| (name, value.as_bytes().to_vec()));
        let asked = request(&format!("{verb} /v1/ws HTTP/1.1"), &headers, b"");
        let answer = heard(&node, &asked).await.expect("an answer");
        assert_eq!((answer.status, &answer.json()["code"]), (405, &json!("method_not_allowed")), "{verb}");
    }
    assert_eq!(node.get("/livez", "").await.0, 200);
}

#[tokio::test]
async fn each_status_of_a_handshake_can_be_had() {
    let node = Node::with(Options { dev_auth: true, connections_per_address_max: 1, ..Options::default() }).await;
    let handshake = request("GET /v1/ws HTTP/1.1", &HANDSHAKE.map(|(n, v)| (n, v.as_bytes().to_vec())), b"");
    let mut open = TcpStream::connect(node.addr).await.expect("connects");
    let upgraded = hear(&mut open, &handshake).await.expect("an answer").status;
    let refused = heard(&node, &handshake).await.expect("an answer");
    assert_eq!(refused.json()["code"], "too_many_requests", "{refused:?}");
    drop(open);
    // The place comes back when the node has noticed.
    let bare = request("GET /v1/ws HTTP/1.1", &[], b"");
    let bad = loop {
        match heard(&node, &bare).await {
            Some(answer) if answer.status != 429 => break answer.status,
            _ => tokio::task::yield_now().await,
        }
    };
    assert_eq!(BTreeSet::from([upgraded, refused.status, bad]), fits::named("GET", "/v1/ws"));
}

#[tokio::test]
async fn a_stream_is_opened_or_refused_as_the_documents_say_whatever_it_is_asked() {
    let (node, mut noise, mut seen) = (node().await, Noise::new(), BTreeSet::new());
    node.caught_up("alice", "1").await.send("bob", 1, "hello").await;
    let mut stream = node.open(STREAM, "dev:bob", &[]).await;
    assert!(stream.until("caught_up").await, "{}", stream.text);
    let id = stream.last_id();
    drop(stream);
    let headers =
        [("authorization", "Bearer dev:bob"), ("last-event-id", id.as_str()), ("accept", "text/event-stream")];
    for _ in 0..ROUNDS {
        let mut some = some_of(&mut noise, &headers);
        if noise.happens(1, 4) {
            // Nearly the right one.
            let (at, with) = (noise.draw(0..id.len()), noise.draw("[a-zA-Z0-9._-]{0,3}"));
            let near = format!("{}{with}{}", &id[..at], &id[at + 1..]);
            some.retain(|(name, _)| *name != "last-event-id");
            some.push(("last-event-id", near.into_bytes()));
        }
        let query = if noise.happens(1, 2) { format!("?{}", noise.query(&["last_event_id"])) } else { String::new() };
        let body = if noise.happens(1, 8) { noise.json().to_string() } else { String::new() };
        let asked = request(&format!("GET {STREAM}{query} HTTP/1.1"), &some, body.as_bytes());
        let answer = check("GET", STREAM, heard(&node, &asked).await, &asked);
        if answer.status == 200 {
            assert!(answer.head.contains("content-type: text/event-stream"), "{answer:?}");
        }
        seen.insert(answer.status);
    }
    assert!(seen.is_superset(&[200, 400, 401].into()), "{seen:?}");
}

/// What the cluster says instead of doing what an operation needs first, and what becomes of it.
fn failures() -> [(CallError, u16); 5] {
    [
        (CallError::Unavailable, 503),
        (CallError::Overloaded, 503),
        (CallError::Unknown, 504),
        (CallError::Rejected(Rejection::Quota("devices".into())), 429),
        (CallError::Rejected(Rejection::NotFound), 404),
    ]
}

#[tokio::test]
async fn each_status_of_a_stream_can_be_had() {
    let node = node().await;
    let mut seen = BTreeSet::new();
    let bearer = |user: &str| ("authorization", format!("Bearer dev:{user}").into_bytes());
    let mut ask = async |headers: &[(&str, Vec<u8>)], body: &[u8], wanted: u16| {
        let asked = request(&format!("GET {STREAM} HTTP/1.1"), headers, body);
        let answer = heard(&node, &asked).await.expect("an answer");
        assert_eq!(answer.status, wanted, "{answer:?}");
        if wanted != 200 {
            fits::check_answer("GET", STREAM, wanted, &answer.json());
        }
        seen.insert(wanted);
    };
    ask(&[bearer("bob")], b"", 200).await;
    ask(&[], b"", 401).await;
    ask(&[bearer("bob"), ("last-event-id", b"x.y.z".to_vec())], b"", 400).await;
    ask(&[bearer("bob")], b"[]", 400).await;
    ask(&[bearer("bob")], &vec![b' '; limits::MESSAGE_BYTES_MAX + 1], 413).await;
    // The device of a demo user is made first.
    for (error, status) in failures() {
        node.fake.faults().execute.push_back(error);
        ask(&[bearer("carol")], b"", status).await;
    }
    node.fake.faults().refuses = Some(Box::new(|query| matches!(query, Query::Rows { .. } | Query::Unplaced { .. })));
    ask(&[bearer("dave")], b"", 503).await;
    // What is an error of the server cannot be asked for.
    seen.insert(500);
    assert_eq!(seen, fits::named("GET", STREAM));
}

#[tokio::test]
async fn any_token_of_an_issuer_is_taken_or_refused_as_the_documents_say() {
    let (issuer, mut noise, mut seen) = (TestIssuer::start().await, Noise::new(), BTreeSet::new());
    let options = Options { issuer: Some(issuer.config()), logins_per_minute: 100_000, ..Options::default() };
    let node = Node::with(options).await;
    let later = u64::from(u32::MAX);
    let (header, claims) = (json!({ "alg": "EdDSA", "kid": "k" }), json!({ "sub": "ann", "exp": later }));
    for round in 0..ROUNDS {
        let all = json!({ "iss": "https://id.example", "aud": "chat", "sub": "ann", "exp": later, "nbf": 1, "iat": 1 });
        let mut token = match noise.draw(0..6) {
            0 => issuer.signed(&noise.spoil(&header), &all),
            1 | 2 => issuer.signed(&header, &noise.spoil(&all)),
            3 => noise.draw("[a-zA-Z0-9._=-]{0,200}"),
            _ => issuer.token(&claims),
        };
        if noise.happens(1, 5) {
            let (at, with) = (noise.draw(0..=token.len()), noise.draw("[a-zA-Z0-9._-]{1,3}"));
            token.insert_str(at, &with);
        }
        let mut body = json!({ "token": token, "install": "store", "name": "phone" });
        if noise.happens(1, 4) {
            body = noise.spoil(&body);
        }
        let mut text = body.to_string();
        if noise.happens(1, 10) {
            text.truncate(text.floor_char_boundary(noise.draw(0..=text.len())));
        }
        let key = Cid(round as u128 + 1).to_string();
        let headers = some_of(&mut noise, &[("idempotency-key", &key), ("content-type", "application/json")]);
        let query = if noise.happens(1, 4) { format!("?{}", noise.query(&["token", "name"])) } else { String::new() };
        let asked = request(&format!("POST {EXTERNAL}{query} HTTP/1.1"), &headers, text.as_bytes());
        let answer = check("POST", EXTERNAL, heard(&node, &asked).await, &asked);
        if answer.status == 200 {
            fits::check_answer("POST", EXTERNAL, 200, &answer.json());
            assert_eq!(answer.json()["user"], "ann", "nobody else has a token");
        }
        seen.insert(answer.status);
    }
    assert!(seen.is_superset(&[200, 400, 401].into()), "{seen:?}");
}

#[tokio::test]
async fn each_status_of_a_login_by_a_token_can_be_had() {
    let issuer = TestIssuer::start().await;
    let node = Node::with(Options { issuer: Some(issuer.config()), ..Options::default() }).await;
    let mut seen = BTreeSet::new();
    let mut ask = async |node: &Node, token: &str, wanted: u16| {
        let body = json!({ "token": token, "install": "store" }).to_string();
        let (status, answer) = node.post(EXTERNAL, "", &body).await;
        assert_eq!(status, wanted, "{answer}");
        seen.insert(wanted);
    };
    let (later, named) = (u64::from(u32::MAX), |sub: &str, exp: u64| issuer.token(&json!({ "sub": sub, "exp": exp })));
    ask(&node, &named("ann", later), 200).await;
    ask(&node, &named("Not A User", later), 400).await;
    ask(&node, &named("ann", 1), 401).await;
    ask(&node, &"x".repeat(limits::MESSAGE_BYTES_MAX), 413).await;
    let account = json!({ "user": "bob", "password": "correct horse" }).to_string();
    assert_eq!(node.post("/v1/auth/register", "", &account).await.0, 200);
    ask(&node, &named("bob", later), 409).await;
    let disabled = (CallError::Rejected(Rejection::Forbidden("this account is disabled".into())), 403);
    for (error, status) in failures().into_iter().chain([disabled]) {
        node.fake.faults().execute.push_back(error);
        ask(&node, &named("ann", later), status).await;
    }
    ask(&Node::with(Options::default()).await, "x", 501).await;
    // What is an error of the server cannot be asked for.
    seen.insert(500);
    assert_eq!(seen, fits::named("POST", EXTERNAL));
}

#[tokio::test]
async fn what_is_no_http_is_refused_as_such_and_the_documents_say_how() {
    let node = node().await;
    for (line, header) in [
        ("GET /v1/ws HTTP/9.9", vec![b'x']),
        ("G@T /v1/ws HTTP/1.1", vec![b'x']),
        ("nothing", vec![b'x']),
        ("GET /v1/ws HTTP/1.1", vec![0]),
        ("GET /v1/ws HTTP/1.1", vec![b'x'; 16 * 1024]),
    ] {
        let asked = request(line, &[("x-noise", header)], b"");
        // One that is closed with bytes unread may not see why.
        if let Some(answer) = heard(&node, &asked).await {
            assert!(answer.is_of_http(), "{answer:?} to {line}");
        }
    }
    let many: Vec<_> = (0..200).map(|_| ("x-noise", b"x".to_vec())).collect();
    let answer = heard(&node, &request("GET /v1/ws HTTP/1.1", &many, b"")).await.expect("an answer");
    assert_eq!(answer.status, 431, "{answer:?}");
    let document: Value = super::documents::openapi();
    let about = document["info"]["description"].as_str().expect("a text");
    assert!(about.contains("400") && about.contains("431"), "{about}");
    assert_eq!(node.get("/livez", "").await.0, 200);
}
