//! Tables `device` and `device_gone`, and the commands that add, rename and revoke devices.
//!
//! Keys: `31` and `3c`, slot u16, user text, device u128.
//! Invariants: a device id is never reused: a revoked one leaves a tombstone for ever (in a table of its own, so that the
//! live ones, at most `devices_per_user_max`, are a short scan). A new device gets no cursor: see [`super::cursor`].

use std::ops::ControlFlow;

use flotilla_proto::ids::*;
use flotilla_proto::limits;
use serde::{Deserialize, Serialize};

use super::account::{self, UserRow, UserTable};
use super::{job, key, session, token};
use crate::apply::{Ctx, Outcome, Stop};
use crate::command::Login;
use crate::effect::Ended;
use crate::reply::{Rejection, Reply};
use crate::table::{self, KeyReader, Rows, Table, kind};
use crate::{Fatal, Txn};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRow {
    /// SHA-256 of the secret of the client's store.
    pub install: Hash32,
    pub name: String,
    pub created: TsMs,
    /// The number of the newest session; rises with every open.
    pub number: SessionNo,
    /// Instances whose late `hello` must not open, the latest last; at most `BARRED_INSTANCES_MAX`.
    pub barred: Vec<Barred>,
}

/// Client processes of this device that are over, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Barred {
    pub instance: Instance,
    /// Another instance has taken the session from it.
    pub replaced: bool,
    /// Attempts up to this one were withdrawn by their gateway.
    pub attempt: Option<u64>,
}

impl DeviceRow {
    pub fn barred(&self, instance: Instance) -> Option<Barred> {
        self.barred.iter().find(|b| b.instance == instance).copied()
    }

    /// Bars more of an instance, or forgets the one that was barred first.
    pub fn bar(&mut self, instance: Instance, replaced: bool, attempt: Option<u64>) {
        let old = self.barred(instance).unwrap_or(Barred { instance, replaced: false, attempt: None });
        self.barred.retain(|b| b.instance != instance);
        if self.barred.len() >= limits::BARRED_INSTANCES_MAX {
            self.barred.remove(0);
        }
        self.barred.push(Barred { instance, replaced: old.replaced || replaced, attempt: old.attempt.max(attempt) });
    }
}

pub struct DeviceTable;

impl Table for DeviceTable {
    const NAME: &'static str = "device";
    const KIND: u8 = kind::DEVICE;
    const VERSION: u8 = 2;
    type Key = (UserId, DeviceId);
    type Row = DeviceRow;

    fn key((user, device): &Self::Key) -> Vec<u8> {
        key::of(Self::KIND, user).u128(device.0).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<Self::Key> {
        Some((key::user(key)?, key::device(key)?))
    }
}

/// A revoked device; the row is when that was.
pub struct GoneTable;

impl Table for GoneTable {
    const NAME: &'static str = "device_gone";
    const KIND: u8 = kind::DEVICE_GONE;
    const VERSION: u8 = 1;
    type Key = (UserId, DeviceId);
    type Row = TsMs;

    fn key((user, device): &Self::Key) -> Vec<u8> {
        key::of(Self::KIND, user).u128(device.0).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<Self::Key> {
        Some((key::user(key)?, key::device(key)?))
    }
}

/// The live devices of a user, by id.
pub fn of_user(rows: &dyn Rows, user: &UserId) -> Result<Vec<(DeviceId, DeviceRow)>, Fatal> {
    let mut devices = Vec::new();
    table::scan_prefix::<DeviceTable>(rows, &key::of(kind::DEVICE, user).build(), &mut |(_, device), row| {
        devices.push((device, row));
        ControlFlow::Continue(())
    })?;
    Ok(devices)
}

/// Their ids only, which are asked for with every head that advances.
pub fn ids_of_user(txn: &Txn<'_>, user: &UserId) -> Result<Vec<DeviceId>, Fatal> {
    let keys = txn.keys(&key::of(kind::DEVICE, user).build())?;
    keys.iter().map(|key| table::decode_key::<DeviceTable>(key).map(|(_, device)| device)).collect()
}

pub fn is_gone(rows: &dyn Rows, user: &UserId, device: DeviceId) -> Result<bool, Fatal> {
    Ok(table::get::<GoneTable>(rows, &(user.clone(), device))?.is_some())
}

/// A live device of an account in use; errors as for who wants to get in.
pub fn authenticated(ctx: &Ctx<'_, '_>, user: &UserId, device: DeviceId) -> Result<(UserRow, DeviceRow), Stop> {
    let account = account::authenticated(ctx, user)?;
    match table::get::<DeviceTable>(ctx.txn, &(user.clone(), device))? {
        Some(row) => Ok((account, row)),
        None if is_gone(ctx.txn, user, device)? => Err(Rejection::Revoked.into()),
        None => Err(Rejection::Unauthenticated.into()),
    }
}

fn check_name(name: &str) -> Result<(), Rejection> {
    if name.len() <= limits::NAME_BYTES_MAX {
        Ok(())
    } else {
        Err(Rejection::Validation(format!("a device's name has at most {} bytes", limits::NAME_BYTES_MAX)))
    }
}

/// The same install gets the same device (and keeps its name), with a new token family. A repeat of the login that began
/// the family changes nothing, however much later it comes.
pub fn login(ctx: &mut Ctx<'_, '_>, c: &Login) -> Outcome {
    check_name(&c.name)?;
    let account = match account::find(ctx, &c.user)? {
        Some(row) if row.disabled => return Err(Rejection::Forbidden("the account is disabled".into()).into()),
        // The gateway saw no such user, then somebody registered it: its password has not been checked.
        Some(row) if c.create && !row.phc.is_empty() => return Err(Rejection::Unauthenticated.into()),
        Some(_) => None,
        None if c.create => Some(UserRow::new("", ctx.meta.clock.display, None)),
        None => return Err(Rejection::Unauthenticated.into()),
    };
    let devices = of_user(ctx.txn, &c.user)?;
    if let Some((device, _)) = devices.iter().find(|(_, row)| row.install == c.install) {
        if !token::began_with(ctx.txn, &c.user, *device, c.refresh)? {
            token::begin(ctx, &c.user, *device, c.refresh);
        }
        return Ok(Reply::LoggedIn { device: *device, new: false });
    }
    if devices.iter().any(|(device, _)| *device == c.device) || is_gone(ctx.txn, &c.user, c.device)? {
        return Err(Rejection::Conflict("the device id is taken: choose another".into()).into());
    }
    let max = (ctx.meta.settings.devices_per_user_max as usize).min(limits::DEVICES_PER_USER_MAX);
    if devices.len() >= max {
        return Err(Rejection::Quota("devices".into()).into());
    }
    if let Some(account) = account {
        table::put::<UserTable>(ctx.txn, &c.user, &account);
    }
    let (name, created) = (c.name.clone(), ctx.meta.clock.display);
    let row = DeviceRow { install: c.install, name, created, number: SessionNo(0), barred: vec![] };
    table::put::<DeviceTable>(ctx.txn, &(c.user.clone(), c.device), &row);
    token::begin(ctx, &c.user, c.device, c.refresh);
    Ok(Reply::LoggedIn { device: c.device, new: true })
}

pub fn rename_device(ctx: &mut Ctx<'_, '_>, user: &UserId, device: DeviceId, name: &str) -> Outcome {
    account::find(ctx, user)?.ok_or(Rejection::NotFound)?;
    check_name(name)?;
    let key = (user.clone(), device);
    let mut row = table::get::<DeviceTable>(ctx.txn, &key)?.ok_or(Rejection::NotFound)?;
    if row.name != name {
        row.name = name.to_owned();
        table::put::<DeviceTable>(ctx.txn, &key, &row);
    }
    Ok(Reply::Done)
}

/// Ends the device for ever. Its cursors go with it, in steps of a job where they are many; receipts belong to the user
/// and stay. Idempotent by the tombstone, so the request key is not needed.
pub fn revoke_device(ctx: &mut Ctx<'_, '_>, user: &UserId, device: DeviceId, _request: Cid) -> Outcome {
    account::find(ctx, user)?.ok_or(Rejection::NotFound)?;
    if is_gone(ctx.txn, user, device)? {
        return Ok(Reply::Done);
    }
    let key = (user.clone(), device);
    table::get::<DeviceTable>(ctx.txn, &key)?.ok_or(Rejection::NotFound)?;
    table::delete::<DeviceTable>(ctx.txn, &key);
    table::put::<GoneTable>(ctx.txn, &key, &ctx.meta.clock.display);
    token::end(ctx, user, device)?;
    session::end(ctx, user, device, Ended::Revoked)?;
    job::remove_cursors(ctx, user, device)?;
    Ok(Reply::Done)
}
