//! The model and its picture together: what a person sees, line by line.

use flotilla_client::device::Event;
use flotilla_proto::entry::Role;
use flotilla_proto::frame::{Conv, ConvReceipts, EntryFrame, MemberMarks, PeerMarks, RevToken, Signal, Target};
use flotilla_proto::ids::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{Event as Input, KeyCode, KeyEvent, KeyModifiers};

use super::keys::on_terminal;
use super::model::{Action, Answer, Model};
use super::view::draw;

fn user(name: &str) -> UserId {
    UserId::parse(name).expect("valid")
}

fn with(peer: &str) -> ConvId {
    ConvId::direct(&user("alice"), &user(peer))
}

fn entry(conv: &ConvId, seq: u64, from: &str, text: &str) -> EntryFrame {
    serde_json::from_value(serde_json::json!({
        "conv": conv, "seq": seq, "n": seq, "msg_id": seq.to_string(), "ts": 1_795_305_600_000u64 + seq * 60_000,
        "from": from, "device": DeviceId(1), "cid": Cid(u128::from(seq)), "kind": "message",
        "body_hash": Hash32([0; 32]), "chain": Hash32([0; 32]), "body": Blob::from(text.as_bytes().to_vec()),
    }))
    .expect("a whole frame")
}

fn conv(conv: &ConvId, head: u64, read: u64, unread: u64) -> Conv {
    Conv {
        rev: RevToken::new(Epoch(1), Rev(1)),
        conv: conv.clone(),
        kind: conv.kind(),
        name: None,
        head: Seq(head),
        n_head: Count(head),
        read: Seq(read),
        unread,
        peer: None,
        wrev: 0,
        role: None,
        member: true,
        mseq: Seq(0),
        last_ts: TsMs(head),
        settings: None,
    }
}

fn at_node_1() -> Event {
    let url = "http://127.0.0.1:4001".to_owned();
    Event::Connected { url, node: NodeId(1), user: user("alice"), device: DeviceId(1) }
}

fn connected(to: Option<&str>) -> Model {
    let mut model = Model::new(user("alice"), to.map(|peer| Target::User(user(peer))));
    model.on_event(at_node_1());
    model.on_event(Event::CaughtUp { behind: vec![] });
    model
}

fn press(model: &mut Model, code: KeyCode) -> Vec<Action> {
    on_terminal(model, Input::Key(KeyEvent::new(code, KeyModifiers::NONE)))
}

fn control(model: &mut Model, c: char) -> Vec<Action> {
    on_terminal(model, Input::Key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL)))
}

fn type_in(model: &mut Model, text: &str) -> Vec<Action> {
    text.chars().flat_map(|c| press(model, KeyCode::Char(c))).collect()
}

fn picture(model: &mut Model, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a screen in memory");
    terminal.draw(|frame| draw(frame, model)).expect("draws");
    let buffer = terminal.backend().buffer();
    let row = |y: u16| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(row).collect()
}

fn shows(model: &mut Model, width: u16, height: u16, wanted: &str) {
    let rows = picture(model, width, height);
    assert!(rows.iter().any(|row| row.contains(wanted)), "{wanted:?} is not in\n{}", rows.join("\n"));
}

#[test]
fn a_message_goes_from_typed_to_read() {
    let mut model = connected(Some("bob"));
    let bob = with("bob");
    model.on_event(Event::Entry(Box::new(entry(&bob, 1, "bob", "hi"))));
    type_in(&mut model, "hello bob");
    let actions = press(&mut model, KeyCode::Enter);
    let [Action::Send { cid, target, text }] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!((target, text.as_str()), (&Target::User(user("bob")), "hello bob"));
    shows(&mut model, 80, 12, "alice: hello bob …");
    let cid = *cid;
    model.on_answer(Answer::Sent { conv: bob.clone(), cid, failed: None });
    model.on_event(Event::Entry(Box::new(EntryFrame { cid, ..entry(&bob, 2, "alice", "hello bob") })));
    shows(&mut model, 80, 12, "00:02 alice: hello bob ✓");
    let marks = |delivered, read| Some(PeerMarks { user: user("bob"), delivered: Seq(delivered), read: Seq(read) });
    model.on_event(Event::Conv(Box::new(Conv { peer: marks(2, 1), ..conv(&bob, 2, 1, 0) })));
    shows(&mut model, 80, 12, "hello bob ✓✓");
    model.on_event(Event::Conv(Box::new(Conv { peer: marks(2, 2), ..conv(&bob, 2, 1, 0) })));
    shows(&mut model, 80, 12, "hello bob ✓✓ read");
    // It stands there once.
    let rows = picture(&mut model, 80, 12);
    assert_eq!(rows.iter().filter(|r| r.contains("alice: hello bob")).count(), 1, "{rows:#?}");
}

#[test]
fn a_refused_message_says_why_and_stays() {
    let mut model = connected(Some("bob"));
    type_in(&mut model, "hm");
    let actions = press(&mut model, KeyCode::Enter);
    let [Action::Send { cid, .. }] = actions.as_slice() else { panic!("{actions:?}") };
    model.on_answer(Answer::Sent { conv: with("bob"), cid: *cid, failed: Some("not sent: blocked".into()) });
    shows(&mut model, 80, 12, "hm ✖ not sent: blocked");
}

#[test]
fn unread_counts_rise_and_fall_with_reading() {
    let mut model = connected(None);
    model.on_event(Event::Conv(Box::new(conv(&with("bob"), 3, 1, 2))));
    model.on_event(Event::Entry(Box::new(entry(&with("bob"), 3, "bob", "counted already"))));
    model.on_event(Event::Entry(Box::new(entry(&with("bob"), 4, "bob", "new"))));
    shows(&mut model, 80, 12, "bob");
    assert_eq!(model.rooms[&with("bob")].unread, 3);
    // Looking through the list reads nothing.
    assert!(press(&mut model, KeyCode::Down).iter().all(|a| !matches!(a, Action::Read { .. })));
    let actions = press(&mut model, KeyCode::Enter);
    assert!(actions.contains(&Action::Read { conv: with("bob"), seq: Seq(4) }), "{actions:?}");
    assert_eq!(model.rooms[&with("bob")].unread, 0);
    // Not while the person is away from it.
    press(&mut model, KeyCode::Esc);
    assert!(model.on_event(Event::Entry(Box::new(entry(&with("bob"), 5, "bob", "x")))).is_empty());
    assert_eq!(model.rooms[&with("bob")].unread, 1);
    // Read on another device.
    model.on_event(Event::Conv(Box::new(conv(&with("bob"), 5, 5, 0))));
    assert_eq!(model.rooms[&with("bob")].unread, 0);
}

#[test]
fn scrolling_back_asks_for_older_pages_and_stays_in_place_when_a_message_comes() {
    let mut model = connected(Some("bob"));
    let bob = with("bob");
    let page =
        |from: u64, to: u64| (from..=to).map(|n| entry(&bob, n, "bob", &format!("line {n}"))).collect::<Vec<_>>();
    model.on_answer(Answer::Page { conv: bob.clone(), entries: page(51, 100), more: true });
    shows(&mut model, 60, 13, "line 100");
    let mut asked = Vec::new();
    for _ in 0..10 {
        asked.extend(press(&mut model, KeyCode::PageUp));
        picture(&mut model, 60, 13);
    }
    assert_eq!(asked, [Action::Page { conv: bob.clone(), before: Some(Seq(51)) }], "once, while it loads");
    let before = picture(&mut model, 60, 13);
    assert!(before.iter().any(|r| r.contains("line 51")), "{before:#?}");
    let actions = model.on_event(Event::Entry(Box::new(entry(&bob, 101, "bob", "line 101"))));
    assert!(actions.is_empty(), "not read: it is not on the screen");
    assert_eq!(picture(&mut model, 60, 13)[1..9], before[1..9], "the picture does not move");
    shows(&mut model, 60, 13, "newest");
    model.on_answer(Answer::Page { conv: bob.clone(), entries: page(1, 50), more: false });
    picture(&mut model, 60, 13);
    for _ in 0..10 {
        press(&mut model, KeyCode::PageUp);
        picture(&mut model, 60, 13);
    }
    shows(&mut model, 60, 13, "the beginning");
    let actions = press(&mut model, KeyCode::End);
    assert_eq!(actions, [Action::Read { conv: bob, seq: Seq(101) }]);
    shows(&mut model, 60, 13, "line 101");
}

#[test]
fn edits_deletions_and_reactions_change_what_stands_there() {
    let mut model = connected(Some("bob"));
    let bob = with("bob");
    let about = |seq, kind: &str, target, body: Option<&str>| EntryFrame {
        kind: kind.into(),
        target: Some(Seq(target)),
        body: body.map(|b| Blob::from(b.as_bytes().to_vec())),
        ..entry(&bob, seq, "bob", "")
    };
    for n in 1..=2 {
        model.on_event(Event::Entry(Box::new(entry(&bob, n, "bob", &format!("first {n}")))));
    }
    // The newest edit counts, in whatever order pages bring them.
    model.on_event(Event::Entry(Box::new(about(4, "edit", 1, Some("second edit")))));
    model.on_event(Event::Entry(Box::new(about(3, "edit", 1, Some("first edit")))));
    model.on_event(Event::Entry(Box::new(about(5, "delete", 2, None))));
    let react = EntryFrame { emoji: Some("+1".into()), on: Some(true), ..about(6, "react", 1, None) };
    model.on_event(Event::Entry(Box::new(react)));
    shows(&mut model, 80, 12, "bob: second edit (edited) [+1]");
    shows(&mut model, 80, 12, "bob: (deleted)");
}

#[test]
fn presence_typing_and_a_lost_connection_are_told() {
    let mut model = connected(Some("bob"));
    model.on_event(Event::Entry(Box::new(entry(&with("bob"), 1, "bob", "hi"))));
    model.on_answer(Answer::Presence(vec![(user("bob"), "online".into())]));
    shows(&mut model, 80, 12, "● bob  online");
    let signal = |k: &str, state: Option<&str>| Signal {
        k: k.into(),
        conv: Some(with("bob")),
        user: Some(user("bob")),
        delivered: None,
        read: None,
        at: None,
        state: state.map(Into::into),
        members: None,
    };
    model.on_event(Event::Signal(signal("typing", None)));
    shows(&mut model, 80, 12, "bob is typing…");
    model.now_ms += 5_000;
    assert!(!picture(&mut model, 80, 12).iter().any(|r| r.contains("typing")));
    model.on_event(Event::Signal(signal("presence", Some("offline"))));
    shows(&mut model, 80, 12, "○ bob  offline");
    model.on_event(Event::Disconnected { code: 1006, reason: "socket lost".into() });
    shows(&mut model, 80, 12, "reconnecting, what you type is kept (socket lost)");
    // And it is taken while there is no connection.
    type_in(&mut model, "later");
    assert!(matches!(press(&mut model, KeyCode::Enter).as_slice(), [Action::Send { .. }]));
    model.on_event(Event::Stopped { code: 4505, reason: "device_revoked".into() });
    shows(&mut model, 80, 12, "closed: 4505 device_revoked");
}

#[test]
fn every_size_of_a_window_is_drawn() {
    let mut model = connected(Some("bob"));
    for n in 1..=30 {
        let text = "the quick 世界 brown fox jumps over everything ".repeat(n as usize % 4 + 1);
        model.on_event(Event::Entry(Box::new(entry(&with("bob"), n, "bob", &text))));
        model.on_event(Event::Entry(Box::new(entry(&with(&format!("user{n}")), n, "carol", &text))));
    }
    type_in(&mut model, &"wide 世 ".repeat(30));
    for width in (0..100).step_by(3) {
        for height in 0..24 {
            for code in [KeyCode::PageUp, KeyCode::Tab, KeyCode::F(1), KeyCode::Down, KeyCode::Enter, KeyCode::PageDown]
            {
                picture(&mut model, width, height);
                press(&mut model, code);
            }
        }
    }
    control(&mut model, 'n');
    shows(&mut model, 100, 24, "●");
}

#[test]
fn narrow_windows_show_the_list_or_the_conversation() {
    let mut model = connected(Some("bob"));
    model.on_event(Event::Entry(Box::new(entry(&with("bob"), 1, "bob", "hi"))));
    model.on_event(Event::Entry(Box::new(entry(&with("carol"), 1, "carol", "psst"))));
    let talk = picture(&mut model, 40, 10);
    assert!(!talk.iter().any(|r| r.contains("conversations")), "{talk:#?}");
    press(&mut model, KeyCode::Esc);
    shows(&mut model, 40, 10, "conversations");
    shows(&mut model, 40, 10, "psst");
    press(&mut model, KeyCode::Tab);
    shows(&mut model, 40, 10, "bob: hi");
}

#[test]
fn foreign_control_characters_never_reach_the_terminal() {
    let mut model = connected(Some("bob"));
    model.on_event(Event::Entry(Box::new(entry(&with("bob"), 1, "bob", "a\u{1b}[2Jb\u{202e}c\u{7}"))));
    shows(&mut model, 80, 12, "bob: a\u{fffd}[2Jb\u{fffd}c\u{fffd}");
}

#[test]
fn help_opens_and_closes_and_ctrl_c_leaves() {
    let mut model = connected(Some("bob"));
    press(&mut model, KeyCode::F(1));
    shows(&mut model, 80, 24, "/group NAME USER...");
    press(&mut model, KeyCode::Char('x'));
    assert!(!model.help && model.input.is_empty());
    assert_eq!(control(&mut model, 'c'), [Action::Quit]);
    type_in(&mut model, "/nonsense");
    press(&mut model, KeyCode::Enter);
    shows(&mut model, 80, 24, "/nonsense is not a command");
}

fn group(kind: ConvKind) -> ConvId {
    match kind {
        ConvKind::Channel => ConvId::channel(&user("bob"), Cid(7)),
        _ => ConvId::group(&user("bob"), Cid(7)),
    }
}

fn listed(conv: Conv, mentions: u64) -> Answer {
    let mut row = serde_json::to_value(conv).expect("encodes");
    row["members"] = 3.into();
    if mentions > 0 {
        row["mentions"] = serde_json::json!({"count": mentions, "first": 1});
    }
    Answer::Listed(serde_json::from_value(serde_json::json!({"convs": [row], "next": null})).expect("a page"))
}

#[test]
fn a_row_of_the_list_that_cannot_be_read_takes_no_other_along_and_is_spoken_of() {
    let mut model = connected(None);
    let row = serde_json::to_value(Conv { name: Some("crew".into()), ..conv(&group(ConvKind::Group), 4, 1, 3) });
    let page = serde_json::json!({ "convs": [{ "conv": 7 }, row.expect("encodes")], "next": null });
    model.on_answer(Answer::Listed(serde_json::from_value(page).expect("a page")));
    shows(&mut model, 80, 12, "# crew");
    shows(&mut model, 80, 12, "1 conversation of the list cannot be read");
}

#[test]
fn who_is_named_sees_it_in_the_list_and_in_the_conversation_until_it_is_read() {
    let mut model = connected(None);
    let crew = group(ConvKind::Group);
    model.on_answer(listed(Conv { name: Some("crew".into()), ..conv(&crew, 4, 1, 3) }, 2));
    let badge = |model: &mut Model, wanted: &str| {
        let rows = picture(model, 80, 12);
        let row = rows.iter().find(|row| row.starts_with("# crew")).cloned().unwrap_or_default();
        let list: String = row.chars().take(26).collect();
        assert!(list.trim_end_matches(['│', ' ']).ends_with(wanted), "{wanted:?}: {rows:#?}");
    };
    badge(&mut model, " @2 3");
    let named =
        |seq, from: &str| EntryFrame { mentions: vec![user("alice")], ..entry(&crew, seq, from, "@alice, look") };
    model.on_event(Event::Entry(Box::new(named(5, "bob"))));
    shows(&mut model, 80, 12, "bob names you in crew");
    model.on_event(Event::Entry(Box::new(entry(&crew, 6, "bob", "nobody is named here"))));
    badge(&mut model, " @3 5");
    // The list was asked before the last two came.
    model.on_answer(listed(conv(&crew, 4, 1, 3), 2));
    badge(&mut model, " @3 5");
    // Part of it was read on another device: how many of the rest name her the server says.
    let actions = model.on_event(Event::Conv(Box::new(conv(&crew, 6, 4, 2))));
    assert!(actions.contains(&Action::List { after: None }), "{actions:?}");
    model.on_answer(listed(conv(&crew, 6, 4, 2), 1));
    badge(&mut model, " @1 2");
    press(&mut model, KeyCode::Down);
    press(&mut model, KeyCode::Enter);
    badge(&mut model, "# crew");
    shows(&mut model, 80, 12, "@ 00:05 bob: @alice, look");
    shows(&mut model, 80, 12, "  00:06 bob: nobody");
    // Nothing is said of what is read at once, nor of her own words.
    for seq in [7, 8] {
        model.on_event(Event::Entry(Box::new(named(seq, if seq == 7 { "bob" } else { "alice" }))));
    }
    assert_eq!((model.notice.as_deref(), model.rooms[&crew].mentions), (None, 0));
    shows(&mut model, 80, 12, "  00:08 alice: @alice, look");
}

#[test]
fn what_blocked_people_write_in_groups_is_marked_and_in_sight_only_on_demand() {
    let mut model = connected(None);
    assert!(model.on_event(at_node_1()).contains(&Action::Blocks), "at each connect");
    model.on_event(Event::CaughtUp { behind: vec![] });
    let crew = group(ConvKind::Group);
    model.on_answer(listed(Conv { name: Some("crew".into()), ..conv(&crew, 0, 0, 0) }, 0));
    model.on_answer(Answer::Blocked([user("bob")].into()));
    model.on_event(Event::Entry(Box::new(entry(&with("bob"), 1, "bob", "from before the block"))));
    for (seq, from, text) in [(1, "carol", "good morning"), (2, "bob", "nobody wants to read that")] {
        let named = EntryFrame { mentions: vec![user("alice")], ..entry(&crew, seq, from, text) };
        model.on_event(Event::Entry(Box::new(named)));
    }
    assert_eq!(model.notice.as_deref(), Some("carol names you in crew"), "not for a blocked one");
    // The list does not show it either.
    shows(&mut model, 80, 14, "(blocked)");
    type_in(&mut model, &format!("/in {crew}"));
    press(&mut model, KeyCode::Enter);
    shows(&mut model, 80, 14, "@ 00:01 carol: good morning");
    shows(&mut model, 80, 14, "× 00:02 bob: (you have blocked this person");
    let shown = |model: &mut Model| picture(model, 80, 14).iter().any(|row| row.contains("nobody wants"));
    assert!(!shown(&mut model));
    for visible in [true, false] {
        type_in(&mut model, "/blocked");
        assert!(press(&mut model, KeyCode::Enter).is_empty());
        assert_eq!(shown(&mut model), visible);
        shows(&mut model, 80, 14, if visible { "× 00:02 bob: nobody wants" } else { "is out of sight" });
    }
    // In a direct conversation stands what was accepted before; what came later was refused.
    type_in(&mut model, "/to bob");
    press(&mut model, KeyCode::Enter);
    shows(&mut model, 80, 14, "bob: from before the block");
    shows(&mut model, 80, 14, "bob  blocked by you");
    // Lifted on another device: known with the next connection.
    model.on_answer(Answer::Blocked([].into()));
    type_in(&mut model, &format!("/in {crew}"));
    press(&mut model, KeyCode::Enter);
    shows(&mut model, 80, 14, "@ 00:02 bob: nobody wants");
}

#[test]
fn in_a_group_ticks_say_what_holds_for_all_and_the_newest_how_many_have_read_it() {
    let mut model = connected(None);
    let crew = group(ConvKind::Group);
    let actions = model.enter(crew.clone());
    assert!(actions.contains(&Action::Receipts(Some(crew.clone()))), "{actions:?}");
    let of = |name: &str, delivered, read| MemberMarks {
        user: user(name),
        delivered: Seq(delivered),
        read: Some(Seq(read)).filter(|read| *read > Seq(0)),
    };
    for seq in 1..=2 {
        model.on_event(Event::Entry(Box::new(entry(&crew, seq, "alice", &format!("word {seq}")))));
    }
    shows(&mut model, 80, 12, "word 2 ✓");
    let members = vec![of("alice", 2, 2), of("bob", 1, 1), of("carol", 1, 0)];
    model.on_answer(Answer::Receipts(vec![ConvReceipts { conv: crew.clone(), members }]));
    shows(&mut model, 80, 12, "word 1 ✓✓");
    let ends = |model: &mut Model, text: &str| picture(model, 80, 12).iter().any(|row| row.ends_with(text));
    assert!(ends(&mut model, "word 2 ✓") && ends(&mut model, "word 1 ✓✓"));
    let moved = |model: &mut Model, members: Vec<MemberMarks>| {
        let signal = serde_json::json!({"k": "receipts", "conv": crew.clone(), "members": members});
        model.on_event(Event::Signal(serde_json::from_value(signal).expect("a signal")));
    };
    moved(&mut model, vec![of("carol", 2, 1), of("bob", 2, 2)]);
    shows(&mut model, 80, 12, "word 1 ✓✓ read");
    shows(&mut model, 80, 12, "word 2 ✓✓ read by 1 of 2");
    // An older signal that comes late takes nothing back.
    moved(&mut model, vec![of("bob", 1, 1)]);
    shows(&mut model, 80, 12, "word 2 ✓✓ read by 1 of 2");
    moved(&mut model, vec![of("carol", 2, 2)]);
    assert!(ends(&mut model, "word 2 ✓✓ read"));
    // Who comes, is asked for; in the next conversation nobody of this one is.
    let added = EntryFrame { kind: "add".into(), users: Some(vec![user("dave")]), ..entry(&crew, 3, "bob", "") };
    let actions = model.on_event(Event::Entry(Box::new(added)));
    assert!(actions.contains(&Action::Receipts(Some(crew))), "{actions:?}");
    assert!(model.enter(with("bob")).contains(&Action::Receipts(None)));
    assert!(!model.enter(with("carol")).iter().any(|action| matches!(action, Action::Receipts(_))));
}

#[test]
fn a_channel_is_written_by_its_admins_and_read_by_all() {
    let mut model = connected(None);
    let news = group(ConvKind::Channel);
    let as_role = |role| Conv { name: Some("news".into()), role: Some(role), ..conv(&news, 1, 0, 1) };
    model.on_answer(listed(as_role(Role::Member), 0));
    press(&mut model, KeyCode::Down);
    press(&mut model, KeyCode::Enter);
    shows(&mut model, 80, 12, "» news  3 members, you read only");
    shows(&mut model, 80, 12, "› only admins write in this channel");
    assert!(type_in(&mut model, "may I?").is_empty(), "no typing is told of");
    assert!(press(&mut model, KeyCode::Enter).is_empty());
    assert_eq!(
        (model.notice.as_deref(), model.input.text()),
        (Some("only admins write in this channel"), "may I?".into())
    );
    control(&mut model, 'u');
    type_in(&mut model, "//leave");
    assert!(press(&mut model, KeyCode::Enter).is_empty());
    assert_eq!(model.input.text(), "//leave", "not the command that it would be with one slash less");
    control(&mut model, 'u');
    type_in(&mut model, "/leave");
    assert_eq!(press(&mut model, KeyCode::Enter), [Action::Leave(news.clone())]);
    model.on_event(Event::Conv(Box::new(as_role(Role::Admin))));
    type_in(&mut model, "hear, hear");
    assert!(matches!(press(&mut model, KeyCode::Enter).as_slice(), [Action::Send { .. }]));
    model.on_event(Event::Conv(Box::new(Conv { member: false, ..as_role(Role::Admin) })));
    shows(&mut model, 80, 12, "› you are not a member any more");
    type_in(&mut model, "/channel more bob");
    let made = Action::Channel { name: "more".into(), users: vec![user("bob")] };
    assert_eq!(press(&mut model, KeyCode::Enter), [made]);
    press(&mut model, KeyCode::Esc);
    model.on_event(Event::Entry(Box::new(EntryFrame {
        kind: "create".into(),
        name: Some("news".into()),
        members: Some(vec![user("alice")]),
        ..entry(&news, 1, "bob", "")
    })));
    shows(&mut model, 80, 12, "bob made the channel “news” with alice");
}

#[test]
fn a_group_of_others_says_so_and_a_conversation_that_is_not_made_yet_says_nothing() {
    let mut model = connected(None);
    for (conv, wanted) in [(with("carol"), None), (group(ConvKind::Group), Some("not a member of this conversation"))] {
        type_in(&mut model, &format!("/in {conv}"));
        press(&mut model, KeyCode::Enter);
        model.on_answer(Answer::NoPage { conv, why: "not a member of this conversation".into() });
        assert_eq!(model.notice.as_deref(), wanted);
    }
}
