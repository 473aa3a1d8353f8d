//! The inbox without a socket: long poll, and ack by the signed token of a poll or of a [stream](super::stream).
//!
//! Invariant: only what was returned can be acked, by the device that got it; a poll repeats until the ack.

use std::time::Duration;

use flotilla_machine::command::MarkKind;
use flotilla_machine::query::{InboxRow, RowsPage};
use flotilla_machine::reply::MarkReply;
use flotilla_machine::{Answer, Command, Query, Reply};
use flotilla_proto::frame::{EntryFrame, ErrorBody, ErrorCode, Gap};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::accounts::{self, Me};
use super::groups::{conv_id, sessionless};
use super::logs::{LOOK_MAX, Logs, Wanted, before};
use super::route::{Ask, Done};
use crate::auth::jwt;
use crate::backend::{Freshness, Route};
use crate::gateway::shared::Shared;
use crate::gateway::window::Item;
use crate::gateway::{errors, ops, pulled};

const LOOK: Duration = Duration::from_secs(1);
const TYP: &str = "upto";

/// The claims of an `upto` token.
#[derive(Serialize, Deserialize)]
pub struct Upto {
    cluster: ClusterId,
    user: UserId,
    device: DeviceId,
    pub marks: Vec<(ConvId, Seq, Count)>,
}

impl Upto {
    pub fn seal(shared: &Shared, me: &Me, marks: Vec<(ConvId, Seq, Count)>) -> Result<String, ErrorBody> {
        let claims = Self { cluster: shared.node().cluster, user: me.user.clone(), device: me.device, marks };
        jwt::seal(&shared.backend.keys().borrow(), TYP, &claims)
            .ok_or_else(|| ErrorBody::new(ErrorCode::Unavailable, "this node holds no signing key yet"))
    }

    /// None: not a token of this device.
    pub fn open(shared: &Shared, me: &Me, token: &str) -> Option<Self> {
        let claims: Self = jwt::open(&shared.backend.keys().borrow(), TYP, token).ok()?;
        let own = claims.cluster == shared.node().cluster && claims.user == me.user && claims.device == me.device;
        own.then_some(claims)
    }
}

#[derive(Deserialize, JsonSchema)]
pub struct Wait {
    /// How long to wait if nothing is pending: seconds, like `30s`; at most 30.
    #[schemars(regex(pattern = "^[0-9]{1,9}s?$"))]
    pub wait: Option<String>,
}

#[derive(Serialize, JsonSchema)]
pub struct Inbox {
    /// By conversation, each in `seq` order.
    pub frames: Vec<InboxFrame>,
    /// For `POST inbox/ack`; none where nothing is pending.
    pub upto: Option<String>,
    /// Poll again at once, after the ack.
    pub more: bool,
}

/// As over the socket.
#[derive(Serialize, JsonSchema)]
#[serde(tag = "t", content = "d", rename_all = "snake_case")]
pub enum InboxFrame {
    Entry(Box<EntryFrame>),
    Gap(Gap),
}

pub async fn poll(Ask { shared, me, params, .. }: Ask<Wait>) -> Result<Inbox, ErrorBody> {
    let until = Instant::now() + wait_of(params.wait.as_deref())?;
    pulled::place(&shared, &me.user, me.device).await.map_err(errors::of_call)?;
    let mut logs = Logs::default();
    loop {
        let page = look(&shared, &me, &mut logs).await?;
        if page.is_some() || Instant::now() >= until || shared.node().draining {
            return Ok(page.unwrap_or(Inbox { frames: Vec::new(), upto: None, more: false }));
        }
        tokio::time::sleep(LOOK.min(until - Instant::now())).await;
    }
}

fn wait_of(wait: Option<&str>) -> Result<Duration, ErrorBody> {
    let seconds = wait.map_or(Ok(0), |text| text.strip_suffix('s').unwrap_or(text).parse());
    let seconds = seconds.map_err(|_| errors::bad("`wait` is a number of seconds, like 30s"))?;
    Ok(Duration::from_secs(seconds).min(Duration::from_millis(limits::LONG_POLL_MS_MAX)))
}

/// What is pending now; none: nothing.
async fn look(shared: &Shared, me: &Me, logs: &mut Logs) -> Result<Option<Inbox>, ErrorBody> {
    let mut found = Found::default();
    let mut after = None;
    let deadline = Instant::now() + Duration::from_millis(limits::REQUEST_DEADLINE_MS);
    // On from page to page while nothing can be shown: conversations whose shard cannot answer now must not hide others.
    loop {
        let until = deadline.min(Instant::now() + LOOK_MAX);
        let (page, _) =
            rows(shared, me, after.take(), limits::POLL_CONVERSATIONS_MAX, &Freshness::Linearizable, until).await?;
        found.more = page.more;
        after = page.rows.last().map(|row| row.conv.clone());
        found.take(shared, me, logs, page.rows, until).await;
        if !found.frames.is_empty() || !found.more || after.is_none() || Instant::now() >= deadline {
            break;
        }
    }
    let Found { frames, marks, more, .. } = found;
    if frames.is_empty() {
        return Ok(None);
    }
    let upto = Upto::seal(shared, me, marks)?;
    Ok(Some(Inbox { frames, upto: Some(upto), more }))
}

/// Conversations in which something is pending, and whether those in pull mode could all tell before `until`.
pub async fn rows(
    shared: &Shared,
    me: &Me,
    after: Option<ConvId>,
    limit: u32,
    freshness: &Freshness,
    until: Instant,
) -> Result<(RowsPage, bool), ErrorBody> {
    let mut page = match pending_rows(shared, me, after.clone(), limit, freshness).await? {
        // Not before the leader has said so: another one may not have heard of the device yet.
        None if *freshness != Freshness::Linearizable => {
            pending_rows(shared, me, after, limit, &Freshness::Linearizable).await?
        }
        page => page,
    }
    .ok_or_else(errors::no_device)?;
    // Those that were asked in time have their heads.
    let stood = before(until, pulled::stand_once(shared, &me.user, &mut page.rows, freshness)).await;
    Ok((page, stood == Some(true)))
}

/// None: there is no such device.
async fn pending_rows(
    shared: &Shared,
    me: &Me,
    after: Option<ConvId>,
    limit: u32,
    freshness: &Freshness,
) -> Result<Option<RowsPage>, ErrorBody> {
    let query = Query::Pending { user: me.user.clone(), device: me.device, after, limit };
    match shared.backend.query(Route::User(me.user.clone()), query, freshness.clone()).await {
        Ok(Answer::Rows(page)) => Ok(Some(page)),
        Ok(Answer::NotFound) => Ok(None),
        Ok(_) => Err(errors::internal("pending")),
        Err(error) => Err(errors::of_call(error)),
    }
}

/// What one poll answers with.
#[derive(Default)]
struct Found {
    frames: Vec<InboxFrame>,
    marks: Vec<(ConvId, Seq, Count)>,
    bytes: usize,
    more: bool,
}

impl Found {
    async fn take(&mut self, shared: &Shared, me: &Me, logs: &mut Logs, rows: Vec<InboxRow>, until: Instant) {
        let all = rows.len();
        let wanted: Vec<Wanted> = rows
            .into_iter()
            .filter(|row| !logs.is_down(shared, &row.conv))
            .map(|row| Wanted { from: row.cursor.next(), head: row.part.effective_head(row.head), row })
            .collect();
        let asked = wanted.len();
        let whole = logs.read(shared, me, wanted, until, |wanted, items| {
            let Some(last) = items.last().map(Item::last) else { return true };
            self.more |= last < wanted.head;
            let mut n = Count(0);
            for item in items {
                self.frames.push(frame(&wanted.row.conv, item, &mut self.bytes, &mut n));
            }
            self.marks.push((wanted.row.conv.clone(), last, n));
            self.bytes < limits::POLL_BYTES_MAX
        });
        self.more |= !whole.await || asked < all;
    }
}

/// The frame of an item; adds its size, and keeps the n of an entry.
pub fn frame(conv: &ConvId, item: Item, bytes: &mut usize, n: &mut Count) -> InboxFrame {
    match item.into_gap(conv) {
        Ok(gap) => InboxFrame::Gap(gap),
        Err(entry) => {
            *bytes += ops::encoded_bytes(&entry);
            *n = entry.n;
            InboxFrame::Entry(Box::new(EntryFrame::of(&entry)))
        }
    }
}

#[derive(Deserialize, JsonSchema)]
pub struct AckUpto {
    /// As the poll gave it, or the id of a stream's event.
    pub upto: String,
}

pub async fn ack(Ask { shared, me, params, .. }: Ask<AckUpto>) -> Result<Done, ErrorBody> {
    let claims = Upto::open(&shared, &me, &params.upto)
        .ok_or_else(|| errors::invalid("`upto` is not a token of a poll or a stream of this device"))?;
    let mark = |(conv, seq, n)| sessionless(&me, conv, MarkKind::Ack, seq, n);
    mark_all(&shared, &me, claims.marks.into_iter().map(mark).collect()).await
}

async fn mark_all(shared: &Shared, me: &Me, marks: Vec<flotilla_machine::command::Mark>) -> Result<Done, ErrorBody> {
    match accounts::execute(shared, &me.user, Command::Marks(marks)).await? {
        Reply::Marks(replies) if replies.iter().all(|r| *r == MarkReply::Done) => Ok(Done {}),
        Reply::Marks(replies) if replies.contains(&MarkReply::NoDevice) => Err(errors::no_device()),
        Reply::Marks(_) => Err(ErrorBody::new(ErrorCode::Unavailable, "not all marks could be taken yet")),
        _ => Err(errors::internal("marks")),
    }
}

/// Moves the read mark; valid up to the device's own cursor.
#[derive(Deserialize, JsonSchema)]
pub struct ReadMark {
    /// Read by the user up to here.
    pub read: Seq,
}

pub async fn read(ask: Ask<ReadMark>) -> Result<Done, ErrorBody> {
    let conv = conv_id(ask.at(0))?;
    let Ask { shared, me, params: ReadMark { read }, .. } = ask;
    let query = Query::Row { user: me.user.clone(), device: me.device, conv: conv.clone() };
    let row = match shared.backend.query(Route::User(me.user.clone()), query, Freshness::Linearizable).await {
        Ok(Answer::Row(Some(row))) => row,
        Ok(Answer::Row(None)) => return Err(errors::not_found("no such conversation")),
        Ok(Answer::NotFound) => return Err(errors::no_device()),
        Ok(_) => return Err(errors::internal("row")),
        Err(error) => return Err(errors::of_call(error)),
    };
    if read > row.cursor {
        return Err(errors::invalid("only what this device has acked can be read"));
    }
    let (user, bytes_max) = (me.user.clone(), limits::LOG_READ_BYTES as u32);
    let query =
        Query::Entries { conv: conv.clone(), user, from: read, to: read, newest_first: false, limit: 1, bytes_max };
    let freshness = Freshness::Any { min_seq: Some((conv.clone(), read)) };
    let page = ops::entries(&shared, query, &conv, freshness).await?;
    let entry = page.entries.first().ok_or_else(|| errors::not_found("no such entry"))?;
    let mark = sessionless(&me, conv, MarkKind::Read, read, entry.n);
    mark_all(&shared, &me, vec![mark]).await
}
