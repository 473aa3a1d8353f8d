//! What may be read of the user side, from one consistent view.
//!
//! Every answer is bounded by the asked limit and by `INBOX_ROWS_PER_PAGE_MAX`. Pages of rows go on above the last
//! conversation (or revision) of the page before.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use flotilla_proto::ids::*;
use flotilla_proto::limits;

use super::account::UserTable;
use super::inbox::{InboxTable, RevTable, Row};
use super::marks::DueTable;
use super::privacy::PrivacyRow;
use super::{block, contact, conv_settings, cursor, device, key, presence, privacy, profile, search, session, token};
use crate::Fatal;
use crate::command::Receipt;
use crate::meta::Owned;
use crate::query::{
    Account, Answer, DeviceView, InboxRow, LiveSession, Place, Query, RowsPage, SessionNews, SessionSince,
};
use crate::table::{self, Table, View, kind};

/// Rows read at once while looking for those that are asked for.
const CHUNK: usize = 256;

pub fn query(view: &View<'_>, owned: &Owned, query: &Query) -> Result<Answer, Fatal> {
    let asked = match query {
        Query::Changed { user, .. }
        | Query::Pending { user, .. }
        | Query::Unplaced { user, .. }
        | Query::Rows { user, .. }
        | Query::Row { user, .. }
        | Query::Contacts { user, .. }
        | Query::Profile { user }
        | Query::Blocks { user, .. }
        | Query::Block { user, .. }
        | Query::Recent { user, .. }
        | Query::Privacy { user }
        | Query::Account { user } => Some(user),
        _ => None,
    };
    if asked.is_some_and(|user| owned.check_user(user).is_err()) {
        return Ok(Answer::Moved);
    }
    match query {
        Query::Changed { user, device, since, limit } => {
            let limit = page_limit(*limit);
            rows_of_device(view, user, *device, |rev| changed(view, user, *device, *since, limit, rev))
        }
        Query::Pending { user, device, after, limit } => {
            let limit = page_limit(*limit);
            // What is pending in pull mode only the conversation knows.
            let pending = |row: &Row, at: Option<Seq>| {
                at.is_some_and(|at| row.part.pending(at, row.head) || row.part.is_pulled())
            };
            rows_of_device(view, user, *device, |rev| {
                by_conversation(view, user, *device, after.as_ref(), limit, rev, &pending)
            })
        }
        Query::Unplaced { user, device, limit } => {
            let limit = page_limit(*limit);
            rows_of_device(view, user, *device, |rev| {
                by_conversation(view, user, *device, None, limit, rev, &|row, at| at.is_none() && row.part.is_pulled())
            })
        }
        Query::Rows { user, device, after, limit } => {
            let limit = page_limit(*limit);
            rows_of_device(view, user, *device, |rev| {
                by_conversation(view, user, *device, after.as_ref(), limit, rev, &|_, _| true)
            })
        }
        Query::Recent { user, device, after, archived, limit } => {
            let limit = page_limit(*limit);
            rows_of_device(view, user, *device, |rev| {
                recent(view, user, *device, after.as_ref(), *archived, limit, rev)
            })
        }
        Query::Row { user, device, conv } => row(view, user, *device, conv),
        Query::RowsOf { devices } => rows_of(view, owned, devices),
        Query::Sessions { node, sessions } => news(view, owned, *node, sessions),
        Query::Account { user } => account(view, user).map(Answer::Account),
        Query::Presence { pairs } => presence::seen(view, owned, pairs),
        Query::Contacts { user, after, limit } => contact::page(view, user, after.as_ref(), *limit),
        Query::Profile { user } => profile::shown(view, user),
        Query::Blocks { user, after, limit } => block::page(view, user, after.as_ref(), *limit),
        Query::Block { user, peer } => block::one(view, user, peer),
        Query::FindUsers { prefix, limit } => search::find(view, owned, prefix, *limit),
        Query::Hiding { users } => privacy::hiding(view, owned, users),
        Query::Privacy { user } => Ok(Answer::Privacy(presence::of(view, user)?.shown_to)),
        _ => Ok(Answer::NotFound),
    }
}

fn page_limit(limit: u32) -> usize {
    (limit as usize).clamp(1, limits::INBOX_ROWS_PER_PAGE_MAX)
}

/// The page for a live device of an existing user.
fn rows_of_device(
    view: &View<'_>,
    user: &UserId,
    device: DeviceId,
    page: impl FnOnce(Rev) -> Result<RowsPage, Fatal>,
) -> Result<Answer, Fatal> {
    let Some(account) = table::get::<UserTable>(view, user)? else { return Ok(Answer::NotFound) };
    if table::get::<device::DeviceTable>(view, &(user.clone(), device))?.is_none() {
        return Ok(Answer::NotFound);
    }
    page(account.rev).map(Answer::Rows)
}

fn row(view: &View<'_>, user: &UserId, device: DeviceId, conv: &ConvId) -> Result<Answer, Fatal> {
    if table::get::<device::DeviceTable>(view, &(user.clone(), device))?.is_none() {
        return Ok(Answer::NotFound);
    }
    Ok(Answer::Row(shown(view, user, device, conv, privacy::of(view, user)?)?))
}

fn rows_of(view: &View<'_>, owned: &Owned, devices: &[(UserId, DeviceId, ConvId)]) -> Result<Answer, Fatal> {
    if devices.len() > limits::ROWS_PUSHED_MAX {
        return Ok(Answer::TooMany { max: limits::ROWS_PUSHED_MAX as u32 });
    }
    let one = |(user, device, conv): &(UserId, DeviceId, ConvId)| {
        if owned.check_user(user).is_err() {
            return Ok(None);
        }
        match row(view, user, *device, conv)? {
            Answer::Row(row) => Ok(row),
            _ => Ok(None),
        }
    };
    devices.iter().map(one).collect::<Result<_, Fatal>>().map(Answer::RowsOf)
}

fn shown(
    view: &View<'_>,
    user: &UserId,
    device: DeviceId,
    conv: &ConvId,
    privacy: PrivacyRow,
) -> Result<Option<InboxRow>, Fatal> {
    let Some(row) = table::get::<InboxTable>(view, &(user.clone(), conv.clone()))? else { return Ok(None) };
    if !row.is_shown() {
        return Ok(None);
    }
    let at = cursor::find(view, user, device, conv)?;
    Ok(Some(row.view(conv.clone(), at, conv_settings::of(view, user, conv)?, privacy)))
}

/// Rows above a revision, in rev order.
fn changed(
    view: &View<'_>,
    user: &UserId,
    device: DeviceId,
    since: Rev,
    limit: usize,
    rev: Rev,
) -> Result<RowsPage, Fatal> {
    let end = table::end_of(&key::of(kind::INBOX_REV, user).build());
    let mut from = table::above(RevTable::key(&(user.clone(), since)));
    let privacy = privacy::of(view, user)?;
    let mut page = RowsPage { rows: Vec::new(), more: false, rev };
    loop {
        let (chunk, rest) = table::page::<RevTable>(view, &from, &end, CHUNK.min(limit + 1))?;
        for (at, conv) in chunk {
            from = table::above(RevTable::key(&at));
            let Some(row) = shown(view, user, device, &conv, privacy)? else { continue };
            if page.rows.len() >= limit {
                page.more = true;
                return Ok(page);
            }
            page.rows.push(row);
        }
        if !rest {
            return Ok(page);
        }
    }
}

/// Rows that `keep` wants, by conversation id. `keep` gets the device's cursor row, if there is one.
fn by_conversation(
    view: &View<'_>,
    user: &UserId,
    device: DeviceId,
    after: Option<&ConvId>,
    limit: usize,
    rev: Rev,
    keep: &dyn Fn(&Row, Option<Seq>) -> bool,
) -> Result<RowsPage, Fatal> {
    let all = key::of(kind::INBOX, user).build();
    let end = table::end_of(&all);
    let mut from = match after {
        Some(conv) => table::above(InboxTable::key(&(user.clone(), conv.clone()))),
        None => all,
    };
    let privacy = privacy::of(view, user)?;
    let mut page = RowsPage { rows: Vec::new(), more: false, rev };
    loop {
        let (chunk, rest) = table::page::<InboxTable>(view, &from, &end, CHUNK)?;
        let (Some(((_, first), _)), Some((last, _))) = (chunk.first(), chunk.last()) else { return Ok(page) };
        from = table::above(InboxTable::key(last));
        let cursors = cursors_between(view, user, device, first, &last.1)?;
        let settings = conv_settings::between(view, user, first, &last.1)?;
        for ((_, conv), row) in chunk {
            let at = cursors.get(&conv).copied();
            if !row.is_shown() || !keep(&row, at) {
                continue;
            }
            if page.rows.len() >= limit {
                page.more = true;
                return Ok(page);
            }
            let settings = settings.get(&conv).copied().unwrap_or_default();
            page.rows.push(row.view(conv, at, settings, privacy));
        }
        if !rest {
            return Ok(page);
        }
    }
}

/// The list by activity. All rows are looked at, a bounded number is kept: a user's conversations are at most 10,000, and
/// an index by activity would be written for every message.
fn recent(
    view: &View<'_>,
    user: &UserId,
    device: DeviceId,
    after: Option<&Place>,
    archived: Option<bool>,
    limit: usize,
    rev: Rev,
) -> Result<RowsPage, Fatal> {
    let settings = conv_settings::of_user(view, user)?;
    let mut best: BTreeMap<Place, Row> = BTreeMap::new();
    table::scan_prefix::<InboxTable>(view, &key::of(kind::INBOX, user).build(), &mut |(_, conv), row| {
        let of_conv = settings.get(&conv).copied().unwrap_or_default();
        let at = of_conv.pinned.unwrap_or(row.last_ts);
        let place = Place { pinned: of_conv.pinned.is_some(), at, conv };
        let wanted = row.is_shown() && archived.is_none_or(|archived| archived == of_conv.archived);
        if wanted && after.is_none_or(|after| place < *after) {
            best.insert(place, row);
            // One more than asked for says whether there is more.
            if best.len() > limit + 1 {
                best.pop_first();
            }
        }
        ControlFlow::Continue(())
    })?;
    let privacy = privacy::of(view, user)?;
    let more = best.len() > limit;
    let mut rows = Vec::new();
    for (place, row) in best.into_iter().rev().take(limit) {
        let at = cursor::find(view, user, device, &place.conv)?;
        let of_conv = settings.get(&place.conv).copied().unwrap_or_default();
        rows.push(row.view(place.conv, at, of_conv, privacy));
    }
    Ok(RowsPage { rows, more, rev })
}

fn cursors_between(
    view: &View<'_>,
    user: &UserId,
    device: DeviceId,
    first: &ConvId,
    last: &ConvId,
) -> Result<BTreeMap<ConvId, Seq>, Fatal> {
    let bound = |conv: &ConvId| cursor::CursorTable::key(&(user.clone(), device, conv.clone()));
    let mut cursors = BTreeMap::new();
    table::scan::<cursor::CursorTable>(view, &bound(first), &table::above(bound(last)), &mut |(_, _, conv), seq| {
        cursors.insert(conv, seq);
        ControlFlow::Continue(())
    })?;
    Ok(cursors)
}

/// One answer per session, in order. Once the page is full, the others get an empty page that says there is more.
fn news(view: &View<'_>, owned: &Owned, node: NodeId, sessions: &[SessionSince]) -> Result<Answer, Fatal> {
    if sessions.iter().any(|s| owned.check_user(&s.user).is_err()) {
        return Ok(Answer::Moved);
    }
    let mut room = limits::INBOX_ROWS_PER_PAGE_MAX;
    let mut all = Vec::new();
    for s in sessions {
        let current = session::find(view, &s.user, s.device)?;
        if current.is_none_or(|row| row.number != s.number || row.node != node) {
            all.push(SessionNews::Gone(session::why_gone(view, &s.user, s.device, s.number)?));
            continue;
        }
        let rev = table::get::<UserTable>(view, &s.user)?.map_or(Rev(0), |account| account.rev);
        let page = if rev <= s.since || room == 0 {
            RowsPage { rows: Vec::new(), more: rev > s.since, rev }
        } else {
            changed(view, &s.user, s.device, s.since, room, rev)?
        };
        room = room.saturating_sub(page.rows.len());
        all.push(SessionNews::Rows(page));
    }
    Ok(Answer::Sessions(all))
}

fn account(view: &View<'_>, user: &UserId) -> Result<Option<Account>, Fatal> {
    let Some(row) = table::get::<UserTable>(view, user)? else { return Ok(None) };
    let mut devices = Vec::new();
    for (device, row) in device::of_user(view, user)? {
        let family = token::family(view, user, device)?.map(|f| f.id);
        devices.push(DeviceView { device, name: row.name, created: row.created, install: row.install, family });
    }
    Ok(Some(Account {
        phc: row.phc,
        disabled: row.disabled,
        created: row.created,
        conversations: row.conversations,
        devices,
    }))
}

/// Of the first `LIVE_SESSIONS_USERS_MAX` users; users of other shards have none here.
pub fn live_sessions(view: &View<'_>, users: &[UserId]) -> Result<Vec<LiveSession>, Fatal> {
    let mut live = Vec::new();
    for user in users.iter().take(limits::LIVE_SESSIONS_USERS_MAX) {
        let of_user = key::of(kind::SESSION, user).build();
        table::scan_prefix::<session::SessionTable>(view, &of_user, &mut |(user, device), row| {
            live.push(LiveSession { user, device, number: row.number, node: row.node, incarnation: row.incarnation });
            ControlFlow::Continue(())
        })?;
    }
    Ok(live)
}

/// In key order: by the user's slot, then user, then conversation.
pub fn receipts_due(view: &View<'_>, after: Option<&(UserId, ConvId)>, limit: u32) -> Result<Answer, Fatal> {
    let from = match after {
        Some(after) => table::above(DueTable::key(after)),
        None => vec![kind::RECEIPT_DUE],
    };
    let limit = (limit as usize).clamp(1, limits::COMMAND_ITEMS_MAX);
    let (page, more) = table::page::<DueTable>(view, &from, &table::end_of(&[kind::RECEIPT_DUE]), limit)?;
    let item = |((user, conv), due): ((UserId, ConvId), super::marks::Due)| Receipt {
        user,
        conv,
        delivered: due.delivered,
        read: due.read,
    };
    Ok(Answer::Receipts { items: page.into_iter().map(item).collect(), more })
}
