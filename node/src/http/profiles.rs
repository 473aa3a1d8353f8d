//! What users say of themselves, whom they block, who is found by the beginning of an id, and reports.

use flotilla_machine::query::{BlockView, ProfileView};
use flotilla_machine::{Answer, Command, Query, Rejection};
use flotilla_proto::frame::{ErrorBody, ErrorCode};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use futures::stream::{self, StreamExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::accounts::{Me, execute};
use super::groups::UsersPage;
use super::people::{check_users, user_id};
use super::route::{Ask, Done, NoParams};
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

/// What a user says of itself.
#[derive(Serialize, JsonSchema)]
pub struct Profile {
    pub user: UserId,
    pub created: TsMs,
    pub name: String,
    /// A reference that clients understand.
    pub avatar: String,
    pub about: String,
    pub changed: TsMs,
}

impl Profile {
    fn of(user: UserId, view: ProfileView) -> Self {
        let ProfileView { created, name, avatar, about, changed } = view;
        Self { user, created, name, avatar, about, changed }
    }
}

async fn existing(shared: &Shared, user: UserId) -> Result<Profile, ErrorBody> {
    let profile = read(shared, &user).await?.ok_or_else(|| errors::not_found("no such user"))?;
    Ok(Profile::of(user, profile))
}

pub async fn profile(ask: Ask<NoParams>) -> Result<Profile, ErrorBody> {
    existing(&ask.shared, user_id(ask.at(0))?).await
}

#[derive(Deserialize, JsonSchema)]
pub struct Ids {
    /// At most 50; separated by commas.
    pub ids: Vec<UserId>,
}

#[derive(Serialize, JsonSchema)]
pub struct Profiles {
    pub users: Vec<Profile>,
}

/// Of several users; those that do not exist are left out.
pub async fn profiles(Ask { shared, params, .. }: Ask<Ids>) -> Result<Profiles, ErrorBody> {
    let users = check_users(params.ids)?;
    if users.len() > limits::PROFILES_PER_PAGE {
        return Err(errors::invalid(format!("at most {} users", limits::PROFILES_PER_PAGE)));
    }
    let one = |user: UserId| {
        let shared = &shared;
        async move { read(shared, &user).await.map(|found| found.map(|view| Profile::of(user, view))) }
    };
    let found: Vec<_> = stream::iter(users).map(one).buffered(limits::PROFILES_AT_ONCE).collect().await;
    let found: Vec<Option<Profile>> = found.into_iter().collect::<Result<_, _>>()?;
    Ok(Profiles { users: found.into_iter().flatten().collect() })
}

/// At least one of them.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct ProfileChange {
    /// At most 256 bytes.
    #[schemars(length(max = 256))]
    pub name: Option<String>,
    /// At most 1,024 bytes.
    #[schemars(length(max = 1024))]
    pub avatar: Option<String>,
    /// At most 1,024 bytes.
    #[schemars(length(max = 1024))]
    pub about: Option<String>,
}

pub async fn change(Ask { shared, me, params, .. }: Ask<ProfileChange>) -> Result<Profile, ErrorBody> {
    let ProfileChange { name, avatar, about } = params;
    if name.is_none() && avatar.is_none() && about.is_none() {
        return Err(errors::bad("one of `name`, `avatar`, `about`"));
    }
    execute(&shared, &me.user, Command::SetProfile { user: me.user.clone(), name, avatar, about }).await?;
    existing(&shared, me.user).await.map_err(errors::after_a_change)
}

/// A user's tries of what costs more than most.
fn try_ask(shared: &Shared, me: &Me, what: &str) -> Result<(), ErrorBody> {
    if shared.asks.allow(&format!("{what}:{}", me.user), tokio::time::Instant::now()) {
        return Ok(());
    }
    let wait = Some(60_000 / u64::from(limits::ASKS_PER_MINUTE));
    Err(ErrorBody { retry_after_ms: wait, ..ErrorBody::new(ErrorCode::TooManyRequests, format!("too many {what}")) })
}

#[derive(Deserialize, JsonSchema)]
pub struct Find {
    /// The beginning of a user id, from 2 characters on.
    #[schemars(length(min = 2, max = 64))]
    pub prefix: String,
    pub limit: Option<u32>,
}

#[derive(Serialize, JsonSchema)]
pub struct Found {
    /// By user id.
    pub users: Vec<UserId>,
    /// A shard did not answer.
    pub partial: bool,
}

pub async fn find(Ask { shared, me, params, .. }: Ask<Find>) -> Result<Found, ErrorBody> {
    let prefix = params.prefix.to_lowercase();
    if prefix.len() < limits::FIND_PREFIX_BYTES_MIN || UserId::parse(&prefix).is_err() {
        let message =
            format!("`prefix` is the beginning of a user id, at least {} bytes", limits::FIND_PREFIX_BYTES_MIN);
        return Err(errors::invalid(message));
    }
    try_ask(&shared, &me, "searches")?;
    let limit = params.limit.unwrap_or(20).clamp(1, limits::FOUND_USERS_MAX);
    let (users, whole) = shared.backend.find_users(prefix, limit).await.map_err(errors::of_call)?;
    Ok(Found { users, partial: !whole })
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

/// Done only when the conversation's own log refuses the peer's messages.
pub async fn block(ask: Ask<NoParams>) -> Result<Done, ErrorBody> {
    set_block(ask, true).await
}

pub async fn unblock(ask: Ask<NoParams>) -> Result<Done, ErrorBody> {
    set_block(ask, false).await
}

async fn set_block(ask: Ask<NoParams>, on: bool) -> Result<Done, ErrorBody> {
    let peer = user_id(ask.at(0))?;
    let Ask { shared, me, key, .. } = ask;
    if on && shared.account(&peer, Freshness::Linearizable).await?.is_none() {
        return Err(errors::not_found("no such user"));
    }
    let key = key.unwrap_or_else(|| Cid(auth::random_u128()));
    let command = Command::SetBlock { user: me.user.clone(), peer: peer.clone(), on, request: key };
    execute(&shared, &me.user, command).await?;
    settle(&shared, &me, &peer).await.map_err(errors::after_a_change)?;
    Ok(Done {})
}

#[derive(Serialize, JsonSchema)]
pub struct Blocks {
    /// By user id.
    pub blocks: Vec<Block>,
    pub more: bool,
}

#[derive(Serialize, JsonSchema)]
pub struct Block {
    pub user: UserId,
    pub since: TsMs,
    /// False: to be lifted, and that is pending.
    pub on: bool,
    /// A node died between the two shards that this concerns; asking again drives it through.
    pub pending: bool,
}

/// A change that was left half-way (its node died) is driven through here.
pub async fn blocks(Ask { shared, me, params, .. }: Ask<UsersPage>) -> Result<Blocks, ErrorBody> {
    let UsersPage { after, limit } = params;
    let limit = limit.unwrap_or(limits::CONTACTS_PER_PAGE_MAX);
    let (rows, more) = blocks_of(&shared, &me, Query::Blocks { user: me.user.clone(), after, limit }).await?;
    let mut blocks = Vec::new();
    for row in rows {
        let settled = row.settled || settle(&shared, &me, &row.user).await.is_ok();
        if row.on || !settled {
            blocks.push(Block { user: row.user, since: row.since, on: row.on, pending: !settled });
        }
    }
    Ok(Blocks { blocks, more })
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    Spam,
    Abuse,
    Illegal,
    Other,
}

/// At least one of `user` and `conv`.
#[derive(Deserialize, JsonSchema)]
pub struct Report {
    pub reason: Reason,
    pub user: Option<UserId>,
    pub conv: Option<ConvId>,
    pub seq: Option<Seq>,
    /// At most 2,048 bytes.
    #[serde(default)]
    #[schemars(length(max = 2048))]
    pub text: String,
}

/// Says to the operator that something is wrong: a line in the log and a count. Nothing is stored.
pub async fn report(Ask { shared, me, params, .. }: Ask<Report>) -> Result<Done, ErrorBody> {
    let Report { reason, user, conv, seq, text } = params;
    if user.is_none() && conv.is_none() {
        return Err(errors::bad("`user` or `conv`: who or what is reported"));
    }
    if text.len() > limits::REPORT_BYTES_MAX {
        return Err(errors::invalid(format!("`text` is at most {} bytes", limits::REPORT_BYTES_MAX)));
    }
    try_ask(&shared, &me, "reports")?;
    let reason = match reason {
        Reason::Spam => "spam",
        Reason::Abuse => "abuse",
        Reason::Illegal => "illegal",
        Reason::Other => "other",
    };
    shared.figures.registry.counter("flotilla_reports_total", "Reports by users.", &[("reason", reason)]).inc();
    tracing::warn!(by = %me.user, reason, ?user, ?conv, ?seq, ?text, "a user reports");
    Ok(Done {})
}
