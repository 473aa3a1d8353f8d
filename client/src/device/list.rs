//! The list of conversations, as the server orders it.

use flotilla_proto::frame::Conv;
use flotilla_proto::ids::{Blob, Seq, TsMs, UserId};
use serde::Deserialize;
use serde_json::json;

use super::calls::CallError;
use super::handle::Handle;

/// Pinned ones first, then by latest activity.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct ListPage {
    pub convs: Vec<Listed>,
    /// Where the next page begins; none: there is no more.
    pub next: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Listed {
    #[serde(flatten)]
    pub conv: Conv,
    pub last: Option<Last>,
    /// Groups and channels: how many members there are.
    pub members: Option<u64>,
    /// Unread messages that name this user; none where there are none, or where the server does not know now.
    pub mentions: Option<Mentions>,
}

impl Listed {
    pub fn mentions(&self) -> u64 {
        self.mentions.as_ref().map_or(0, |mentions| mentions.count)
    }
}

/// The same for all devices of a user: it is counted in the conversation's log, by the marks that unread is counted by.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Mentions {
    pub count: u64,
    /// Seq of the first.
    pub first: Seq,
    /// More than are counted.
    #[serde(default)]
    pub more: bool,
}

/// The latest entry that is not a change of another one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Last {
    pub seq: Seq,
    pub from: UserId,
    pub kind: String,
    pub ts: TsMs,
    /// Its first 300 bytes.
    pub body: Option<Blob>,
    #[serde(default)]
    pub redacted: bool,
}

impl Handle {
    /// A page of the list with the last message of each; `after` is the `next` of the page before.
    pub async fn list(&self, after: Option<String>, limit: u32) -> Result<ListPage, CallError> {
        let mut params = json!({"order": "activity", "previews": true, "limit": limit});
        if let Some(after) = after {
            params["after"] = after.into();
        }
        let page = self.call("GET conversations", None, params).await?;
        serde_json::from_value(page).map_err(|error| CallError::Unknown(format!("not a page of the list: {error}")))
    }
}
