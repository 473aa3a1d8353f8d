//! The list of conversations, as the server orders it.

use flotilla_proto::frame::Conv;
use flotilla_proto::ids::{Blob, Seq, TsMs, UserId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::calls::CallError;
use super::handle::Handle;

/// Pinned ones first, then by latest activity.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(from = "Page")]
pub struct ListPage {
    pub convs: Vec<Listed>,
    /// So many stand on the page beside these, and cannot be read by this build.
    pub unreadable: usize,
    /// Where the next page begins; none: there is no more.
    pub next: Option<String>,
}

/// As it comes: one row that is not understood takes no other along.
#[derive(Deserialize)]
struct Page {
    convs: Vec<Value>,
    next: Option<String>,
}

impl From<Page> for ListPage {
    fn from(page: Page) -> Self {
        let all = page.convs.len();
        let convs: Vec<_> = page.convs.into_iter().filter_map(|row| serde_json::from_value(row).ok()).collect();
        Self { unreadable: all - convs.len(), convs, next: page.next }
    }
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

#[cfg(test)]
mod tests {
    use flotilla_proto::ids::ConvId;

    use super::*;

    #[test]
    fn a_row_that_cannot_be_read_is_counted_and_the_others_are_there() {
        let with = |peer: &str| {
            let user = |name: &str| UserId::parse(name).expect("valid");
            ConvId::direct(&user("alice"), &user(peer))
        };
        let row = |peer: &str| {
            json!({ "rev": "1.1", "conv": with(peer), "kind": "direct", "head": 1, "n_head": 1, "read": 0, "unread": 1,
                "wrev": 0, "member": true, "mseq": 1, "last_ts": 1, "settings": {} })
        };
        let mut strange = row("carol");
        strange["head"] = "many".into();
        let page = json!({ "convs": [row("bob"), strange, {}, row("dave")], "next": "x" });
        let page: ListPage = serde_json::from_value(page).expect("a page");
        let convs: Vec<_> = page.convs.iter().map(|listed| listed.conv.conv.clone()).collect();
        assert_eq!((convs, page.unreadable), (vec![with("bob"), with("dave")], 2));
        assert_eq!(page.next.as_deref(), Some("x"));
        assert!(serde_json::from_value::<ListPage>(json!({ "convs": 7 })).is_err(), "that is no page");
    }
}
