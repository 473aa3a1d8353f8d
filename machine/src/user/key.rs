//! What the keys of all user tables share: (kind, slot of the user, user, …).

use flotilla_proto::ids::*;
use flotilla_proto::slots;

use crate::table::{KeyBuilder, KeyReader};

/// The prefix of one user's rows in a table.
pub fn of(kind: u8, user: &UserId) -> KeyBuilder {
    KeyBuilder::new(kind).slot(slots::of_user(user)).user(user)
}

pub fn user(key: &mut KeyReader<'_>) -> Option<UserId> {
    key.slot()?;
    key.user()
}

pub fn device(key: &mut KeyReader<'_>) -> Option<DeviceId> {
    key.u128().map(DeviceId)
}
