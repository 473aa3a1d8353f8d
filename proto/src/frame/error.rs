//! The one table of error codes: name on the wire, HTTP status, and whether the same request may be sent again as it is.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! error_codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $status:literal, $retryable:literal;)*) => {
        /// What went wrong, for programs. `Other` is a name that this build does not know; the body's `retryable` decides.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ErrorCode {
            $($(#[$doc])* $variant,)*
            Other,
        }

        impl ErrorCode {
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$variant,)*];

            pub fn name(self) -> &'static str {
                match self {
                    $(ErrorCode::$variant => $name,)*
                    ErrorCode::Other => "other",
                }
            }

            pub fn http_status(self) -> u16 {
                match self {
                    $(ErrorCode::$variant => $status,)*
                    ErrorCode::Other => 500,
                }
            }

            /// The same request, same key, may be sent again after a pause and may then succeed.
            pub fn retryable(self) -> bool {
                match self {
                    $(ErrorCode::$variant => $retryable,)*
                    ErrorCode::Other => false,
                }
            }

            pub fn parse(name: &str) -> Self {
                match name {
                    $($name => ErrorCode::$variant,)*
                    _ => ErrorCode::Other,
                }
            }
        }
    };
}

error_codes! {
    BadRequest = "bad_request", 400, false;
    ValidationFailed = "validation_failed", 400, false;
    Unauthenticated = "unauthenticated", 401, false;
    /// Not as it is: with a new token.
    TokenExpired = "token_expired", 401, false;
    Forbidden = "forbidden", 403, false;
    NotMember = "not_member", 403, false;
    Blocked = "blocked", 403, false;
    NotFound = "not_found", 404, false;
    Conflict = "conflict", 409, false;
    ConversationFull = "conversation_full", 409, false;
    /// The command named by `after` is not accepted yet.
    OutOfOrder = "out_of_order", 409, true;
    EpochMismatch = "epoch_mismatch", 409, false;
    TooOld = "too_old", 410, false;
    PreconditionFailed = "precondition_failed", 412, false;
    PayloadTooLarge = "payload_too_large", 413, false;
    IdempotencyMismatch = "idempotency_mismatch", 422, false;
    TooManyRequests = "too_many_requests", 429, true;
    QuotaExceeded = "quota_exceeded", 429, false;
    Internal = "internal", 500, true;
    Unsupported = "unsupported", 501, false;
    Overloaded = "overloaded", 503, true;
    /// No quorum here and now; nothing happened.
    Unavailable = "unavailable", 503, true;
    /// May or may not have happened: again, with the same key.
    OutcomeUnknown = "outcome_unknown", 504, true;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for ErrorCode {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d).map(|name| Self::parse(&name))
    }
}

/// The body of an `error` frame, and of a problem document over HTTP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ErrorBody {
    pub code: ErrorCode,
    #[serde(default)]
    pub message: String,
    #[serde(default)]
    pub retryable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<serde_json::Value>,
    #[serde(default)]
    pub request_id: String,
}

impl ErrorBody {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retryable: code.retryable(),
            retry_after_ms: None,
            details: None,
            request_id: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_own_name_and_a_client_or_server_status() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::parse(code.name()), *code);
            assert!((400..600).contains(&code.http_status()));
        }
        assert_eq!(ErrorCode::ALL.len(), 23);
        assert_eq!(ErrorCode::parse("from_the_future"), ErrorCode::Other);
    }
}
