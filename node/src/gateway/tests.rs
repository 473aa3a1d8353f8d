//! The gateway over a real socket: the path of a message, and every bad input.

use std::time::Duration;

use flotilla_machine::{Answer, Query, Rejection, Reply};
use flotilla_proto::frame::*;
use flotilla_proto::ids::*;
use flotilla_proto::limits;

use crate::backend::{CallError, Push};
use crate::gateway::shared::{Options, Timings};
use crate::testing::client::{Client, Node, PATIENCE, Said, message};

async fn quick(timings: Timings) -> Node {
    Node::with(Options { dev_auth: true, timings, ..Options::default() }).await
}

fn direct(a: &str, b: &str) -> ConvId {
    ConvId::direct(&UserId::parse(a).expect("a user"), &UserId::parse(b).expect("a user"))
}

/// Waits until it is so.
async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !is_so() {
        assert!(tokio::time::Instant::now() < end, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn cursor(node: &Node, user: &str, device: DeviceId, conv: &ConvId) -> Seq {
    let user = UserId::parse(user).expect("a user");
    match node.fake.ask(&Query::Row { user, device, conv: conv.clone() }) {
        Answer::Row(Some(row)) => row.cursor,
        other => panic!("expected a row, got {other:?}"),
    }
}

fn device_of(client: &Client) -> DeviceId {
    client.ready.as_ref().expect("said hello").device
}

#[tokio::test]
async fn a_message_goes_from_send_to_the_ack_of_the_recipient() {
    let node = Node::start().await;
    let mut bob = node.caught_up("bob", "1").await;
    let mut alice = node.caught_up("alice", "1").await;
    let accepted = alice.send("bob", 1, "hi").await;
    assert_eq!((accepted.seq, accepted.dup), (Seq(1), false));
    let entry = bob.entry().await;
    assert_eq!((entry.seq, entry.body.clone(), entry.echo), (Seq(1), Some(Blob::from(b"hi".to_vec())), false));
    let echo = alice.entry().await;
    assert_eq!((echo.seq, echo.body, echo.echo), (Seq(1), None, true), "the sending connection gets no body");
    bob.ack(&accepted.conv, 1).await;
    let device = device_of(&bob);
    eventually("bob's cursor moves", || cursor(&node, "bob", device, &accepted.conv) == Seq(1)).await;
    let conv = alice
        .until(|f| matches!(f, ServerFrame::Conv(c) if c.peer.as_ref().is_some_and(|p| p.delivered == Seq(1))))
        .await;
    let ServerFrame::Conv(conv) = conv else { unreachable!("just matched") };
    assert_eq!(conv.peer.map(|p| p.user.to_string()), Some("bob".into()));
}

#[tokio::test]
async fn entries_come_again_until_acked_and_never_after() {
    let node = Node::start().await;
    drop(node.caught_up("bob", "1").await);
    let mut alice = node.caught_up("alice", "1").await;
    for cid in 1..=3 {
        alice.send("bob", cid, "x").await;
    }
    let conv = direct("alice", "bob");
    for _ in 0..2 {
        let mut bob = node.device("bob", "1").await;
        for seq in 1..=3 {
            assert_eq!(bob.entry().await.seq, Seq(seq));
        }
        bob.until(|f| matches!(f, ServerFrame::CaughtUp(_))).await;
    }
    let mut bob = node.device("bob", "1").await;
    bob.entry().await;
    bob.entry().await;
    bob.ack(&conv, 2).await;
    let device = device_of(&bob);
    eventually("the cursor moves", || cursor(&node, "bob", device, &conv) == Seq(2)).await;
    drop(bob);
    let mut bob = node.device("bob", "1").await;
    assert_eq!(bob.entry().await.seq, Seq(3));
}

#[tokio::test]
async fn conv_frames_come_before_pending_entries_in_rev_order() {
    let node = Node::start().await;
    drop(node.caught_up("bob", "1").await);
    let mut alice = node.caught_up("alice", "1").await;
    let mut carol = node.caught_up("carol", "1").await;
    alice.send("bob", 1, "x").await;
    carol.send("bob", 2, "y").await;
    let mut bob = node.device("bob", "1").await;
    let mut revs = Vec::new();
    let mut entries = Vec::new();
    loop {
        match bob.frame().await {
            ServerFrame::Conv(conv) => {
                assert!(entries.is_empty(), "conv frames first");
                revs.push(conv.rev.parse().expect("a rev"));
            }
            ServerFrame::Entry(entry) => entries.push(entry.from.to_string()),
            ServerFrame::CaughtUp(caught_up) => {
                assert_eq!(caught_up.rev.parse().expect("a rev"), *revs.last().expect("convs"));
                break;
            }
            _ => {}
        }
    }
    assert!(revs.is_sorted() && revs.len() == 2);
    assert_eq!(entries, ["carol", "alice"], "latest activity first");
}

#[tokio::test]
async fn the_window_stops_at_128_in_a_conversation_and_another_goes_on() {
    let node = Node::start().await;
    let mut bob = node.caught_up("bob", "1").await;
    let mut alice = node.caught_up("alice", "1").await;
    let mut carol = node.caught_up("carol", "1").await;
    for cid in 0..140u128 {
        alice.send("bob", cid, "x").await;
    }
    carol.send("bob", 1_000, "y").await;
    let mut from_alice = 0;
    loop {
        let entry = bob.entry().await;
        if entry.from.as_str() == "carol" {
            break;
        }
        from_alice += 1;
        assert_eq!(entry.seq, Seq(from_alice));
    }
    assert_eq!(from_alice, 128);
    bob.ack(&direct("alice", "bob"), 64).await;
    for seq in 129..=140 {
        assert_eq!(bob.entry().await.seq, Seq(seq));
    }
}

#[tokio::test]
async fn holes_in_pushes_are_filled_from_the_log() {
    let node = Node::start().await;
    let mut bob = node.caught_up("bob", "1").await;
    let mut alice = node.caught_up("alice", "1").await;
    alice.send("bob", 1, "x").await;
    assert_eq!(bob.entry().await.seq, Seq(1));
    node.fake.faults().bare_heads = true;
    alice.send("bob", 2, "x").await;
    assert_eq!(bob.entry().await.seq, Seq(2));
    node.fake.faults().mute = true;
    alice.send("bob", 3, "x").await;
    node.fake.faults().mute = false;
    node.fake.push_to("bob", Push::Resync);
    assert_eq!(bob.entry().await.seq, Seq(3));
    node.fake.faults().logs_down = true;
    alice.send("bob", 4, "x").await;
    node.fake.faults().logs_down = false;
    assert_eq!(bob.entry().await.seq, Seq(4));
}

#[tokio::test]
async fn an_ack_above_what_was_sent_is_ignored_and_counted() {
    let node = Node::start().await;
    let mut bob = node.caught_up("bob", "1").await;
    let mut alice = node.caught_up("alice", "1").await;
    alice.send("bob", 1, "x").await;
    bob.entry().await;
    let conv = direct("alice", "bob");
    bob.ack(&conv, 99).await;
    eventually("the bad ack is counted", || node.shared.figures.bad_acks.get() == 1).await;
    bob.ack(&conv, 1).await;
    let device = device_of(&bob);
    eventually("the good ack counts", || cursor(&node, "bob", device, &conv) == Seq(1)).await;
}

#[tokio::test]
async fn a_read_reaches_the_sender() {
    let node = Node::start().await;
    let mut bob = node.caught_up("bob", "1").await;
    let mut alice = node.caught_up("alice", "1").await;
    alice.send("bob", 1, "x").await;
    let conv = direct("alice", "bob");
    bob.entry().await;
    bob.say(ClientFrame::Read(AckItem { conv: conv.clone(), seq: Seq(1) })).await;
    alice.until(|f| matches!(f, ServerFrame::Conv(c) if c.peer.as_ref().is_some_and(|p| p.read == Seq(1)))).await;
    // Also on a connection where nothing was sent: the row is the gate.
    bob.ack(&conv, 1).await;
    let device = device_of(&bob);
    eventually("acked", || cursor(&node, "bob", device, &conv) == Seq(1)).await;
    alice.send("bob", 2, "x").await;
    bob.entry().await;
    bob.ack(&conv, 2).await;
    eventually("acked", || cursor(&node, "bob", device, &conv) == Seq(2)).await;
    drop(bob);
    let mut bob = node.caught_up("bob", "1").await;
    bob.say(ClientFrame::Read(AckItem { conv, seq: Seq(2) })).await;
    alice.until(|f| matches!(f, ServerFrame::Conv(c) if c.peer.as_ref().is_some_and(|p| p.read == Seq(2)))).await;
}

#[tokio::test]
async fn outcomes_are_told_apart_and_a_retry_finds_the_first_answer() {
    let node = Node::start().await;
    drop(node.caught_up("bob", "1").await);
    let mut alice = node.caught_up("alice", "1").await;
    node.fake.faults().execute.push_back(CallError::Unavailable);
    assert_eq!(alice.error(message("bob", 1, "x")).await, ErrorCode::Unavailable);
    node.fake.faults().execute.push_back(CallError::Overloaded);
    assert_eq!(alice.error(message("bob", 1, "x")).await, ErrorCode::Overloaded);
    // The first NeedPeers round is an append without effect; the reply of the second is lost.
    let first = alice.send("bob", 1, "x").await;
    node.fake.faults().lost_replies.push_back(CallError::Unknown);
    assert_eq!(alice.error(message("bob", 2, "y")).await, ErrorCode::OutcomeUnknown);
    let again = alice.send("bob", 2, "y").await;
    assert!(again.dup && again.seq == first.seq.next());
    assert_eq!(alice.error(message("bob", 2, "z")).await, ErrorCode::IdempotencyMismatch);
}

#[tokio::test]
async fn pipelined_sends_keep_their_order() {
    let node = Node::start().await;
    drop(node.caught_up("bob", "1").await);
    let mut alice = node.caught_up("alice", "1").await;
    alice.send("bob", 1, "x").await;
    // The first of three is turned away once: those behind it must not overtake.
    node.fake.faults().hold = true;
    let mut ids = Vec::new();
    for cid in 2..=4 {
        ids.push(alice.ask(message("bob", cid, "x")).await);
    }
    eventually("all are under way", || node.shared.figures.requests_waiting.get() == 3).await;
    node.fake.faults().refuse = Some((Cid(2), CallError::Unavailable));
    node.fake.faults().hold = false;
    let mut codes = Vec::new();
    while codes.len() < 3 {
        match alice.next().await {
            Said::Frame(m) if m.id.is_some_and(|id| ids.contains(&id)) => match m.frame {
                ServerFrame::Error(e) => codes.push((m.id, e.code)),
                other => panic!("nothing may overtake: {other:?}"),
            },
            Said::Frame(_) => {}
            Said::Closed(code) => panic!("closed with {code}"),
        }
    }
    codes.sort();
    let codes: Vec<ErrorCode> = codes.into_iter().map(|(_, code)| code).collect();
    assert_eq!(codes, [ErrorCode::Unavailable, ErrorCode::OutOfOrder, ErrorCode::OutOfOrder]);
    // A refusal for good does not hold up what follows.
    node.fake.faults().hold = true;
    let refused = alice.ask(message("bob", 1, "another body")).await;
    let next = alice.ask(message("bob", 5, "x")).await;
    eventually("both are under way", || node.shared.figures.requests_waiting.get() == 2).await;
    node.fake.faults().hold = false;
    // The two answers come in either order.
    let mut answers = std::collections::BTreeMap::new();
    while answers.len() < 2 {
        match alice.next().await {
            Said::Frame(m) if m.id == Some(refused) || m.id == Some(next) => drop(answers.insert(m.id, m.frame)),
            Said::Frame(_) => {}
            Said::Closed(code) => panic!("closed with {code}"),
        }
    }
    let is_mismatch = |e: &ErrorBody| e.code == ErrorCode::IdempotencyMismatch;
    assert!(matches!(&answers[&Some(refused)], ServerFrame::Error(e) if is_mismatch(e)));
    assert!(matches!(&answers[&Some(next)], ServerFrame::Accepted(a) if a.seq == Seq(2)));
}

#[tokio::test]
async fn more_than_64_requests_at_once_are_refused_without_a_close() {
    let node = Node::start().await;
    drop(node.caught_up("bob", "1").await);
    let mut alice = node.caught_up("alice", "1").await;
    node.fake.faults().hold = true;
    for cid in 0..=limits::REQUESTS_IN_FLIGHT_MAX {
        alice.ask(message("bob", cid as u128 + 1, "x")).await;
    }
    let ServerFrame::Error(error) = alice.until(|f| matches!(f, ServerFrame::Error(_))).await else { unreachable!() };
    assert_eq!(error.code, ErrorCode::TooManyRequests);
    node.fake.faults().hold = false;
    alice.until(|f| matches!(f, ServerFrame::Accepted(_))).await;
}

// Bad input.

#[tokio::test]
async fn before_hello_only_hello_is_heard() {
    let node = Node::start().await;
    for (frame, code) in [
        (r#"{"t":"send","id":1,"d":{}}"#.to_string(), 4508),
        (r#"{"t":"pong"}"#.to_string(), 4508),
        (r#"{"t":"future","id":1}"#.to_string(), 4508),
        ("not json".to_string(), 4500),
        (r#"{"t":"hello","d":{"token":1}}"#.to_string(), 4500),
        (r#"{"t":"hello","id":1,"d":{}}"#.to_string(), 4500),
        (format!(r#"{{"t":"hello","d":{{"x":"{}"}}}}"#, "x".repeat(17_000)), 4507),
    ] {
        let mut client = Client::connect(node.addr, Encoding::Json).await;
        client.raw(frame.clone().into_bytes()).await;
        assert_eq!(client.closed().await, code, "{:.60}", frame);
    }
}

#[tokio::test]
async fn a_connection_that_never_says_hello_is_closed() {
    let node = quick(Timings { hello_ms: 100, ..Timings::default() }).await;
    let mut client = Client::connect(node.addr, Encoding::Json).await;
    assert_eq!(client.closed().await, 4503);
}

#[tokio::test]
async fn wrong_and_expired_tokens_and_bad_revs_have_their_codes() {
    let node = Node::start().await;
    let keys = { crate::backend::Backend::keys(&*node.fake).borrow().clone() };
    let user = UserId::parse("alice").expect("a user");
    let old = crate::auth::jwt::issue(&keys, ClusterId(7), &user, DeviceId(1), TsMs(1_000)).expect("signs").token;
    for (token, code) in [("nonsense", 4502), ("dev:", 4502), ("dev:no spaces", 4502), (old.as_str(), 4100)] {
        let mut client = Client::connect(node.addr, Encoding::Json).await;
        client.say(ClientFrame::Hello(Client::hello_frame(token, "1"))).await;
        assert_eq!(client.closed().await, code, "{token}");
    }
    let mut client = Client::connect(node.addr, Encoding::Json).await;
    let rev = Some(RevToken("what".into()));
    client.say(ClientFrame::Hello(Hello { rev, ..Client::hello_frame("dev:alice", "1") })).await;
    assert_eq!(client.closed().await, 4200);
    let strict = Node::with(Options::default()).await;
    let mut client = Client::connect(strict.addr, Encoding::Json).await;
    client.say(ClientFrame::Hello(Client::hello_frame("dev:alice", "1"))).await;
    assert_eq!(client.closed().await, 4502, "demo users only where they are allowed");
}

#[tokio::test]
async fn bad_frames_on_an_open_session() {
    let node = Node::start().await;
    drop(node.caught_up("bob", "1").await);
    let mut alice = node.caught_up("alice", "1").await;
    alice.raw(br#"{"t":"future","id":5,"d":{}}"#.to_vec()).await;
    assert!(matches!(alice.answer(5).await, ServerFrame::Error(e) if e.code == ErrorCode::Unsupported));
    alice.raw(br#"{"t":"send","id":6,"d":{"cid":"not a uuid"}}"#.to_vec()).await;
    assert!(matches!(alice.answer(6).await, ServerFrame::Error(e) if e.code == ErrorCode::BadRequest));
    assert_eq!(alice.error(message("bob", 1, "")).await, ErrorCode::ValidationFailed);
    assert_eq!(
        alice.error(message("bob", 1, &"x".repeat(limits::BODY_BYTES_MAX + 1))).await,
        ErrorCode::PayloadTooLarge
    );
    assert_eq!(alice.send("bob", 1, &"x".repeat(limits::BODY_BYTES_MAX)).await.seq, Seq(1));
    assert_eq!(alice.error(message("nobody", 2, "x")).await, ErrorCode::NotFound);
    let foreign = ClientFrame::Send(SendMessage {
        conv: Some(direct("bob", "carol")),
        to: None,
        ..match message("bob", 3, "x") {
            ClientFrame::Send(send) => send,
            _ => unreachable!("a send"),
        }
    });
    assert!(matches!(alice.error(foreign).await, ErrorCode::NotMember | ErrorCode::NotFound | ErrorCode::Forbidden));
    let history = History { conv: direct("bob", "carol"), before: None, after: None, around: None, limit: None };
    assert_eq!(alice.error(ClientFrame::History(history)).await, ErrorCode::NotMember);
    // Of several frames in one message those before a bad one count.
    let good = r#"{"t":"call","id":9,"d":{"method":"GET me"}}"#;
    alice.raw(format!("{good}\n{{\"t\":").into_bytes()).await;
    assert!(matches!(alice.until(|f| matches!(f, ServerFrame::Reply(_))).await, ServerFrame::Reply(_)));
    assert_eq!(alice.closed().await, 4500);
}

#[tokio::test]
async fn too_big_too_many_second_hello_and_the_wrong_encoding_close() {
    let node = Node::start().await;
    let mut alice = node.caught_up("alice", "1").await;
    alice.raw(vec![b'x'; limits::MESSAGE_BYTES_MAX + 1]).await;
    assert_eq!(alice.closed().await, 4507);
    let mut alice = node.caught_up("alice", "1").await;
    let pongs = (0..65).map(|_| ClientMessage { id: None, frame: ClientFrame::Pong }).collect();
    alice.say_all(pongs).await;
    assert_eq!(alice.closed().await, 4500);
    let mut alice = node.caught_up("alice", "1").await;
    alice.say(ClientFrame::Hello(Client::hello_frame("dev:alice", "1"))).await;
    assert_eq!(alice.closed().await, 4508);
    let mut alice = node.caught_up("alice", "1").await;
    alice.encoding = Encoding::MsgPack;
    alice.say(ClientFrame::Pong).await;
    alice.encoding = Encoding::Json;
    assert_eq!(alice.closed().await, 4500);
}

#[tokio::test]
async fn subprotocols_and_origins() {
    let node =
        Node::with(Options { dev_auth: true, origins: vec!["https://chat.example".into()], ..Options::default() })
            .await;
    let mut client = Client::connect(node.addr, Encoding::MsgPack).await;
    client.hello("alice", "1", None).await;
    let mut client = Client::offer(node.addr, None, Some("https://chat.example"), Encoding::Json).await;
    client.hello("alice", "1", None).await;
    let mut client = Client::offer(node.addr, Some("soap"), None, Encoding::Json).await;
    assert_eq!(client.closed().await, 4501);
    let mut client = Client::offer(node.addr, None, Some("https://evil.example"), Encoding::Json).await;
    assert_eq!(client.closed().await, 4510);
}

#[tokio::test]
async fn a_newer_connection_takes_over_and_the_older_learns_why() {
    let node = Node::start().await;
    let hello = Client::hello_frame("dev:alice", "1");
    let mut first = Client::connect(node.addr, Encoding::Json).await;
    first.say(ClientFrame::Hello(Hello { attempt: 1, ..hello.clone() })).await;
    first.until(|f| matches!(f, ServerFrame::CaughtUp(_))).await;
    let mut second = Client::connect(node.addr, Encoding::Json).await;
    second.say(ClientFrame::Hello(Hello { attempt: 2, ..hello.clone() })).await;
    assert_eq!(first.closed().await, 4007, "same instance");
    let mut late = Client::connect(node.addr, Encoding::Json).await;
    late.say(ClientFrame::Hello(Hello { attempt: 1, ..hello.clone() })).await;
    assert_eq!(late.closed().await, 4007, "a lower attempt of the same instance");
    let mut other = Client::connect(node.addr, Encoding::Json).await;
    other.say(ClientFrame::Hello(Hello { instance: Instance(5), ..hello })).await;
    assert_eq!(second.closed().await, 4504, "another instance");
    other.until(|f| matches!(f, ServerFrame::CaughtUp(_))).await;
    drop(other);
    eventually("all are detached", || node.fake.sessions() == 0).await;
}

#[tokio::test]
async fn a_hello_whose_client_is_gone_meanwhile_opens_nothing() {
    let node = Node::start().await;
    node.fake.faults().hold_opens = true;
    let mut dead = Client::connect(node.addr, Encoding::Json).await;
    dead.say(ClientFrame::Hello(Client::hello_frame("dev:alice", "1"))).await;
    eventually("the hello waits for a leader", || node.fake.sessions() == 1).await;
    drop(dead);
    eventually("nobody waits for it", || node.fake.sessions() == 0).await;
    node.fake.faults().hold_opens = false;
    let alive = node.device("alice", "1").await;
    assert_eq!(alive.ready.expect("said hello").session, SessionNo(1), "the first that was opened");
}

#[tokio::test]
async fn an_open_of_unknown_outcome_holds_no_session_however_late_it_comes() {
    let node = Node::start().await;
    node.fake.faults().lose_open = true;
    let mut alice = Client::connect(node.addr, Encoding::Json).await;
    let hello = Client::hello_frame("dev:alice", "1");
    alice.say(ClientFrame::Hello(hello.clone())).await;
    assert_eq!(alice.closed().await, 4006);
    eventually("the attempt is withdrawn", || node.shared.withdrawals.is_empty()).await;
    let late = node.fake.faults().lost_open.take().expect("it was under way");
    assert_eq!(node.fake.apply(late), Reply::Rejected(Rejection::Superseded));
    let mut again = Client::connect(node.addr, Encoding::Json).await;
    again.say(ClientFrame::Hello(Hello { attempt: 1, ..hello })).await;
    again.until(|f| matches!(f, ServerFrame::CaughtUp(_))).await;
}

#[tokio::test]
async fn a_revoked_device_is_closed_and_drain_says_goodbye() {
    let node = Node::start().await;
    let mut alice = node.caught_up("alice", "1").await;
    let mut bob = node.caught_up("bob", "1").await;
    let path = format!("/v1/devices/{}", device_of(&alice));
    let (status, _) = node.http("DELETE", &path, &[("authorization", "Bearer dev:alice")], "").await;
    assert_eq!(status, 200);
    assert_eq!(alice.closed().await, 4505);
    node.fake.node.send_modify(|view| view.draining = true);
    bob.until(|f| matches!(f, ServerFrame::Goaway(g) if g.urls == ["http://there"])).await;
    assert_eq!(bob.closed().await, 4001);
}

#[tokio::test]
async fn connections_over_the_cap_are_refused_and_a_place_comes_back() {
    let node = Node::with(Options { dev_auth: true, connections_per_address_max: 2, ..Options::default() }).await;
    let a = node.caught_up("alice", "1").await;
    let _b = node.caught_up("bob", "1").await;
    let (status, problem) = node.http("GET", "/livez", &[], "").await;
    assert_eq!((status, problem["code"].as_str()), (429, Some("too_many_requests")), "told, whatever was asked");
    assert!(problem["retry_after_ms"].is_u64(), "{problem}");
    drop(a);
    eventually("the place comes back", || node.shared.figures.connections.get() == 1).await;
    node.caught_up("carol", "1").await;
}

#[tokio::test]
async fn a_silent_client_is_pinged_and_then_given_up() {
    let node = quick(Timings { ping_after_ms: 250, silence_max_ms: 600, ..Timings::default() }).await;
    let mut alice = node.caught_up("alice", "1").await;
    alice.until(|f| matches!(f, ServerFrame::Ping)).await;
    alice.say(ClientFrame::Pong).await;
    alice.until(|f| matches!(f, ServerFrame::Ping)).await;
    assert_eq!(alice.closed().await, 4002);
}

#[tokio::test]
async fn a_client_that_never_acks_is_closed() {
    let node = quick(Timings { unacked_max_ms: 300, ..Timings::default() }).await;
    let mut bob = node.caught_up("bob", "1").await;
    let mut alice = node.caught_up("alice", "1").await;
    alice.send("bob", 1, "x").await;
    bob.entry().await;
    loop {
        match bob.next().await {
            Said::Frame(m) if matches!(m.frame, ServerFrame::Ping) => bob.say(ClientFrame::Pong).await,
            Said::Frame(_) => {}
            Said::Closed(code) => break assert_eq!(code, 4003),
        }
    }
}

#[tokio::test]
async fn a_lost_store_gets_a_new_device() {
    let node = Node::start().await;
    let alice = node.caught_up("alice", "1").await;
    let device = device_of(&alice);
    drop(alice);
    let mut client = Client::connect(node.addr, Encoding::Json).await;
    let hello = Hello { device: Some(device), ..Client::hello_frame("dev:alice", "another store") };
    client.say(ClientFrame::Hello(hello)).await;
    let ServerFrame::Ready(ready) = client.frame().await else { panic!("ready comes first") };
    assert_eq!(ready.reset, Some(Reset::NewDevice));
    assert_ne!(ready.device, device);
}

#[tokio::test]
async fn many_connections_that_never_say_hello_go_away_by_themselves() {
    let node = quick(Timings { hello_ms: 300, ..Timings::default() }).await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(Client::connect(node.addr, Encoding::Json).await);
    }
    let mut alice = node.caught_up("alice", "1").await;
    eventually("only alice is left", || node.shared.figures.connections.get() == 1).await;
    assert_eq!(alice.send("alice", 1, "still here").await.seq, Seq(1));
    assert_eq!(silent[0].closed().await, 4503);
}

#[tokio::test]
async fn a_reader_that_never_reads_is_dropped_and_bounded_meanwhile() {
    let node = quick(Timings { socket_full_max_ms: 500, ..Timings::default() }).await;
    let mut alice = node.caught_up("alice", "1").await;
    let body = "x".repeat(limits::BODY_BYTES_MAX);
    let conv = alice.send("alice", 1, &body).await.conv;
    let history =
        || ClientFrame::History(History { conv: conv.clone(), before: None, after: None, around: None, limit: None });
    let end = tokio::time::Instant::now() + PATIENCE;
    while node.shared.figures.connections.get() > 0 {
        assert!(tokio::time::Instant::now() < end, "never dropped");
        let _ = tokio::time::timeout(Duration::from_millis(50), alice.ask(history())).await;
    }
}

/// It said its last word before its socket was full, so the time for silence runs out first.
#[tokio::test]
async fn a_reader_that_never_reads_is_called_slow_and_not_silent() {
    let node = quick(Timings { silence_max_ms: 700, ..Timings::default() }).await;
    let mut alice = node.caught_up("alice", "1").await;
    let body = "x".repeat(limits::BODY_BYTES_MAX);
    let conv = alice.send("alice", 1, &body).await.conv;
    let history =
        || ClientFrame::History(History { conv: conv.clone(), before: None, after: None, around: None, limit: None });
    let closes = |code| node.shared.figures.registry.counter("flotilla_closes_total", "", &[("code", code)]).get();
    let end = tokio::time::Instant::now() + PATIENCE;
    while closes("4003") == 0 {
        assert!(tokio::time::Instant::now() < end && closes("4002") == 0, "closed with another code, or never");
        let _ = tokio::time::timeout(Duration::from_millis(20), alice.ask(history())).await;
    }
}

/// Run by hand, with clients in another process: prints the address, then the resident memory of this process.
#[tokio::test]
#[ignore = "a measurement, not a check"]
async fn memory_of_idle_connections() {
    let node = Node::start().await;
    println!("ADDR {}", node.addr);
    let rss = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        status.lines().find(|l| l.starts_with("VmRSS")).map(str::to_owned)
    };
    for _ in 0..30 {
        println!("{} sessions, {:?}", node.shared.figures.sessions.get(), rss());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
