//! Table `cursor`: up to where one device has acked one conversation.
//!
//! Key: `37`, slot u16, user text, device u128, conversation text. Row: seq.
//!
//! A missing row means that nothing was pending for the device when it registered, nor has anything become so: it stands
//! at the effective head. So before something becomes pending, every registered device without a row gets one at the
//! effective head of before ([`settle`]). Otherwise: 1. a device registers, 2. a head advances, 3. the device looks, finds
//! no row, takes itself to be at the *new* head, and has skipped an entry.
//! Invariant (I5): a row moves up by its own device's ack only.

use flotilla_proto::ids::*;

use super::inbox::Row;
use super::{device, key};
use crate::table::{self, KeyReader, Rows, Table, kind};
use crate::{Fatal, Txn};

pub struct CursorTable;

impl Table for CursorTable {
    const NAME: &'static str = "cursor";
    const KIND: u8 = kind::CURSOR;
    const VERSION: u8 = 1;
    type Key = (UserId, DeviceId, ConvId);
    type Row = Seq;

    fn key((user, device, conv): &Self::Key) -> Vec<u8> {
        key::of(Self::KIND, user).u128(device.0).conv(conv).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<Self::Key> {
        Some((key::user(key)?, key::device(key)?, key.conv()?))
    }
}

pub fn find(rows: &dyn Rows, user: &UserId, device: DeviceId, conv: &ConvId) -> Result<Option<Seq>, Fatal> {
    table::get::<CursorTable>(rows, &(user.clone(), device, conv.clone()))
}

pub fn put(txn: &mut Txn<'_>, user: &UserId, device: DeviceId, conv: &ConvId, seq: Seq) {
    table::put::<CursorTable>(txn, &(user.clone(), device, conv.clone()), &seq);
}

/// Where a device without a row stands before a change: at the effective head of before; where the user's stays were not
/// known yet, just before the first of them.
fn implied(old: Option<&Row>, new: &Row) -> Seq {
    match old {
        Some(old) if !old.part.intervals.is_empty() => old.effective_head(),
        _ => new.part.intervals.first().map_or(Seq::ZERO, |first| first.from.prev()),
    }
}

/// Writes down the place of every device that has no row, if the change from `old` to `new` makes anything pending
/// for it. Gives the number of rows written.
pub fn settle(txn: &mut Txn<'_>, user: &UserId, conv: &ConvId, old: Option<&Row>, new: &Row) -> Result<usize, Fatal> {
    let place = implied(old, new);
    // A row in pull mode does not hear of heads: from now on a device without a place is one that registered since.
    let becomes_pulled = new.part.is_pulled() && !old.is_some_and(|old| old.part.is_pulled());
    if !new.part.pending(place, new.head) && !becomes_pulled {
        return Ok(0);
    }
    let mut written = 0;
    for device in device::ids_of_user(txn, user)? {
        if find(txn, user, device, conv)?.is_none() {
            put(txn, user, device, conv, place);
            written += 1;
        }
    }
    Ok(written)
}

/// Deletes at most `limit` cursors of a revoked device; gives how many, and whether there are more.
pub fn remove_some(txn: &mut Txn<'_>, user: &UserId, device: DeviceId, limit: usize) -> Result<(usize, bool), Fatal> {
    let from = of_device(user, device);
    let (page, more) = table::page::<CursorTable>(txn, &from, &table::end_of(&from), limit)?;
    for (key, _) in &page {
        table::delete::<CursorTable>(txn, key);
    }
    Ok((page.len(), more))
}

/// The key prefix of a device's cursors.
fn of_device(user: &UserId, device: DeviceId) -> Vec<u8> {
    key::of(kind::CURSOR, user).u128(device.0).build()
}
