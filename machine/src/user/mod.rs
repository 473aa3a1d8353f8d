//! The user side: accounts, devices, sessions, inbox rows, cursors. Being built.

mod split;

use flotilla_proto::ids::*;

pub use split::split_notify;

use crate::Fatal;
use crate::apply::{Ctx, Outcome};
use crate::command::*;
use crate::meta::Meta;
use crate::query::{Answer, Query};
use crate::reply::{Rejection, Reply};
use crate::table::View;

fn later() -> Outcome {
    Err(Rejection::Validation("not built yet".into()).into())
}

pub fn register(_ctx: &mut Ctx<'_, '_>, _c: &Register) -> Outcome {
    later()
}

pub fn login(_ctx: &mut Ctx<'_, '_>, _c: &Login) -> Outcome {
    later()
}

pub fn rotate_token(_ctx: &mut Ctx<'_, '_>, _c: &RotateToken) -> Outcome {
    later()
}

pub fn logout(_ctx: &mut Ctx<'_, '_>, _user: &UserId, _device: DeviceId) -> Outcome {
    later()
}

pub fn revoke_device(_ctx: &mut Ctx<'_, '_>, _user: &UserId, _device: DeviceId, _request: Cid) -> Outcome {
    later()
}

pub fn rename_device(_ctx: &mut Ctx<'_, '_>, _user: &UserId, _device: DeviceId, _name: &str) -> Outcome {
    later()
}

pub fn set_password(_ctx: &mut Ctx<'_, '_>, _user: &UserId, _phc: &str, _request: Cid) -> Outcome {
    later()
}

pub fn open_session(_ctx: &mut Ctx<'_, '_>, _c: &OpenSession) -> Outcome {
    later()
}

pub fn close_session(_ctx: &mut Ctx<'_, '_>, _user: &UserId, _device: DeviceId, _number: SessionNo) -> Outcome {
    later()
}

pub fn notify(_ctx: &mut Ctx<'_, '_>, _items: &[Notify]) -> Outcome {
    later()
}

pub fn marks(_ctx: &mut Ctx<'_, '_>, _items: &[Mark]) -> Outcome {
    later()
}

pub fn peer_marks(_ctx: &mut Ctx<'_, '_>, _items: &[Receipt]) -> Outcome {
    later()
}

pub fn clear_receipt_due(_ctx: &mut Ctx<'_, '_>, _items: &[ClearReceipt]) -> Outcome {
    later()
}

pub fn fence(ctx: &mut Ctx<'_, '_>, node: NodeId, lowest: Incarnation, _limit: u32) -> Outcome {
    crate::meta::raise_fence(ctx.txn, node, lowest)?;
    Ok(Reply::Step { more: false })
}

pub fn step_job(_ctx: &mut Ctx<'_, '_>, _limit: u32) -> Outcome {
    Ok(Reply::Step { more: false })
}

/// Rows wait for `StepJob`.
pub fn job_due(_view: &View<'_>) -> Result<bool, Fatal> {
    Ok(false)
}

pub fn query(_view: &View<'_>, _meta: &Meta, _query: &Query) -> Result<Answer, Fatal> {
    Ok(Answer::NotFound)
}
