//! People over REST and `call`: presence, privacy, contacts.

use flotilla_machine::command::Audience;
use flotilla_machine::query::PresenceView;
use flotilla_machine::{Answer, Command, Query};
use flotilla_proto::frame::ErrorBody;
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use serde::Deserialize;
use serde_json::{Value, json};

use super::accounts::{Me, execute};
use super::api::{Outcome, Request};
use crate::backend::{Freshness, Route};
use crate::gateway::shared::Shared;
use crate::gateway::{errors, signals};

pub fn user_id(text: &str) -> Result<UserId, ErrorBody> {
    UserId::parse(text).map_err(|_| errors::not_found("no such user"))
}

/// A list of user ids: an array, or a text with commas (as a query has it).
pub fn users_of(value: &Value) -> Result<Vec<UserId>, ErrorBody> {
    let texts: Vec<String> = match value {
        Value::String(text) => {
            text.replace("%2C", ",").replace("%2c", ",").split(',').map(|t| t.trim().to_owned()).collect()
        }
        Value::Array(items) => items.iter().map(|item| item.as_str().unwrap_or_default().to_owned()).collect(),
        Value::Number(id) => vec![id.to_string()],
        _ => return Err(errors::bad("`users` is a list of user ids")),
    };
    let mut users = Vec::new();
    for text in texts.iter().filter(|text| !text.is_empty()) {
        users.push(UserId::parse(text).map_err(|e| errors::invalid(format!("{text}: {e}")))?);
    }
    check_users(users)
}

pub fn check_users(mut users: Vec<UserId>) -> Result<Vec<UserId>, ErrorBody> {
    users.sort();
    users.dedup();
    if users.len() > limits::WATCH_MAX {
        return Err(errors::invalid(format!("at most {} users", limits::WATCH_MAX)));
    }
    Ok(users)
}

/// The answer to `presence`, as a frame and over REST.
pub fn presence_value(users: &[UserId], seen: &[Option<PresenceView>]) -> Value {
    let one = |(user, seen): (&UserId, &Option<PresenceView>)| {
        let (state, at) = signals::state_of(*seen);
        match at {
            Some(at) => json!({ "user": user, "state": state, "last_seen": at }),
            None => json!({ "user": user, "state": state }),
        }
    };
    json!({ "presence": users.iter().zip(seen).map(one).collect::<Vec<_>>() })
}

pub async fn presence(shared: &Shared, me: Me, request: Request) -> Outcome {
    let users = users_of(request.params.get("users").unwrap_or(&Value::Null))?;
    let seen = shared.backend.presence(me.user, users.clone(), None).await.map_err(errors::of_call)?;
    Ok(presence_value(&users, &seen))
}

pub async fn privacy(shared: &Shared, me: Me) -> Outcome {
    let query = Query::Privacy { user: me.user.clone() };
    match shared.backend.query(Route::User(me.user), query, Freshness::Linearizable).await {
        Ok(Answer::Privacy(presence)) => Ok(json!({ "presence": presence })),
        Ok(_) => Err(errors::internal("privacy")),
        Err(error) => Err(errors::of_call(error)),
    }
}

pub async fn set_privacy(shared: &Shared, me: Me, mut request: Request) -> Outcome {
    #[derive(Deserialize)]
    struct Params {
        presence: Audience,
    }
    let Params { presence } = request.params()?;
    execute(shared, &me.user, Command::SetPrivacy { user: me.user.clone(), presence }).await?;
    Ok(json!({ "presence": presence }))
}

pub async fn contacts(shared: &Shared, me: Me, mut request: Request) -> Outcome {
    #[derive(Deserialize)]
    struct Params {
        after: Option<UserId>,
        limit: Option<u32>,
    }
    let Params { after, limit } = request.params()?;
    let limit = limit.unwrap_or(limits::CONTACTS_PER_PAGE_MAX);
    let query = Query::Contacts { user: me.user.clone(), after, limit };
    match shared.backend.query(Route::User(me.user), query, Freshness::Linearizable).await {
        Ok(Answer::Contacts { contacts, more }) => {
            let one =
                |c: &flotilla_machine::query::ContactView| json!({ "user": c.user, "name": c.name, "added": c.added });
            Ok(json!({ "contacts": contacts.iter().map(one).collect::<Vec<_>>(), "more": more }))
        }
        Ok(_) => Err(errors::internal("contacts")),
        Err(error) => Err(errors::of_call(error)),
    }
}

/// Adds or renames; the contact must exist.
pub async fn keep_contact(shared: &Shared, me: Me, id: &str, mut request: Request) -> Outcome {
    #[derive(Deserialize)]
    struct Params {
        #[serde(default)]
        name: String,
    }
    let Params { name } = request.params()?;
    let contact = user_id(id)?;
    if shared.account(&contact, Freshness::Linearizable).await?.is_none() {
        return Err(errors::not_found("no such user"));
    }
    let (user, name) = (me.user.clone(), Some(name));
    execute(shared, &me.user, Command::SetContact { user, contact, name }).await?;
    Ok(json!({}))
}

pub async fn drop_contact(shared: &Shared, me: Me, id: &str) -> Outcome {
    let (user, contact) = (me.user.clone(), user_id(id)?);
    execute(shared, &me.user, Command::SetContact { user, contact, name: None }).await?;
    Ok(json!({}))
}
