//! Table `presence`: when a user was last here, and who may see it. Who is here now is derived from the sessions.
//!
//! Key: `45`, slot u16, user text. Row: last seen, audience.
//! Invariant: a user without a session that ever had one has a last seen, written with the command that ended the last
//! session: it costs no command of its own, and none is proposed while the user is here.
//! A user that may not be seen, one that has blocked who asks, and one that does not exist look alike.

use flotilla_proto::ids::*;
use flotilla_proto::limits;
use serde::{Deserialize, Serialize};

use super::account::UserTable;
use super::{account, block, contact, key, session};
use crate::Fatal;
use crate::apply::{Ctx, Outcome};
use crate::command::Audience;
use crate::effect::Effect;
use crate::meta::Owned;
use crate::query::{Answer, PresenceView};
use crate::reply::{Rejection, Reply};
use crate::table::{self, KeyReader, Rows, Table, View, kind};

/// The feature level from which a session's end is remembered.
pub const LEVEL: u32 = 2;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PresenceRow {
    /// When the last session ended, by the display clock.
    pub last_seen: Option<TsMs>,
    pub shown_to: Audience,
}

pub struct PresenceTable;

impl Table for PresenceTable {
    const NAME: &'static str = "presence";
    const KIND: u8 = kind::PRESENCE;
    const VERSION: u8 = 1;
    type Key = UserId;
    type Row = PresenceRow;

    fn key(user: &UserId) -> Vec<u8> {
        key::of(Self::KIND, user).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<UserId> {
        key::user(key)
    }
}

pub fn of(rows: &dyn Rows, user: &UserId) -> Result<PresenceRow, Fatal> {
    Ok(table::get::<PresenceTable>(rows, user)?.unwrap_or_default())
}

fn announce(ctx: &mut Ctx<'_, '_>, user: &UserId) {
    ctx.effects.push(Effect::Presence { user: user.clone() });
}

/// The user's first session was opened.
pub fn came(ctx: &mut Ctx<'_, '_>, user: &UserId) {
    announce(ctx, user);
}

/// A session of the user was removed; another one may still be open.
pub fn left(ctx: &mut Ctx<'_, '_>, user: &UserId) -> Result<(), Fatal> {
    if session::is_online(ctx.txn, user)? {
        return Ok(());
    }
    if ctx.meta.has_level(LEVEL) {
        let mut row = of(ctx.txn, user)?;
        row.last_seen = row.last_seen.max(Some(ctx.meta.clock.display));
        table::put::<PresenceTable>(ctx.txn, user, &row);
    }
    announce(ctx, user);
    Ok(())
}

pub fn set_privacy(ctx: &mut Ctx<'_, '_>, user: &UserId, presence: Audience) -> Outcome {
    account::find(ctx, user)?.ok_or(Rejection::NotFound)?;
    let mut row = of(ctx.txn, user)?;
    if row.shown_to != presence {
        row.shown_to = presence;
        table::put::<PresenceTable>(ctx.txn, user, &row);
        announce(ctx, user);
    }
    Ok(Reply::Done)
}

/// What each first user may see of the second.
pub fn seen(view: &View<'_>, owned: &Owned, pairs: &[(UserId, UserId)]) -> Result<Answer, Fatal> {
    if pairs.iter().any(|(_, user)| owned.check_user(user).is_err()) {
        return Ok(Answer::Moved);
    }
    let pairs = pairs.iter().take(limits::PRESENCE_PAIRS_MAX);
    pairs.map(|(by, user)| seen_by(view, by, user)).collect::<Result<_, _>>().map(Answer::Presence)
}

fn seen_by(view: &View<'_>, by: &UserId, user: &UserId) -> Result<PresenceView, Fatal> {
    let row = of(view, user)?;
    let allowed = by == user
        || match row.shown_to {
            Audience::Everyone => !block::is_blocked(view, user, by)?,
            Audience::Contacts => contact::knows(view, user, by)? && !block::is_blocked(view, user, by)?,
            Audience::Nobody => false,
        };
    if !allowed || table::get::<UserTable>(view, user)?.is_none() {
        return Ok(PresenceView::Hidden);
    }
    Ok(match session::is_online(view, user)? {
        true => PresenceView::Online,
        false => PresenceView::Offline { last_seen: row.last_seen },
    })
}
