//! `PlaceDevice`: the last step of a device's registration.
//!
//! A row in pull mode is not told of heads, so where a new device stands there only the conversation's leader can say. Until
//! it has a place in all of them a device is not registered: it gets no `ready`. Invariant (I5): a place is given once, and
//! only where there is none; whatever was accepted after the registration lies above it or is pending for it anyway. (The
//! heads were read after the registration committed. An older head would do too: it only shows the device more.)

use flotilla_proto::ids::*;
use flotilla_proto::limits;

use super::inbox::Change;
use super::{cursor, device};
use crate::apply::{Ctx, Outcome, check_batch};
use crate::command::PulledHead;
use crate::reply::{Rejection, Reply};
use crate::table;

pub fn place_device(ctx: &mut Ctx<'_, '_>, user: &UserId, device: DeviceId, places: &[PulledHead]) -> Outcome {
    check_batch(places.len(), limits::NOTIFY_USERS_PER_COMMAND_MAX)?;
    ctx.meta.check_user(user)?;
    if table::get::<device::DeviceTable>(ctx.txn, &(user.clone(), device))?.is_none() {
        return Err(Rejection::NotFound.into());
    }
    for place in places {
        let Some(mut change) = Change::begin(ctx.txn, user, &place.conv)? else { continue };
        if !change.row.part.is_pulled() || cursor::find(ctx.txn, user, device, &place.conv)?.is_some() {
            continue;
        }
        // Before the head merges, which gives the devices without a place one at the head of before.
        let head = change.row.effective_head().max(place.head);
        cursor::put(ctx.txn, user, device, &place.conv, head);
        change.row.merge_head(place.head, place.n_head);
        change.commit(ctx)?;
    }
    Ok(Reply::Done)
}
