//! The one table of close codes. The range carries the verdict, so that a client understands codes made after it.

use std::fmt;

/// What a client does after a close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Reconnect with back-off and jitter.
    Reconnect,
    /// Get a new token first, then reconnect.
    NewToken,
    /// Drop the `rev` token, then reconnect and sync again.
    DropRev,
    /// Do not come back by yourself.
    Stop,
}

impl Verdict {
    /// Codes outside the project's ranges (1001, 1006, 1011-1013 and whatever a proxy makes up) mean reconnect.
    pub fn of(code: u16) -> Self {
        match code {
            4100..=4199 => Verdict::NewToken,
            4200..=4299 => Verdict::DropRev,
            4500..=4599 => Verdict::Stop,
            _ => Verdict::Reconnect,
        }
    }
}

macro_rules! close_codes {
    ($($variant:ident = $number:literal, $name:literal;)*) => {
        /// Why a connection was closed by the server.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum CloseCode {
            $($variant,)*
        }

        impl CloseCode {
            pub const ALL: &[CloseCode] = &[$(CloseCode::$variant,)*];

            pub fn number(self) -> u16 {
                match self {
                    $(CloseCode::$variant => $number,)*
                }
            }

            /// The reason text of the close frame.
            pub fn name(self) -> &'static str {
                match self {
                    $(CloseCode::$variant => $name,)*
                }
            }

            /// None for a code that this build does not know; [`Verdict::of`] knows what to do all the same.
            pub fn parse(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(CloseCode::$variant),)*
                    _ => None,
                }
            }

            pub fn verdict(self) -> Verdict {
                Verdict::of(self.number())
            }
        }
    };
}

close_codes! {
    Internal = 4000, "internal";
    GoingAway = 4001, "going_away";
    HeartbeatTimeout = 4002, "heartbeat_timeout";
    SlowConsumer = 4003, "slow_consumer";
    RateLimited = 4004, "rate_limited";
    Overloaded = 4005, "overloaded";
    NotReady = 4006, "not_ready";
    Superseded = 4007, "superseded";
    TokenExpired = 4100, "token_expired";
    ReauthRequired = 4101, "reauth_required";
    RevRejected = 4200, "rev_rejected";
    BadFrame = 4500, "bad_frame";
    UnsupportedVersion = 4501, "unsupported_version";
    AuthFailed = 4502, "auth_failed";
    HelloTimeout = 4503, "hello_timeout";
    SessionReplaced = 4504, "session_replaced";
    DeviceRevoked = 4505, "device_revoked";
    AccountDisabled = 4506, "account_disabled";
    MessageTooBig = 4507, "message_too_big";
    ProtocolViolation = 4508, "protocol_violation";
    ConnectionLimit = 4509, "connection_limit";
    OriginForbidden = 4510, "origin_forbidden";
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number(), self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_carry_the_verdict() {
        for code in CloseCode::ALL {
            assert_eq!(CloseCode::parse(code.number()), Some(*code));
            let hundred = code.number() / 100;
            let expected = match hundred {
                40 => Verdict::Reconnect,
                41 => Verdict::NewToken,
                42 => Verdict::DropRev,
                _ => Verdict::Stop,
            };
            assert_eq!(code.verdict(), expected, "{code}");
        }
        for foreign in [1000, 1001, 1006, 1011, 1012, 1013, 4099, 4300] {
            assert_eq!(Verdict::of(foreign), Verdict::Reconnect);
        }
        assert_eq!(Verdict::of(4599), Verdict::Stop);
    }
}
