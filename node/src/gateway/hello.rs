//! From `hello` to an open session: who it is, which device, which session number.
//!
//! Invariant: a stop-class code only for what a commit or a ReadIndex has shown; in doubt 4006, and 4005 where a bounded queue is
//! full. The session is attached
//! before it is opened, so that no news falls between.

use std::net::IpAddr;

use flotilla_machine::command::{Login, OpenSession};
use flotilla_machine::reply::Opened;
use flotilla_machine::{Command, Rejection, Reply};
use flotilla_proto::frame::{CloseCode, ErrorCode, Hello, Reset};
use flotilla_proto::ids::*;
use flotilla_proto::limits;

use super::pulled;
use super::shared::Shared;
use super::withdrawals::Attempt;
use crate::auth::{self, Caller, TokenError};
use crate::backend::{Attach, AttachGuard, CallError, Push, Route, Wanted};
use crate::queue;

/// A session that is open.
pub struct Session {
    pub caller: Caller,
    pub device: DeviceId,
    pub number: SessionNo,
    pub instance: Instance,
    pub attempt: u64,
    pub rev: Rev,
    /// Where the client's store stands.
    pub since: Rev,
    pub reset: Option<Reset>,
    pub epoch: Epoch,
    pub guard: AttachGuard,
    /// Boxed, so that the few places that a queue keeps are small.
    pub pushes: queue::Receiver<Box<Push>>,
}

pub fn token_code(error: TokenError) -> CloseCode {
    match error {
        TokenError::Invalid => CloseCode::AuthFailed,
        TokenError::Expired => CloseCode::TokenExpired,
        TokenError::NotYet => CloseCode::NotReady,
    }
}

/// `wanted` ends when the client is gone: nothing is opened for it then.
pub async fn open(shared: &Shared, hello: &Hello, peer: IpAddr, wanted: &Wanted) -> Result<Session, CloseCode> {
    let node = shared.node();
    if node.draining || !node.ready {
        return Err(CloseCode::NotReady);
    }
    if hello.install.is_empty() || hello.install.len() > limits::NAME_BYTES_MAX {
        return Err(CloseCode::BadFrame);
    }
    let (since, mut reset) = match &hello.rev {
        None => (Rev(0), None),
        Some(token) => match token.parse() {
            None => return Err(CloseCode::RevRejected),
            Some((epoch, _)) if epoch != node.epoch => (Rev(0), Some(Reset::Restored)),
            Some((_, rev)) => (rev, None),
        },
    };
    let caller = shared.authenticate(&hello.token, peer).map_err(token_code)?;
    let install = auth::secret_hash(hello.install.as_bytes());
    let mut device = match (caller.device, hello.device) {
        (Some(own), asked) => {
            shared.check_device(&caller.user, own).await.map_err(|e| match e.code {
                ErrorCode::Unauthenticated => CloseCode::ReauthRequired,
                ErrorCode::Overloaded => CloseCode::Overloaded,
                _ => CloseCode::NotReady,
            })?;
            // A device made for a lost store is named by `hello` only; its `install` proves it.
            asked.unwrap_or(own)
        }
        (None, Some(asked)) => asked,
        (None, None) => login(shared, &caller.user, install, hello, true).await?,
    };
    let opened = match try_open(shared, hello, &caller.user, device, install, wanted).await {
        Err(CallError::Rejected(Rejection::WrongInstall)) => None,
        // A demo user needs no registration; its device may be of a cluster that is gone.
        Err(CallError::Rejected(Rejection::Unauthenticated)) if caller.device.is_none() => None,
        // The token is good and its family is not: logged out meanwhile, on another node perhaps.
        Err(CallError::Rejected(Rejection::Unauthenticated)) => return Err(CloseCode::ReauthRequired),
        other => Some(other.map_err(open_code)?),
    };
    let ((opened, guard, pushes), since) = match opened {
        Some(opened) if since > opened.0.rev => {
            reset = Some(Reset::Unknown);
            (opened, Rev(0))
        }
        Some(opened) => (opened, since),
        None => {
            device = login(shared, &caller.user, install, hello, caller.device.is_none()).await?;
            reset = Some(Reset::NewDevice);
            (try_open(shared, hello, &caller.user, device, install, wanted).await.map_err(open_code)?, Rev(0))
        }
    };
    // A device that has caught up once has its places, and a user without revisions has no conversations.
    if since == Rev(0)
        && opened.rev > Rev(0)
        && let Err(error) = pulled::place(shared, &caller.user, device).await
    {
        // Nobody will use the session that is open now.
        let (instance, attempt) = (hello.instance, hello.attempt);
        let attempt = Attempt { user: caller.user.clone(), device, instance, attempt };
        shared.withdrawals.put(&shared.backend, attempt);
        tracing::debug!(user = %caller.user, %error, "a new device cannot take its places now");
        return Err(if error == CallError::Overloaded { CloseCode::Overloaded } else { CloseCode::NotReady });
    }
    let (number, rev, epoch) = (opened.number, opened.rev, node.epoch);
    shared.backend.confirm(&guard, number, rev);
    let (instance, attempt) = (hello.instance, hello.attempt);
    Ok(Session { caller, device, number, instance, attempt, rev, since, reset, epoch, guard, pushes })
}

/// Finds or makes the device of this install. Its refresh token is known to nobody.
async fn login(
    shared: &Shared,
    user: &UserId,
    install: Hash32,
    hello: &Hello,
    create: bool,
) -> Result<DeviceId, CloseCode> {
    let command = Command::Login(Login {
        user: user.clone(),
        install,
        device: DeviceId(auth::random_u128()),
        name: hello.client.name.chars().take(64).collect(),
        refresh: auth::refresh::hash(&auth::refresh::random_secret()),
        create,
    });
    match shared.backend.execute(Route::User(user.clone()), command).await {
        Ok(Reply::LoggedIn { device, .. }) => Ok(device),
        Ok(_) => Err(CloseCode::Internal),
        Err(error) => Err(open_code(error)),
    }
}

type Attached = (Opened, AttachGuard, queue::Receiver<Box<Push>>);

async fn try_open(
    shared: &Shared,
    hello: &Hello,
    user: &UserId,
    device: DeviceId,
    install: Hash32,
    wanted: &Wanted,
) -> Result<Attached, CallError> {
    let (instance, attempt) = (hello.instance, hello.attempt);
    let (tx, pushes) = queue::channel(limits::PUSHES_WAITING_MAX);
    let guard = shared.backend.attach(Attach { user: user.clone(), device, instance, attempt }, tx);
    let node = shared.node();
    let (node, incarnation) = (node.id, node.incarnation);
    let command = OpenSession { user: user.clone(), device, install, node, incarnation, instance, attempt };
    let route = Route::User(user.clone());
    match shared.backend.execute_while(wanted.clone(), route, Command::OpenSession(command)).await {
        Ok(Reply::Opened(opened)) => {
            flotilla_raft::seam::fault::point("session.opened_before_ready");
            Ok((opened, guard, pushes))
        }
        // It may be open, or open later, and would hold push and presence for nobody.
        Ok(_) | Err(CallError::Unknown) => {
            let attempt = Attempt { user: user.clone(), device, instance, attempt };
            shared.withdrawals.put(&shared.backend, attempt);
            Err(CallError::Unknown)
        }
        Err(error) => Err(error),
    }
}

fn open_code(error: CallError) -> CloseCode {
    let rejection = match error {
        CallError::Rejected(rejection) => rejection,
        // Nothing happened, and another moment will do.
        CallError::Overloaded => return CloseCode::Overloaded,
        CallError::Unavailable | CallError::Unknown => return CloseCode::NotReady,
    };
    match rejection {
        Rejection::Revoked => CloseCode::DeviceRevoked,
        Rejection::Superseded => CloseCode::Superseded,
        Rejection::Replaced => CloseCode::SessionReplaced,
        Rejection::Unauthenticated | Rejection::WrongInstall => CloseCode::AuthFailed,
        Rejection::Forbidden(_) => CloseCode::AccountDisabled,
        Rejection::Quota(_) => CloseCode::ConnectionLimit,
        Rejection::NotFound => CloseCode::AuthFailed,
        Rejection::Moved
        | Rejection::Fenced
        | Rejection::Validation(_)
        | Rejection::NotMember
        | Rejection::Blocked
        | Rejection::Conflict(_)
        | Rejection::ConversationFull
        | Rejection::OutOfOrder
        | Rejection::TooOld
        | Rejection::IdempotencyMismatch
        | Rejection::NeedPeers(_)
        | Rejection::Wait { .. }
        | Rejection::Exists => CloseCode::NotReady,
    }
}
