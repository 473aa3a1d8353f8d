//! Whom the user has blocked. A direct message of theirs is refused; what they write in groups is there, and whoever shows it
//! marks it.

use std::collections::BTreeSet;

use flotilla_proto::ids::UserId;
use flotilla_proto::limits;
use serde::Deserialize;
use serde_json::json;

use super::calls::CallError;
use super::handle::Handle;

#[derive(Deserialize)]
struct Page {
    blocks: Vec<Row>,
    more: bool,
}

#[derive(Deserialize)]
struct Row {
    user: UserId,
    /// False: it is being lifted.
    on: bool,
}

impl Handle {
    /// All of them; a user has at most [`limits::BLOCKS_MAX`].
    pub async fn blocks(&self) -> Result<BTreeSet<UserId>, CallError> {
        let mut blocked = BTreeSet::new();
        let mut params = json!({});
        // A page has at least one, or is the last.
        for _ in 0..limits::BLOCKS_MAX {
            let page = self.call("GET blocks", None, params).await?;
            let wrong = |error| CallError::Unknown(format!("not a page of blocks: {error}"));
            let Page { blocks, more } = serde_json::from_value(page).map_err(wrong)?;
            let last = blocks.last().map(|row| row.user.clone());
            blocked.extend(blocks.into_iter().filter(|row| row.on).map(|row| row.user));
            match last {
                Some(last) if more => params = json!({ "after": last }),
                _ => break,
            }
        }
        Ok(blocked)
    }
}
