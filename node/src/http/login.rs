//! Ways to log in beside a password: a one-time code, a token of the operator's issuer. Every way is counted here.
//!
//! Invariant: what is answered does not tell whether an account exists.

use flotilla_machine::command::Login;
use flotilla_machine::{Command, Reply};
use flotilla_proto::frame::{ErrorBody, ErrorCode};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::accounts::{self, Tokens, execute};
use super::route::{Ask, NoParams, Nobody};
use crate::auth::code::{Address, Codes, is_of_address, parse_code};
use crate::auth::issuer::IssuerError;
use crate::auth::{self, refresh};
use crate::gateway::errors;
use crate::gateway::shared::Shared;

/// Counts how a login by this method went.
pub fn counted<T>(shared: &Shared, method: &str, outcome: Result<T, ErrorBody>) -> Result<T, ErrorBody> {
    let result = match &outcome {
        Ok(_) => "ok",
        Err(error) => match error.code {
            ErrorCode::TooManyRequests => "limited",
            _ if error.retryable => "unavailable",
            ErrorCode::BadRequest | ErrorCode::ValidationFailed | ErrorCode::Unsupported => "invalid",
            _ => "refused",
        },
    };
    shared.figures.login(method, result);
    if let Err(error) = &outcome {
        // Nothing of what the client sent.
        tracing::debug!(method, result, code = error.code.name(), "a login did not succeed");
    }
    outcome
}

#[derive(Serialize, JsonSchema)]
pub struct Methods {
    /// `password`; where they are offered `code` and `external`.
    pub methods: Vec<&'static str>,
    /// Whose tokens are taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
}

/// What this node offers, as far as the cluster takes it.
pub fn offered(shared: &Shared) -> Vec<&'static str> {
    let mut methods = vec!["password"];
    if !shared.courier.is_off() && shared.node().level >= limits::CODE_LEVEL {
        methods.push("code");
    }
    if shared.issuer.is_some() {
        methods.push("external");
    }
    methods
}

pub async fn methods(Ask { shared, .. }: Ask<NoParams, Nobody>) -> Result<Methods, ErrorBody> {
    let issuer = shared.issuer.as_ref().map(|issuer| issuer.name().to_owned());
    Ok(Methods { methods: offered(&shared), issuer })
}

#[derive(Deserialize, JsonSchema)]
pub struct CodeWanted {
    /// A phone number with its country, or an e-mail address.
    pub address: String,
}

#[derive(Deserialize, JsonSchema)]
pub struct CodeLogin {
    /// As the code was asked for.
    pub address: String,
    /// Six digits.
    pub code: String,
    /// A secret of the client's store: the same one is the same device.
    pub install: String,
    /// Of the device, if it is new.
    #[serde(default)]
    pub name: String,
}

#[derive(Deserialize, JsonSchema)]
pub struct ExternalLogin {
    /// A JWT of the issuer that the operator has named.
    pub token: String,
    /// A secret of the client's store: the same one is the same device.
    pub install: String,
    /// Of the device, if it is new.
    #[serde(default)]
    pub name: String,
}

struct Device {
    install: String,
    name: String,
}

impl Device {
    fn login(&self, user: &UserId, secret: &str) -> Result<Login, ErrorBody> {
        if self.install.is_empty() || self.install.len() > limits::NAME_BYTES_MAX {
            return Err(errors::invalid("`install` is a secret of the client's store, 1 to 256 bytes"));
        }
        Ok(Login {
            user: user.clone(),
            install: auth::secret_hash(self.install.as_bytes()),
            device: DeviceId(auth::random_u128()),
            name: self.name.clone(),
            refresh: refresh::hash(secret),
            create: true,
        })
    }
}

fn logged_in(shared: &Shared, user: &UserId, secret: &str, reply: &Reply) -> Result<Tokens, ErrorBody> {
    match reply {
        Reply::LoggedIn { device, new } => {
            let tokens = accounts::tokens(shared, user, *device, secret)?;
            Ok(Tokens { new_device: Some(*new), ..tokens })
        }
        _ => Err(errors::internal("login")),
    }
}

fn codes(shared: &Shared) -> Result<Codes, ErrorBody> {
    if shared.courier.is_off() {
        return Err(ErrorBody::new(ErrorCode::Unsupported, "login by code is not offered here"));
    }
    // A node that was just taken in has no secret yet.
    let key = shared.backend.secret(Codes::PURPOSE);
    key.map(|key| Codes::new(&key)).ok_or_else(|| ErrorBody {
        retry_after_ms: Some(500),
        ..ErrorBody::new(ErrorCode::Unavailable, "this node cannot issue codes yet")
    })
}

fn address(text: &str) -> Result<Address, ErrorBody> {
    Address::parse(text).map_err(errors::invalid)
}

#[derive(Serialize, JsonSchema)]
pub struct CodeSent {
    pub expires_in_ms: u64,
    /// Until the next one may be asked for.
    pub again_in_ms: u64,
}

/// A code is on its way, or would be.
pub async fn request_code(ask: Ask<CodeWanted, Nobody>) -> Result<CodeSent, ErrorBody> {
    let (key, peer, shared) = (ask.key()?, ask.peer, &ask.shared);
    let (codes, address) = (codes(shared)?, address(&ask.params.address)?);
    let user = codes.user(&address);
    // Before anything is counted: a code that was issued and never sent would keep the next ones waiting.
    let place = shared.courier.place();
    let place = place.map_err(|_| ErrorBody::new(ErrorCode::Overloaded, "too many codes are on their way"))?;
    if !shared.try_login(peer, &user) {
        return Err(accounts::too_many(shared));
    }
    let code = codes.make(&user, key, shared.now());
    let command = Command::IssueCode { user: user.clone(), code: codes.hash(&user, &code.digits), request: key };
    execute(shared, &user, command).await?;
    let clock = shared.clock.clone();
    shared.courier.send(place, &address, &code, move || clock().0);
    Ok(CodeSent { expires_in_ms: limits::CODE_LIFE_MS, again_in_ms: limits::CODE_PAUSE_MS })
}

/// Tokens, with an account made at the first time.
pub async fn use_code(ask: Ask<CodeLogin, Nobody>) -> Result<Tokens, ErrorBody> {
    let shared = ask.shared.clone();
    counted(&shared, "code", by_code(ask).await)
}

async fn by_code(ask: Ask<CodeLogin, Nobody>) -> Result<Tokens, ErrorBody> {
    let (key, peer, shared) = (ask.key()?, ask.peer, &ask.shared);
    let CodeLogin { address: text, code, install, name } = ask.params;
    let device = Device { install, name };
    let (codes, address) = (codes(shared)?, address(&text)?);
    let code = parse_code(&code).ok_or_else(|| errors::invalid("a code has six digits"))?;
    let user = codes.user(&address);
    if !shared.try_login(peer, &user) {
        return Err(accounts::too_many(shared));
    }
    let secret = accounts::new_secret(shared)?;
    let login = device.login(&user, &secret)?;
    let command = Command::UseCode { code: codes.hash(&user, &code), request: key, login };
    let reply = execute(shared, &user, command).await.map_err(|error| match error.code {
        ErrorCode::Unauthenticated => ErrorBody::new(ErrorCode::Unauthenticated, "the code is wrong or has expired"),
        _ => error,
    })?;
    logged_in(shared, &user, &secret, &reply)
}

/// Tokens for whom a token of the issuer names.
pub async fn external(ask: Ask<ExternalLogin, Nobody>) -> Result<Tokens, ErrorBody> {
    let shared = ask.shared.clone();
    counted(&shared, "external", by_issuer(ask).await)
}

async fn by_issuer(ask: Ask<ExternalLogin, Nobody>) -> Result<Tokens, ErrorBody> {
    let (peer, shared) = (ask.peer, &ask.shared);
    let ExternalLogin { token, install, name } = ask.params;
    let device = Device { install, name };
    let unsupported = || ErrorBody::new(ErrorCode::Unsupported, "tokens of another issuer are not taken here");
    let issuer = shared.issuer.as_ref().ok_or_else(unsupported)?;
    if !shared.try_login_from(peer) {
        return Err(accounts::too_many(shared));
    }
    let name = issuer.verify(&token, shared.now().0 / 1_000).await.map_err(|e| of_issuer(&e))?;
    // Letter by letter: an issuer may know `Ann` and `ann` as two people. And none who comes by the code of an address.
    let user = UserId::parse(&name).ok().filter(|user| user.as_str() == name && !is_of_address(user));
    let user = user.ok_or_else(|| errors::invalid("the token names a user that cannot be one here"))?;
    let secret = accounts::new_secret(shared)?;
    // An account with a password is not entered: it may be somebody else's who was first to take the name.
    let reply = execute(shared, &user, Command::Login(device.login(&user, &secret)?)).await;
    let reply = reply.map_err(|error| match error.code {
        ErrorCode::Unauthenticated => {
            ErrorBody::new(ErrorCode::Conflict, "this name belongs to an account with a password")
        }
        _ => error,
    })?;
    logged_in(shared, &user, &secret, &reply)
}

fn of_issuer(error: &IssuerError) -> ErrorBody {
    let (code, wait) = match error {
        IssuerError::Unavailable => (ErrorCode::Unavailable, Some(1_000)),
        IssuerError::Expired => (ErrorCode::TokenExpired, None),
        _ => (ErrorCode::Unauthenticated, None),
    };
    ErrorBody { retry_after_ms: wait, ..ErrorBody::new(code, error.to_string()) }
}
