//! Table `contact`: whom a user keeps, under which name.
//!
//! Key: `41`, slot u16, user text, contact text. Row: name, since when.
//! Invariant: the user's profile counts its contacts, at most `CONTACTS_MAX`. Whether a contact exists is not known here:
//! it lives in another shard.

use flotilla_proto::ids::*;
use flotilla_proto::limits;
use serde::{Deserialize, Serialize};

use super::{account, key, profile};
use crate::Fatal;
use crate::apply::{Ctx, Outcome};
use crate::effect::Effect;
use crate::query::{Answer, ContactView};
use crate::reply::{Rejection, Reply};
use crate::table::{self, KeyReader, Rows, Table, View, kind};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContactRow {
    pub name: String,
    pub added: TsMs,
}

pub struct ContactTable;

impl Table for ContactTable {
    const NAME: &'static str = "contact";
    const KIND: u8 = kind::CONTACT;
    const VERSION: u8 = 1;
    type Key = (UserId, UserId);
    type Row = ContactRow;

    fn key((user, contact): &Self::Key) -> Vec<u8> {
        key::of(Self::KIND, user).user(contact).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<Self::Key> {
        Some((key::user(key)?, key.user()?))
    }
}

/// Has `user` kept `other` among its contacts?
pub fn knows(rows: &dyn Rows, user: &UserId, other: &UserId) -> Result<bool, Fatal> {
    Ok(table::get::<ContactTable>(rows, &(user.clone(), other.clone()))?.is_some())
}

/// Done again: nothing changes. Presence that is shown to contacts only may be shown to one more, or to one fewer.
pub fn set_contact(ctx: &mut Ctx<'_, '_>, user: &UserId, contact: &UserId, name: Option<&str>) -> Outcome {
    account::find(ctx, user)?.ok_or(Rejection::NotFound)?;
    let key = (user.clone(), contact.clone());
    let old = table::get::<ContactTable>(ctx.txn, &key)?;
    let Some(name) = name else {
        if old.is_some() {
            table::delete::<ContactTable>(ctx.txn, &key);
            profile::count(ctx, user, |row| row.contacts = row.contacts.saturating_sub(1))?;
            ctx.effects.push(Effect::Presence { user: user.clone() });
        }
        return Ok(Reply::Done);
    };
    if user == contact {
        return Err(Rejection::Validation("nobody is their own contact".into()).into());
    }
    profile::check_text("a contact's name", name, limits::NAME_BYTES_MAX)?;
    let is_new = old.is_none();
    if is_new && profile::of(ctx.txn, user)?.contacts as usize >= limits::CONTACTS_MAX {
        return Err(Rejection::Quota("contacts".into()).into());
    }
    let added = old.as_ref().map_or(ctx.meta.clock.display, |old| old.added);
    let row = ContactRow { name: name.to_owned(), added };
    if old.as_ref() == Some(&row) {
        return Ok(Reply::Done);
    }
    table::put::<ContactTable>(ctx.txn, &key, &row);
    if is_new {
        profile::count(ctx, user, |row| row.contacts = row.contacts.saturating_add(1))?;
        ctx.effects.push(Effect::Presence { user: user.clone() });
    }
    Ok(Reply::Done)
}

pub fn page(view: &View<'_>, user: &UserId, after: Option<&UserId>, limit: u32) -> Result<Answer, Fatal> {
    let all = key::of(kind::CONTACT, user).build();
    let end = table::end_of(&all);
    let from = match after {
        Some(after) => table::above(ContactTable::key(&(user.clone(), after.clone()))),
        None => all,
    };
    let limit = limit.clamp(1, limits::CONTACTS_PER_PAGE_MAX) as usize;
    let (page, more) = table::page::<ContactTable>(view, &from, &end, limit)?;
    let view =
        |((_, user), row): ((UserId, UserId), ContactRow)| ContactView { user, name: row.name, added: row.added };
    Ok(Answer::Contacts { contacts: page.into_iter().map(view).collect(), more })
}
