//! Frames and commands, both ways. Bodies are 256 bytes.

use std::hint::black_box;

use flotilla_machine::command::{Append, Command};
use flotilla_proto::entry::{Entry, What};
use flotilla_proto::frame::codec::{decode_client, encode_server};
use flotilla_proto::frame::{CodecLimits, Encoding, EntryFrame, ServerFrame, ServerMessage};
use flotilla_proto::ids::*;

use crate::Piece;
use crate::applying::{body, user};

struct Step<F: FnMut()>(F);

impl<F: FnMut()> Piece for Step<F> {
    fn step(&mut self) {
        (self.0)();
    }
}

/// As a gateway reads it from a socket.
pub fn send_frame() -> Box<dyn Piece> {
    let body = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2".repeat(5);
    let text = format!(
        r#"{{"t":"send","id":7,"d":{{"to":"bob","cid":"01234567-89ab-cdef-0011-223344556677","kind":"message","body":"{body}"}}}}"#
    );
    Box::new(Step(move || {
        let unpacked = decode_client(Encoding::Json, black_box(text.as_bytes()), CodecLimits::OPEN);
        assert!(unpacked.bad.is_none() && unpacked.frames.len() == 1);
        black_box(unpacked);
    }))
}

/// As a leader writes it into a log, and every replica reads it back.
pub fn command() -> Box<dyn Piece> {
    let (sender, peer) = (user(0), user(1));
    let append = Append {
        conv: ConvId::direct(&sender, &peer),
        sender,
        device: DeviceId(1),
        cid: Cid(7),
        age_ms: 0,
        after: None,
        checked: vec![peer],
        what: message(),
    };
    let command = Command::Append(append);
    Box::new(Step(move || {
        let bytes = black_box(&command).encode().expect("commands encode");
        black_box(Command::decode(&bytes).expect("and decode"));
    }))
}

/// As a gateway writes it for one socket.
pub fn entry_frame() -> Box<dyn Piece> {
    let (from, peer) = (user(0), user(1));
    let entry = Entry {
        conv: ConvId::direct(&from, &peer),
        seq: Seq(1_234),
        n: Count(1_200),
        msg_id: MsgId(912_186_006_940_160_000),
        ts: TsMs(1_795_318_891_651),
        from,
        device: DeviceId(1),
        cid: Cid(7),
        what: Some(message()),
        kind: "message".into(),
        body_hash: Hash32([7; 32]),
        chain: Hash32([9; 32]),
    };
    let mut out = Vec::new();
    Box::new(Step(move || {
        out.clear();
        let frame = ServerFrame::Entry(Box::new(EntryFrame::of(black_box(&entry))));
        encode_server(Encoding::Json, &ServerMessage { id: None, frame }, &mut out);
        black_box(&out);
    }))
}

pub fn message() -> What {
    What::Message { kind: "message".into(), body: body(), reply_to: None, mentions: vec![], media: None }
}
