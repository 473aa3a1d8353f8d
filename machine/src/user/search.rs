//! `Query::FindUsers`: users of a shard by the beginning of their ids.
//!
//! Users are spread over slots by a hash, so every slot of the shard is looked at: one short scan each.

use std::ops::ControlFlow;

use flotilla_proto::ids::*;
use flotilla_proto::limits;

use super::account::UserTable;
use crate::Fatal;
use crate::meta::Owned;
use crate::query::Answer;
use crate::table::{self, KeyBuilder, View, kind};

/// The first `limit` users of this shard in order of ids whose ids begin with `prefix`.
pub fn find(view: &View<'_>, owned: &Owned, prefix: &str, limit: u32) -> Result<Answer, Fatal> {
    let limit = limit.clamp(1, limits::FOUND_USERS_MAX) as usize;
    let fits = prefix.len() <= limits::USER_ID_BYTES_MAX && !prefix.as_bytes().contains(&0);
    let Some(slots) = owned.slot_table().filter(|_| fits) else { return Ok(Answer::Users(Vec::new())) };
    let mut users = Vec::new();
    for slot in (0..limits::SLOTS).map(Slot).filter(|slot| slots.shard(*slot) == Some(owned.shard)) {
        let mut from = KeyBuilder::new(kind::USER).slot(slot).build();
        from.extend_from_slice(prefix.as_bytes());
        let mut of_slot = 0;
        table::scan_prefix::<UserTable>(view, &from, &mut |user, row| {
            if !row.disabled {
                users.push(user);
                of_slot += 1;
            }
            if of_slot < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        if users.len() > 4 * limit {
            keep_first(&mut users, limit);
        }
    }
    keep_first(&mut users, limit);
    Ok(Answer::Users(users))
}

fn keep_first(users: &mut Vec<UserId>, limit: usize) {
    users.sort();
    users.truncate(limit);
}
