//! Live receipts over a real socket, with the real rules; what leaders gather and lose is not here.

use std::sync::{Arc, Mutex};

use flotilla_machine::Query;
use flotilla_proto::frame::*;
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use serde_json::json;

use crate::testing::client::{Client, Node};

/// A node at the newest level, and a group that ann has made.
async fn crew(members: &[&str]) -> (Node, ConvId) {
    let node = Node::start().await;
    node.fake.raise_level(limits::FEATURE_LEVEL);
    for member in members.iter().chain(&["ann"]) {
        drop(node.caught_up(member, "1").await);
    }
    let conv = group(&node, members).await;
    (node, conv)
}

async fn group(node: &Node, members: &[&str]) -> ConvId {
    let (status, made) =
        node.post("/v1/groups", "dev:ann", &json!({"name": "crew", "members": members}).to_string()).await;
    assert_eq!(status, 200, "{made}");
    ConvId::parse(made["conv"].as_str().expect("an id")).expect("valid")
}

fn watch(convs: &[&ConvId]) -> ClientFrame {
    ClientFrame::Receipts(WatchReceipts { watch: convs.iter().map(|conv| (*conv).clone()).collect() })
}

fn rows(members: &[MemberMarks]) -> Vec<(&str, u64, Option<u64>)> {
    members.iter().map(|m| (m.user.as_str(), m.delivered.0, m.read.map(|read| read.0))).collect()
}

async fn looks(client: &mut Client, convs: &[&ConvId]) -> Vec<ConvReceipts> {
    let id = client.ask(watch(convs)).await;
    match client.answer(id).await {
        ServerFrame::Reply(Reply::Value(value)) => {
            serde_json::from_value::<ReceiptsReply>(value).expect("an answer about receipts").receipts
        }
        other => panic!("expected receipts, got {other:?}"),
    }
}

async fn signal(client: &mut Client) -> Vec<MemberMarks> {
    match client.until(|f| matches!(f, ServerFrame::Signal(_))).await {
        ServerFrame::Signal(Signal { k, members: Some(members), conv: Some(_), .. }) if k == "receipts" => members,
        other => panic!("expected marks, got {other:?}"),
    }
}

/// Takes everything up to this seq, and reads it if so wanted.
async fn takes(client: &mut Client, conv: &ConvId, seq: u64, reads: bool) {
    while client.entry().await.seq < Seq(seq) {}
    client.ack(conv, seq).await;
    if reads {
        client.say(ClientFrame::Read(AckItem { conv: conv.clone(), seq: Seq(seq) })).await;
    }
}

/// No signal is on its way.
async fn hears_nothing(client: &mut Client) {
    client.ask(ClientFrame::Sync(SyncRequest::default())).await;
    client
        .until(|frame| {
            assert!(!matches!(frame, ServerFrame::Signal(_)), "{frame:?}");
            matches!(frame, ServerFrame::Reply(_))
        })
        .await;
}

/// Until this user's read mark is where others see it.
async fn registered(node: &Node, conv: &ConvId, user: &str, delivered: u64, read: u64) {
    loop {
        let query =
            Query::Marks { conv: conv.clone(), of: Some(vec![UserId::parse(user).expect("valid")]), watchers: vec![] };
        let flotilla_machine::Answer::Marks(view) = node.fake.ask(&query) else { panic!("no marks") };
        if view.marks.first().is_some_and(|m| (m.delivered, m.read) == (Seq(delivered), Seq(read))) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

async fn patch(node: &Node, path: &str, user: &str, body: &str) {
    let (status, answer) = node.http("PATCH", path, &[("authorization", &format!("Bearer dev:{user}"))], body).await;
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test]
async fn a_watcher_is_told_how_far_members_are_and_whose_marks_move() {
    let (node, conv) = crew(&["bob"]).await;
    let mut ann = node.caught_up("ann", "1").await;
    let now = looks(&mut ann, &[&conv]).await;
    assert_eq!((now.len(), &now[0].conv), (1, &conv));
    let before = rows(&now[0].members);
    assert_eq!(before.iter().map(|row| row.0).collect::<Vec<_>>(), ["ann", "bob"]);
    let mut bob = node.device("bob", "1").await;
    takes(&mut bob, &conv, 1, true).await;
    let mut heard = Vec::new();
    while !heard.contains(&("bob".to_owned(), 1, Some(1))) {
        let members = signal(&mut ann).await;
        heard.extend(rows(&members).iter().map(|(user, delivered, read)| ((*user).to_owned(), *delivered, *read)));
    }
    // In the background nothing comes; back again, the highest does.
    ann.say(ClientFrame::State(State { state: Activity::Background })).await;
    hears_nothing(&mut ann).await;
    let (status, _) = node.post(&format!("/v1/conversations/{conv}/messages"), "dev:ann", r#"{"body":"aGk"}"#).await;
    assert_eq!(status, 200);
    takes(&mut bob, &conv, 2, true).await;
    registered(&node, &conv, "bob", 2, 2).await;
    hears_nothing(&mut ann).await;
    ann.say(ClientFrame::State(State { state: Activity::Active })).await;
    let members = signal(&mut ann).await;
    assert!(rows(&members).contains(&("bob", 2, Some(2))), "{members:?}");
    // Nobody is watched any more.
    assert!(looks(&mut ann, &[]).await.is_empty());
    let (status, _) = node.post(&format!("/v1/conversations/{conv}/messages"), "dev:ann", r#"{"body":"aGk"}"#).await;
    assert_eq!(status, 200);
    takes(&mut bob, &conv, 3, true).await;
    registered(&node, &conv, "bob", 3, 3).await;
    hears_nothing(&mut ann).await;
}

#[tokio::test]
async fn hidden_read_marks_are_told_to_nobody_and_who_hides_them_is_told_those_of_nobody() {
    let (node, conv) = crew(&["bob", "eve"]).await;
    patch(&node, "/v1/me/privacy", "bob", r#"{"hide_read": true}"#).await;
    let mut ann = node.caught_up("ann", "1").await;
    let mut bob = node.device("bob", "1").await;
    let mut eve = node.device("eve", "1").await;
    // Another device of his: what a client looks for, it takes out of the others' way.
    let mut bobs = node.device("bob", "2").await;
    for client in [&mut ann, &mut bobs] {
        assert_eq!(looks(client, &[&conv]).await.len(), 1);
    }
    takes(&mut bob, &conv, 1, true).await;
    takes(&mut eve, &conv, 1, true).await;
    for (client, wanted) in [(&mut ann, ("eve", 1, Some(1))), (&mut bobs, ("eve", 1, None))] {
        let mut said: Vec<MemberMarks> = Vec::new();
        while !rows(&said).contains(&wanted) {
            said = signal(client).await;
            assert!(rows(&said).iter().all(|row| row.0 != "bob" || row.2.is_none()), "{said:?}");
        }
    }
    registered(&node, &conv, "bob", 1, 0).await;
    let seen =
        |now: &[ConvReceipts]| rows(&now[0].members).iter().map(|row| (row.0.to_owned(), row.2)).collect::<Vec<_>>();
    let eves = |now: Vec<ConvReceipts>| seen(&now).iter().find(|row| row.0 == "eve").and_then(|row| row.1);
    assert_eq!(eves(looks(&mut ann, &[&conv]).await), Some(1));
    assert_eq!(eves(looks(&mut bobs, &[&conv]).await), None);
    // Nobody can tell whether ann hides hers: she is shown none for now, and all as soon as somebody can.
    node.fake.faults().refuses = Some(Box::new(|query| matches!(query, Query::Hiding { .. })));
    assert_eq!(eves(looks(&mut ann, &[&conv]).await), None);
    node.fake.faults().refuses = None;
    let told = signal(&mut ann).await;
    assert!(rows(&told).contains(&("eve", 1, Some(1))), "{told:?}");
    // Of one conversation only.
    patch(&node, &format!("/v1/conversations/{conv}/settings"), "eve", r#"{"hide_read": true}"#).await;
    let (status, _) = node.post(&format!("/v1/conversations/{conv}/messages"), "dev:ann", r#"{"body":"aGk"}"#).await;
    assert_eq!(status, 200);
    takes(&mut eve, &conv, 2, true).await;
    registered(&node, &conv, "eve", 2, 1).await;
    loop {
        let told = signal(&mut ann).await;
        let eves = rows(&told).into_iter().find(|row| row.0 == "eve");
        assert!(eves.is_none_or(|row| row.2.unwrap_or_default() <= 1), "{told:?}");
        if eves.is_some_and(|row| row.1 == 2) {
            break;
        }
    }
}

#[tokio::test]
async fn those_who_watch_share_one_question_whether_they_hide_their_reads() {
    let others = ["eve", "joe", "kim"];
    let (node, conv) = crew(&["bob", "eve", "joe", "kim"]).await;
    node.fake.faults().shards = Some(|_| ShardId(1));
    let mut bob = node.device("bob", "1").await;
    let mut watchers = Vec::new();
    for user in others {
        let mut watcher = node.caught_up(user, "1").await;
        looks(&mut watcher, &[&conv]).await;
        watchers.push(watcher);
    }
    let asked = Arc::new(Mutex::new(Vec::new()));
    let note = asked.clone();
    node.fake.faults().refuses = Some(Box::new(move |query| {
        if let Query::Hiding { users } = query {
            note.lock().expect("no panic").push(users.len());
        }
        false
    }));
    takes(&mut bob, &conv, 1, true).await;
    for watcher in &mut watchers {
        while !rows(&signal(watcher).await).contains(&("bob", 1, Some(1))) {}
    }
    let asked = asked.lock().expect("no panic");
    assert!(!asked.is_empty() && asked.iter().all(|users| *users == others.len()), "{asked:?}");
}

#[tokio::test]
async fn lists_that_are_too_long_or_of_others_are_refused_and_who_leaves_hears_no_more() {
    let (node, conv) = crew(&["bob"]).await;
    let mut eve = node.caught_up("eve", "1").await;
    assert_eq!(eve.error(watch(&[&conv])).await, ErrorCode::NotMember);
    let user = |name: &str| UserId::parse(name).expect("valid");
    let direct = |a: &str, b: &str| ConvId::direct(&user(a), &user(b));
    assert_eq!(eve.error(watch(&[&direct("ann", "bob")])).await, ErrorCode::NotMember);
    assert_eq!(eve.error(watch(&[&ConvId::group(&user("eve"), Cid(1))])).await, ErrorCode::NotFound);
    let mut bob = node.caught_up("bob", "1").await;
    let many: Vec<ConvId> = (0..=limits::RECEIPT_WATCHES_MAX).map(|n| direct("bob", &format!("u{n}"))).collect();
    assert_eq!(bob.error(watch(&many.iter().collect::<Vec<_>>())).await, ErrorCode::ValidationFailed);
    // Each once. Of the peer of a direct conversation its own frames tell.
    let both = looks(&mut bob, &[&conv, &conv, &many[0]]).await;
    assert_eq!(
        both.iter().map(|one| (one.conv.kind(), one.members.len())).collect::<Vec<_>>(),
        [(ConvKind::Direct, 0), (ConvKind::Group, 2)]
    );
    let path = format!("/v1/conversations/{conv}/members/bob");
    let (status, gone) = node.http("DELETE", &path, &[("authorization", "Bearer dev:ann")], "").await;
    assert_eq!(status, 200, "{gone}");
    let mut ann = node.device("ann", "1").await;
    takes(&mut ann, &conv, 2, true).await;
    registered(&node, &conv, "ann", 2, 2).await;
    hears_nothing(&mut bob).await;
    assert_eq!(bob.error(watch(&[&conv])).await, ErrorCode::NotMember);
}

#[tokio::test]
async fn in_pull_mode_a_watch_is_taken_and_says_nothing() {
    let (node, _) = crew(&["bob"]).await;
    let body = json!({"name": "news", "kind": "channel", "members": ["bob"]}).to_string();
    let (status, made) = node.post("/v1/groups", "dev:ann", &body).await;
    assert_eq!(status, 200, "{made}");
    let conv = ConvId::parse(made["conv"].as_str().expect("an id")).expect("valid");
    let mut ann = node.caught_up("ann", "1").await;
    assert_eq!(looks(&mut ann, &[&conv]).await, [ConvReceipts { conv, members: vec![] }]);
}
