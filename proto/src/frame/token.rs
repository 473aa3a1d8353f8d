//! The `rev` token: how far a client has seen its inbox. Opaque to clients; it holds the history epoch.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, Rev};

/// `EPOCH.REV` today; clients keep and return it unread.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct RevToken(pub String);

impl RevToken {
    pub fn new(epoch: Epoch, rev: Rev) -> Self {
        Self(format!("{epoch}.{rev}"))
    }

    /// None for anything that a server did not make: close 4200.
    pub fn parse(&self) -> Option<(Epoch, Rev)> {
        let (epoch, rev) = self.0.split_once('.')?;
        let digits = |t: &str| !t.is_empty() && t.len() <= 20 && t.bytes().all(|b| b.is_ascii_digit());
        if !digits(epoch) || !digits(rev) {
            return None;
        }
        Some((Epoch(epoch.parse().ok()?), Rev(rev.parse().ok()?)))
    }
}

impl fmt::Display for RevToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_server_made_is_parsed() {
        assert_eq!(RevToken::new(Epoch(1), Rev(42)).0, "1.42");
        assert_eq!(RevToken("1.42".into()).parse(), Some((Epoch(1), Rev(42))));
        for bad in ["", "1", "1.", ".1", "1.x", "1.2.3", "+1.2", "1.99999999999999999999999", "5000000000.1"] {
            assert_eq!(RevToken(bad.into()).parse(), None, "{bad}");
        }
    }
}
