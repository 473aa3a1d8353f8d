//! The one table of error codes: name on the wire, HTTP status, and whether the same request may be sent again as it is.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! error_codes {
    ($($variant:ident = $name:literal, $status:literal, $retryable:literal, $meaning:literal, $advice:literal;)*) => {
        /// What went wrong, for programs. `Other` is a name that this build does not know; the body's `retryable` decides.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ErrorCode {
            $(#[doc = $meaning] $variant,)*
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

            /// For people who write clients.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(ErrorCode::$variant => $meaning,)*
                    ErrorCode::Other => "A code that this build does not know.",
                }
            }

            /// What a client does about it.
            pub fn advice(self) -> &'static str {
                match self {
                    $(ErrorCode::$variant => $advice,)*
                    ErrorCode::Other => "`retryable` says whether the same request may be sent again.",
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
    BadRequest = "bad_request", 400, false,
        "The request cannot be understood: its form, a field or a header is wrong.",
        "Change the request; the message says what is wrong.";
    ValidationFailed = "validation_failed", 400, false,
        "The request is understood, but a value is not allowed.",
        "Change the value; the message says what is allowed.";
    Unauthenticated = "unauthenticated", 401, false,
        "No token, one that is not valid, a wrong password, or a device that is not logged in.",
        "Log in again.";
    TokenExpired = "token_expired", 401, false,
        "The access token has ended.",
        "Refresh the token, then send the same request again.";
    Forbidden = "forbidden", 403, false,
        "Known, but not allowed to do this.",
        "Do not repeat it.";
    NotMember = "not_member", 403, false,
        "Not a member of this conversation, or there is none with this id.",
        "Do not repeat it; ask a member to be added.";
    Blocked = "blocked", 403, false,
        "The other user has blocked this one.",
        "Do not repeat it.";
    NotFound = "not_found", 404, false,
        "No such thing, or no such path.",
        "Do not repeat it.";
    MethodNotAllowed = "method_not_allowed", 405, false,
        "The path is there, but not with this verb.",
        "Change the request; `details.allow` names the verbs that are taken.";
    Conflict = "conflict", 409, false,
        "It contradicts what is there: a name that is taken, an edit of what was deleted.",
        "Look at the state, then decide anew.";
    ConversationFull = "conversation_full", 409, false,
        "The group has as many members as it may have.",
        "Remove somebody first.";
    OutOfOrder = "out_of_order", 409, true,
        "The command named by `after` is not accepted yet.",
        "Send that one first, then this one again with the same key.";
    EpochMismatch = "epoch_mismatch", 409, false,
        "The request speaks of a history from before a restore.",
        "Drop what was kept and sync again.";
    TooOld = "too_old", 410, false,
        "A retry so old that the server cannot know whether it was done.",
        "Ask the person; send it anew with a new key only then.";
    PreconditionFailed = "precondition_failed", 412, false,
        "What the request presupposes does not hold.",
        "Look at the state, then decide anew.";
    PayloadTooLarge = "payload_too_large", 413, false,
        "The request or a message body is too large.",
        "Send less; `ready.limits` says how much is taken.";
    IdempotencyMismatch = "idempotency_mismatch", 422, false,
        "This key was used before for something else.",
        "A programming error: draw a new key for each new request.";
    TooManyRequests = "too_many_requests", 429, true,
        "Over a limit on how often.",
        "Wait for `retry_after_ms`, then send the same request again.";
    QuotaExceeded = "quota_exceeded", 429, false,
        "Over a limit on how many: devices, contacts, conversations.",
        "Remove something first.";
    Internal = "internal", 500, true,
        "An error of the server.",
        "Send it again with the same key after a pause; tell the operator if it stays.";
    Unsupported = "unsupported", 501, false,
        "This server does not know such a request.",
        "Do not repeat it.";
    Overloaded = "overloaded", 503, true,
        "Too much at once here; nothing happened.",
        "Wait for `retry_after_ms`, then send it again with the same key, also to another node.";
    Unavailable = "unavailable", 503, true,
        "No quorum here and now; nothing happened.",
        "Send it again with the same key after a pause; after two of these from one node, try another.";
    OutcomeUnknown = "outcome_unknown", 504, true,
        "May or may not have happened.",
        "Send it again with the same key: it is done once.";
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
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
        assert_eq!(ErrorCode::ALL.len(), 24);
        assert_eq!(ErrorCode::parse("from_the_future"), ErrorCode::Other);
    }
}
