//! Pages of a conversation beyond the raw ones: messages as they stand now, from a date on, and the whole as JSON lines.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use flotilla_machine::query::{EntriesPage, FoldedPage};
use flotilla_machine::{Answer, Query, Rejection};
use flotilla_proto::frame::{self, EntryFrame, ErrorBody, ErrorCode};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use futures::stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::accounts::Me;
use super::groups::conv_id;
use super::route::{Ask, NoParams};
use crate::auth::TokenError;
use crate::backend::{Freshness, Route};
use crate::gateway::shared::Shared;
use crate::gateway::{errors, ops};

/// One of `before`, `after`, `around` and `at`; none: the newest.
#[derive(Deserialize, JsonSchema)]
pub struct HistoryPage {
    pub before: Option<Seq>,
    pub after: Option<Seq>,
    pub around: Option<Seq>,
    pub limit: Option<u32>,
    /// Unix milliseconds: from the first entry of this time or later on.
    pub at: Option<TsMs>,
    /// Messages as they stand now: edits, deletions and reactions are folded in.
    pub fold: Option<bool>,
}

#[derive(Serialize, JsonSchema)]
pub struct Entries {
    /// By `seq`.
    pub entries: Vec<Message>,
    pub more: bool,
    /// Folded pages: where the next one goes on (as `before` or `after`).
    pub next: Option<Seq>,
}

#[derive(Serialize, JsonSchema)]
pub struct Message {
    #[serde(flatten)]
    pub entry: EntryFrame,
    /// Folded: the seq of the edit that the body is from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edited: Option<Seq>,
}

pub async fn page(ask: Ask<HistoryPage>) -> Result<Entries, ErrorBody> {
    let conv = conv_id(ask.at(0))?;
    let Ask { shared, me, params, .. } = ask;
    let HistoryPage { before, mut after, around, limit, at, fold } = params;
    if [before.is_some(), after.is_some(), around.is_some(), at.is_some()].into_iter().filter(|given| *given).count()
        > 1
    {
        return Err(errors::bad("one of before, after, around and at"));
    }
    if let Some(ts) = at {
        match seq_at(&shared, &me, &conv, ts).await? {
            Some(seq) => after = Some(seq.prev()),
            None => return Ok(Entries { entries: Vec::new(), more: false, next: None }),
        }
    }
    let ask = frame::History { conv, before, after, around, limit };
    if fold == Some(true) {
        return folded(&shared, &me, &ask).await;
    }
    let frame::HistoryReply { entries, more } = ops::history(&shared, &me.user, &ask).await?;
    let entries = entries.into_iter().map(|entry| Message { entry, edited: None }).collect();
    Ok(Entries { entries, more, next: None })
}

async fn ask_log(shared: &Shared, conv: &ConvId, query: Query) -> Result<Answer, ErrorBody> {
    match shared.backend.query(Route::Conv(conv.clone()), query, Freshness::Linearizable).await {
        Ok(Answer::NotMember | Answer::NotFound) => {
            Err(ErrorBody::new(ErrorCode::NotMember, Rejection::NotMember.to_string()))
        }
        Ok(answer) => Ok(answer),
        Err(error) => Err(errors::of_call(error)),
    }
}

async fn seq_at(shared: &Shared, me: &Me, conv: &ConvId, ts: TsMs) -> Result<Option<Seq>, ErrorBody> {
    let query = Query::SeqAt { conv: conv.clone(), user: me.user.clone(), ts };
    match ask_log(shared, conv, query).await? {
        Answer::SeqAt(seq) => Ok(seq),
        _ => Err(errors::internal("date")),
    }
}

/// `next` is where the next page goes on, in the direction of this one: a page may be empty and not the last.
async fn folded(shared: &Shared, me: &Me, ask: &frame::History) -> Result<Entries, ErrorBody> {
    let limit = ask.limit.unwrap_or(50).clamp(1, limits::HISTORY_ENTRIES_MAX);
    let (from, to, newest_first) = ops::range_of(ask, limit)?;
    let (conv, user, bytes_max) = (ask.conv.clone(), me.user.clone(), limits::HISTORY_BYTES_MAX as u32);
    let query = Query::Folded { conv, user, from, to, newest_first, limit, bytes_max };
    let Answer::Folded(FoldedPage { entries, looked_to, more }) = ask_log(shared, &ask.conv, query).await? else {
        return Err(errors::internal("folded"));
    };
    let one = |(entry, edited): &(_, Option<Seq>)| Message { entry: EntryFrame::of(entry), edited: *edited };
    let mut entries: Vec<Message> = entries.iter().map(one).collect();
    entries.sort_by_key(|message| message.entry.seq);
    Ok(Entries { entries, more, next: looked_to.filter(|_| more) })
}

/// What is left of an export under way.
struct Export {
    shared: Arc<Shared>,
    me: Me,
    conv: ConvId,
    next: Seq,
    head: Seq,
    entries: u64,
    ended: bool,
    /// None for a demo user, whose device need not be logged in either.
    expires: Option<TsMs>,
    /// Few exports run at the same time on one node.
    _turn: OwnedSemaphorePermit,
}

/// A line of an export, for the documents.
#[derive(JsonSchema)]
#[serde(untagged)]
pub enum ExportLine {
    Entry(Box<EntryFrame>),
    /// The last line; an export without it was cut off.
    End {
        end: bool,
        entries: u64,
        head: Seq,
    },
    /// The last line of an export that could not go on.
    Failed {
        error: ErrorBody,
    },
}

/// Every entry that the caller may read, oldest first, one JSON object a line; the last line is `{"end": true, …}`. An export
/// without it was cut off.
pub async fn export(ask: Ask<NoParams>) -> Result<Response, ErrorBody> {
    let conv = conv_id(ask.at(0))?;
    let Ask { shared, me, expires, .. } = ask;
    let turn = shared.exports.clone().try_acquire_owned().map_err(|_| ErrorBody {
        retry_after_ms: Some(limits::EXPORT_RETRY_MS),
        ..ErrorBody::new(ErrorCode::TooManyRequests, "other exports are under way on this node")
    })?;
    let page = entries(&shared, &me, &conv, Seq(1), Seq(1)).await?;
    let (next, head) = (Seq(1), page.head);
    let export = Export { shared, me, conv, next, head, entries: 0, ended: false, expires, _turn: turn };
    let lines = stream::unfold(export, async |mut export: Export| {
        let part = export.part().await?;
        Some((Ok::<_, Infallible>(part), export))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

async fn entries(shared: &Shared, me: &Me, conv: &ConvId, from: Seq, to: Seq) -> Result<EntriesPage, ErrorBody> {
    let (user, bytes_max) = (me.user.clone(), limits::PAGE_BYTES_MAX as u32);
    let limit = limits::PAGE_ENTRIES_MAX as u32;
    let query = Query::Entries { conv: conv.clone(), user, from, to, newest_first: false, limit, bytes_max };
    ops::entries(shared, query, conv, Freshness::Linearizable).await
}

impl Export {
    /// The next lines; none after the last.
    async fn part(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        if self.next > self.head {
            return Some(self.end(json!({ "end": true, "entries": self.entries, "head": self.head })));
        }
        match self.read().await {
            Ok(page) => {
                let last = page.entries.last().map(|entry| entry.seq);
                self.next = match last.filter(|_| page.more) {
                    Some(last) => last.next(),
                    None => self.head.next(),
                };
                self.entries += page.entries.len() as u64;
                let mut lines = Vec::new();
                for entry in &page.entries {
                    // Frames always encode: what could fail would leave a line out, and the count at the end tells.
                    if serde_json::to_writer(&mut lines, &EntryFrame::of(entry)).is_ok() {
                        lines.push(b'\n');
                    }
                }
                Some(lines.into())
            }
            Err(error) => Some(self.end(json!({ "error": error }))),
        }
    }

    /// A token may end and a device be revoked while somebody reads slowly.
    async fn read(&self) -> Result<EntriesPage, ErrorBody> {
        if let Some(expires) = self.expires {
            if expires <= self.shared.now() {
                return Err(errors::of_token(TokenError::Expired));
            }
            self.shared.check_device(&self.me.user, self.me.device).await?;
        }
        entries(&self.shared, &self.me, &self.conv, self.next, self.head).await
    }

    fn end(&mut self, line: Value) -> Bytes {
        self.ended = true;
        format!("{line}\n").into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::client::Node;

    #[tokio::test]
    async fn an_export_ends_with_its_token_and_with_its_device() {
        let node = Node::start().await;
        node.caught_up("bob", "1").await;
        let conv = node.caught_up("alice", "1").await.send("bob", 1, "note").await.conv;
        let user = UserId::parse("alice").expect("valid");
        for (expires, code) in [(TsMs(1), "token_expired"), (TsMs(u64::MAX), "unauthenticated")] {
            let mut export = Export {
                shared: node.shared.clone(),
                me: Me { user: user.clone(), device: DeviceId(404) },
                conv: conv.clone(),
                next: Seq(1),
                head: Seq(1),
                entries: 0,
                ended: false,
                expires: Some(expires),
                _turn: node.shared.exports.clone().try_acquire_owned().expect("a turn"),
            };
            let last = export.part().await.expect("a line");
            assert!(String::from_utf8_lossy(&last).contains(code), "{last:?}");
            assert_eq!(export.part().await, None, "and nothing behind it");
        }
    }
}
