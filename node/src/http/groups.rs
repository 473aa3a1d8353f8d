//! Conversations and groups over REST: list, create, members, messages.

use flotilla_machine::command::MarkKind;
use flotilla_machine::query::Conversation;
use flotilla_machine::{Answer, Query};
use flotilla_proto::entry::{HistoryAccess, Role, What};
use flotilla_proto::frame::{self, CommandFrame, ErrorBody, ErrorCode, Target};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use serde::Deserialize;
use serde_json::{Value, json};

use super::accounts::Me;
use super::api::{Outcome, Request};
use crate::auth;
use crate::backend::{Freshness, Route};
use crate::gateway::shared::Shared;
use crate::gateway::{errors, ops};

pub fn conv_id(text: &str) -> Result<ConvId, ErrorBody> {
    ConvId::parse(text).map_err(|_| errors::not_found("no such conversation"))
}

fn user_id(text: &str) -> Result<UserId, ErrorBody> {
    UserId::parse(text).map_err(|e| errors::invalid(e.to_string()))
}

fn value<T: serde::Serialize>(frame: &T) -> Outcome {
    serde_json::to_value(frame).map_err(|_| errors::internal("encoding"))
}

async fn append(shared: &Shared, me: &Me, conv: ConvId, cid: Cid, what: What) -> Outcome {
    let frame = CommandFrame { target: Target::Conv(conv), cid, age_s: 0, after: None, what };
    let result = ops::append(shared, &me.user, me.device, &frame).await;
    shared.figures.send_result(result.as_ref().map_or_else(|e| e.code.name(), |_| "accepted"));
    value(&result?)
}

pub async fn list(shared: &Shared, me: Me, mut request: Request) -> Outcome {
    #[derive(Deserialize)]
    struct Params {
        after: Option<ConvId>,
        limit: Option<u32>,
    }
    let Params { after, limit } = request.params()?;
    let limit = limit.unwrap_or(limits::ROWS_PER_PAGE).clamp(1, limits::ROWS_PER_PAGE);
    let query = Query::Rows { user: me.user.clone(), device: me.device, after, limit };
    let page = match shared.backend.query(Route::User(me.user.clone()), query, Freshness::Linearizable).await {
        Ok(Answer::Rows(page)) => page,
        Ok(_) => return Err(errors::internal("rows")),
        Err(error) => return Err(errors::of_call(error)),
    };
    let epoch = shared.node().epoch;
    let convs: Vec<frame::Conv> = page.rows.iter().map(|row| ops::conv_frame(&me.user, epoch, row)).collect();
    Ok(json!({ "convs": value(&convs)?, "more": page.more }))
}

pub async fn create(shared: &Shared, me: Me, mut request: Request) -> Outcome {
    #[derive(Deserialize)]
    struct Params {
        name: String,
        #[serde(default)]
        members: Vec<UserId>,
        #[serde(default)]
        history: HistoryAccess,
    }
    let key = request.key()?;
    let Params { name, members, history } = request.params()?;
    let conv = ConvId::group(&me.user, key);
    append(shared, &me, conv, key, What::Create { name, members, history }).await
}

async fn conversation(shared: &Shared, me: &Me, conv: &ConvId) -> Result<Conversation, ErrorBody> {
    let query = Query::Conversation { conv: conv.clone(), user: me.user.clone() };
    match shared.backend.query(Route::Conv(conv.clone()), query, Freshness::Linearizable).await {
        Ok(Answer::Conversation(Some(c))) => Ok(c),
        Ok(Answer::NotMember) => Err(ErrorBody::new(ErrorCode::NotMember, "not a member of this conversation")),
        Ok(Answer::Conversation(None) | Answer::NotFound) => Err(errors::not_found("no such conversation")),
        Ok(_) => Err(errors::internal("conversation")),
        Err(error) => Err(errors::of_call(error)),
    }
}

pub async fn show(shared: &Shared, me: Me, id: &str) -> Outcome {
    value(&conversation(shared, &me, &conv_id(id)?).await?)
}

/// An `Idempotency-Key` makes a change safe to repeat; without one each request is new.
fn key_or_new(request: &Request) -> Cid {
    request.key.unwrap_or_else(|| Cid(auth::random_u128()))
}

pub async fn change(shared: &Shared, me: Me, id: &str, mut request: Request) -> Outcome {
    #[derive(Deserialize)]
    struct Params {
        name: Option<String>,
        history: Option<HistoryAccess>,
    }
    let cid = key_or_new(&request);
    let what = match request.params()? {
        Params { name: Some(name), history: None } => What::Rename { name },
        Params { name: None, history: Some(history) } => What::SetHistory { history },
        _ => return Err(errors::bad("one of `name` and `history`")),
    };
    append(shared, &me, conv_id(id)?, cid, what).await
}

pub async fn members(shared: &Shared, me: Me, id: &str, mut request: Request) -> Outcome {
    #[derive(Deserialize)]
    struct Params {
        after: Option<UserId>,
        limit: Option<u32>,
    }
    let Params { after, limit } = request.params()?;
    let max = limits::CONV_MEMBERS_LISTED_MAX as u32;
    let conv = conv_id(id)?;
    let limit = limit.unwrap_or(max).clamp(1, max);
    let query = Query::Members { conv: conv.clone(), user: me.user.clone(), after, limit };
    match shared.backend.query(Route::Conv(conv), query, Freshness::Linearizable).await {
        Ok(Answer::Members { members, more }) => Ok(json!({ "members": value(&members)?, "more": more })),
        Ok(Answer::NotMember) => Err(ErrorBody::new(ErrorCode::NotMember, "not a member of this conversation")),
        Ok(Answer::NotFound) => Err(errors::not_found("no such conversation")),
        Ok(_) => Err(errors::internal("members")),
        Err(error) => Err(errors::of_call(error)),
    }
}

pub async fn add(shared: &Shared, me: Me, id: &str, mut request: Request) -> Outcome {
    #[derive(Deserialize)]
    struct Params {
        users: Vec<UserId>,
    }
    let key = request.key()?;
    let Params { users } = request.params()?;
    append(shared, &me, conv_id(id)?, key, What::Add { users }).await
}

pub async fn remove(shared: &Shared, me: Me, id: &str, user: &str, request: Request) -> Outcome {
    let user = user_id(user)?;
    let what = if user == me.user { What::Leave { heir: None } } else { What::Remove { user } };
    append(shared, &me, conv_id(id)?, key_or_new(&request), what).await
}

pub async fn set_role(shared: &Shared, me: Me, id: &str, user: &str, mut request: Request) -> Outcome {
    #[derive(Deserialize)]
    struct Params {
        role: Role,
    }
    let cid = key_or_new(&request);
    let Params { role } = request.params()?;
    append(shared, &me, conv_id(id)?, cid, What::SetRole { user: user_id(user)?, role }).await
}

/// The fields of a `send` frame; the `Idempotency-Key` is the cid.
pub async fn send(shared: &Shared, me: Me, id: &str, mut request: Request) -> Outcome {
    let cid = request.key()?;
    request.params.insert("cid".into(), value(&cid)?);
    request.params.insert("conv".into(), Value::from(id));
    request.params.remove("to");
    let send: frame::SendMessage = request.params()?;
    let command = frame::ClientFrame::Send(send).command().ok_or_else(|| errors::bad("no target"))?;
    let result = ops::append(shared, &me.user, me.device, &command).await;
    shared.figures.send_result(result.as_ref().map_or_else(|e| e.code.name(), |_| "accepted"));
    value(&result?)
}

/// What a mark without a session carries.
pub fn sessionless(me: &Me, conv: ConvId, kind: MarkKind, seq: Seq, n: Count) -> flotilla_machine::command::Mark {
    flotilla_machine::command::Mark {
        user: me.user.clone(),
        device: me.device,
        number: flotilla_machine::command::Mark::SESSIONLESS,
        conv,
        kind,
        seq,
        n,
        head: seq,
        n_head: n,
    }
}
