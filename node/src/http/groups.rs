//! Conversations and groups over REST: list, create, members, messages.

use flotilla_machine::command::MarkKind;
use flotilla_machine::query::{Conversation, MemberView};
use flotilla_machine::{Answer, Query};
use flotilla_proto::entry::{HistoryAccess, Role, What};
use flotilla_proto::frame::{self, CommandFrame, ErrorBody, ErrorCode, Target};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::accounts::Me;
use super::people;
use super::route::{Ask, NoParams};
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

async fn append(shared: &Shared, me: &Me, conv: ConvId, cid: Cid, what: What) -> Result<frame::Accepted, ErrorBody> {
    send_frame(shared, me, &CommandFrame { target: Target::Conv(conv), cid, age_s: 0, after: None, what }).await
}

async fn send_frame(shared: &Shared, me: &Me, frame: &CommandFrame) -> Result<frame::Accepted, ErrorBody> {
    let result = ops::append(shared, &me.user, me.device, frame).await;
    shared.figures.send_result(result.as_ref().map_or_else(|e| e.code.name(), |_| "accepted"));
    result
}

#[derive(Deserialize, JsonSchema)]
pub struct NewGroup {
    pub name: String,
    /// Who joins with it, the creator aside.
    #[serde(default)]
    pub members: Vec<UserId>,
    #[serde(default)]
    pub history: HistoryAccess,
    #[serde(default)]
    pub kind: GroupKind,
}

/// In a channel only admins and the owner write.
#[derive(Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GroupKind {
    #[default]
    Group,
    Channel,
}

/// The same key again names the same group.
pub async fn create(ask: Ask<NewGroup>) -> Result<frame::Accepted, ErrorBody> {
    let key = ask.key()?;
    let NewGroup { name, members, history, kind } = ask.params;
    let conv = match kind {
        GroupKind::Group => ConvId::group(&ask.me.user, key),
        GroupKind::Channel => ConvId::channel(&ask.me.user, key),
    };
    append(&ask.shared, &ask.me, conv, key, What::Create { name, members, history }).await
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

pub async fn show(ask: Ask<NoParams>) -> Result<Conversation, ErrorBody> {
    conversation(&ask.shared, &ask.me, &conv_id(ask.at(0))?).await
}

/// An `Idempotency-Key` makes a change safe to repeat; without one each request is new.
fn key_or_new<P>(ask: &Ask<P>) -> Cid {
    ask.key.unwrap_or_else(|| Cid(auth::random_u128()))
}

/// One of the two.
#[derive(Deserialize, JsonSchema)]
pub struct GroupChange {
    pub name: Option<String>,
    pub history: Option<HistoryAccess>,
}

pub async fn change(ask: Ask<GroupChange>) -> Result<frame::Accepted, ErrorBody> {
    let (cid, conv) = (key_or_new(&ask), conv_id(ask.at(0)));
    let what = match ask.params {
        GroupChange { name: Some(name), history: None } => What::Rename { name },
        GroupChange { name: None, history: Some(history) } => What::SetHistory { history },
        _ => return Err(errors::bad("one of `name` and `history`")),
    };
    append(&ask.shared, &ask.me, conv?, cid, what).await
}

#[derive(Deserialize, JsonSchema)]
pub struct UsersPage {
    /// The last user of the page before.
    pub after: Option<UserId>,
    pub limit: Option<u32>,
}

#[derive(Serialize, JsonSchema)]
pub struct Members {
    /// By user id, with their watermarks.
    pub members: Vec<MemberView>,
    pub more: bool,
}

pub async fn members(ask: Ask<UsersPage>) -> Result<Members, ErrorBody> {
    let conv = conv_id(ask.at(0))?;
    let UsersPage { after, limit } = ask.params;
    let max = limits::CONV_MEMBERS_LISTED_MAX as u32;
    let limit = limit.unwrap_or(max).clamp(1, max);
    let query = Query::Members { conv: conv.clone(), user: ask.me.user.clone(), after, limit };
    let listed = ask.shared.backend.query(Route::Conv(conv), query, Freshness::Linearizable);
    let hides_read = people::hides_read(&ask.shared, &ask.me.user);
    let (hides_read, listed) = futures::future::join(hides_read, listed).await;
    match listed {
        Ok(Answer::Members { mut members, more }) => {
            let hides_read = hides_read?;
            for member in &mut members {
                member.read = people::read_shown(hides_read, &ask.me.user, &member.user, member.read);
            }
            Ok(Members { members, more })
        }
        Ok(Answer::NotMember) => Err(ErrorBody::new(ErrorCode::NotMember, "not a member of this conversation")),
        Ok(Answer::NotFound) => Err(errors::not_found("no such conversation")),
        Ok(_) => Err(errors::internal("members")),
        Err(error) => Err(errors::of_call(error)),
    }
}

#[derive(Deserialize, JsonSchema)]
pub struct NewMembers {
    pub users: Vec<UserId>,
}

pub async fn add(ask: Ask<NewMembers>) -> Result<frame::Accepted, ErrorBody> {
    let (key, conv) = (ask.key()?, conv_id(ask.at(0))?);
    append(&ask.shared, &ask.me, conv, key, What::Add { users: ask.params.users }).await
}

pub async fn remove(ask: Ask<NoParams>) -> Result<frame::Accepted, ErrorBody> {
    let user = user_id(ask.at(1))?;
    let what = if user == ask.me.user { What::Leave { heir: None } } else { What::Remove { user } };
    append(&ask.shared, &ask.me, conv_id(ask.at(0))?, key_or_new(&ask), what).await
}

#[derive(Deserialize, JsonSchema)]
pub struct NewRole {
    pub role: Role,
}

pub async fn set_role(ask: Ask<NewRole>) -> Result<frame::Accepted, ErrorBody> {
    let (cid, user) = (key_or_new(&ask), user_id(ask.at(1))?);
    append(&ask.shared, &ask.me, conv_id(ask.at(0))?, cid, What::SetRole { user, role: ask.params.role }).await
}

/// As the `send` frame, without its target and its cid.
#[derive(Deserialize, JsonSchema)]
pub struct NewMessage {
    /// Seconds since the first attempt; on a retry only.
    pub age_s: Option<u64>,
    /// The `Idempotency-Key` of the message that this one must come after.
    pub after: Option<Cid>,
    /// `message`, or a name of the client's own.
    pub kind: Option<String>,
    #[serde(default)]
    pub body: Blob,
    #[serde(default)]
    pub mentions: Vec<UserId>,
    pub reply_to: Option<Seq>,
    pub media: Option<String>,
}

/// The `Idempotency-Key` is the cid.
pub async fn send(ask: Ask<NewMessage>) -> Result<frame::Accepted, ErrorBody> {
    let (cid, conv) = (ask.key()?, conv_id(ask.at(0))?);
    let NewMessage { age_s, after, kind, body, mentions, reply_to, media } = ask.params;
    let kind = kind.unwrap_or_else(|| "message".to_owned());
    let what = What::Message { kind, body, reply_to, mentions, media };
    let frame = CommandFrame { target: Target::Conv(conv), cid, age_s: age_s.unwrap_or(0), after, what };
    send_frame(&ask.shared, &ask.me, &frame).await
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
