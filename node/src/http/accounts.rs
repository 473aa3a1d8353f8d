//! Accounts and devices: register, log in, rotate, log out, list, revoke.
//!
//! Invariant: what is answered to a wrong user and to a wrong password is the same, after the same work.

use flotilla_machine::command::{Login, Register, RotateToken};
use flotilla_machine::query::Account;
use flotilla_machine::{Command, Rejection, Reply};
use flotilla_proto::frame::{ErrorBody, ErrorCode};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::login::counted;
use super::route::{Ask, Done, NoParams, Nobody};
use crate::auth::{self, Caller, jwt, refresh};
use crate::backend::{CallError, Freshness, Route};
use crate::gateway::errors;
use crate::gateway::shared::Shared;

/// The caller with its device.
pub struct Me {
    pub user: UserId,
    pub device: DeviceId,
}

#[derive(Deserialize, JsonSchema)]
pub struct Credentials {
    #[schemars(with = "UserId")]
    user: String,
    /// 8 to 256 bytes.
    #[schemars(length(min = 8, max = 256))]
    password: String,
    /// To log in: a secret of the client's store, 1 to 256 bytes. The same one again is the same device.
    #[serde(default)]
    #[schemars(length(max = 256))]
    install: String,
    /// To log in: what the device is called.
    #[serde(default)]
    #[schemars(length(max = 256))]
    name: String,
}

impl Credentials {
    fn user(&self) -> Result<UserId, ErrorBody> {
        UserId::parse(&self.user).map_err(|e| errors::invalid(e.to_string()))
    }
}

pub fn too_many(shared: &Shared) -> ErrorBody {
    let error = ErrorBody::new(ErrorCode::TooManyRequests, "too many tries");
    ErrorBody { retry_after_ms: Some(60_000 / u64::from(shared.logins.per_minute().max(1))), ..error }
}

/// Runs a command of one user.
pub async fn execute(shared: &Shared, user: &UserId, command: Command) -> Result<Reply, ErrorBody> {
    shared.backend.execute(Route::User(user.clone()), command).await.map_err(errors::of_call)
}

#[derive(Serialize, JsonSchema)]
pub struct Registered {
    pub user: UserId,
}

pub async fn register(ask: Ask<Credentials, Nobody>) -> Result<Registered, ErrorBody> {
    let (key, shared, credentials) = (ask.key()?, &ask.shared, &ask.params);
    let user = credentials.user()?;
    if !shared.try_login(ask.peer, &user) {
        return Err(too_many(shared));
    }
    let phc = shared.passwords.hash(&credentials.password).await.map_err(errors::of_password)?;
    let command = Command::Register(Register { user: user.clone(), phc, request: key });
    match shared.backend.execute(Route::User(user.clone()), command).await {
        Ok(_) => Ok(Registered { user }),
        Err(CallError::Rejected(Rejection::Exists)) => Err(ErrorBody::new(ErrorCode::Conflict, "this name is taken")),
        Err(error) => Err(errors::of_call(error)),
    }
}

pub async fn login(ask: Ask<Credentials, Nobody>) -> Result<Tokens, ErrorBody> {
    let shared = ask.shared.clone();
    counted(&shared, "password", log_in(ask).await)
}

async fn log_in(ask: Ask<Credentials, Nobody>) -> Result<Tokens, ErrorBody> {
    let (shared, credentials) = (&ask.shared, ask.params);
    let user = credentials.user()?;
    let wrong = || ErrorBody::new(ErrorCode::Unauthenticated, "wrong user or password");
    if credentials.install.is_empty() || credentials.install.len() > limits::NAME_BYTES_MAX {
        return Err(errors::invalid("`install` is a secret of the client's store, 1 to 256 bytes"));
    }
    if !shared.try_login(ask.peer, &user) {
        return Err(too_many(shared));
    }
    let account = shared.account(&user, Freshness::Linearizable).await?;
    let phc = account.as_ref().map(|a| a.phc.as_str());
    let fits = shared.passwords.verify(phc, &credentials.password).await.map_err(errors::of_password)?;
    let account = account.filter(|_| fits).ok_or_else(wrong)?;
    if account.disabled {
        return Err(ErrorBody::new(ErrorCode::Forbidden, "this account is disabled"));
    }
    let secret = new_secret(shared)?;
    let command = Command::Login(Login {
        user: user.clone(),
        install: auth::secret_hash(credentials.install.as_bytes()),
        device: DeviceId(auth::random_u128()),
        name: credentials.name,
        refresh: refresh::hash(&secret),
        create: false,
    });
    match execute(shared, &user, command).await? {
        Reply::LoggedIn { device, new } => {
            let tokens = tokens(shared, &user, device, &secret)?;
            Ok(Tokens { new_device: Some(new), ..tokens })
        }
        _ => Err(errors::internal("login")),
    }
}

/// For one device.
#[derive(Serialize, JsonSchema)]
pub struct Tokens {
    pub user: UserId,
    pub device: DeviceId,
    /// For `Authorization: Bearer`, and `hello`.
    pub access_token: String,
    /// Of the access token.
    pub expires_at: TsMs,
    /// Good until its successor has been used.
    pub refresh_token: String,
    /// To a login: this `install` had no device before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_device: Option<bool>,
}

fn no_key_yet() -> ErrorBody {
    ErrorBody::new(ErrorCode::Unavailable, "this node holds no signing key yet")
}

/// For tokens that are to be made, after something has been done that cannot be taken back: so not before there is a key.
pub fn new_secret(shared: &Shared) -> Result<String, ErrorBody> {
    let can_sign = shared.backend.keys().borrow().iter().any(|key| key.private.is_some());
    if can_sign { Ok(refresh::random_secret()) } else { Err(no_key_yet()) }
}

pub fn tokens(shared: &Shared, user: &UserId, device: DeviceId, secret: &str) -> Result<Tokens, ErrorBody> {
    let cluster = shared.node().cluster;
    let issued = jwt::issue(&shared.backend.keys().borrow(), cluster, user, device, shared.now());
    let issued = issued.ok_or_else(no_key_yet).map_err(errors::after_a_change)?;
    Ok(Tokens {
        user: user.clone(),
        device,
        access_token: issued.token,
        expires_at: issued.expires,
        refresh_token: refresh::token(user, device, secret),
        new_device: None,
    })
}

#[derive(Deserialize, JsonSchema)]
pub struct RefreshToken {
    pub refresh_token: String,
}

pub async fn refresh(ask: Ask<RefreshToken, Nobody>) -> Result<Tokens, ErrorBody> {
    let shared = &ask.shared;
    let wrong = || ErrorBody::new(ErrorCode::Unauthenticated, "the refresh token is not valid");
    let presented = refresh::parse(&ask.params.refresh_token).ok_or_else(wrong)?;
    let secret = new_secret(shared)?;
    let (user, device) = (presented.user, presented.device);
    let (presented, next) = (presented.hash, refresh::hash(&secret));
    let command = Command::RotateToken(RotateToken { user: user.clone(), device, presented, next });
    match shared.backend.execute(Route::User(user.clone()), command).await {
        Ok(_) => tokens(shared, &user, device, &secret),
        Err(CallError::Rejected(_)) => {
            shared.forget_device(&user, device);
            Err(wrong())
        }
        Err(error) => Err(errors::of_call(error)),
    }
}

/// The device that a token speaks for, found to be logged in. A demo user gets one of its own for HTTP.
pub async fn device_of(shared: &Shared, caller: &Caller) -> Result<DeviceId, ErrorBody> {
    if let Some(device) = caller.device {
        if caller.expires.is_some() {
            shared.check_device(&caller.user, device).await?;
        }
        return Ok(device);
    }
    let install = auth::secret_hash(format!("flotilla demo http {}", caller.user).as_bytes());
    let account = shared.account(&caller.user, Freshness::Any { min_seq: None }).await?;
    if let Some(device) = account.and_then(|a| a.devices.into_iter().find(|d| d.install == install)) {
        return Ok(device.device);
    }
    let command = Command::Login(Login {
        user: caller.user.clone(),
        install,
        device: DeviceId(auth::random_u128()),
        name: "http".into(),
        refresh: refresh::hash(&refresh::random_secret()),
        create: true,
    });
    match execute(shared, &caller.user, command).await? {
        Reply::LoggedIn { device, .. } => Ok(device),
        _ => Err(errors::internal("login")),
    }
}

pub async fn logout(Ask { shared, me, .. }: Ask<NoParams>) -> Result<Done, ErrorBody> {
    execute(&shared, &me.user, Command::Logout { user: me.user.clone(), device: me.device }).await?;
    shared.forget_device(&me.user, me.device);
    Ok(Done {})
}

async fn account(shared: &Shared, user: &UserId) -> Result<Account, ErrorBody> {
    let account = shared.account(user, Freshness::Linearizable).await?;
    account.ok_or_else(|| errors::not_found("no such user"))
}

#[derive(Serialize, JsonSchema)]
pub struct Myself {
    pub user: UserId,
    pub device: DeviceId,
    pub created: TsMs,
    /// How many conversations the user has.
    pub conversations: u32,
}

pub async fn me(Ask { shared, me, .. }: Ask<NoParams>) -> Result<Myself, ErrorBody> {
    let account = account(&shared, &me.user).await?;
    Ok(Myself { user: me.user, device: me.device, created: account.created, conversations: account.conversations })
}

#[derive(Serialize, JsonSchema)]
pub struct Devices {
    pub devices: Vec<Device>,
}

#[derive(Serialize, JsonSchema)]
pub struct Device {
    pub device: DeviceId,
    pub name: String,
    pub created: TsMs,
    pub logged_in: bool,
    /// The one that asks.
    pub current: bool,
}

pub async fn devices(Ask { shared, me, .. }: Ask<NoParams>) -> Result<Devices, ErrorBody> {
    let account = account(&shared, &me.user).await?;
    let view = |d: flotilla_machine::query::DeviceView| Device {
        device: d.device,
        name: d.name,
        created: d.created,
        logged_in: d.family.is_some(),
        current: d.device == me.device,
    };
    Ok(Devices { devices: account.devices.into_iter().map(view).collect() })
}

fn device_id(text: &str) -> Result<DeviceId, ErrorBody> {
    DeviceId::parse(text).map_err(|_| errors::not_found("no such device"))
}

#[derive(Deserialize, JsonSchema)]
pub struct DeviceName {
    /// At most 256 bytes.
    #[schemars(length(max = 256))]
    pub name: String,
}

pub async fn rename_device(ask: Ask<DeviceName>) -> Result<Done, ErrorBody> {
    let device = device_id(ask.at(0))?;
    let Ask { shared, me, params: DeviceName { name }, .. } = ask;
    if name.len() > limits::NAME_BYTES_MAX {
        return Err(errors::invalid("a name is at most 256 bytes"));
    }
    execute(&shared, &me.user, Command::RenameDevice { user: me.user.clone(), device, name }).await?;
    Ok(Done {})
}

pub async fn revoke_device(ask: Ask<NoParams>) -> Result<Done, ErrorBody> {
    let device = device_id(ask.at(0))?;
    let Ask { shared, me, key, .. } = ask;
    let key = key.unwrap_or_else(|| Cid(auth::random_u128()));
    execute(&shared, &me.user, Command::RevokeDevice { user: me.user.clone(), device, request: key }).await?;
    shared.forget_device(&me.user, device);
    Ok(Done {})
}
