//! `Receipts`: watermarks that user shards owe to conversations.
//!
//! Invariant: watermarks of a member never go back, never pass the head, and count only inside the member's stays; read
//! implies delivered. The answer is always done: a receipt from a leaver, or for what does not exist, owes nothing more.

use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_proto::plant::{self, Plant};

use super::tables::conversation::Conversations;
use super::tables::member::{MemberRow, Members};
use super::tables::receipt_dirty::{ReceiptDirties, ReceiptDirtyRow};
use crate::Fatal;
use crate::apply::{Ctx, Outcome, check_batch};
use crate::command::Receipt;
use crate::effect::Effect;
use crate::reply::Reply;
use crate::table;

pub fn receipts(ctx: &mut Ctx<'_, '_>, items: &[Receipt]) -> Outcome {
    check_batch(items.len(), limits::COMMAND_ITEMS_MAX)?;
    for receipt in items {
        ctx.meta.check_conversation(&receipt.conv)?;
    }
    for receipt in items {
        take(ctx, receipt)?;
    }
    Ok(Reply::Done)
}

fn take(ctx: &mut Ctx<'_, '_>, receipt: &Receipt) -> Result<(), Fatal> {
    let key = (receipt.conv.clone(), receipt.user.clone());
    let Some(member) = table::get::<Members>(ctx.txn, &key)? else {
        return Ok(());
    };
    let Some(conversation) = table::get::<Conversations>(ctx.txn, &receipt.conv)? else {
        return Ok(());
    };
    let Some(row) = raised(&member, receipt, conversation.head) else {
        return Ok(());
    };
    table::put::<Members>(ctx.txn, &key, &row);
    owe_to_peer(ctx, receipt, &row);
    Ok(())
}

/// The row with higher watermarks; none if nothing rises.
fn raised(member: &MemberRow, receipt: &Receipt, head: Seq) -> Option<MemberRow> {
    if !member.is_member() {
        return None;
    }
    let read = member.read.max(member.clamp(receipt.read, head));
    let delivered = member.delivered.max(member.clamp(receipt.delivered, head)).max(read);
    if receipt.delivered <= member.delivered && member.delivered > Seq::ZERO && plant::on(Plant::ReceiptsGoBack) {
        return Some(MemberRow { delivered: receipt.delivered.prev(), ..member.clone() });
    }
    let changed = read > member.read || delivered > member.delivered;
    changed.then(|| MemberRow { read, delivered, ..member.clone() })
}

/// In a direct conversation the peer is shown the watermarks; a group's are fetched.
fn owe_to_peer(ctx: &mut Ctx<'_, '_>, receipt: &Receipt, row: &MemberRow) {
    let Some(peer) = receipt.conv.peer_of(&receipt.user).filter(|peer| *peer != receipt.user) else {
        return;
    };
    let Some(target) = ctx.meta.shard_of_user(&peer) else {
        return;
    };
    let owed = ReceiptDirtyRow { delivered: row.delivered, read: row.read };
    table::put::<ReceiptDirties>(ctx.txn, &(target, receipt.conv.clone(), peer.clone()), &owed);
    let receipt = Receipt { user: peer, conv: receipt.conv.clone(), delivered: row.delivered, read: row.read };
    ctx.effects.push(Effect::ReceiptDirty { target, receipt });
}
