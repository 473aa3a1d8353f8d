//! `GET inbox/stream`: the inbox as server-sent events, for programs that can read a response line by line (curl is one).
//!
//! Each event is a frame `{t, d}`; its id is an `upto` token that stands for all that was sent so far. A stream begins behind
//! the device's cursors, or behind `Last-Event-ID`. Invariant: per conversation in order without a hole; what is sent
//! moves no cursor, only `POST inbox/ack` with an id does. The same window as a session's bounds what is sent without ack,
//! and the next piece is made only when the socket has taken the one before. It has no session, so no presence and no pushes:
//! it looks every second, ever more seldom while nothing comes, and every five seconds has the leader prove that it leads.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use flotilla_machine::query::{InboxRow, RowsPage};
use flotilla_proto::frame::{CloseCode, EntryFrame, ErrorBody, ErrorCode, Gap, Goaway};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use futures::stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::accounts::Me;
use super::inbox::{self, InboxFrame, Upto};
use super::logs::{LOOK_MAX, Logs, Wanted, before, too_late};
use super::route::Ask;
use super::sent::Sent;
use super::turns::Turn;
use crate::backend::Freshness;
use crate::gateway::shared::Shared;
use crate::gateway::window::Item;
use crate::gateway::{errors, pulled};

/// Between two looks, and between two checks of what ends a stream.
const LOOK: Duration = Duration::from_secs(1);
/// After so long without anything new looks are twice as far apart, after twice as long three times, and so on.
const QUIET: Duration = Duration::from_secs(60);
const LOOK_AT_LEADER: Duration = Duration::from_millis(limits::LONG_POLL_LOOK_MS);

#[derive(Deserialize, JsonSchema)]
pub struct Behind {
    /// The id of an event of an earlier stream, after which this one begins. The header `Last-Event-ID` says the same.
    pub last_event_id: Option<String>,
}

/// The data of one event.
#[derive(Serialize, JsonSchema)]
#[serde(tag = "t", content = "d", rename_all = "snake_case")]
pub enum StreamEvent {
    Entry(Box<EntryFrame>),
    Gap(Gap),
    /// Nothing was pending any more. Once.
    CaughtUp {},
    /// This node stops: go on at another one.
    Goaway(Goaway),
    /// The last event; the code as of a WebSocket.
    Close(Closing),
}

#[derive(Serialize, JsonSchema)]
pub struct Closing {
    pub code: u16,
    pub reason: String,
}

impl From<InboxFrame> for StreamEvent {
    fn from(frame: InboxFrame) -> Self {
        match frame {
            InboxFrame::Entry(entry) => Self::Entry(entry),
            InboxFrame::Gap(gap) => Self::Gap(gap),
        }
    }
}

pub async fn open(Ask { shared, me, params, expires, .. }: Ask<Behind>) -> Result<Response, ErrorBody> {
    pulled::place(&shared, &me.user, me.device).await.map_err(errors::of_call)?;
    let turn = shared.streams.enter(&me.user, me.device).map_err(|refused| ErrorBody {
        retry_after_ms: Some(limits::EXPORT_RETRY_MS),
        ..ErrorBody::new(ErrorCode::TooManyRequests, refused.to_string())
    })?;
    let mut sent = Sent::default();
    if let Some(token) = params.last_event_id {
        let fits = token.len() <= limits::INBOX_TOKEN_BYTES_MAX;
        let claims = fits.then(|| Upto::open(&shared, &me, &token)).flatten();
        let claims = claims.ok_or_else(|| errors::invalid("`Last-Event-ID` is not of a stream of this device"))?;
        claims.marks.into_iter().for_each(|(conv, seq, n)| sent.put(conv, seq, n));
    }
    shared.figures.streams.add(1);
    let now = Instant::now();
    let stream = Stream {
        shared,
        me,
        expires,
        sent,
        ready: Some("retry: 2000\n\n"),
        caught_up: false,
        ended: false,
        logs: Logs::default(),
        look_at: now,
        look_at_leader: now,
        news_at: now,
        spoke: now,
        full_since: None,
        turn,
    };
    let pieces = stream::unfold(stream, async |mut stream: Stream| {
        let piece = stream.piece().await?;
        Some((Ok::<_, Infallible>(piece), stream))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

struct Stream {
    shared: Arc<Shared>,
    me: Me,
    /// None for a demo user, whose device need not be logged in either.
    expires: Option<TsMs>,
    sent: Sent,
    /// Goes out before anything is looked at.
    ready: Option<&'static str>,
    /// Everything that was pending when it began has been sent, and said so.
    caught_up: bool,
    ended: bool,
    logs: Logs,
    look_at: Instant,
    look_at_leader: Instant,
    /// When something came last.
    news_at: Instant,
    spoke: Instant,
    full_since: Option<Instant>,
    /// A node has a bounded number of streams, and so have a device and a user.
    turn: Turn,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.figures.streams.add(-1);
    }
}

impl Stream {
    /// The next events; none after the last.
    async fn piece(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        if let Some(first) = self.ready.take() {
            return Some(first.into());
        }
        loop {
            let text = match self.end_now() {
                Some(last) => last,
                None if Instant::now() < self.look_at => self.keep_alive(),
                None => match self.look().await {
                    Ok(text) => text,
                    Err(error) => self.on_error(error),
                },
            };
            if !text.is_empty() {
                self.spoke = Instant::now();
                return Some(text.into());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What ends a stream whatever is pending.
    fn end_now(&mut self) -> Option<String> {
        let node = self.shared.node();
        if node.draining {
            self.ended = true;
            let reason = CloseCode::GoingAway.name().to_owned();
            let goaway = Goaway { reason, reconnect_in_ms: 0, urls: node.urls.to_vec() };
            return Some(event(&StreamEvent::Goaway(goaway), None));
        }
        if self.expires.is_some_and(|expires| expires <= self.shared.now()) {
            return Some(self.close(CloseCode::TokenExpired));
        }
        if self.turn.has_ended() {
            return Some(self.close(CloseCode::SessionReplaced));
        }
        let unacked_max = Duration::from_millis(self.shared.options.timings.unacked_max_ms);
        if self.full_since.is_some_and(|since| since.elapsed() > unacked_max) {
            return Some(self.close(CloseCode::SlowConsumer));
        }
        None
    }

    fn close(&mut self, code: CloseCode) -> String {
        self.ended = true;
        event(&StreamEvent::Close(Closing { code: code.number(), reason: code.name().to_owned() }), None)
    }

    /// A verdict on the device ends it; whatever may pass is waited for.
    fn on_error(&mut self, error: ErrorBody) -> String {
        if error.code == ErrorCode::Unauthenticated {
            return self.close(CloseCode::ReauthRequired);
        }
        tracing::debug!(user = %self.me.user, code = error.code.name(), "an inbox cannot be read now, the stream waits");
        self.keep_alive()
    }

    /// A comment, so that both ends notice a dead connection.
    fn keep_alive(&self) -> String {
        let quiet = Duration::from_millis(self.shared.options.timings.ping_after_ms);
        if self.spoke.elapsed() >= quiet { ": ping\n\n".to_owned() } else { String::new() }
    }

    async fn look(&mut self) -> Result<String, ErrorBody> {
        let now = Instant::now();
        let until = now + LOOK_MAX;
        let at_leader = now >= self.look_at_leader;
        self.look_at = now + pause(now - self.news_at);
        let freshness = if at_leader { Freshness::Linearizable } else { Freshness::Any { min_seq: None } };
        if at_leader && self.expires.is_some() {
            let check = self.shared.check_device_now(&self.me.user, self.me.device);
            before(until, check).await.unwrap_or_else(|| Err(too_late()))?;
        }
        let (values, complete) = self.values(&freshness, at_leader, until).await?;
        if at_leader {
            self.look_at_leader = now + LOOK_AT_LEADER;
        }
        self.full_since = if self.sent.is_full() { self.full_since.or(Some(now)) } else { None };
        let mut text = String::new();
        if let Some((last, before)) = values.split_last() {
            before.iter().for_each(|value| text += &event(value, None));
            // What was taken and is not sent would be a hole that a later id stands for.
            let Ok(id) = Upto::seal(&self.shared, &self.me, self.sent.marks()) else {
                return Ok(self.close(CloseCode::NotReady));
            };
            text += &event(last, Some(&id));
            (self.news_at, self.look_at) = (now, now);
            // There may be more at once: do not wait for the next look at the leader.
            self.look_at_leader = if complete { self.look_at_leader } else { now };
        } else if at_leader && complete && !self.caught_up {
            self.caught_up = true;
            text += &event(&StreamEvent::CaughtUp {}, None);
        }
        Ok(if text.is_empty() { self.keep_alive() } else { text })
    }

    /// Frames that may go now, and whether nothing else waits but for acks.
    async fn values(
        &mut self,
        freshness: &Freshness,
        at_leader: bool,
        until: Instant,
    ) -> Result<(Vec<StreamEvent>, bool), ErrorBody> {
        let (mut values, mut bytes, mut complete) = (Vec::new(), 0, true);
        let mut seen = BTreeSet::new();
        let mut after = None;
        loop {
            let asked = self.rows(after.take(), freshness, until).await;
            let (page, stood) = match asked {
                Ok(page) => page,
                // What was taken so far goes out.
                Err(_) if !values.is_empty() => return Ok((values, false)),
                Err(error) => return Err(error),
            };
            complete &= stood;
            after = page.rows.last().map(|row| row.conv.clone());
            for row in &page.rows {
                seen.insert(row.conv.clone());
                self.sent.on_cursor(&row.conv, row.cursor);
            }
            complete &= self.take(page.rows, &mut values, &mut bytes, until).await;
            let is_full = self.sent.new_max() == 0 && self.sent.are_among(&seen);
            let enough = bytes >= limits::INBOX_STREAM_PIECE_BYTES || is_full || Instant::now() >= until;
            if !page.more || after.is_none() {
                break;
            }
            if enough {
                return Ok((values, false));
            }
        }
        if at_leader {
            self.sent.keep(&seen);
        }
        Ok((values, complete))
    }

    /// Half of the time is for where conversations in pull mode stand, the other for their logs.
    async fn rows(
        &self,
        after: Option<ConvId>,
        freshness: &Freshness,
        until: Instant,
    ) -> Result<(RowsPage, bool), ErrorBody> {
        let rows = inbox::rows(&self.shared, &self.me, after, limits::ROWS_PER_PAGE, freshness, until - LOOK_MAX / 2);
        before(until, rows).await.unwrap_or_else(|| Err(too_late()))
    }

    /// What these conversations may send now; whether they have nothing more than that.
    async fn take(
        &mut self,
        rows: Vec<InboxRow>,
        values: &mut Vec<StreamEvent>,
        bytes: &mut usize,
        until: Instant,
    ) -> bool {
        let (mut wanted, mut whole, mut new_max) = (Vec::new(), true, self.sent.new_max());
        for row in rows {
            let head = row.part.effective_head(row.head);
            let from = self.sent.place(&row.conv).0.max(row.cursor).next();
            if from > head {
                continue;
            }
            let is_new = !self.sent.has(&row.conv);
            let may = *bytes < limits::INBOX_STREAM_PIECE_BYTES
                && self.sent.room(&row.conv) > 0
                && (!is_new || new_max > 0)
                && !self.logs.is_down(&self.shared, &row.conv);
            if may {
                new_max -= usize::from(is_new);
                wanted.push(Wanted { row, from, head });
            } else {
                whole = false;
            }
        }
        let Self { shared, me, sent, logs, .. } = self;
        let mut to_the_end = true;
        let all = logs.read(shared, me, wanted, until, |Wanted { row, from, head }, items| {
            let room = sent.room(&row.conv);
            let (mut last, mut n) = (from.prev(), sent.place(&row.conv).1);
            for item in items.into_iter().take(room) {
                last = Item::last(&item);
                values.push(inbox::frame(&row.conv, item, bytes, &mut n).into());
                sent.put(row.conv.clone(), last, n);
            }
            to_the_end &= last >= *head;
            *bytes < limits::INBOX_STREAM_PIECE_BYTES
        });
        let all = all.await;
        whole && all && to_the_end
    }
}

/// Until the next look, after this time without anything new.
fn pause(quiet: Duration) -> Duration {
    let times = quiet.as_secs() / QUIET.as_secs() + 1;
    LOOK_AT_LEADER.min(LOOK * u32::try_from(times).unwrap_or(u32::MAX))
}

fn event(value: &StreamEvent, id: Option<&str>) -> String {
    // Frames always encode, and into one line.
    let value = serde_json::to_string(value).unwrap_or_default();
    match id {
        Some(id) => format!("id: {id}\ndata: {value}\n\n"),
        None => format!("data: {value}\n\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_stream_looks_ever_more_seldom_and_at_the_leader_as_ever() {
        let after = |seconds| pause(Duration::from_secs(seconds)).as_secs();
        assert_eq!([0, 59, 60, 120, 240, 100_000].map(after), [1, 1, 2, 3, 5, 5]);
        assert!(pause(Duration::MAX) <= LOOK_AT_LEADER);
    }
}
