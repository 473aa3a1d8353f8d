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
    pub const ALL: [Verdict; 4] = [Verdict::Reconnect, Verdict::NewToken, Verdict::DropRev, Verdict::Stop];

    /// Its codes.
    pub fn range(self) -> (u16, u16) {
        match self {
            Verdict::Reconnect => (4000, 4099),
            Verdict::NewToken => (4100, 4199),
            Verdict::DropRev => (4200, 4299),
            Verdict::Stop => (4500, 4599),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Verdict::Reconnect => "reconnect",
            Verdict::NewToken => "new_token",
            Verdict::DropRev => "drop_rev",
            Verdict::Stop => "stop",
        }
    }

    /// What a client does.
    pub fn advice(self) -> &'static str {
        match self {
            Verdict::Reconnect => "Reconnect with back-off and jitter.",
            Verdict::NewToken => "Get a new token first, then reconnect.",
            Verdict::DropRev => "Drop the `rev` token, then reconnect and sync again.",
            Verdict::Stop => "Do not come back by yourself.",
        }
    }

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
    ($($variant:ident = $number:literal, $name:literal, $meaning:literal;)*) => {
        /// Why a connection was closed by the server.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum CloseCode {
            $(#[doc = $meaning] $variant,)*
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

            /// For people who write clients.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(CloseCode::$variant => $meaning,)*
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
    Internal = 4000, "internal", "An error of the server.";
    GoingAway = 4001, "going_away", "The node stops.";
    HeartbeatTimeout = 4002, "heartbeat_timeout", "Nothing was received for 35 s.";
    SlowConsumer = 4003, "slow_consumer", "The socket stayed full, or entries were not acked for 60 s.";
    RateLimited = 4004, "rate_limited", "More acks, reads and the like than a connection may send.";
    Overloaded = 4005, "overloaded", "Too much waits at the nodes: the session was not opened.";
    NotReady = 4006, "not_ready", "The node cannot tell for sure now: it starts, or sees no quorum.";
    Superseded = 4007, "superseded", "A newer connection of the same client process has taken the session.";
    TokenExpired = 4100, "token_expired", "The access token has ended.";
    ReauthRequired = 4101, "reauth_required", "The token is no longer taken.";
    RevRejected = 4200, "rev_rejected", "`rev` is not one that this cluster has made.";
    BadFrame = 4500, "bad_frame", "A frame that cannot be read.";
    UnsupportedVersion = 4501, "unsupported_version", "No subprotocol that the server knows was offered.";
    AuthFailed = 4502, "auth_failed", "The token is not valid.";
    HelloTimeout = 4503, "hello_timeout", "No `hello` within 10 s.";
    SessionReplaced = 4504, "session_replaced", "Another client process of this device has taken the session.";
    DeviceRevoked = 4505, "device_revoked", "The device was revoked or logged out.";
    AccountDisabled = 4506, "account_disabled", "The account is disabled.";
    MessageTooBig = 4507, "message_too_big", "A message above the limit.";
    ProtocolViolation = 4508, "protocol_violation", "A frame that is not allowed here: before `hello`, or a second one.";
    ConnectionLimit = 4509, "connection_limit", "Too many connections.";
    OriginForbidden = 4510, "origin_forbidden", "A page of this origin may not connect.";
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
