//! Table `profile`: what a user says of itself to others, and how many people it keeps.
//!
//! Key: `46`, slot u16, user text.
//! Invariant: `contacts` and `blocks` are the numbers of the user's rows in those tables.

use flotilla_proto::ids::*;
use flotilla_proto::limits;
use serde::{Deserialize, Serialize};

use super::account::UserTable;
use super::{account, key};
use crate::Fatal;
use crate::apply::{Ctx, Outcome};
use crate::query::{Answer, ProfileView};
use crate::reply::{Rejection, Reply};
use crate::table::{self, KeyReader, Rows, Table, View, kind};

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProfileRow {
    pub name: String,
    /// A reference that clients understand.
    pub avatar: String,
    pub about: String,
    pub changed: TsMs,
    pub contacts: u32,
    pub blocks: u32,
}

pub struct ProfileTable;

impl Table for ProfileTable {
    const NAME: &'static str = "profile";
    const KIND: u8 = kind::PROFILE;
    const VERSION: u8 = 1;
    type Key = UserId;
    type Row = ProfileRow;

    fn key(user: &UserId) -> Vec<u8> {
        key::of(Self::KIND, user).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<UserId> {
        key::user(key)
    }
}

pub fn of(rows: &dyn Rows, user: &UserId) -> Result<ProfileRow, Fatal> {
    Ok(table::get::<ProfileTable>(rows, user)?.unwrap_or_default())
}

/// Changes the counts of a user's people.
pub fn count(ctx: &mut Ctx<'_, '_>, user: &UserId, change: impl FnOnce(&mut ProfileRow)) -> Result<(), Fatal> {
    let mut row = of(ctx.txn, user)?;
    change(&mut row);
    table::put::<ProfileTable>(ctx.txn, user, &row);
    Ok(())
}

pub fn set_profile(
    ctx: &mut Ctx<'_, '_>,
    user: &UserId,
    name: Option<&str>,
    avatar: Option<&str>,
    about: Option<&str>,
) -> Outcome {
    account::find(ctx, user)?.ok_or(Rejection::NotFound)?;
    let old = of(ctx.txn, user)?;
    let mut row = old.clone();
    for (what, given, kept, max) in [
        ("a name", name, &mut row.name, limits::NAME_BYTES_MAX),
        ("an avatar", avatar, &mut row.avatar, limits::MEDIA_BYTES_MAX),
        ("`about`", about, &mut row.about, limits::ABOUT_BYTES_MAX),
    ] {
        if let Some(text) = given {
            check_text(what, text, max)?;
            *kept = text.to_owned();
        }
    }
    if row != old {
        row.changed = ctx.meta.clock.display;
        table::put::<ProfileTable>(ctx.txn, user, &row);
    }
    Ok(Reply::Done)
}

pub fn shown(view: &View<'_>, user: &UserId) -> Result<Answer, Fatal> {
    let Some(account) = table::get::<UserTable>(view, user)? else { return Ok(Answer::Profile(None)) };
    let ProfileRow { name, avatar, about, changed, .. } = of(view, user)?;
    Ok(Answer::Profile(Some(ProfileView { created: account.created, name, avatar, about, changed })))
}

pub fn check_text(what: &str, text: &str, bytes_max: usize) -> Result<(), Rejection> {
    if text.len() <= bytes_max && !text.chars().any(char::is_control) {
        Ok(())
    } else {
        Err(Rejection::Validation(format!("{what} is at most {bytes_max} bytes without control characters")))
    }
}
