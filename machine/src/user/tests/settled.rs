//! What a user settles about its conversations, and what others see of it.

use flotilla_proto::ids::*;
use proptest::prelude::*;

use super::kit::*;
use crate::Effect;
use crate::command::*;
use crate::query::{Answer, Place, Query};
use crate::reply::{MarkReply, Rejection};

fn set(user: &UserId, conv: &ConvId, change: ConvChange) -> Command {
    Command::SetConv { user: user.clone(), conv: conv.clone(), change }
}

fn due(shard: &Shard) -> Vec<(Seq, Seq)> {
    match shard.ask(Query::ReceiptsDue { after: None, limit: 100 }) {
        Answer::Receipts { items, .. } => items.into_iter().map(|r| (r.delivered, r.read)).collect(),
        other => panic!("expected receipts, got {other:?}"),
    }
}

fn mark(user: &UserId, device: DeviceId, number: SessionNo, conv: &ConvId, kind: MarkKind, seq: u64) -> Mark {
    Mark {
        user: user.clone(),
        device,
        number,
        conv: conv.clone(),
        kind,
        seq: Seq(seq),
        n: Count(seq),
        head: Seq(seq),
        n_head: Count(seq),
    }
}

/// A user in a conversation of nine messages, with one open session.
fn stage() -> (Shard, UserId, DeviceId, SessionNo, ConvId) {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let device = shard.device(&ann, 1);
    let number = shard.open(&ann, device);
    let conv = group(1);
    shard.done(news(&conv, 9, &ann, Some(part(1, &[stay(1, None)]))));
    (shard, ann, device, number, conv)
}

#[test]
fn a_change_is_a_new_revision_of_the_row_and_its_repeat_is_none() {
    let (mut shard, ann, device, _, conv) = stage();
    let before = shard.row(&ann, device, &conv).expect("a row");
    let pin = set(&ann, &conv, ConvChange { pinned: Some(true), archived: Some(true), ..ConvChange::default() });
    shard.done(pin.clone());
    assert!(matches!(&shard.effects[..], [Effect::Conv { user, .. }] if *user == ann), "no head has advanced");
    let after = shard.row(&ann, device, &conv).expect("a row");
    assert!(after.rev > before.rev && after.settings.pinned.is_some() && after.settings.archived);
    let digest = shard.digest();
    shard.done(pin);
    assert_eq!(digest, shard.digest());
    let page = shard.rows(Query::Changed { user: ann.clone(), device, since: before.rev, limit: 9 });
    assert_eq!(page.rows.iter().map(|r| r.settings).collect::<Vec<_>>(), [after.settings]);
    let all =
        ConvChange { pinned: Some(false), archived: Some(false), muted_until: Some(TsMs(0)), ..ConvChange::default() };
    shard.done(set(&ann, &conv, all));
    assert_eq!(shard.table_rows(crate::table::kind::CONV_SETTINGS), 0, "nothing settled, no row");
}

#[test]
fn only_a_conversation_that_the_user_knows_can_be_settled() {
    let (mut shard, ann, ..) = stage();
    let change = ConvChange { pinned: Some(true), ..ConvChange::default() };
    assert_eq!(shard.rejected(set(&ann, &group(7), change.clone())), Rejection::NotFound);
    assert_eq!(shard.rejected(set(&user("nobody"), &group(1), change)), Rejection::NotFound);
}

#[test]
fn unread_is_a_flag_that_the_next_read_takes_away_and_the_mark_never_goes_back() {
    let (mut shard, ann, device, number, conv) = stage();
    assert_eq!(shard.mark(mark(&ann, device, number, &conv, MarkKind::Read, 5)), MarkReply::Done);
    shard.done(set(&ann, &conv, ConvChange { unread: Some(true), ..ConvChange::default() }));
    let row = shard.row(&ann, device, &conv).expect("a row");
    assert!(row.settings.unread && row.read == Seq(5));
    assert_eq!(shard.mark(mark(&ann, device, number, &conv, MarkKind::Ack, 9)), MarkReply::Done);
    assert!(shard.row(&ann, device, &conv).expect("a row").settings.unread, "an ack is no look");
    // The same mark again: nothing to move, but somebody has looked.
    assert_eq!(shard.mark(mark(&ann, device, number, &conv, MarkKind::Read, 5)), MarkReply::Done);
    let read = shard.row(&ann, device, &conv).expect("a row");
    assert!(!read.settings.unread && read.read == Seq(5) && read.rev > row.rev);
    assert!(shard.effects.iter().any(|e| matches!(e, Effect::Conv { .. })), "her other devices hear of it");
}

#[test]
fn a_hidden_read_mark_is_hers_alone_until_the_next_read_after_showing_it_again() {
    let (mut shard, ann, device, number, conv) = stage();
    let hide = |on| set(&user("ann"), &group(1), ConvChange { hide_read: Some(on), ..ConvChange::default() });
    shard.mark(mark(&ann, device, number, &conv, MarkKind::Read, 2));
    assert_eq!(due(&shard), [(Seq(2), Seq(2))]);
    shard.done(hide(true));
    shard.mark(mark(&ann, device, number, &conv, MarkKind::Read, 6));
    shard.mark(mark(&ann, device, number, &conv, MarkKind::Ack, 7));
    assert_eq!(shard.row(&ann, device, &conv).expect("a row").read, Seq(6), "her own devices know");
    assert_eq!(due(&shard), [(Seq(7), Seq(2))], "delivered is no secret, read is");
    shard.done(hide(false));
    shard.mark(mark(&ann, device, number, &conv, MarkKind::Ack, 8));
    assert_eq!(due(&shard), [(Seq(8), Seq(2))]);
    shard.mark(mark(&ann, device, number, &conv, MarkKind::Read, 9));
    assert_eq!(due(&shard), [(Seq(9), Seq(9))]);
}

#[test]
fn an_older_cluster_hides_nothing_and_says_so() {
    let (mut shard, ann, _, _, conv) = stage();
    shard.run(Command::SetSettings(Settings { version: 5, ..Settings::at_level(1) }));
    let hide = set(&ann, &conv, ConvChange { hide_read: Some(true), ..ConvChange::default() });
    assert!(matches!(shard.rejected(hide), Rejection::Validation(_)));
    shard.done(set(&ann, &conv, ConvChange { pinned: Some(true), ..ConvChange::default() }));
}

proptest! {
    /// Page after page gives every row once, in the order of the whole list.
    #[test]
    fn the_list_by_activity_is_whole_and_in_order(
        heads in prop::collection::vec((1u64..9, any::<bool>(), any::<bool>()), 1..12), limit in 1u32..5,
    ) {
        let mut shard = Shard::new();
        let ann = shard.user("ann");
        let device = shard.device(&ann, 1);
        for (i, (head, pinned, archived)) in heads.iter().enumerate() {
            let conv = group(i as u128);
            shard.done(news(&conv, *head, &ann, Some(part(1, &[stay(1, None)]))));
            let change = ConvChange { pinned: Some(*pinned), archived: Some(*archived), ..ConvChange::default() };
            shard.done(set(&ann, &conv, change));
        }
        for archived in [None, Some(false), Some(true)] {
            let mut listed: Vec<Place> = Vec::new();
            loop {
                let after = listed.last().cloned();
                let page = shard.rows(Query::Recent { user: ann.clone(), device, after, archived, limit });
                prop_assert!(page.rows.len() <= limit as usize);
                listed.extend(page.rows.iter().map(|row| row.place()));
                if !page.more {
                    break;
                }
            }
            prop_assert!(listed.is_sorted_by(|a, b| a > b));
            let wanted = heads.iter().filter(|h| archived.is_none_or(|a| a == h.2)).count();
            prop_assert_eq!(listed.len(), wanted);
            let pinned = heads.iter().filter(|h| h.1 && archived.is_none_or(|a| a == h.2)).count();
            prop_assert!(listed.iter().take(pinned).all(|place| place.pinned));
        }
    }
}
