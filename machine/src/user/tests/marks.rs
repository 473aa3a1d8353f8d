//! Acks, reads, receipts and the peer's watermarks.

use flotilla_proto::ids::*;
use flotilla_proto::limits;

use super::kit::*;
use crate::command::*;
use crate::effect::Effect;
use crate::query::{Answer, Query};
use crate::reply::{MarkReply, Reply};

fn due(shard: &Shard) -> Vec<(u64, u64)> {
    match shard.ask(Query::ReceiptsDue { after: None, limit: 100 }) {
        Answer::Receipts { items, more: false } => items.iter().map(|r| (r.delivered.0, r.read.0)).collect(),
        other => panic!("expected receipts, got {other:?}"),
    }
}

fn read(mark: Mark) -> Mark {
    Mark { kind: MarkKind::Read, ..mark }
}

/// ann with two devices, a session of the first, and a conversation with head 5 joined at 1.
fn scene() -> (Shard, UserId, DeviceId, DeviceId, SessionNo, ConvId) {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let (one, two) = (shard.device(&ann, 1), shard.device(&ann, 2));
    let number = shard.open(&ann, one);
    let conv = ConvId::direct(&ann, &user("bob"));
    shard.done(news(&conv, 5, &ann, Some(part(1, &[stay(1, None)]))));
    (shard, ann, one, two, number, conv)
}

#[test]
fn an_ack_moves_only_its_own_device_and_no_revision() {
    let (mut shard, ann, one, two, number, conv) = scene();
    assert_eq!(shard.mark(ack(&ann, one, number, &conv, 3, 5)), MarkReply::Done);
    let receipt = Receipt { user: ann.clone(), conv: conv.clone(), delivered: Seq(3), read: Seq(0) };
    assert_eq!(shard.effects, [Effect::ReceiptDue { receipt }], "what the row says");
    let (own, other) = (shard.row(&ann, one, &conv).expect("row"), shard.row(&ann, two, &conv).expect("row"));
    assert_eq!((own.cursor, other.cursor), (Seq(3), Seq(0)));
    assert_eq!((own.rev, own.delivered, own.read), (Rev(1), Seq(3), Seq(0)));
    assert_eq!(shard.mark(ack(&ann, one, number, &conv, 2, 5)), MarkReply::Done);
    assert_eq!(shard.row(&ann, one, &conv).map(|r| r.cursor), Some(Seq(3)), "never back");
    assert_eq!(due(&shard), [(3, 0)]);
}

#[test]
fn an_ack_that_carries_a_newer_head_merges_it_first() {
    let (mut shard, ann, one, _, number, conv) = scene();
    let late = shard.device(&ann, 3);
    assert_eq!(shard.mark(ack(&ann, one, number, &conv, 9, 9)), MarkReply::Done);
    let row = shard.row(&ann, late, &conv).expect("row");
    assert_eq!((row.head, row.cursor), (Seq(9), Seq(5)), "6 to 9 came after this device did");
    assert_eq!(shard.row(&ann, one, &conv).map(|r| r.cursor), Some(Seq(9)));
    assert!(shard.effects.iter().any(|e| matches!(e, Effect::Head { head: Seq(9), .. })));
}

#[test]
fn a_mark_beyond_what_is_known_waits() {
    let (mut shard, ann, one, _, number, conv) = scene();
    assert_eq!(shard.mark(ack(&ann, one, number, &conv, 6, 5)), MarkReply::Ahead);
    assert_eq!(shard.mark(ack(&ann, one, number, &group(9), 1, 5)), MarkReply::Ahead, "no row");
    assert_eq!(shard.row(&ann, one, &conv).map(|r| r.cursor), Some(Seq(0)));
    assert!(due(&shard).is_empty());
}

#[test]
fn a_read_moves_no_cursor_implies_delivered_and_is_synced() {
    let (mut shard, ann, one, two, number, conv) = scene();
    assert_eq!(shard.mark(read(ack(&ann, one, number, &conv, 4, 5))), MarkReply::Done);
    assert!(matches!(shard.effects[..], [Effect::Conv { rev: Rev(2), .. }, Effect::ReceiptDue { .. }]));
    for device in [one, two] {
        let row = shard.row(&ann, device, &conv).expect("row");
        assert_eq!((row.read, row.n_read, row.delivered, row.cursor), (Seq(4), Count(4), Seq(4), Seq(0)));
    }
    assert_eq!(due(&shard), [(4, 4)]);
    shard.mark(read(ack(&ann, one, number, &conv, 2, 5)));
    assert!(shard.effects.is_empty(), "a lower read changes nothing");
}

#[test]
fn receipts_count_only_inside_the_stays() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let device = shard.device(&ann, 1);
    let number = shard.open(&ann, device);
    let conv = group(1);
    shard.done(news(&conv, 12, &ann, Some(part(10, &[stay(3, Some(6)), stay(10, None)]))));
    assert_eq!(shard.mark(read(ack(&ann, device, number, &conv, 2, 12))), MarkReply::Done, "paged history");
    assert!(due(&shard).is_empty(), "a mark below the first stay tells others nothing");
    assert_eq!(shard.mark(ack(&ann, device, number, &conv, 8, 12)), MarkReply::Done, "a gap is acked like an entry");
    assert_eq!(due(&shard), [(6, 0)]);
    assert_eq!(shard.row(&ann, device, &conv).map(|r| (r.cursor, r.delivered)), Some((Seq(8), Seq(6))));
    assert_eq!(shard.pending(&ann, device).len(), 1);
}

#[test]
fn a_receipt_is_owed_until_all_of_it_was_answered() {
    let (mut shard, ann, one, _, number, conv) = scene();
    shard.mark(ack(&ann, one, number, &conv, 3, 5));
    let clear = |delivered| Command::ClearReceiptDue {
        items: vec![ClearReceipt { user: ann.clone(), conv: conv.clone(), delivered: Seq(delivered), read: Seq(0) }],
    };
    shard.mark(ack(&ann, one, number, &conv, 4, 5));
    shard.done(clear(3));
    assert_eq!(due(&shard), [(4, 0)], "raised while the answer was under way");
    shard.done(clear(4));
    assert!(due(&shard).is_empty());
    shard.mark(ack(&ann, one, number, &conv, 4, 5));
    assert!(due(&shard).is_empty(), "a repeated ack owes nothing");
}

#[test]
fn the_peers_marks_may_come_before_the_row_and_never_go_back() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let device = shard.device(&ann, 1);
    let conv = ConvId::direct(&ann, &user("bob"));
    let peer = |delivered, read| {
        let receipt = Receipt { user: user("ann"), conv: conv.clone(), delivered: Seq(delivered), read: Seq(read) };
        Command::PeerMarks(vec![receipt])
    };
    shard.done(peer(2, 1));
    assert_eq!(shard.row(&ann, device, &conv), None);
    shard.done(news(&conv, 5, &ann, Some(part(1, &[stay(1, None)]))));
    shard.done(peer(1, 4));
    assert!(matches!(shard.effects[..], [Effect::Conv { .. }]));
    let row = shard.row(&ann, device, &conv).expect("row");
    assert_eq!((row.peer_delivered, row.peer_read, row.cursor), (Seq(4), Seq(4), Seq(0)));
    shard.done(peer(3, 3));
    assert!(shard.effects.is_empty());
}

#[test]
fn marks_beyond_the_rows_of_one_command_are_kept_for_later() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let first = shard.device(&ann, 1);
    let number = shard.open(&ann, first);
    let convs: Vec<_> = (0..limits::COMMAND_ITEMS_MAX as u128).map(group).collect();
    for conv in &convs {
        shard.done(news(conv, 1, &ann, Some(part(1, &[stay(1, None)]))));
    }
    // Seven devices more: every head below makes seven cursors.
    for n in 2..=limits::DEVICES_PER_USER_MAX as u8 {
        shard.device(&ann, n);
    }
    let mut left: Vec<Mark> = convs.iter().map(|conv| ack(&ann, first, number, conv, 2, 2)).collect();
    let mut commands = 0;
    while !left.is_empty() {
        let Reply::Marks(replies) = shard.run(Command::Marks(left.clone())) else { panic!("expected answers") };
        left = left.into_iter().zip(replies).filter(|(_, r)| *r == MarkReply::Ahead).map(|(m, _)| m).collect();
        commands += 1;
        assert!(commands < 10, "every command gets on");
    }
    assert!(commands > 1, "or this test shows nothing");
    assert!(shard.pending(&ann, first).is_empty());
}
