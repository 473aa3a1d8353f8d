//! The one place where outcomes become errors of the protocol.
//!
//! Invariant: a time-out is `outcome_unknown`, never a failure; where the leader is, is never the client's problem.

use flotilla_machine::Rejection;
use flotilla_proto::frame::{ErrorBody, ErrorCode};

use crate::auth::TokenError;
use crate::auth::password::PasswordError;
use crate::backend::CallError;

const RETRY_AFTER_MS: u64 = 500;
/// Longer: who is refused for want of room makes more of it by waiting.
const OVERLOADED_RETRY_AFTER_MS: u64 = 2_000;

pub fn of_call(error: CallError) -> ErrorBody {
    let (code, wait) = match &error {
        CallError::Rejected(rejection) => return of_rejection(rejection),
        CallError::Unavailable => (ErrorCode::Unavailable, Some(RETRY_AFTER_MS)),
        CallError::Overloaded => (ErrorCode::Overloaded, Some(OVERLOADED_RETRY_AFTER_MS)),
        CallError::Unknown => (ErrorCode::OutcomeUnknown, Some(RETRY_AFTER_MS)),
    };
    ErrorBody { retry_after_ms: wait, ..ErrorBody::new(code, error.to_string()) }
}

/// Of a later step, when an earlier one has had an effect: what says of itself that nothing happened would not be true of the
/// whole.
pub fn after_a_change(error: ErrorBody) -> ErrorBody {
    match error.code {
        ErrorCode::Unavailable | ErrorCode::Overloaded => {
            let wait = error.retry_after_ms.or(Some(RETRY_AFTER_MS));
            let message = format!("a part of it was done: {}", error.message);
            ErrorBody { retry_after_ms: wait, ..ErrorBody::new(ErrorCode::OutcomeUnknown, message) }
        }
        _ => error,
    }
}

pub fn of_rejection(rejection: &Rejection) -> ErrorBody {
    let code = match rejection {
        Rejection::Moved | Rejection::Fenced => ErrorCode::Unavailable,
        Rejection::Validation(_) => ErrorCode::ValidationFailed,
        Rejection::NotFound => ErrorCode::NotFound,
        Rejection::NotMember => ErrorCode::NotMember,
        Rejection::Forbidden(_) => ErrorCode::Forbidden,
        Rejection::Blocked => ErrorCode::Blocked,
        Rejection::Conflict(_) | Rejection::Exists | Rejection::Superseded | Rejection::Replaced => ErrorCode::Conflict,
        Rejection::ConversationFull => ErrorCode::ConversationFull,
        Rejection::OutOfOrder => ErrorCode::OutOfOrder,
        Rejection::TooOld => ErrorCode::TooOld,
        Rejection::IdempotencyMismatch => ErrorCode::IdempotencyMismatch,
        // The gateway answers these itself; one that comes through raced with a change of members.
        Rejection::NeedPeers(_) => ErrorCode::Unavailable,
        Rejection::Unauthenticated | Rejection::Revoked | Rejection::WrongInstall => ErrorCode::Unauthenticated,
        Rejection::Quota(_) => ErrorCode::QuotaExceeded,
        Rejection::Wait { .. } => ErrorCode::TooManyRequests,
    };
    let wait = match rejection {
        Rejection::Wait { wait_ms } => Some(*wait_ms),
        _ => None,
    };
    ErrorBody { retry_after_ms: wait, ..ErrorBody::new(code, rejection.to_string()) }
}

pub fn of_password(error: PasswordError) -> ErrorBody {
    let code = match error {
        PasswordError::Busy => ErrorCode::Overloaded,
        PasswordError::Length => ErrorCode::ValidationFailed,
        PasswordError::Failed => ErrorCode::Internal,
    };
    ErrorBody::new(code, error.to_string())
}

pub fn of_token(error: TokenError) -> ErrorBody {
    let code = match error {
        TokenError::Invalid => ErrorCode::Unauthenticated,
        TokenError::Expired => ErrorCode::TokenExpired,
        TokenError::NotYet => ErrorCode::Unavailable,
    };
    let wait = (error == TokenError::NotYet).then_some(RETRY_AFTER_MS);
    ErrorBody { retry_after_ms: wait, ..ErrorBody::new(code, error.to_string()) }
}

pub fn bad(message: impl Into<String>) -> ErrorBody {
    ErrorBody::new(ErrorCode::BadRequest, message)
}

pub fn invalid(message: impl Into<String>) -> ErrorBody {
    ErrorBody::new(ErrorCode::ValidationFailed, message)
}

/// The backend answered with something else than was asked for.
pub fn internal(what: &str) -> ErrorBody {
    tracing::error!(what, "the cluster side answered another question than was asked");
    ErrorBody::new(ErrorCode::Internal, "internal error")
}

/// It was revoked, or never was.
pub fn no_device() -> ErrorBody {
    ErrorBody::new(ErrorCode::Unauthenticated, "there is no such device any more")
}

/// `allow`: the verbs that are taken there.
pub fn wrong_verb(allow: &[&str]) -> ErrorBody {
    let details = Some(serde_json::json!({ "allow": allow }));
    ErrorBody { details, ..ErrorBody::new(ErrorCode::MethodNotAllowed, format!("only {} here", allow.join(", "))) }
}

pub fn not_found(message: impl Into<String>) -> ErrorBody {
    ErrorBody::new(ErrorCode::NotFound, message)
}
