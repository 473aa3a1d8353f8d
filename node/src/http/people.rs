//! People over REST and `call`: presence, privacy, contacts.

use std::collections::BTreeSet;

use flotilla_machine::command::Audience;
use flotilla_machine::query::{ContactView, PresenceView};
use flotilla_machine::{Answer, Command, Query};
use flotilla_proto::frame::ErrorBody;
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::accounts::execute;
use super::groups::UsersPage;
use super::route::{Ask, Done, NoParams};
use crate::backend::{Freshness, Route};
use crate::gateway::shared::Shared;
use crate::gateway::{errors, signals};

pub fn user_id(text: &str) -> Result<UserId, ErrorBody> {
    UserId::parse(text).map_err(|_| errors::not_found("no such user"))
}

pub fn check_users(mut users: Vec<UserId>) -> Result<Vec<UserId>, ErrorBody> {
    users.sort();
    users.dedup();
    if users.len() > limits::WATCH_MAX {
        return Err(errors::invalid(format!("at most {} users", limits::WATCH_MAX)));
    }
    Ok(users)
}

#[derive(Deserialize, JsonSchema)]
pub struct Users {
    /// At most 200; separated by commas.
    pub users: Vec<UserId>,
}

/// Sorted by user, each once.
#[derive(Serialize, JsonSchema)]
pub struct Presences {
    pub presence: Vec<UserPresence>,
}

#[derive(Serialize, JsonSchema)]
pub struct UserPresence {
    pub user: UserId,
    pub state: signals::PresenceState,
    /// Offline: when the last session ended, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<TsMs>,
}

/// The answer to `presence`, as a frame and over REST.
pub fn presences(users: Vec<UserId>, seen: &[Option<PresenceView>]) -> Presences {
    let one = |(user, seen): (UserId, &Option<PresenceView>)| {
        let (state, last_seen) = signals::state_of(*seen);
        UserPresence { user, state, last_seen }
    };
    Presences { presence: users.into_iter().zip(seen).map(one).collect() }
}

pub async fn presence(Ask { shared, me, params, .. }: Ask<Users>) -> Result<Presences, ErrorBody> {
    let users = check_users(params.users)?;
    let seen = shared.backend.presence(me.user, users.clone(), None).await.map_err(errors::of_call)?;
    Ok(presences(users, &seen))
}

#[derive(Serialize, JsonSchema)]
pub struct Privacy {
    /// Who may see the presence.
    pub presence: Audience,
    /// Others see nothing of what you have read, and you nothing of what they have; your own devices share it.
    pub hide_read: bool,
}

/// At least one of them.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct PrivacyChange {
    pub presence: Option<Audience>,
    pub hide_read: Option<bool>,
}

/// Whether this user hides its read marks everywhere.
///
/// The level is what this node has heard of, and the user's shard may be ahead. The counter-example: (1) the level is raised, and
/// this node cut off from the control group, (2) the user hides its marks at another node, (3) asks this one, which takes nobody for
/// hiding, and is shown the marks of others. So only the shard's own leader can say that nobody in it hides.
pub async fn hides_read(shared: &Shared, user: &UserId) -> Result<bool, ErrorBody> {
    if shared.node().level < limits::HIDE_READ_LEVEL && !shard_can_hide(shared, user).await? {
        return Ok(false);
    }
    Ok(hiding(shared, vec![user.clone()]).await?.contains(user))
}

/// Where it can be asked for this user together with others of its shard. None: alone.
pub fn hiding_shard(shared: &Shared, user: &UserId) -> Option<ShardId> {
    shared.backend.shard_of(&Route::User(user.clone())).filter(|_| shared.node().level >= limits::HIDE_READ_LEVEL)
}

/// Those of these users of one shard who hide their reads, at the level that knows it.
pub async fn hiding(shared: &Shared, users: Vec<UserId>) -> Result<BTreeSet<UserId>, ErrorBody> {
    let Some(first) = users.first().cloned() else { return Ok(BTreeSet::new()) };
    match shared.backend.query(Route::User(first), Query::Hiding { users }, Freshness::Linearizable).await {
        Ok(Answer::Hiding(hiding)) => Ok(hiding),
        Ok(_) => Err(errors::internal("hiding")),
        Err(error) => Err(errors::of_call(error)),
    }
}

/// By a question that every build knows: below the level a node that leads may run one that does not know who hides.
async fn shard_can_hide(shared: &Shared, user: &UserId) -> Result<bool, ErrorBody> {
    match shared.backend.query(Route::User(user.clone()), Query::ShardState, Freshness::Linearizable).await {
        Ok(Answer::ShardState(state)) => Ok(state.settings.feature_level >= limits::HIDE_READ_LEVEL),
        Ok(_) => Err(errors::internal("shard state")),
        Err(error) => Err(errors::of_call(error)),
    }
}

/// What of somebody's read mark is shown to `me`, who hides its own or does not.
pub fn read_shown(hides: bool, me: &UserId, of: &UserId, read: Seq) -> Seq {
    if hides && of != me { Seq::ZERO } else { read }
}

pub async fn privacy(Ask { shared, me, .. }: Ask<NoParams>) -> Result<Privacy, ErrorBody> {
    settled(&shared, me.user).await
}

async fn settled(shared: &Shared, user: UserId) -> Result<Privacy, ErrorBody> {
    let hide_read = hides_read(shared, &user).await?;
    let query = Query::Privacy { user: user.clone() };
    match shared.backend.query(Route::User(user), query, Freshness::Linearizable).await {
        Ok(Answer::Privacy(presence)) => Ok(Privacy { presence, hide_read }),
        Ok(_) => Err(errors::internal("privacy")),
        Err(error) => Err(errors::of_call(error)),
    }
}

pub async fn set_privacy(Ask { shared, me, params, .. }: Ask<PrivacyChange>) -> Result<Privacy, ErrorBody> {
    let user = me.user.clone();
    let command = match params {
        PrivacyChange { presence: None, hide_read: None } => return Err(errors::bad("one of `presence`, `hide_read`")),
        // A cluster of any level knows this one.
        PrivacyChange { presence: Some(presence), hide_read: None } => Command::SetPrivacy { user, presence },
        PrivacyChange { presence, hide_read } => Command::ChangePrivacy { user, presence, hide_read },
    };
    execute(&shared, &me.user, command).await?;
    settled(&shared, me.user).await.map_err(errors::after_a_change)
}

#[derive(Serialize, JsonSchema)]
pub struct Contacts {
    /// By user id.
    pub contacts: Vec<Contact>,
    pub more: bool,
}

#[derive(Serialize, JsonSchema)]
pub struct Contact {
    pub user: UserId,
    /// The keeper's own name for the user.
    pub name: String,
    pub added: TsMs,
}

pub async fn contacts(Ask { shared, me, params, .. }: Ask<UsersPage>) -> Result<Contacts, ErrorBody> {
    let UsersPage { after, limit } = params;
    let limit = limit.unwrap_or(limits::CONTACTS_PER_PAGE_MAX);
    let query = Query::Contacts { user: me.user.clone(), after, limit };
    match shared.backend.query(Route::User(me.user), query, Freshness::Linearizable).await {
        Ok(Answer::Contacts { contacts, more }) => {
            let one = |ContactView { user, name, added }| Contact { user, name, added };
            Ok(Contacts { contacts: contacts.into_iter().map(one).collect(), more })
        }
        Ok(_) => Err(errors::internal("contacts")),
        Err(error) => Err(errors::of_call(error)),
    }
}

#[derive(Deserialize, JsonSchema)]
pub struct ContactName {
    /// At most 256 bytes.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub name: String,
}

/// Adds or renames; the contact must exist.
pub async fn keep_contact(ask: Ask<ContactName>) -> Result<Done, ErrorBody> {
    let contact = user_id(ask.at(0))?;
    let Ask { shared, me, params, .. } = ask;
    if shared.account(&contact, Freshness::Linearizable).await?.is_none() {
        return Err(errors::not_found("no such user"));
    }
    set_contact(&shared, me.user, contact, Some(params.name)).await
}

pub async fn drop_contact(ask: Ask<NoParams>) -> Result<Done, ErrorBody> {
    let contact = user_id(ask.at(0))?;
    set_contact(&ask.shared, ask.me.user, contact, None).await
}

async fn set_contact(shared: &Shared, user: UserId, contact: UserId, name: Option<String>) -> Result<Done, ErrorBody> {
    execute(shared, &user, Command::SetContact { user: user.clone(), contact, name }).await?;
    Ok(Done {})
}
