//! Frames that make no sense, by the thousand: every one has its answer or its close code, and none is an error of the server.

use std::collections::BTreeSet;

use flotilla_machine::{Query, Rejection};
use flotilla_proto::frame::{
    AckItem, Activity, ClientFrame, ClientMessage, CloseCode, Encoding, ErrorCode, ServerFrame, State, Typing,
};
use flotilla_proto::ids::Seq;
use flotilla_proto::limits;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::backend::CallError;
use crate::gateway::shared::Options;
use crate::testing::client::{Client, Node, Said};
use crate::testing::noise::Noise;

const CONNECTIONS: usize = 60;
const FRAMES: usize = 6;

/// One of each kind, right in every field.
fn golden() -> Vec<(Value, Vec<u8>)> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/tests/golden/client.json");
    let all: Vec<Value> = serde_json::from_slice(&std::fs::read(path).expect("golden frames")).expect("a list");
    let hex = |text: &str| {
        let digits = text.as_bytes().chunks(2).map(|two| std::str::from_utf8(two).expect("digits"));
        digits.map(|two| u8::from_str_radix(two, 16).expect("a byte")).collect()
    };
    let one = |frame: &Value| {
        let text = |name: &str| frame[name].as_str().expect("a text").to_owned();
        (serde_json::from_str(&text("json")).expect("JSON"), hex(&text("msgpack")))
    };
    all.iter().map(one).collect()
}

/// Something near a frame, or nothing like one.
fn frame(noise: &mut Noise, encoding: Encoding, golden: &[(Value, Vec<u8>)], id: u32) -> Vec<u8> {
    let (json, msgpack) = noise.one_of(golden);
    match encoding {
        Encoding::Json => {
            let mut frame = json;
            if noise.happens(4, 5) {
                frame["id"] = id.into();
            }
            let spoiled = match noise.draw(0..8) {
                0 => noise.json(),
                1 => noise.spoil(&frame),
                2..=5 => {
                    frame["d"] = noise.spoil(&frame["d"].take());
                    frame
                }
                6 => return noise.draw(".{0,200}").into_bytes(),
                _ => frame,
            };
            spoiled.to_string().into_bytes()
        }
        Encoding::MsgPack => {
            let mut bytes = msgpack;
            for _ in 0..noise.draw(0..4) {
                let at = noise.draw(0..bytes.len());
                bytes[at] = noise.draw(0..=255_u8);
            }
            if noise.happens(1, 4) {
                bytes.truncate(noise.draw(0..=bytes.len()));
            }
            bytes
        }
    }
}

/// What is no frame at all, in either encoding.
fn bad(encoding: Encoding) -> Vec<u8> {
    match encoding {
        Encoding::Json => b"}{".to_vec(),
        Encoding::MsgPack => vec![0xc1],
    }
}

/// Everything up to the end: the kinds of errors, and the close code.
async fn heard(client: &mut Client, said: &[Vec<u8>]) -> (BTreeSet<ErrorCode>, u16) {
    let mut errors = BTreeSet::new();
    loop {
        match client.next().await {
            Said::Closed(code) => return (errors, code),
            Said::Frame(message) => {
                if let ServerFrame::Error(error) = message.frame {
                    let said: Vec<_> = said.iter().map(|bytes| String::from_utf8_lossy(bytes)).collect();
                    let is_named = !matches!(error.code, ErrorCode::Other | ErrorCode::Internal);
                    assert!(is_named, "{error} to one of {said:?}");
                    errors.insert(error.code);
                }
            }
        }
    }
}

fn check_close(code: u16, said: &[Vec<u8>]) {
    let named = CloseCode::parse(code).filter(|code| *code != CloseCode::Internal);
    assert!(named.is_some(), "closed with {code} after {said:?}");
}

#[tokio::test]
async fn whatever_is_said_before_hello_ends_with_a_close_code_that_the_documents_name() {
    let (node, mut noise, golden) = (Node::start().await, Noise::new(), golden());
    let mut seen = BTreeSet::new();
    let hello = json!({ "t": "hello", "d": {
        "token": "dev:ann", "install": "store", "instance": "00000000-0000-0000-0000-000000000005", "attempt": 1,
    } });
    for round in 0..3 * CONNECTIONS {
        let encoding = if round % 3 == 0 { Encoding::MsgPack } else { Encoding::Json };
        let first = match (encoding, round % 3) {
            (Encoding::Json, 1) if round % 2 == 0 => noise.spoil(&hello).to_string().into_bytes(),
            (Encoding::Json, 1) => {
                let mut hello = hello.clone();
                hello["d"]["token"] = noise.draw("(dev:)?[a-zA-Z0-9 .]{0,40}").into();
                hello.to_string().into_bytes()
            }
            _ => frame(&mut noise, encoding, &golden, 1),
        };
        let said = [first, bad(encoding)];
        let mut client = Client::connect(node.addr, encoding).await;
        for bytes in &said {
            client.raw(bytes.clone()).await;
        }
        let (_, code) = heard(&mut client, &said).await;
        check_close(code, &said);
        seen.insert(code);
    }
    assert!(seen.is_superset(&[4500, 4502, 4508].into()), "{seen:?}");
}

#[tokio::test]
async fn whatever_is_said_on_an_open_session_has_an_answer_that_the_documents_name() {
    let (node, mut noise, golden) = (Node::start().await, Noise::new(), golden());
    let mut seen = BTreeSet::new();
    for round in 0..CONNECTIONS {
        let encoding = if round % 3 == 0 { Encoding::MsgPack } else { Encoding::Json };
        let mut client = Client::connect(node.addr, encoding).await;
        // A user has few devices: each of these takes the session of the one before.
        client.hello("ann", "1", None).await;
        let mut said: Vec<_> = (0..FRAMES).map(|id| frame(&mut noise, encoding, &golden, id as u32 + 1)).collect();
        said.push(bad(encoding));
        for bytes in &said {
            client.raw(bytes.clone()).await;
        }
        let (errors, code) = heard(&mut client, &said).await;
        check_close(code, &said);
        seen.extend(errors);
    }
    assert!(seen.is_superset(&[ErrorCode::BadRequest].into()), "{seen:?}");
    assert_eq!(node.get("/livez", "").await.0, 200);
}

#[tokio::test]
async fn bytes_that_are_no_websocket_end_the_connection_and_nothing_else() {
    let (node, mut noise) = (Node::start().await, Noise::new());
    for _ in 0..CONNECTIONS {
        let mut client = Client::connect(node.addr, Encoding::Json).await;
        let bytes = noise.draw(proptest::collection::vec(proptest::prelude::any::<u8>(), 16..200));
        // An unmasked text first: no client may send one.
        let mut raw = b"\x81\x02{}".to_vec();
        raw.extend(bytes);
        client.ws.get_mut().write_all(&raw).await.expect("writes");
        let code = client.closed().await;
        assert!(code == 1006 || CloseCode::parse(code).is_some(), "{code}");
    }
    node.caught_up("ann", "1").await;
}

/// Of what has no answer a client would never learn that it is too much.
#[tokio::test]
async fn a_connection_that_floods_its_node_with_what_has_no_answer_is_closed_and_may_come_again() {
    let node = Node::start().await;
    drop(node.caught_up("bob", "1").await);
    for encoding in [Encoding::Json, Encoding::MsgPack] {
        let mut client = Client::connect(node.addr, encoding).await;
        client.hello("ann", "1", None).await;
        let conv = client.send("bob", u128::from(encoding == Encoding::Json), "x").await.conv;
        let item = || AckItem { conv: conv.clone(), seq: Seq(1) };
        let words = [
            ClientFrame::Pong,
            ClientFrame::State(State { state: Activity::Active }),
            ClientFrame::Typing(Typing { conv: conv.clone() }),
            ClientFrame::Read(item()),
            ClientFrame::Ack(vec![item()]),
        ];
        let mut words = words.iter().cycle().cloned().map(|frame| ClientMessage { id: None, frame });
        let mut say = async |client: &mut Client, frames: u64| {
            for _ in 0..frames.div_ceil(limits::FRAMES_PER_MESSAGE_MAX as u64) {
                client.say_all(words.by_ref().take(limits::FRAMES_PER_MESSAGE_MAX).collect()).await;
            }
        };
        // As one that comes back and tells a read mark of every conversation.
        say(&mut client, limits::CONVERSATIONS_PER_USER_MAX as u64).await;
        assert!(client.send("bob", u128::from(encoding == Encoding::Json), "x").await.dup);
        say(&mut client, 2 * limits::WORDS_BURST).await;
        assert_eq!(client.closed().await, CloseCode::RateLimited.number());
    }
    node.caught_up("ann", "1").await;
    // Frames of a kind that this build does not know are ignored, and counted all the same.
    let mut client = node.caught_up("ann", "1").await;
    for _ in 0..2 * limits::WORDS_BURST {
        client.raw(br#"{"t":"later"}"#.to_vec()).await;
    }
    assert_eq!(client.closed().await, CloseCode::RateLimited.number());
}

/// Beside those that the other tests of the gateway come to.
#[tokio::test]
async fn a_session_that_the_cluster_refuses_is_closed_with_what_it_is_refused_for() {
    let node = Node::start().await;
    for (error, wanted) in [
        (CallError::Rejected(Rejection::Quota("devices".into())), CloseCode::ConnectionLimit),
        (CallError::Rejected(Rejection::Forbidden("disabled".into())), CloseCode::AccountDisabled),
        (CallError::Rejected(Rejection::NotFound), CloseCode::AuthFailed),
        (CallError::Unavailable, CloseCode::NotReady),
        (CallError::Overloaded, CloseCode::Overloaded),
        (CallError::Unknown, CloseCode::NotReady),
    ] {
        node.fake.faults().execute.push_back(error);
        let mut client = Client::connect(node.addr, Encoding::Json).await;
        client.say(ClientFrame::Hello(Client::hello_frame("dev:ann", "1"))).await;
        assert_eq!(client.closed().await, wanted.number());
    }
    // A token that is good, of a device that is logged out meanwhile.
    let strict = Node::with(Options::default()).await;
    let account = json!({ "user": "ann", "password": "correct horse", "install": "store 1" }).to_string();
    assert_eq!(strict.post("/v1/auth/register", "", &account).await.0, 200);
    let (_, tokens) = strict.post("/v1/auth/login", "", &account).await;
    let access = tokens["access_token"].as_str().expect("a token").to_owned();
    // What is asked on the way may meet a full queue too.
    for (error, wanted) in
        [(CallError::Unavailable, CloseCode::NotReady), (CallError::Overloaded, CloseCode::Overloaded)]
    {
        strict.fake.faults().refuses = Some(Box::new(|query| matches!(query, Query::Account { .. })));
        strict.fake.faults().refuses_with = Some(error.clone());
        let mut client = Client::connect(strict.addr, Encoding::Json).await;
        client.say(ClientFrame::Hello(Client::hello_frame(&access, "1"))).await;
        assert_eq!(client.closed().await, wanted.number());
        strict.fake.faults().refuses = None;
        node.caught_up("bob", "1").await;
        node.caught_up("ann", "1").await.send("bob", 1, "a conversation to take a place in").await;
        node.fake.faults().refuses = Some(Box::new(|query| matches!(query, Query::Unplaced { .. })));
        node.fake.faults().refuses_with = Some(error);
        let mut client = Client::connect(node.addr, Encoding::Json).await;
        client.say(ClientFrame::Hello(Client::hello_frame("dev:bob", "2"))).await;
        assert_eq!(client.closed().await, wanted.number());
        node.fake.faults().refuses = None;
    }
    assert_eq!(strict.post("/v1/auth/logout", &access, "").await.0, 200);
    let mut client = Client::connect(strict.addr, Encoding::Json).await;
    client.say(ClientFrame::Hello(Client::hello_frame(&access, "1"))).await;
    assert_eq!(client.closed().await, CloseCode::ReauthRequired.number());
}
