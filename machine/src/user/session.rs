//! Tables `session` and `session_node`, and the commands that open and close sessions.
//!
//! Keys: session `33`, slot u16, user text, device u128; session_node `34`, node u16, incarnation u64, user text,
//! device u128 (no slot in front: a fence sweeps a node's dead incarnations by one range).
//! Invariants (I7): a device has at most one session row, its number rises with every open, each row has its index row,
//! and none is opened below the node's fence.

use flotilla_proto::ids::*;
use flotilla_proto::plant::{self, Plant};
use serde::{Deserialize, Serialize};

use super::{account, device, key, presence, token};
use crate::Fatal;
use crate::apply::{Ctx, Outcome};
use crate::command::OpenSession;
use crate::effect::{Effect, Ended};
use crate::meta;
use crate::reply::{Opened, Rejection, Replaced, Reply};
use crate::table::{self, KeyBuilder, KeyReader, Rows, Table, kind};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub number: SessionNo,
    pub instance: Instance,
    pub attempt: u64,
    /// The first number in a row of sessions of this same instance: an older one was replaced by another process.
    pub since: SessionNo,
}

pub struct SessionTable;

impl Table for SessionTable {
    const NAME: &'static str = "session";
    const KIND: u8 = kind::SESSION;
    const VERSION: u8 = 1;
    type Key = (UserId, DeviceId);
    type Row = SessionRow;

    fn key((user, device): &Self::Key) -> Vec<u8> {
        key::of(Self::KIND, user).u128(device.0).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<Self::Key> {
        Some((key::user(key)?, key::device(key)?))
    }
}

/// Which sessions live on which life of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtNode {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub user: UserId,
    pub device: DeviceId,
}

pub struct SessionNodeTable;

impl Table for SessionNodeTable {
    const NAME: &'static str = "session_node";
    const KIND: u8 = kind::SESSION_NODE;
    const VERSION: u8 = 1;
    type Key = AtNode;
    type Row = ();

    fn key(at: &AtNode) -> Vec<u8> {
        lives_of(at.node).u64(at.incarnation.0).user(&at.user).u128(at.device.0).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<AtNode> {
        Some(AtNode {
            node: NodeId(key.u16()?),
            incarnation: Incarnation(key.u64()?),
            user: key.user()?,
            device: key::device(key)?,
        })
    }
}

fn lives_of(node: NodeId) -> KeyBuilder {
    KeyBuilder::new(kind::SESSION_NODE).u16(node.0)
}

/// At most `limit` sessions of a node's incarnations below `lowest`, and whether there are more.
pub fn dead(
    rows: &dyn Rows,
    node: NodeId,
    lowest: Incarnation,
    limit: usize,
) -> Result<(Vec<(UserId, DeviceId)>, bool), Fatal> {
    let (from, to) = (lives_of(node).build(), lives_of(node).u64(lowest.0).build());
    let (page, more) = table::page::<SessionNodeTable>(rows, &from, &to, limit)?;
    Ok((page.into_iter().map(|(at, ())| (at.user, at.device)).collect(), more))
}

pub fn find(rows: &dyn Rows, user: &UserId, device: DeviceId) -> Result<Option<SessionRow>, Fatal> {
    table::get::<SessionTable>(rows, &(user.clone(), device))
}

fn at_node(user: &UserId, device: DeviceId, row: &SessionRow) -> AtNode {
    AtNode { node: row.node, incarnation: row.incarnation, user: user.clone(), device }
}

fn remove(ctx: &mut Ctx<'_, '_>, user: &UserId, device: DeviceId, row: &SessionRow) {
    table::delete::<SessionTable>(ctx.txn, &(user.clone(), device));
    table::delete::<SessionNodeTable>(ctx.txn, &at_node(user, device, row));
    ctx.effects.push(Effect::Sessions { user: user.clone() });
}

fn announce(ctx: &mut Ctx<'_, '_>, user: &UserId, device: DeviceId, row: &SessionRow, why: Ended) {
    ctx.effects.push(Effect::SessionEnded {
        user: user.clone(),
        device,
        number: row.number,
        node: row.node,
        incarnation: row.incarnation,
        why,
    });
}

/// Ends the device's session, if one is open, otherwise than by its own gateway.
pub fn end(ctx: &mut Ctx<'_, '_>, user: &UserId, device: DeviceId, why: Ended) -> Result<(), Fatal> {
    if let Some(row) = find(ctx.txn, user, device)? {
        remove(ctx, user, device, &row);
        announce(ctx, user, device, &row, why);
        presence::left(ctx, user)?;
    }
    Ok(())
}

/// Whether any device of the user has a session.
pub fn is_online(rows: &dyn Rows, user: &UserId) -> Result<bool, Fatal> {
    let of_user = key::of(kind::SESSION, user).build();
    let mut online = false;
    table::scan_prefix::<SessionTable>(rows, &of_user, &mut |_, _| {
        online = true;
        std::ops::ControlFlow::Break(())
    })?;
    Ok(online)
}

pub fn open_session(ctx: &mut Ctx<'_, '_>, c: &OpenSession) -> Outcome {
    let (account, mut device) = device::authenticated(ctx, &c.user, c.device)?;
    if device.install != c.install {
        return Err(Rejection::WrongInstall.into());
    }
    // Logged out: an access token that is still alive opens nothing.
    if token::family(ctx.txn, &c.user, c.device)?.is_none() {
        return Err(Rejection::Unauthenticated.into());
    }
    if c.incarnation < meta::fence(ctx.txn, c.node)? && !plant::on(Plant::ForgetFence) {
        return Err(Rejection::Fenced.into());
    }
    let old = find(ctx.txn, &c.user, c.device)?;
    let same_instance = old.as_ref().is_some_and(|old| old.instance == c.instance);
    if old.as_ref().is_some_and(|old| same_instance && c.attempt < old.attempt) {
        return Err(Rejection::Superseded.into());
    }
    // Why: 1. a process dies with a `hello` under way, 2. the next process on its store opens the session, 3. the hello
    // commits: it would take the session from a living client, for one that nobody waits for.
    if let Some(barred) = device.barred(c.instance) {
        if barred.replaced && old.is_some() && !same_instance {
            return Err(Rejection::Replaced.into());
        }
        if barred.attempt.is_some_and(|withdrawn| c.attempt <= withdrawn) {
            return Err(Rejection::Superseded.into());
        }
    }
    if let Some(old) = old.as_ref().filter(|_| !same_instance) {
        device.bar(old.instance, true, None);
    }
    let comes = old.is_none() && !is_online(ctx.txn, &c.user)?;
    device.number = SessionNo(device.number.0.saturating_add(1));
    let since = old.as_ref().filter(|_| same_instance).map_or(device.number, |old| old.since);
    if let Some(old) = &old {
        remove(ctx, &c.user, c.device, old);
        announce(ctx, &c.user, c.device, old, if same_instance { Ended::Superseded } else { Ended::Replaced });
    }
    let row = SessionRow {
        node: c.node,
        incarnation: c.incarnation,
        number: device.number,
        instance: c.instance,
        attempt: c.attempt,
        since,
    };
    table::put::<device::DeviceTable>(ctx.txn, &(c.user.clone(), c.device), &device);
    table::put::<SessionTable>(ctx.txn, &(c.user.clone(), c.device), &row);
    table::put::<SessionNodeTable>(ctx.txn, &at_node(&c.user, c.device, &row), &());
    if comes {
        presence::came(ctx, &c.user);
    }
    ctx.effects.push(Effect::Sessions { user: c.user.clone() });
    let replaced =
        old.map(|old| Replaced { node: old.node, incarnation: old.incarnation, number: old.number, same_instance });
    Ok(Reply::Opened(Opened { number: row.number, rev: account.rev, replaced }))
}

/// Closes exactly this session; a newer one, or none, stays as it is.
pub fn close_session(ctx: &mut Ctx<'_, '_>, user: &UserId, device: DeviceId, number: SessionNo) -> Outcome {
    account::find(ctx, user)?;
    if let Some(row) = find(ctx.txn, user, device)?
        && row.number == number
    {
        remove(ctx, user, device, &row);
        presence::left(ctx, user)?;
    }
    Ok(Reply::Done)
}

/// A gateway does not know whether its open was done, and its client is gone: this attempt and older ones of the instance
/// hold no session from now on, also if the open commits only later.
pub fn withdraw_session(
    ctx: &mut Ctx<'_, '_>,
    user: &UserId,
    device: DeviceId,
    instance: Instance,
    attempt: u64,
) -> Outcome {
    account::find(ctx, user)?;
    let key = (user.clone(), device);
    let Some(mut device_row) = table::get::<device::DeviceTable>(ctx.txn, &key)? else { return Ok(Reply::Done) };
    if let Some(row) = find(ctx.txn, user, device)?
        && row.instance == instance
        && row.attempt <= attempt
    {
        remove(ctx, user, device, &row);
        presence::left(ctx, user)?;
    }
    device_row.bar(instance, false, Some(attempt));
    table::put::<device::DeviceTable>(ctx.txn, &key, &device_row);
    Ok(Reply::Done)
}

/// Why a session that is not the current one has ended, as far as the rows can tell. In doubt a reason that lets the
/// client reconnect: the verdicts that stop it must be certain.
pub fn why_gone(rows: &dyn Rows, user: &UserId, device: DeviceId, number: SessionNo) -> Result<Ended, Fatal> {
    if device::is_gone(rows, user, device)? {
        return Ok(Ended::Revoked);
    }
    Ok(match find(rows, user, device)? {
        Some(row) if number < row.since => Ended::Replaced,
        Some(_) => Ended::Superseded,
        None if token::family(rows, user, device)?.is_none() => Ended::LoggedOut,
        None => Ended::Fenced,
    })
}
