//! Pages of a conversation beyond the raw ones: messages as they stand now, from a date on, and the whole as JSON lines.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use flotilla_machine::query::FoldedPage;
use flotilla_machine::{Answer, Query, Rejection};
use flotilla_proto::frame::{self, EntryFrame, ErrorBody, ErrorCode};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use futures::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::accounts::{self, Me};
use super::api::{self, Outcome, Request};
use super::groups::conv_id;
use super::lists::flag;
use crate::backend::{Freshness, Route};
use crate::gateway::shared::Shared;
use crate::gateway::{errors, ops};

#[derive(Deserialize)]
struct Params {
    before: Option<Seq>,
    after: Option<Seq>,
    around: Option<Seq>,
    limit: Option<u32>,
    /// Unix milliseconds: from the first entry of this time or later on.
    at: Option<TsMs>,
    fold: Option<Value>,
}

pub async fn page(shared: &Shared, me: Me, id: &str, mut request: Request) -> Outcome {
    let conv = conv_id(id)?;
    let Params { before, mut after, around, limit, at, fold } = request.params()?;
    if [before.is_some(), after.is_some(), around.is_some(), at.is_some()].into_iter().filter(|given| *given).count()
        > 1
    {
        return Err(errors::bad("one of before, after, around and at"));
    }
    if let Some(ts) = at {
        match seq_at(shared, &me, &conv, ts).await? {
            Some(seq) => after = Some(seq.prev()),
            None => return Ok(json!({ "entries": [], "more": false })),
        }
    }
    let ask = frame::History { conv, before, after, around, limit };
    if flag(fold.as_ref())? == Some(true) {
        return folded(shared, &me, &ask).await;
    }
    serde_json::to_value(ops::history(shared, &me.user, &ask).await?).map_err(|_| errors::internal("encoding"))
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
async fn folded(shared: &Shared, me: &Me, ask: &frame::History) -> Outcome {
    let limit = ask.limit.unwrap_or(50).clamp(1, limits::HISTORY_ENTRIES_MAX);
    let (from, to, newest_first) = ops::range_of(ask, limit)?;
    let (conv, user, bytes_max) = (ask.conv.clone(), me.user.clone(), ops::HISTORY_BYTES_MAX as u32);
    let query = Query::Folded { conv, user, from, to, newest_first, limit, bytes_max };
    let Answer::Folded(FoldedPage { entries, looked_to, more }) = ask_log(shared, &ask.conv, query).await? else {
        return Err(errors::internal("folded"));
    };
    let mut entries: Vec<_> = entries.iter().map(|(entry, edit)| (EntryFrame::of(entry), *edit)).collect();
    entries.sort_by_key(|(frame, _)| frame.seq);
    let one = |(frame, edit): (EntryFrame, Option<Seq>)| {
        let mut value = serde_json::to_value(frame).unwrap_or_default();
        if let Some(edit) = edit {
            value["edited"] = edit.0.into();
        }
        value
    };
    let entries: Vec<Value> = entries.into_iter().map(one).collect();
    Ok(json!({ "entries": entries, "more": more, "next": looked_to.filter(|_| more) }))
}

/// `GET conversations/{id}/export`: none if the request is another one.
pub fn exported(verb: &str, path: &str) -> Option<String> {
    let mut segments = path.split('/').filter(|s| !s.is_empty());
    let id = match (verb, segments.next(), segments.next(), segments.next(), segments.next()) {
        ("GET", Some("conversations"), Some(id), Some("export"), None) => id,
        _ => return None,
    };
    Some(id.to_owned())
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
    /// Few exports run at the same time on one node.
    _turn: OwnedSemaphorePermit,
}

/// Every entry that the caller may read, oldest first, one JSON object a line; the last line is `{"end": true, …}`. An export
/// without it was cut off.
pub async fn export(shared: Arc<Shared>, id: &str, request: Request) -> Response {
    match begin(shared, id, request).await {
        Ok(export) => {
            let lines = stream::unfold(export, async |mut export: Export| {
                let part = export.part().await?;
                Some((Ok::<_, Infallible>(part), export))
            });
            ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
        }
        Err(error) => api::problem(&error),
    }
}

async fn begin(shared: Arc<Shared>, id: &str, request: Request) -> Result<Export, ErrorBody> {
    let caller = request.caller()?.clone();
    let device = accounts::device_of(&shared, &caller).await?;
    let me = Me { user: caller.user, device };
    let conv = conv_id(id)?;
    let turn = shared.exports.clone().try_acquire_owned().map_err(|_| ErrorBody {
        retry_after_ms: Some(limits::EXPORT_RETRY_MS),
        ..ErrorBody::new(ErrorCode::TooManyRequests, "other exports are under way on this node")
    })?;
    let page = entries(&shared, &me, &conv, Seq(1), Seq(1)).await?;
    Ok(Export { shared, me, conv, next: Seq(1), head: page.head, entries: 0, ended: false, _turn: turn })
}

async fn entries(
    shared: &Shared,
    me: &Me,
    conv: &ConvId,
    from: Seq,
    to: Seq,
) -> Result<flotilla_machine::query::EntriesPage, ErrorBody> {
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
        match entries(&self.shared, &self.me, &self.conv, self.next, self.head).await {
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

    fn end(&mut self, line: Value) -> Bytes {
        self.ended = true;
        format!("{line}\n").into()
    }
}
