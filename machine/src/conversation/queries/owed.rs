//! `Query::Dirty`, `DirtyTargets`, `ReceiptsDirty`: what the pumps walk.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use flotilla_proto::entry::Entry;
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_proto::member::Mode;

use crate::Fatal;
use crate::command::{Notify, NotifyUser, Receipt};
use crate::conversation::plan::row_of;
use crate::conversation::tables::conversation::Conversations;
use crate::conversation::tables::dirty::{self, Dirties, DirtyRow};
use crate::conversation::tables::entry::{Budget, read_down};
use crate::conversation::tables::receipt_dirty::{self, ReceiptDirties};
use crate::conversation::tables::roster::{Listed, Rosters};
use crate::query::{Answer, DirtyItem};
use crate::table::{self, Table, View};

pub fn dirty(
    view: &View<'_>,
    target: ShardId,
    after: Option<&ConvId>,
    limit: u32,
    bytes_max: u32,
) -> Result<Answer, Fatal> {
    let prefix = dirty::prefix(target);
    let from = match after {
        Some(conv) => table::above(Dirties::key(&(target, conv.clone()))),
        None => prefix.clone(),
    };
    let limit = (limit as usize).clamp(1, limits::NOTIFY_CONVERSATIONS_MAX);
    let (rows, more) = table::page::<Dirties>(view, &from, &table::end_of(&prefix), limit)?;
    let rows = rows.into_iter().map(|((_, conv), row)| (conv, row)).collect();
    items(view, target, rows, more, bytes_max)
}

/// In the order of the names, of which as many are answered for as fit; the others are `more`.
pub fn dirty_of(view: &View<'_>, target: ShardId, convs: &[(ConvId, Seq)], bytes_max: u32) -> Result<Answer, Fatal> {
    let mut rows = Vec::with_capacity(convs.len());
    for (conv, answered) in convs.iter().take(limits::NOTIFY_CONVERSATIONS_MAX) {
        if let Some(row) = table::get::<Dirties>(view, &(target, conv.clone()))? {
            rows.push((conv.clone(), DirtyRow { from: row.from.max(*answered), ..row }));
        }
    }
    items(view, target, rows, convs.len() > limits::NOTIFY_CONVERSATIONS_MAX, bytes_max)
}

fn items(
    view: &View<'_>,
    target: ShardId,
    rows: Vec<(ConvId, DirtyRow)>,
    mut more: bool,
    bytes_max: u32,
) -> Result<Answer, Fatal> {
    let mut bytes = (bytes_max as usize).min(limits::NOTIFY_BYTES_MAX);
    let mut items = Vec::with_capacity(rows.len());
    for (conv, row) in rows {
        // The first item goes whatever it weighs, so that the pump makes progress.
        if bytes == 0 && !items.is_empty() {
            more = true;
            break;
        }
        items.push(item(view, target, conv, &row, &mut bytes)?);
    }
    Ok(Answer::Dirty { items, more })
}

fn item(view: &View<'_>, target: ShardId, conv: ConvId, row: &DirtyRow, bytes: &mut usize) -> Result<DirtyItem, Fatal> {
    let roster = table::get::<Rosters>(view, &(conv.clone(), target))?.unwrap_or_default();
    let mut budget = Budget::strict(limits::PAGE_ENTRIES_MAX, *bytes);
    let mut entries = Vec::new();
    let whole = read_down(view, &conv, (row.from.next(), row.head), &mut budget, &mut entries)?;
    entries.reverse();
    let sent = whole.then(|| last_sent(&entries));
    let parts = roster.owed();
    // In pull mode a head is nobody's news but of those whom its entry touched.
    let only_owed = parts > Seq::ZERO && mode_of(view, &conv)? == Mode::Pull;
    let mut users = Vec::with_capacity(roster.users.len());
    let mut weight = 0;
    for listed in roster.users.into_iter().filter(|listed| !only_owed || listed.owed > Seq::ZERO) {
        let user = told(view, &conv, listed, sent.as_ref())?;
        weight += 64 + user.user.as_str().len() + user.part.as_ref().map_or(0, |p| 48 * p.intervals.len());
        users.push(user);
    }
    *bytes = budget.bytes_left().saturating_sub(weight + conv.as_str().len());
    let notify = Notify { conv, head: row.head, n_head: row.n_head, last_id: row.last_id, last_ts: row.last_ts, users };
    Ok(DirtyItem { notify, parts, entries })
}

fn mode_of(view: &View<'_>, conv: &ConvId) -> Result<Mode, Fatal> {
    Ok(table::get::<Conversations>(view, conv)?.map_or(Mode::Push, |row| row.mode))
}

/// `sent`: n of the latest own message of everybody who wrote above what the target has confirmed, where all of that was
/// read. Then a user that is not in it has nothing new to say (0, for it is merged by max), and its row needs no look.
fn told(
    view: &View<'_>,
    conv: &ConvId,
    listed: Listed,
    sent: Option<&BTreeMap<UserId, Count>>,
) -> Result<NotifyUser, Fatal> {
    let owed = listed.owed > Seq::ZERO;
    let row = if owed || sent.is_none() { row_of(view, conv, &listed.user)? } else { None };
    let n_sent = match (&row, sent) {
        (Some(row), _) => row.n_sent,
        (None, Some(sent)) => sent.get(&listed.user).copied().unwrap_or_default(),
        (None, None) => Count(0),
    };
    let part = row.filter(|_| owed).map(|row| row.part);
    Ok(NotifyUser { user: listed.user, n_sent, part })
}

/// By kind, not by content: a redacted message counts too.
fn last_sent(entries: &[Entry]) -> BTreeMap<UserId, Count> {
    entries.iter().filter(|e| e.kind == "message").map(|e| (e.from.clone(), e.n)).collect()
}

/// Steps from target to target, one seek each.
pub fn targets(view: &View<'_>) -> Result<Answer, Fatal> {
    let end = table::end_of(&[Dirties::KIND]);
    let mut from = vec![Dirties::KIND];
    let mut targets = Vec::new();
    loop {
        let mut found = None;
        table::scan::<Dirties>(view, &from, &end, &mut |(target, _), _| {
            found = Some(target);
            ControlFlow::Break(())
        })?;
        let Some(target) = found else {
            return Ok(Answer::Targets(targets));
        };
        targets.push(target);
        from = table::end_of(&dirty::prefix(target));
    }
}

pub fn receipts(view: &View<'_>, target: ShardId, limit: u32) -> Result<Answer, Fatal> {
    let from = receipt_dirty::prefix(target);
    let limit = (limit as usize).clamp(1, limits::COMMAND_ITEMS_MAX);
    let (rows, more) = table::page::<ReceiptDirties>(view, &from, &table::end_of(&from), limit)?;
    let items = rows
        .into_iter()
        .map(|((_, conv, user), row)| Receipt { user, conv, delivered: row.delivered, read: row.read })
        .collect();
    Ok(Answer::Receipts { items, more })
}
