//! Table `user`, and the commands that make an account and set its password.
//!
//! Key: `30`, slot u16, user text.
//! Invariants: a user id is never reused; `rev` only rises (I9). It knows password hashes as opaque text: they are made
//! and checked outside of apply.

use flotilla_proto::ids::*;
use flotilla_proto::limits;
use serde::{Deserialize, Serialize};

use super::{device, key, session, token};
use crate::apply::{Ctx, Outcome, Stop};
use crate::command::Register;
use crate::effect::Ended;
use crate::reply::{Rejection, Reply};
use crate::table::{self, KeyReader, Table, kind};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRow {
    /// Argon2id in PHC form; empty for a demo user.
    pub phc: String,
    pub disabled: bool,
    pub created: TsMs,
    /// The revision of the newest change of any of the user's inbox rows.
    pub rev: Rev,
    /// Conversations that the user is in now.
    pub conversations: u32,
    /// What registered it; none for a demo user.
    pub request: Option<Cid>,
    /// The newest requests that set a password, newest last.
    pub passwords: Vec<Cid>,
}

impl UserRow {
    pub fn new(phc: &str, created: TsMs, request: Option<Cid>) -> Self {
        Self {
            phc: phc.to_owned(),
            disabled: false,
            created,
            rev: Rev(0),
            conversations: 0,
            request,
            passwords: Vec::new(),
        }
    }

    /// The revision of one more change.
    pub fn next_rev(&mut self) -> Rev {
        self.rev = Rev(self.rev.0.saturating_add(1));
        self.rev
    }
}

pub struct UserTable;

impl Table for UserTable {
    const NAME: &'static str = "user";
    const KIND: u8 = kind::USER;
    const VERSION: u8 = 1;
    type Key = UserId;
    type Row = UserRow;

    fn key(user: &UserId) -> Vec<u8> {
        key::of(Self::KIND, user).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<UserId> {
        key::user(key)
    }
}

/// The account of a user of this shard.
pub fn find(ctx: &Ctx<'_, '_>, user: &UserId) -> Result<Option<UserRow>, Stop> {
    ctx.meta.check_user(user)?;
    Ok(table::get::<UserTable>(ctx.txn, user)?)
}

/// As [`find`], for who wants to get in: errors do not tell whether an account exists.
pub fn authenticated(ctx: &Ctx<'_, '_>, user: &UserId) -> Result<UserRow, Stop> {
    let row = find(ctx, user)?.ok_or(Rejection::Unauthenticated)?;
    if row.disabled { Err(Rejection::Forbidden("the account is disabled".into()).into()) } else { Ok(row) }
}

fn check_phc(phc: &str) -> Result<(), Rejection> {
    if phc.len() <= limits::PHC_BYTES_MAX {
        Ok(())
    } else {
        Err(Rejection::Validation(format!("a password hash has at most {} bytes", limits::PHC_BYTES_MAX)))
    }
}

pub fn register(ctx: &mut Ctx<'_, '_>, c: &Register) -> Outcome {
    match find(ctx, &c.user)? {
        Some(row) if row.request == Some(c.request) => Ok(Reply::Done),
        Some(_) => Err(Rejection::Exists.into()),
        None => {
            check_phc(&c.phc)?;
            let row = UserRow::new(&c.phc, ctx.meta.clock.display, Some(c.request));
            table::put::<UserTable>(ctx.txn, &c.user, &row);
            Ok(Reply::Done)
        }
    }
}

/// Ends all token families, and with them the open sessions: whoever knew the old password is out. A repeat of one of the
/// newest requests changes nothing, or a retry would log out who has logged in since.
pub fn set_password(ctx: &mut Ctx<'_, '_>, user: &UserId, phc: &str, request: Cid) -> Outcome {
    let mut row = find(ctx, user)?.ok_or(Rejection::NotFound)?;
    if row.passwords.contains(&request) {
        return Ok(Reply::Done);
    }
    check_phc(phc)?;
    row.phc = phc.to_owned();
    row.passwords.push(request);
    let surplus = row.passwords.len().saturating_sub(limits::PASSWORD_REQUESTS_KEPT);
    row.passwords.drain(..surplus);
    table::put::<UserTable>(ctx.txn, user, &row);
    for (device, _) in device::of_user(ctx.txn, user)? {
        token::end(ctx, user, device)?;
        session::end(ctx, user, device, Ended::LoggedOut)?;
    }
    Ok(Reply::Done)
}
