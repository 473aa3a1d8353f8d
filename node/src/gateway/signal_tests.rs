//! Presence and typing over a real socket.

use flotilla_proto::frame::*;
use flotilla_proto::ids::*;
use flotilla_proto::limits;

use crate::testing::client::{Client, Node, Said};

fn user(name: &str) -> UserId {
    UserId::parse(name).expect("a user")
}

fn watch(names: &[&str]) -> ClientFrame {
    ClientFrame::Presence(Watch { watch: names.iter().map(|name| user(name)).collect() })
}

/// The states in the answer to a watch, in order of users.
async fn states(client: &mut Client, names: &[&str]) -> Vec<String> {
    let id = client.ask(watch(names)).await;
    match client.answer(id).await {
        ServerFrame::Reply(Reply::Value(value)) => {
            let all = value["presence"].as_array().expect("a list").iter();
            all.map(|one| one["state"].as_str().expect("a state").to_owned()).collect()
        }
        other => panic!("expected a snapshot, got {other:?}"),
    }
}

async fn signal(client: &mut Client) -> Signal {
    match client.until(|f| matches!(f, ServerFrame::Signal(_))).await {
        ServerFrame::Signal(signal) => signal,
        _ => unreachable!("just matched"),
    }
}

#[tokio::test]
async fn a_watcher_is_told_when_who_it_watches_comes_and_goes() {
    let node = Node::start().await;
    drop(node.caught_up("bob", "1").await);
    let mut alice = node.caught_up("alice", "1").await;
    while node.fake.sessions() > 1 {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    let bobs = states(&mut alice, &["bob", "carol"]).await;
    assert_eq!(bobs[1], "hidden", "carol does not exist");
    let bob = node.caught_up("bob", "1").await;
    let came = loop {
        let signal = signal(&mut alice).await;
        if signal.state.as_deref() == Some("online") {
            break signal;
        }
    };
    assert_eq!((came.k.as_str(), came.user, came.at), ("presence", Some(user("bob")), None));
    drop(bob);
    let left = signal(&mut alice).await;
    assert_eq!((left.state.as_deref(), left.at.is_some()), (Some("offline"), true));
    // In the background nothing comes; back again, the latest does.
    alice.say(ClientFrame::State(State { state: Activity::Background })).await;
    let _bob = node.caught_up("bob", "1").await;
    let id = alice.ask(ClientFrame::Sync(SyncRequest::default())).await;
    loop {
        match alice.next().await {
            Said::Frame(message) if message.id == Some(id) => break,
            Said::Frame(message) => assert!(!matches!(message.frame, ServerFrame::Signal(_)), "{message:?}"),
            Said::Closed(code) => panic!("closed with {code}"),
        }
    }
    alice.say(ClientFrame::State(State { state: Activity::Active })).await;
    assert_eq!(signal(&mut alice).await.state.as_deref(), Some("online"));
}

#[tokio::test]
async fn too_many_watched_users_are_refused_and_duplicates_are_not() {
    let node = Node::start().await;
    let mut alice = node.caught_up("alice", "1").await;
    let many: Vec<String> = (0..=limits::WATCH_MAX).map(|n| format!("u{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(alice.error(watch(&many)).await, ErrorCode::ValidationFailed);
    assert_eq!(states(&mut alice, &["alice"; 300]).await, ["online"]);
    assert!(states(&mut alice, &[]).await.is_empty());
}

#[tokio::test]
async fn typing_reaches_the_others_once_in_three_seconds_and_is_never_stored() {
    let node = Node::start().await;
    let mut bob = node.caught_up("bob", "1").await;
    let mut alice = node.caught_up("alice", "1").await;
    let conv = alice.send("bob", 1, "hi").await.conv;
    let typing = || ClientFrame::Typing(Typing { conv: conv.clone() });
    for _ in 0..3 {
        alice.say(typing()).await;
    }
    let heard = signal(&mut bob).await;
    assert_eq!((heard.k.as_str(), heard.user, heard.conv.as_ref()), ("typing", Some(user("alice")), Some(&conv)));
    // What comes next at bob is the message: no second signal was on its way.
    alice.send("bob", 2, "there").await;
    let next = bob.until(|f| matches!(f, ServerFrame::Signal(_) | ServerFrame::Entry(_)) && !is_first(f)).await;
    assert!(matches!(next, ServerFrame::Entry(_)), "{next:?}");
    // A stranger's typing is nobody's.
    let mut eve = node.caught_up("eve", "1").await;
    eve.say(typing()).await;
    alice.send("bob", 3, "!").await;
    let next = bob.until(|f| matches!(f, ServerFrame::Signal(_) | ServerFrame::Entry(_))).await;
    assert!(matches!(next, ServerFrame::Entry(_)), "{next:?}");
}

fn is_first(frame: &ServerFrame) -> bool {
    matches!(frame, ServerFrame::Entry(entry) if entry.seq == Seq(1))
}

/// A setting of one device is a `conv` frame at the others, in rev order; a read takes the mark "unread" away everywhere.
#[tokio::test]
async fn what_one_device_settles_the_others_hear() {
    let node = Node::start().await;
    let mut alice = node.caught_up("alice", "1").await;
    let mut bob = node.caught_up("bob", "1").await;
    let mut other = node.caught_up("bob", "2").await;
    let conv = alice.send("bob", 1, "hi").await.conv;
    bob.entry().await;
    bob.ack(&conv, 1).await;
    let method = format!("PATCH conversations/{conv}/settings");
    let params = serde_json::json!({ "unread": true, "hide_read": true });
    let id = bob.ask(ClientFrame::Call(Call { method, key: None, params })).await;
    assert!(matches!(bob.answer(id).await, ServerFrame::Reply(_)));
    let settled = |name: &'static str, wanted: bool| {
        move |f: &ServerFrame| match f {
            ServerFrame::Conv(conv) => conv.settings.as_ref().is_some_and(|s| s[name] == true) == wanted,
            _ => false,
        }
    };
    other.until(settled("unread", true)).await;
    bob.say(ClientFrame::Read(AckItem { conv: conv.clone(), seq: Seq(1) })).await;
    let ServerFrame::Conv(read) = other.until(settled("unread", false)).await else { unreachable!("just matched") };
    assert_eq!((read.read, read.settings.is_some_and(|s| s["hide_read"] == true)), (Seq(1), true));
    // Delivered reaches alice, read does not.
    let ServerFrame::Conv(seen) = alice
        .until(|f| matches!(f, ServerFrame::Conv(c) if c.peer.as_ref().is_some_and(|p| p.delivered == Seq(1))))
        .await
    else {
        unreachable!("just matched")
    };
    assert_eq!(seen.peer.map(|p| p.read), Some(Seq(0)));
}

#[tokio::test]
async fn sends_above_the_limit_are_told_when_to_come_again() {
    use crate::gateway::shared::Options;
    let limited = Options { dev_auth: true, sends_per_user: 1, sends_per_conversation: 1_000, ..Options::default() };
    let node = Node::with(limited).await;
    drop(node.caught_up("bob", "1").await);
    let mut alice = node.caught_up("alice", "1").await;
    assert_eq!(alice.ready.as_ref().expect("said hello").limits.sends_per_user, 1);
    let mut refused = None;
    for cid in 1..=1 + u128::from(limits::RATE_BURST_SECONDS) {
        let id = alice.ask(crate::testing::client::message("bob", cid, "x")).await;
        refused = match alice.answer(id).await {
            ServerFrame::Error(error) => Some(error),
            _ => None,
        };
    }
    let refused = refused.expect("one send too many");
    assert_eq!((refused.code, refused.retryable), (ErrorCode::TooManyRequests, true));
    let wait = refused.retry_after_ms.expect("when to come again");
    assert!((1..=1_000).contains(&wait), "{wait}");
    tokio::time::sleep(std::time::Duration::from_millis(wait)).await;
    alice.send("bob", 99, "in time").await;
}
