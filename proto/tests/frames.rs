//! Both encodings of every frame: round trips, golden vectors for other languages, and bytes from nowhere.

use flotilla_proto::entry::{Entry, HistoryAccess, Role, What, body_hash};
use flotilla_proto::frame::codec::{decode_client, decode_server, encode_client, encode_server};
use flotilla_proto::frame::*;
use flotilla_proto::ids::*;
use proptest::prelude::*;

const BOTH: [Encoding; 2] = [Encoding::Json, Encoding::MsgPack];

fn user(name: &str) -> UserId {
    UserId::parse(name).expect("valid")
}

fn conv() -> ConvId {
    ConvId::direct(&user("alice"), &user("bob"))
}

fn sample_whats() -> Vec<What> {
    let message = |kind: &str| What::Message {
        kind: kind.into(),
        body: Blob::from(b"hello \xff\x00".to_vec()),
        reply_to: Some(Seq(1)),
        mentions: vec![user("bob")],
        media: Some("m1".into()),
    };
    vec![
        message("message"),
        message("poll"),
        What::Edit { target: Seq(1), body: Blob::from(b"new".to_vec()) },
        What::Delete { target: Seq(1) },
        What::React { target: Seq(1), emoji: "👍".into(), on: false },
        What::Create { name: "crew".into(), members: vec![user("bob")], history: HistoryAccess::Full },
        What::Add { users: vec![user("carol")] },
        What::Remove { user: user("carol") },
        What::Leave { heir: Some(user("bob")) },
        What::Leave { heir: None },
        What::SetRole { user: user("bob"), role: Role::Admin },
        What::Rename { name: "new crew".into() },
        What::SetHistory { history: HistoryAccess::FromJoin },
    ]
}

fn entry(seq: u64, what: What) -> Entry {
    let cid = Cid(0x0123_4567_89ab_4def_8123_4567_89ab_cdef);
    let mut entry = Entry {
        conv: conv(),
        seq: Seq(seq),
        n: Count(1),
        msg_id: MsgId(u64::MAX - 1),
        ts: TsMs(1_790_000_000_000),
        from: user("alice"),
        device: DeviceId(7),
        cid,
        kind: what.kind().to_owned(),
        body_hash: body_hash(cid, &what),
        what: Some(what),
        chain: Hash32::default(),
    };
    entry.chain = entry.chain_after(Hash32::default());
    entry
}

fn client_samples() -> Vec<(&'static str, ClientMessage)> {
    let cid = Cid(0x0123_4567_89ab_4def_8123_4567_89ab_cdef);
    let send = SendMessage {
        conv: None,
        to: Some(user("bob")),
        cid,
        age_s: None,
        after: None,
        kind: "message".into(),
        body: Blob::from(b"hi \xff".to_vec()),
        mentions: vec![],
        reply_to: None,
        media: None,
    };
    let hello = Hello {
        token: "dev:alice".into(),
        device: None,
        install: "s3cret".into(),
        instance: Instance(5),
        attempt: 1,
        rev: None,
        client: ClientInfo { name: "x".into(), version: "1".into(), platform: "linux".into() },
        window: None,
        state: Activity::Active,
    };
    let resumed = Hello {
        device: Some(DeviceId(7)),
        rev: Some(RevToken("1.42".into())),
        window: Some(64),
        state: Activity::Background,
        ..hello.clone()
    };
    let retried = SendMessage {
        conv: Some(conv()),
        to: None,
        age_s: Some(9),
        after: Some(Cid(2)),
        reply_to: Some(Seq(3)),
        mentions: vec![user("bob")],
        media: Some("m1".into()),
        ..send.clone()
    };
    let history = History { conv: conv(), before: Some(Seq(9)), after: None, around: None, limit: Some(50) };
    let call = Call { method: "POST groups".into(), key: Some(cid), params: serde_json::json!({"name": "crew"}) };
    let at = AckItem { conv: conv(), seq: Seq(3) };
    let frames = vec![
        ("hello", None, ClientFrame::Hello(hello)),
        ("hello_resumed", None, ClientFrame::Hello(resumed)),
        ("auth", Some(1), ClientFrame::Auth(Auth { token: "t".into() })),
        ("send_to_user", Some(2), ClientFrame::Send(send)),
        ("send_retried", Some(3), ClientFrame::Send(retried)),
        (
            "edit",
            Some(4),
            ClientFrame::Edit(Edit {
                conv: conv(),
                seq: Seq(3),
                cid,
                age_s: None,
                after: None,
                body: Blob::from(b"x".to_vec()),
            }),
        ),
        ("delete", Some(5), ClientFrame::Delete(Delete { conv: conv(), seq: Seq(3), cid, age_s: None, after: None })),
        (
            "react",
            Some(6),
            ClientFrame::React(React {
                conv: conv(),
                seq: Seq(3),
                cid,
                age_s: None,
                after: None,
                emoji: "👍".into(),
                on: true,
            }),
        ),
        ("ack", None, ClientFrame::Ack(vec![at.clone()])),
        ("read", None, ClientFrame::Read(at)),
        ("typing", None, ClientFrame::Typing(Typing { conv: conv() })),
        ("presence", Some(7), ClientFrame::Presence(Watch { watch: vec![user("bob")] })),
        ("receipts", Some(11), ClientFrame::Receipts(WatchReceipts { watch: vec![conv()] })),
        ("history", Some(8), ClientFrame::History(history)),
        ("sync", Some(9), ClientFrame::Sync(SyncRequest { rev: Some(RevToken("1.42".into())), limit: Some(10) })),
        ("call", Some(10), ClientFrame::Call(call)),
        ("state", None, ClientFrame::State(State { state: Activity::Background })),
        ("pong", None, ClientFrame::Pong),
    ];
    frames.into_iter().map(|(name, id, frame)| (name, ClientMessage { id, frame })).collect()
}

fn server_samples() -> Vec<(String, ServerMessage)> {
    let ready = Ready {
        session: SessionNo(u64::MAX),
        node: NodeId(1),
        user: user("alice"),
        device: DeviceId(7),
        rev: RevToken("1.42".into()),
        server_time: TsMs(1_790_000_000_000),
        token_expires_at: Some(TsMs(1_790_000_900_000)),
        limits: Limits::default(),
        urls: vec!["http://127.0.0.1:4001".into()],
        reset: Some(Reset::NewDevice),
    };
    let state = Conv {
        rev: RevToken("1.42".into()),
        conv: conv(),
        kind: ConvKind::Direct,
        name: None,
        head: Seq(9),
        n_head: Count(8),
        read: Seq(3),
        unread: 5,
        peer: Some(PeerMarks { user: user("bob"), delivered: Seq(9), read: Seq(2) }),
        wrev: 0,
        role: None,
        member: true,
        mseq: Seq(1),
        last_ts: TsMs(5),
        settings: None,
    };
    let gap = Gap {
        conv: conv(),
        from: Seq(3),
        to: Seq(9),
        reason: GapReason::Restored,
        chain_before: Some(Hash32([7; 32])),
    };
    let accepted =
        Accepted { conv: conv(), seq: Seq(3), msg_id: MsgId(9), ts: TsMs(5), chain: Hash32([9; 32]), dup: false };
    let mut error = ErrorBody::new(ErrorCode::Overloaded, "later");
    error.retry_after_ms = Some(500);
    error.request_id = "r1".into();
    let signal = Signal {
        k: "auth_expiring".into(),
        conv: None,
        user: None,
        delivered: None,
        read: None,
        at: Some(TsMs(5)),
        state: None,
        members: None,
    };
    let marks = |name: &str, delivered, read| MemberMarks { user: user(name), delivered: Seq(delivered), read };
    let members = vec![marks("alice", 9, Some(Seq(9))), marks("bob", 7, None)];
    let receipts = ReceiptsReply { receipts: vec![ConvReceipts { conv: conv(), members: members.clone() }] };
    let moved = Signal { k: "receipts".into(), conv: Some(conv()), at: None, members: Some(members), ..signal.clone() };
    let page = HistoryReply { entries: vec![EntryFrame::of(&entry(2, sample_whats().swap_remove(0)))], more: true };
    let urls = vec!["http://127.0.0.1:4002".to_owned()];
    let mut frames = vec![
        ("ready".to_owned(), None, ServerFrame::Ready(ready)),
        ("accepted".into(), Some(2), ServerFrame::Accepted(accepted)),
        ("reply_history".into(), Some(8), ServerFrame::Reply(Reply::History(page))),
        (
            "reply_sync".into(),
            Some(9),
            ServerFrame::Reply(Reply::Sync(SyncReply {
                convs: vec![state.clone()],
                rev: RevToken("1.42".into()),
                more: false,
            })),
        ),
        ("reply_value".into(), Some(10), ServerFrame::Reply(Reply::Value(serde_json::json!({"conv": "x", "n": [1]})))),
        (
            "reply_receipts".into(),
            Some(11),
            ServerFrame::Reply(Reply::Value(serde_json::to_value(receipts).expect("encodes"))),
        ),
        ("error".into(), Some(3), ServerFrame::Error(error)),
        ("gap".into(), None, ServerFrame::Gap(gap)),
        ("conv".into(), None, ServerFrame::Conv(Box::new(state))),
        (
            "caught_up".into(),
            None,
            ServerFrame::CaughtUp(CaughtUp { rev: RevToken("1.42".into()), behind: vec![conv()] }),
        ),
        ("signal".into(), None, ServerFrame::Signal(signal)),
        ("signal_receipts".into(), None, ServerFrame::Signal(moved)),
        ("urls".into(), None, ServerFrame::Urls(Urls { urls: urls.clone() })),
        ("goaway".into(), None, ServerFrame::Goaway(Goaway { reason: "shutdown".into(), reconnect_in_ms: 100, urls })),
        ("ping".into(), None, ServerFrame::Ping),
    ];
    for (i, what) in sample_whats().into_iter().enumerate() {
        let name = format!("entry_{}_{i}", what.kind());
        frames.push((name, None, ServerFrame::Entry(Box::new(EntryFrame::of(&entry(i as u64 + 1, what))))));
    }
    let mut redacted = entry(40, sample_whats().swap_remove(0));
    frames.push(("entry_echo".into(), None, ServerFrame::Entry(Box::new(EntryFrame::echo_of(&redacted)))));
    redacted.what = None;
    frames.push(("entry_redacted".into(), None, ServerFrame::Entry(Box::new(EntryFrame::of(&redacted)))));
    frames.into_iter().map(|(name, id, frame)| (name, ServerMessage { id, frame })).collect()
}

fn packed_client(encoding: Encoding, message: &ClientMessage) -> Vec<u8> {
    let mut out = Vec::new();
    encode_client(encoding, message, &mut out);
    out
}

fn packed_server(encoding: Encoding, message: &ServerMessage) -> Vec<u8> {
    let mut out = Vec::new();
    encode_server(encoding, message, &mut out);
    out
}

#[test]
fn every_client_frame_comes_back_from_both_encodings() {
    for (name, message) in client_samples() {
        for encoding in BOTH {
            let back = decode_client(encoding, &packed_client(encoding, &message), CodecLimits::OPEN);
            assert_eq!(back.frames, [Decoded::Message(message.clone())], "{name} in {encoding:?}: {:?}", back.bad);
            assert_eq!(back.bad, None);
        }
    }
}

#[test]
fn every_server_frame_comes_back_from_both_encodings() {
    for (name, message) in server_samples() {
        for encoding in BOTH {
            let back = decode_server(encoding, &packed_server(encoding, &message), CodecLimits::OPEN);
            assert_eq!(back.frames, [Decoded::Message(message.clone())], "{name} in {encoding:?}: {:?}", back.bad);
            assert_eq!(back.bad, None);
        }
    }
}

#[test]
fn many_frames_travel_in_one_message_and_those_before_a_bad_one_count() {
    for encoding in BOTH {
        let mut out = Vec::new();
        for (_, message) in client_samples() {
            encode_client(encoding, &message, &mut out);
        }
        let whole = decode_client(encoding, &out, CodecLimits::OPEN);
        assert_eq!(whole.frames.len(), client_samples().len());
        if encoding == Encoding::Json {
            out.push(b'\n');
        }
        out.extend_from_slice(b"\xc1{");
        let cut = decode_client(encoding, &out, CodecLimits::OPEN);
        assert_eq!(cut.frames, whole.frames);
        assert!(matches!(cut.bad, Some(FrameError::Malformed { .. })), "{:?}", cut.bad);
    }
}

#[test]
fn an_entry_frame_leads_back_to_its_entry_and_its_hashes() {
    for (i, what) in sample_whats().into_iter().enumerate() {
        let entry = entry(i as u64 + 1, what);
        let back = EntryFrame::of(&entry).to_entry();
        assert_eq!(back, entry);
        assert_eq!(body_hash(back.cid, back.what.as_ref().expect("whole")), entry.body_hash);
        assert_eq!(back.chain_after(Hash32::default()), entry.chain);
        assert_eq!(EntryFrame::echo_of(&entry).to_entry(), Entry { what: None, ..entry });
    }
}

#[test]
fn any_key_order_unknown_fields_and_unknown_frames_are_taken() {
    let text = br#"{"d":{"x":1,"seq":3,"conv":"d05alice03bob"},"extra":[{}],"t":"read"}
{"t":"teleport","d":{"far":true}}

{"id":7,"t":"teleport"}
{"t":"pong"}
{"t":"send","id":9,"d":{"cid":"nope"}}"#;
    let got = decode_client(Encoding::Json, text, CodecLimits::OPEN);
    assert_eq!(got.bad, None);
    assert_eq!(got.frames.len(), 4, "the unknown frame without id is ignored");
    assert!(
        matches!(&got.frames[0], Decoded::Message(ClientMessage { frame: ClientFrame::Read(r), .. }) if r.seq == Seq(3))
    );
    assert_eq!(got.frames[1], Decoded::Unknown { t: "teleport".into(), id: 7 });
    assert!(matches!(&got.frames[3], Decoded::Invalid { t, id: 9, .. } if t == "send"));
}

#[test]
fn hello_may_leave_the_device_empty() {
    for device in ["", r#""device":"","#, r#""device":null,"#] {
        let text =
            format!(r#"{{"t":"hello","d":{{{device}"token":"dev:a","install":"x","instance":"{}"}}}}"#, Instance(3));
        let got = decode_client(Encoding::Json, text.as_bytes(), CodecLimits::BEFORE_HELLO);
        let Some(Decoded::Message(ClientMessage { frame: ClientFrame::Hello(hello), .. })) = got.frames.first() else {
            panic!("{got:?}");
        };
        assert_eq!(hello.device, None);
    }
}

#[test]
fn limits_of_bytes_and_frames_hold() {
    let pong = packed_client(Encoding::Json, &ClientMessage { id: None, frame: ClientFrame::Pong });
    let limits = CodecLimits { bytes: 1_000, frames: 3 };
    let four = [&pong[..], &pong, &pong, &pong].join(&b'\n');
    let got = decode_client(Encoding::Json, &four, limits);
    assert_eq!((got.frames.len(), got.bad), (3, Some(FrameError::TooMany { limit: 3 })));
    let got = decode_client(Encoding::Json, &[b' '; 1_001], limits);
    assert_eq!(got.bad, Some(FrameError::TooBig { bytes: 1_001, limit: 1_000 }));
    assert!(decode_client(Encoding::MsgPack, &[], limits).bad.is_some());
}

#[test]
fn the_largest_body_fits_a_message_in_every_encoding() {
    let body = Blob::from(vec![0xff; flotilla_proto::limits::BODY_BYTES_MAX]);
    let what = What::Message {
        kind: "k".repeat(flotilla_proto::limits::KIND_BYTES_MAX),
        body,
        reply_to: Some(Seq(u64::MAX >> 12)),
        mentions: (0..50).map(|i| user(&format!("{i:064}"))).collect(),
        media: Some("m".repeat(flotilla_proto::limits::MEDIA_BYTES_MAX)),
    };
    let mut largest = entry(u64::MAX >> 12, what);
    largest.conv = ConvId::direct(&user(&"a".repeat(64)), &user(&"b".repeat(64)));
    let message = ServerMessage { id: None, frame: ServerFrame::Entry(Box::new(EntryFrame::of(&largest))) };
    for encoding in BOTH {
        assert!(packed_server(encoding, &message).len() < flotilla_proto::limits::MESSAGE_BYTES_MAX, "{encoding:?}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// `UPDATE_GOLDEN=1 cargo test -p flotilla-proto` writes the files anew: only for additive changes.
fn check_golden(file: &str, vectors: Vec<serde_json::Value>) {
    let path = format!("{}/tests/golden/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = serde_json::to_string_pretty(&vectors).expect("encodes") + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).expect("golden file is writable");
    }
    let committed = std::fs::read_to_string(&path).expect("golden file exists");
    assert_eq!(committed, text, "the wire format changed: every client in the field speaks the committed one");
}

#[test]
fn golden_vectors_of_client_frames_stand() {
    let vector = |(name, m): (&str, ClientMessage)| {
        let json = String::from_utf8(packed_client(Encoding::Json, &m)).expect("text");
        serde_json::json!({"name": name, "json": json, "msgpack": hex(&packed_client(Encoding::MsgPack, &m))})
    };
    check_golden("client.json", client_samples().into_iter().map(vector).collect());
}

#[test]
fn golden_vectors_of_server_frames_stand() {
    let vector = |(name, m): (String, ServerMessage)| {
        let json = String::from_utf8(packed_server(Encoding::Json, &m)).expect("text");
        assert!(json.starts_with(r#"{"t":""#), "servers write t first");
        serde_json::json!({"name": name, "json": json, "msgpack": hex(&packed_server(Encoding::MsgPack, &m))})
    };
    check_golden("server.json", server_samples().into_iter().map(vector).collect());
}

fn any_user() -> impl Strategy<Value = UserId> {
    "[a-z0-9_.-]{1,64}".prop_map(|name| user(&name))
}

fn any_what() -> impl Strategy<Value = What> {
    let seq = (0u64..1 << 52).prop_map(Seq);
    let body = proptest::collection::vec(any::<u8>(), 0..300).prop_map(Blob::from);
    prop_oneof![
        (body.clone(), proptest::option::of(seq.clone()), proptest::collection::vec(any_user(), 0..4)).prop_map(
            |(body, reply_to, mentions)| What::Message {
                kind: "message".into(),
                body,
                reply_to,
                mentions,
                media: None
            }
        ),
        (seq.clone(), body).prop_map(|(target, body)| What::Edit { target, body }),
        (seq, any::<String>(), any::<bool>()).prop_map(|(target, emoji, on)| What::React { target, emoji, on }),
        (any::<String>(), proptest::collection::vec(any_user(), 0..4)).prop_map(|(name, members)| What::Create {
            name,
            members,
            history: HistoryAccess::Full
        }),
    ]
}

proptest! {
    #[test]
    fn any_entry_comes_back_whole(what in any_what(), seq in 1u64..1 << 52, id in any::<Option<u32>>(), raw in any::<u128>()) {
        let mut entry = entry(seq, what);
        (entry.cid, entry.device, entry.msg_id) = (Cid(raw), DeviceId(!raw), MsgId(raw as u64));
        let message = ServerMessage { id, frame: ServerFrame::Entry(Box::new(EntryFrame::of(&entry))) };
        for encoding in BOTH {
            let back = decode_server(encoding, &packed_server(encoding, &message), CodecLimits::OPEN);
            prop_assert_eq!(&back.frames, &[Decoded::Message(message.clone())]);
        }
        prop_assert_eq!(EntryFrame::of(&entry).to_entry(), entry);
    }

    #[test]
    fn bytes_from_nowhere_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        for encoding in BOTH {
            let _ = decode_client(encoding, &bytes, CodecLimits::OPEN);
            let _ = decode_server(encoding, &bytes, CodecLimits::OPEN);
        }
    }

    #[test]
    fn damaged_frames_never_panic(which in 0usize..64, at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        for encoding in BOTH {
            let samples = server_samples();
            let mut bytes = packed_server(encoding, &samples[which % samples.len()].1);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if cut { bytes.truncate(at); }
            let _ = decode_server(encoding, &bytes, CodecLimits::OPEN);
            let samples = client_samples();
            let mut bytes = packed_client(encoding, &samples[which % samples.len()].1);
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = decode_client(encoding, &bytes, CodecLimits::OPEN);
        }
    }
}
