//! Table `conv_settings`: what a user has settled about one conversation, for itself.
//!
//! Key: `47`, slot u16, user text, conversation text. No row: nothing is settled.
//! Invariants: a change moves the conversation's inbox row to a new revision, so that every device of the user hears of it in
//! order. "Unread" is a flag: the read mark never goes back, and the next read takes the flag away. It is a table of its own:
//! the inbox row is written for every message, this one is not even read then.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use flotilla_proto::ids::*;

use super::inbox::Change;
use super::{account, key};
use crate::Fatal;
use crate::apply::{Ctx, Outcome};
use crate::command::{ConvChange, ConvSettings};
use crate::reply::{Rejection, Reply};
use crate::table::{self, KeyReader, Rows, Table, View, kind};

/// The feature level from which read marks can be hidden.
pub const LEVEL: u32 = 2;

pub struct ConvSettingsTable;

impl Table for ConvSettingsTable {
    const NAME: &'static str = "conv_settings";
    const KIND: u8 = kind::CONV_SETTINGS;
    const VERSION: u8 = 1;
    type Key = (UserId, ConvId);
    type Row = ConvSettings;

    fn key((user, conv): &Self::Key) -> Vec<u8> {
        key::of(Self::KIND, user).conv(conv).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<Self::Key> {
        Some((key::user(key)?, key.conv()?))
    }
}

pub fn of(rows: &dyn Rows, user: &UserId, conv: &ConvId) -> Result<ConvSettings, Fatal> {
    Ok(table::get::<ConvSettingsTable>(rows, &(user.clone(), conv.clone()))?.unwrap_or_default())
}

/// What is settled about conversations from `first` to `last`, both included.
pub fn between(
    view: &View<'_>,
    user: &UserId,
    first: &ConvId,
    last: &ConvId,
) -> Result<BTreeMap<ConvId, ConvSettings>, Fatal> {
    let bound = |conv: &ConvId| ConvSettingsTable::key(&(user.clone(), conv.clone()));
    let mut settings = BTreeMap::new();
    table::scan::<ConvSettingsTable>(view, &bound(first), &table::above(bound(last)), &mut |(_, conv), row| {
        settings.insert(conv, row);
        ControlFlow::Continue(())
    })?;
    Ok(settings)
}

/// Everything that a user has settled.
pub fn of_user(view: &View<'_>, user: &UserId) -> Result<BTreeMap<ConvId, ConvSettings>, Fatal> {
    let mut settings = BTreeMap::new();
    let all = key::of(kind::CONV_SETTINGS, user).build();
    table::scan_prefix::<ConvSettingsTable>(view, &all, &mut |(_, conv), row| {
        settings.insert(conv, row);
        ControlFlow::Continue(())
    })?;
    Ok(settings)
}

pub fn put(ctx: &mut Ctx<'_, '_>, user: &UserId, conv: &ConvId, settings: &ConvSettings) {
    let key = (user.clone(), conv.clone());
    if *settings == ConvSettings::default() {
        table::delete::<ConvSettingsTable>(ctx.txn, &key);
    } else {
        table::put::<ConvSettingsTable>(ctx.txn, &key, settings);
    }
}

/// Only for a conversation that the user knows. Done again: nothing changes.
pub fn set_conv(ctx: &mut Ctx<'_, '_>, user: &UserId, conv: &ConvId, change: &ConvChange) -> Outcome {
    account::find(ctx, user)?.ok_or(Rejection::NotFound)?;
    let row = Change::begin(ctx.txn, user, conv)?.filter(|c| c.old.is_some() && c.row.is_shown());
    let row = row.ok_or(Rejection::NotFound)?;
    if change.hide_read == Some(true) && !ctx.meta.has_level(LEVEL) {
        return Err(Rejection::Validation("this cluster was made before read marks could be hidden".into()).into());
    }
    let old = of(ctx.txn, user, conv)?;
    let new = old.changed(change, ctx.meta.clock.display);
    if new != old {
        put(ctx, user, conv, &new);
        row.touch(ctx)?;
    }
    Ok(Reply::Done)
}
