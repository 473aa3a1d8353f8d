//! What users say of themselves, whom they block, who is found by the beginning of an id, and reports.

use flotilla_machine::query::{BlockView, ProfileView};
use flotilla_machine::{Answer, Command, Query, Rejection};
use flotilla_proto::frame::{ErrorBody, ErrorCode};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use futures::stream::{self, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};

use super::accounts::{Me, execute};
use super::api::{Outcome, Request};
use super::people::{user_id, users_of};
use crate::auth;
use crate::backend::{CallError, Freshness, Route};
use crate::gateway::errors;
use crate::gateway::shared::Shared;

async fn read(shared: &Shared, user: &UserId) -> Result<Option<ProfileView>, ErrorBody> {
    let query = Query::Profile { user: user.clone() };
    match shared.backend.query(Route::User(user.clone()), query, Freshness::Linearizable).await {
        Ok(Answer::Profile(profile)) => Ok(profile),
        Ok(_) => Err(errors::internal("profile")),
        Err(error) => Err(errors::of_call(error)),
    }
}

fn value(user: &UserId, profile: &ProfileView) -> Value {
    let ProfileView { created, name, avatar, about, changed } = profile;
    json!({ "user": user, "created": created, "name": name, "avatar": avatar, "about": about, "changed": changed })
}

pub async fn profile(shared: &Shared, id: &str) -> Outcome {
    let user = user_id(id)?;
    let profile = read(shared, &user).await?.ok_or_else(|| errors::not_found("no such user"))?;
    Ok(value(&user, &profile))
}

/// Of several users; those that do not exist are left out.
pub async fn profiles(shared: &Shared, request: Request) -> Outcome {
    let users = users_of(request.params.get("ids").unwrap_or(&Value::Null))?;
    if users.len() > limits::PROFILES_PER_PAGE {
        return Err(errors::invalid(format!("at most {} users", limits::PROFILES_PER_PAGE)));
    }
    let one = async |user: UserId| read(shared, &user).await.map(|found| found.map(|profile| value(&user, &profile)));
    let found: Vec<_> = stream::iter(users).map(one).buffered(limits::PROFILES_AT_ONCE).collect().await;
    let found: Vec<Option<Value>> = found.into_iter().collect::<Result<_, _>>()?;
    Ok(json!({ "users": found.into_iter().flatten().collect::<Vec<_>>() }))
}

pub async fn change(shared: &Shared, me: Me, mut request: Request) -> Outcome {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Params {
        name: Option<String>,
        avatar: Option<String>,
        about: Option<String>,
    }
    let Params { name, avatar, about } = request.params()?;
    if name.is_none() && avatar.is_none() && about.is_none() {
        return Err(errors::bad("one of `name`, `avatar`, `about`"));
    }
    execute(shared, &me.user, Command::SetProfile { user: me.user.clone(), name, avatar, about }).await?;
    profile(shared, me.user.as_str()).await
}

/// A user's tries of what costs more than most.
fn try_ask(shared: &Shared, me: &Me, what: &str) -> Result<(), ErrorBody> {
    if shared.asks.allow(&format!("{what}:{}", me.user), tokio::time::Instant::now()) {
        return Ok(());
    }
    let wait = Some(60_000 / u64::from(limits::ASKS_PER_MINUTE));
    Err(ErrorBody { retry_after_ms: wait, ..ErrorBody::new(ErrorCode::TooManyRequests, format!("too many {what}")) })
}

pub async fn find(shared: &Shared, me: Me, mut request: Request) -> Outcome {
    #[derive(Deserialize)]
    struct Params {
        prefix: Value,
        limit: Option<u32>,
    }
    let Params { prefix, limit } = request.params()?;
    // A query of digits arrives as a number.
    let prefix = prefix.as_str().map_or_else(|| prefix.to_string(), str::to_owned).to_lowercase();
    if prefix.len() < limits::FIND_PREFIX_BYTES_MIN || UserId::parse(&prefix).is_err() {
        let message =
            format!("`prefix` is the beginning of a user id, at least {} bytes", limits::FIND_PREFIX_BYTES_MIN);
        return Err(errors::invalid(message));
    }
    try_ask(shared, &me, "searches")?;
    let limit = limit.unwrap_or(20).clamp(1, limits::FOUND_USERS_MAX);
    let (users, whole) = shared.backend.find_users(prefix, limit).await.map_err(errors::of_call)?;
    Ok(json!({ "users": users, "partial": !whole }))
}

async fn blocks_of(shared: &Shared, me: &Me, query: Query) -> Result<(Vec<BlockView>, bool), ErrorBody> {
    match shared.backend.query(Route::User(me.user.clone()), query, Freshness::Linearizable).await {
        Ok(Answer::Blocks { blocks, more }) => Ok((blocks, more)),
        Ok(_) => Err(errors::internal("blocks")),
        Err(error) => Err(errors::of_call(error)),
    }
}

/// Drives what is wanted through the conversation's shard, until that is what the user's shard still wants.
async fn settle(shared: &Shared, me: &Me, peer: &UserId) -> Result<(), ErrorBody> {
    let conv = ConvId::direct(&me.user, peer);
    for _ in 0..limits::BLOCK_ROUNDS_MAX {
        let query = Query::Block { user: me.user.clone(), peer: peer.clone() };
        let (rows, _) = blocks_of(shared, me, query).await?;
        let Some(row) = rows.into_iter().next().filter(|row| !row.settled) else { return Ok(()) };
        let flag = Command::SetBlocked { conv: conv.clone(), user: peer.clone(), on: row.on };
        shared.backend.execute(Route::Conv(conv.clone()), flag).await.map_err(errors::of_call)?;
        flotilla_raft::seam::fault::point("block.flag_taken");
        let done = Command::BlockSettled { user: me.user.clone(), peer: peer.clone(), request: row.request };
        match shared.backend.execute(Route::User(me.user.clone()), done).await {
            Ok(_) => return Ok(()),
            // Changed meanwhile: look again.
            Err(CallError::Rejected(Rejection::Conflict(_))) => {}
            Err(error) => return Err(errors::of_call(error)),
        }
    }
    Err(errors::of_call(CallError::Unavailable))
}

/// Done only when the conversation's own log refuses (or takes) the peer's messages.
pub async fn block(shared: &Shared, me: Me, id: &str, on: bool, request: Request) -> Outcome {
    let peer = user_id(id)?;
    if on && shared.account(&peer, Freshness::Linearizable).await?.is_none() {
        return Err(errors::not_found("no such user"));
    }
    let key = request.key.unwrap_or_else(|| Cid(auth::random_u128()));
    let command = Command::SetBlock { user: me.user.clone(), peer: peer.clone(), on, request: key };
    execute(shared, &me.user, command).await?;
    settle(shared, &me, &peer).await?;
    Ok(json!({}))
}

/// A change that was left half-way (its node died) is driven through here.
pub async fn blocks(shared: &Shared, me: Me, mut request: Request) -> Outcome {
    #[derive(Deserialize)]
    struct Params {
        after: Option<UserId>,
        limit: Option<u32>,
    }
    let Params { after, limit } = request.params()?;
    let limit = limit.unwrap_or(limits::CONTACTS_PER_PAGE_MAX);
    let (rows, more) = blocks_of(shared, &me, Query::Blocks { user: me.user.clone(), after, limit }).await?;
    let mut blocks = Vec::new();
    for row in rows {
        let settled = row.settled || settle(shared, &me, &row.user).await.is_ok();
        if row.on || !settled {
            blocks.push(json!({ "user": row.user, "since": row.since, "on": row.on, "pending": !settled }));
        }
    }
    Ok(json!({ "blocks": blocks, "more": more }))
}

/// Says to the operator that something is wrong: a line in the log and a count. Nothing is stored.
pub async fn report(shared: &Shared, me: Me, mut request: Request) -> Outcome {
    #[derive(Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Reason {
        Spam,
        Abuse,
        Illegal,
        Other,
    }
    #[derive(Deserialize)]
    struct Params {
        reason: Reason,
        user: Option<UserId>,
        conv: Option<ConvId>,
        seq: Option<Seq>,
        #[serde(default)]
        text: String,
    }
    let Params { reason, user, conv, seq, text } = request.params()?;
    if user.is_none() && conv.is_none() {
        return Err(errors::bad("`user` or `conv`: who or what is reported"));
    }
    if text.len() > limits::REPORT_BYTES_MAX {
        return Err(errors::invalid(format!("`text` is at most {} bytes", limits::REPORT_BYTES_MAX)));
    }
    try_ask(shared, &me, "reports")?;
    let reason = match reason {
        Reason::Spam => "spam",
        Reason::Abuse => "abuse",
        Reason::Illegal => "illegal",
        Reason::Other => "other",
    };
    shared.figures.registry.counter("flotilla_reports_total", "Reports by users.", &[("reason", reason)]).inc();
    tracing::warn!(by = %me.user, reason, ?user, ?conv, ?seq, ?text, "a user reports");
    Ok(json!({}))
}
