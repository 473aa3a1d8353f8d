//! Table `privacy`: what a user keeps to itself in every conversation. Its presence has a row of its own.
//!
//! Key: `4a`, slot u16, user text. No row: nothing is kept back.
//! Invariants: while a user hides its read marks, none of its reads is owed to a conversation, and no answer shows it the
//! read mark of somebody else. The inbox rows hold what is true all the while: marks of others are shown again as soon as
//! the user shows its own, and its own with its next read.

use std::collections::BTreeSet;

use flotilla_proto::ids::*;
use flotilla_proto::limits;
use serde::{Deserialize, Serialize};

use super::{account, key, presence};
use crate::Fatal;
use crate::apply::{Ctx, Outcome};
use crate::command::Audience;
use crate::meta::Owned;
use crate::query::Answer;
use crate::reply::{Rejection, Reply};
use crate::table::{self, KeyReader, Rows, Table, View, kind};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PrivacyRow {
    /// Read marks are neither shown to others nor those of others to this user.
    pub hide_read: bool,
}

pub struct PrivacyTable;

impl Table for PrivacyTable {
    const NAME: &'static str = "privacy";
    const KIND: u8 = kind::PRIVACY;
    const VERSION: u8 = 1;
    type Key = UserId;
    type Row = PrivacyRow;

    fn key(user: &UserId) -> Vec<u8> {
        key::of(Self::KIND, user).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<UserId> {
        key::user(key)
    }
}

pub fn of(rows: &dyn Rows, user: &UserId) -> Result<PrivacyRow, Fatal> {
    Ok(table::get::<PrivacyTable>(rows, user)?.unwrap_or_default())
}

pub fn hides_read(rows: &dyn Rows, user: &UserId) -> Result<bool, Fatal> {
    Ok(of(rows, user)?.hide_read)
}

/// Both at once; none: stays. Done again: nothing changes.
pub fn change_privacy(
    ctx: &mut Ctx<'_, '_>,
    user: &UserId,
    shown_to: Option<Audience>,
    hide_read: Option<bool>,
) -> Outcome {
    account::find(ctx, user)?.ok_or(Rejection::NotFound)?;
    if let Some(shown_to) = shown_to {
        presence::set_privacy(ctx, user, shown_to)?;
    }
    let old = of(ctx.txn, user)?;
    let new = PrivacyRow { hide_read: hide_read.unwrap_or(old.hide_read) };
    if new == PrivacyRow::default() && new != old {
        table::delete::<PrivacyTable>(ctx.txn, user);
    } else if new != old {
        table::put::<PrivacyTable>(ctx.txn, user, &new);
    }
    Ok(Reply::Done)
}

/// Those of these users that hide their read marks. A part of the answer would show the marks of the rest: so all, or a refusal.
pub fn hiding(view: &View<'_>, owned: &Owned, users: &[UserId]) -> Result<Answer, Fatal> {
    if users.len() > limits::HIDING_USERS_MAX {
        return Ok(Answer::TooMany { max: limits::HIDING_USERS_MAX as u32 });
    }
    if users.iter().any(|user| owned.check_user(user).is_err()) {
        return Ok(Answer::Moved);
    }
    let mut hiding = BTreeSet::new();
    for user in users {
        if hides_read(view, user)? {
            hiding.insert(user.clone());
        }
    }
    Ok(Answer::Hiding(hiding))
}
