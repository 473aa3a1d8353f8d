//! Logins by one-time code as they stand in the history: who asks for a code, what is brought, who tries which, and how it ends.
//!
//! Invariant: a try is one request, sent once. So *in* and *wrong* were decided between its two records, and *unknown* may be
//! decided at any time after the first.

use flotilla_client::history::{Op, Record};
use flotilla_proto::ids::Cid;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// An attempt of a request for a code begins.
    Asks {
        address: String,
        request: Cid,
    },
    /// A code has come to an address.
    Brought {
        address: String,
        code: String,
    },
    Tries {
        id: Cid,
        address: String,
        code: String,
        request: Cid,
        install: String,
    },
    Ends {
        id: Cid,
        how: How,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum How {
    In {
        user: String,
        device: String,
    },
    /// Refused: the code is wrong, or good for nothing any more.
    Wrong,
    Unknown,
}

impl Step {
    pub fn op(&self) -> Op {
        Op::Note { text: format!("code {}", serde_json::to_string(self).unwrap_or_default()) }
    }

    pub fn of(record: &Record) -> Option<Self> {
        let Op::Note { text } = &record.op else { return None };
        serde_json::from_str(text.strip_prefix("code ")?).ok()
    }
}
