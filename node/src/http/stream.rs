//! `GET inbox/stream`: the inbox as server-sent events, for programs that can read a response line by line (curl is one).
//!
//! Each event is a frame `{t, d}`; its id is an `upto` token that stands for all that was sent so far. A stream begins behind
//! the device's cursors, or behind `Last-Event-ID`. Invariant: per conversation in order without a hole; what is sent
//! moves no cursor, only `POST inbox/ack` with an id does. The same window as a session's bounds what is sent without ack,
//! and the next piece is made only when the socket has taken the one before. It has no session, so no presence and no pushes:
//! it looks at any replica every second and at the leader every five.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use flotilla_machine::query::InboxRow;
use flotilla_proto::frame::{CloseCode, EntryFrame, ErrorBody, ErrorCode, Gap, Goaway};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use futures::stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::accounts::Me;
use super::inbox::{self, InboxFrame, Upto};
use super::route::Ask;
use crate::backend::Freshness;
use crate::gateway::shared::Shared;
use crate::gateway::window::Item;
use crate::gateway::{errors, pulled};

const LOOK: Duration = Duration::from_secs(1);
const LOOK_AT_LEADER: Duration = Duration::from_millis(limits::LONG_POLL_LOOK_MS);
/// Conversations with something unacked on one stream: their places must fit the header that names them again.
const CONVERSATIONS_MAX: usize = 20;
const TOKEN_BYTES_MAX: usize = 12 * 1024;
const PIECE_BYTES_MAX: usize = 256 * 1024;

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
    let turn = shared.streams.clone().try_acquire_owned().map_err(|_| ErrorBody {
        retry_after_ms: Some(limits::EXPORT_RETRY_MS),
        ..ErrorBody::new(ErrorCode::TooManyRequests, "too many streams are open on this node")
    })?;
    let mut sent = Sent::default();
    if let Some(token) = params.last_event_id {
        let fits = token.len() <= TOKEN_BYTES_MAX;
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
        look_at_leader: now,
        spoke: now,
        full_since: None,
        _turn: turn,
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
    look_at_leader: Instant,
    spoke: Instant,
    full_since: Option<Instant>,
    /// A node has a bounded number of streams.
    _turn: OwnedSemaphorePermit,
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
            let goaway = Goaway { reason, reconnect_in_ms: 0, urls: node.urls };
            return Some(event(&StreamEvent::Goaway(goaway), None));
        }
        if self.expires.is_some_and(|expires| expires <= self.shared.now()) {
            return Some(self.close(CloseCode::TokenExpired));
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
        let at_leader = now >= self.look_at_leader;
        let freshness = match at_leader {
            true => {
                if self.expires.is_some() {
                    self.shared.check_device(&self.me.user, self.me.device).await?;
                }
                Freshness::Linearizable
            }
            false => Freshness::Any { min_seq: None },
        };
        let (values, complete) = self.values(&freshness, at_leader).await?;
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
            // There may be more at once: do not wait for the next look at the leader.
            self.look_at_leader = if complete { self.look_at_leader } else { now };
        } else if at_leader && complete && !self.caught_up {
            self.caught_up = true;
            text += &event(&StreamEvent::CaughtUp {}, None);
        }
        Ok(if text.is_empty() { self.keep_alive() } else { text })
    }

    /// Frames that may go now, and whether nothing else waits but for acks.
    async fn values(&mut self, freshness: &Freshness, at_leader: bool) -> Result<(Vec<StreamEvent>, bool), ErrorBody> {
        let (mut values, mut bytes, mut complete) = (Vec::new(), 0, true);
        let mut seen = BTreeSet::new();
        let mut after = None;
        loop {
            let asked = inbox::rows(&self.shared, &self.me, after.take(), limits::ROWS_PER_PAGE, freshness).await;
            let page = match asked {
                Ok(page) => page,
                // What was taken so far goes out.
                Err(_) if !values.is_empty() => return Ok((values, false)),
                Err(error) => return Err(error),
            };
            for row in &page.rows {
                seen.insert(row.conv.clone());
                self.sent.on_cursor(&row.conv, row.cursor);
                if bytes < PIECE_BYTES_MAX {
                    complete &= self.take(row, &mut values, &mut bytes).await;
                } else {
                    complete = false;
                }
            }
            after = page.rows.last().map(|row| row.conv.clone());
            let enough = bytes >= PIECE_BYTES_MAX || (!self.sent.has_room() && self.sent.are_among(&seen));
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

    /// What one conversation may send now; whether it has nothing more than that.
    async fn take(&mut self, row: &InboxRow, values: &mut Vec<StreamEvent>, bytes: &mut usize) -> bool {
        let head = row.part.effective_head(row.head);
        let from = self.sent.place(&row.conv).max(row.cursor).next();
        if from > head {
            return true;
        }
        let room = self.sent.room(&row.conv);
        if room == 0 {
            return false;
        }
        let mut n = self.sent.count(&row.conv);
        let mut last = from.prev();
        for item in inbox::pending(&self.shared, &self.me, row, from, head).await.into_iter().take(room) {
            last = Item::last(&item);
            values.push(inbox::frame(&row.conv, item, bytes, &mut n).into());
            self.sent.put(row.conv.clone(), last, n);
        }
        last >= head
    }
}

fn event(value: &StreamEvent, id: Option<&str>) -> String {
    // Frames always encode, and into one line.
    let value = serde_json::to_string(value).unwrap_or_default();
    match id {
        Some(id) => format!("id: {id}\ndata: {value}\n\n"),
        None => format!("data: {value}\n\n"),
    }
}

/// What went out on one stream and is not acked.
#[derive(Default)]
struct Sent(BTreeMap<ConvId, Place>);

#[derive(Default)]
struct Place {
    upto: Seq,
    n: Count,
    unacked: VecDeque<Seq>,
}

impl Sent {
    fn place(&self, conv: &ConvId) -> Seq {
        self.0.get(conv).map_or(Seq::ZERO, |place| place.upto)
    }

    fn count(&self, conv: &ConvId) -> Count {
        self.0.get(conv).map_or(Count(0), |place| place.n)
    }

    fn unacked(&self) -> usize {
        self.0.values().map(|place| place.unacked.len()).sum()
    }

    /// For a conversation that is not among them yet.
    fn has_room(&self) -> bool {
        self.unacked() < limits::WINDOW_ENTRIES && self.0.len() < CONVERSATIONS_MAX
    }

    /// Something waits for an ack.
    fn is_full(&self) -> bool {
        !self.has_room() || self.0.values().any(|place| place.unacked.len() >= limits::WINDOW_ENTRIES_PER_CONV)
    }

    fn room(&self, conv: &ConvId) -> usize {
        let here = match self.0.get(conv) {
            Some(place) => place.unacked.len(),
            None if self.0.len() >= CONVERSATIONS_MAX => return 0,
            None => 0,
        };
        let all = limits::WINDOW_ENTRIES.saturating_sub(self.unacked());
        all.min(limits::WINDOW_ENTRIES_PER_CONV.saturating_sub(here))
    }

    fn put(&mut self, conv: ConvId, upto: Seq, n: Count) {
        let place = self.0.entry(conv).or_default();
        place.upto = place.upto.max(upto);
        place.n = place.n.max(n);
        place.unacked.push_back(upto);
    }

    fn on_cursor(&mut self, conv: &ConvId, cursor: Seq) {
        let Some(place) = self.0.get_mut(conv) else { return };
        while place.unacked.front().is_some_and(|seq| *seq <= cursor) {
            place.unacked.pop_front();
        }
        if place.upto <= cursor {
            self.0.remove(conv);
        }
    }

    fn are_among(&self, seen: &BTreeSet<ConvId>) -> bool {
        self.0.keys().all(|conv| seen.contains(conv))
    }

    /// Nothing is pending in the others: all of it was acked.
    fn keep(&mut self, pending: &BTreeSet<ConvId>) {
        self.0.retain(|conv, _| pending.contains(conv));
    }

    fn marks(&self) -> Vec<(ConvId, Seq, Count)> {
        self.0.iter().map(|(conv, place)| (conv.clone(), place.upto, place.n)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conv(number: usize) -> ConvId {
        ConvId::parse(&format!("g{number:032x}")).expect("valid")
    }

    #[test]
    fn what_is_unacked_bounds_what_is_sent_and_an_ack_makes_room() {
        let mut sent = Sent::default();
        for seq in 1..=limits::WINDOW_ENTRIES_PER_CONV as u64 {
            assert!(sent.room(&conv(1)) > 0);
            sent.put(conv(1), Seq(seq), Count(seq));
        }
        assert_eq!(sent.room(&conv(1)), 0);
        assert!(sent.is_full() && sent.room(&conv(2)) > 0, "another conversation goes on");
        sent.on_cursor(&conv(1), Seq(3));
        assert_eq!((sent.room(&conv(1)), sent.is_full()), (3, false));
        assert_eq!(sent.place(&conv(1)), Seq(limits::WINDOW_ENTRIES_PER_CONV as u64));
        sent.on_cursor(&conv(1), Seq(limits::WINDOW_ENTRIES_PER_CONV as u64));
        assert!(sent.marks().is_empty());
    }

    #[test]
    fn the_places_of_a_stream_fit_a_header() {
        let mut sent = Sent::default();
        for number in 0..CONVERSATIONS_MAX {
            assert!(sent.room(&conv(number)) > 0);
            sent.put(conv(number), Seq(u64::MAX), Count(u64::MAX));
        }
        assert_eq!(sent.room(&conv(CONVERSATIONS_MAX)), 0);
        let longest = limits::CONV_ID_BYTES_MAX + 2 * 20 + 16;
        assert!((CONVERSATIONS_MAX * longest + 512) * 4 / 3 < TOKEN_BYTES_MAX);
        sent.keep(&BTreeSet::from([conv(3)]));
        assert_eq!(sent.marks().len(), 1);
    }
}
