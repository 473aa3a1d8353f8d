//! A connection's window: sixteen entries come with a push, leave, and are acked.

use std::hint::black_box;
use std::sync::Arc;

use flotilla_node::gateway::window::{Acked, DeliveryWindow};
use flotilla_proto::entry::Entry;
use flotilla_proto::ids::*;

use crate::Piece;
use crate::applying::{Scene, user};
use crate::codec::message;

const ENTRIES: u64 = 16;

struct Entries {
    window: DeliveryWindow,
    conv: ConvId,
    head: u64,
    now: u64,
}

impl Piece for Entries {
    fn step(&mut self) {
        let entries = (1..=ENTRIES).map(|n| Arc::new(entry(&self.conv, self.head + n))).collect();
        self.head += ENTRIES;
        self.now += 1;
        self.window.on_head(&self.conv, Seq(self.head), Count(self.head), entries, self.now);
        let mut sent = 0;
        while let Some(item) = self.window.next_send(self.now) {
            black_box(item);
            sent += 1;
        }
        assert_eq!(sent, ENTRIES);
        let acked = self.window.on_ack(&self.conv, Seq(self.head), self.now);
        assert!(matches!(acked, Acked::Mark { .. }));
        self.window.on_ack_done(&self.conv, Seq(self.head));
    }
}

fn entry(conv: &ConvId, seq: u64) -> Entry {
    Entry {
        conv: conv.clone(),
        seq: Seq(seq),
        n: Count(seq),
        msg_id: MsgId(seq),
        ts: TsMs(seq),
        from: user(0),
        device: Scene::device(0),
        cid: Cid(u128::from(seq)),
        what: Some(message()),
        kind: "message".into(),
        body_hash: Hash32([7; 32]),
        chain: Hash32([9; 32]),
    }
}

pub fn entries() -> Box<dyn Piece> {
    let row = Scene::new().row(1);
    let mut window = DeliveryWindow::new(None);
    let head = row.cursor.0;
    // The position is that of the row, with nothing pending.
    let conv = row.conv.clone();
    window.on_head(&conv, Seq(head + 1), Count(head + 1), vec![], 0);
    window.on_row(&row, 0);
    let mut entries = Entries { window, conv, head, now: 0 };
    entries.step();
    Box::new(entries)
}
