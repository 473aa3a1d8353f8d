//! Acks and reads of devices, and table `receipt_due`: the watermarks that a user shard owes to conversations.
//!
//! Key: `38`, slot u16, user text, conversation text. Row: (delivered, read).
//!
//! A mark carries the committed head that its gateway knows, and that head merges before the mark moves. (1. A gateway
//! learns of head 9 before this shard does, and delivers it, 2. the device acks 9, 3. refusing the ack would have it sent
//! again; taking it without the head would put a cursor above the head, and a device that registers now would miss 9.)
//! Invariant (I5): a cursor moves by its own device's ack only, and never above the effective head.

use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_proto::member::Mode;
use flotilla_proto::plant::{self, Plant};
use serde::{Deserialize, Serialize};

use super::inbox::Change;
use super::{conv_settings, cursor, device, key, privacy, session};
use crate::Fatal;
use crate::apply::{Ctx, Outcome, check_batch};
use crate::command::{ClearReceipt, ConvSettings, Mark, MarkKind, Receipt};
use crate::effect::Effect;
use crate::reply::{MarkReply, Reply};
use crate::table::{self, KeyReader, Table, kind};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Due {
    pub delivered: Seq,
    pub read: Seq,
}

pub struct DueTable;

impl Table for DueTable {
    const NAME: &'static str = "receipt_due";
    const KIND: u8 = kind::RECEIPT_DUE;
    const VERSION: u8 = 1;
    type Key = (UserId, ConvId);
    type Row = Due;

    fn key((user, conv): &Self::Key) -> Vec<u8> {
        key::of(Self::KIND, user).conv(conv).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<Self::Key> {
        Some((key::user(key)?, key.conv()?))
    }
}

/// Rows that one mark touches at worst: user, row, two places of the index, receipt, and a cursor of every device; since
/// conversations have settings, those too.
fn rows_per_mark(ctx: &Ctx<'_, '_>) -> usize {
    5 + limits::DEVICES_PER_USER_MAX + usize::from(ctx.meta.has_level(conv_settings::LEVEL))
}

/// Answers each mark in order. A batch with a foreign slot is refused whole. Marks that come once the rows of this command
/// are used up are answered `Ahead`: the gateway keeps them and comes again.
pub fn marks(ctx: &mut Ctx<'_, '_>, items: &[Mark]) -> Outcome {
    check_batch(items.len(), limits::COMMAND_ITEMS_MAX)?;
    for item in items {
        ctx.meta.check_user(&item.user)?;
    }
    let rows_per_mark = rows_per_mark(ctx);
    let mut rows = limits::ROWS_PER_COMMAND_MAX;
    let mut replies = Vec::with_capacity(items.len());
    for item in items {
        if rows < rows_per_mark {
            replies.push(MarkReply::Ahead);
            continue;
        }
        let (reply, touched) = mark(ctx, item)?;
        rows = rows.saturating_sub(touched);
        replies.push(reply);
    }
    Ok(Reply::Marks(replies))
}

/// Why the device may not mark at all.
fn refusal(ctx: &Ctx<'_, '_>, m: &Mark) -> Result<Option<MarkReply>, Fatal> {
    if table::get::<device::DeviceTable>(ctx.txn, &(m.user.clone(), m.device))?.is_none() {
        return Ok(Some(MarkReply::NoDevice));
    }
    if m.number == Mark::SESSIONLESS {
        return Ok(None);
    }
    let current = session::find(ctx.txn, &m.user, m.device)?.map(|s| s.number);
    let stale = current != Some(m.number) && !plant::on(Plant::OldSessionActs);
    Ok(stale.then_some(MarkReply::StaleSession))
}

fn mark(ctx: &mut Ctx<'_, '_>, m: &Mark) -> Result<(MarkReply, usize), Fatal> {
    if let Some(refusal) = refusal(ctx, m)? {
        return Ok((refusal, 0));
    }
    let Some(mut change) = Change::begin(ctx.txn, &m.user, &m.conv)? else { return Ok((MarkReply::NoDevice, 0)) };
    let Some(old) = change.old.clone() else { return Ok((MarkReply::Ahead, 0)) };
    change.row.merge_head(m.head, m.n_head);
    if !change.row.is_shown() || m.seq > change.row.effective_head() {
        // The head is news even so.
        return Ok((MarkReply::Ahead, change.commit(ctx)?));
    }
    // A mark between two stays, or below the first, counts for what lies below it: acks of gaps are required.
    let inside = change.row.part.floor(m.seq).unwrap_or(Seq::ZERO);
    if m.kind == MarkKind::Read {
        change.row.read = change.row.read.max(m.seq);
        change.row.n_read = change.row.n_read.max(m.n.min(change.row.n_head));
    }
    change.row.delivered = change.row.delivered.max(inside);
    let row = change.row.clone();
    // Only reads look at what is settled: acks are on the path of every message.
    let settings = match m.kind {
        MarkKind::Read => conv_settings::of(ctx.txn, &m.user, &m.conv)?,
        MarkKind::Ack => ConvSettings::default(),
    };
    // First the cursors that must stand before the head advances, then the device's own may move.
    let mut touched = if settings.unread {
        conv_settings::put(ctx, &m.user, &m.conv, &ConvSettings { unread: false, ..settings });
        change.touch(ctx)? + 1
    } else {
        change.commit(ctx)?
    };
    if m.kind == MarkKind::Ack
        && let Some(at) = cursor::find(ctx.txn, &m.user, m.device, &m.conv)?
        && m.seq > at
    {
        let past = m.seq == row.effective_head() && plant::on(Plant::CursorPastHead);
        let to = if past { m.seq.next() } else { m.seq };
        cursor::put(ctx.txn, &m.user, m.device, &m.conv, to);
        touched += 1;
    }
    let read_shown = row.read > old.read && !settings.hide_read && !privacy::hides_read(ctx.txn, &m.user)?;
    let news = read_shown || row.delivered > old.delivered && row.part.mode == Mode::Push;
    if news {
        let read = row.part.floor(row.read).unwrap_or(Seq::ZERO);
        // An ack says nothing of reads, which may be hidden: each read that is shown has owed itself.
        let silent = ctx.meta.has_level(conv_settings::LEVEL) && !read_shown;
        let due = Due { delivered: row.delivered.max(read), read: if silent { Seq::ZERO } else { read } };
        owe(ctx, &m.user, &m.conv, due)?;
        touched += 1;
    }
    Ok((MarkReply::Done, touched))
}

fn owe(ctx: &mut Ctx<'_, '_>, user: &UserId, conv: &ConvId, marks: Due) -> Result<(), Fatal> {
    let key = (user.clone(), conv.clone());
    let old = table::get::<DueTable>(ctx.txn, &key)?.unwrap_or_default();
    let due = Due { delivered: old.delivered.max(marks.delivered), read: old.read.max(marks.read) };
    if due == old {
        return Ok(());
    }
    table::put::<DueTable>(ctx.txn, &key, &due);
    let (user, conv) = key;
    let receipt = Receipt { user, conv, delivered: due.delivered, read: due.read };
    ctx.effects.push(Effect::ReceiptDue { receipt });
    Ok(())
}

/// Nothing is owed any more where the conversation has answered for all of it; marks raised since stay owed.
pub fn clear_receipt_due(ctx: &mut Ctx<'_, '_>, items: &[ClearReceipt]) -> Outcome {
    check_batch(items.len(), limits::COMMAND_ITEMS_MAX)?;
    for item in items {
        ctx.meta.check_user(&item.user)?;
    }
    for item in items {
        let key = (item.user.clone(), item.conv.clone());
        if let Some(due) = table::get::<DueTable>(ctx.txn, &key)?
            && due.delivered <= item.delivered
            && due.read <= item.read
        {
            table::delete::<DueTable>(ctx.txn, &key);
        }
    }
    Ok(Reply::Done)
}
