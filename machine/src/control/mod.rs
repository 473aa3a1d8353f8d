//! The control group: nodes, incarnations, placement, settings, keys. Being built.

use crate::Fatal;
use crate::apply::{Ctx, Outcome};
use crate::command::Control;
use crate::meta::Meta;
use crate::query::Answer;
use crate::reply::Rejection;
use crate::table::View;

pub fn apply(_ctx: &mut Ctx<'_, '_>, _command: &Control) -> Outcome {
    Err(Rejection::Validation("not built yet".into()).into())
}

pub fn query(_view: &View<'_>, _meta: &Meta) -> Result<Answer, Fatal> {
    Ok(Answer::ControlState(None))
}
