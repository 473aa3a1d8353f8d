//! The actor of one connection: performs what [`Session`] decides, answers requests, keeps time.
//!
//! Invariants: one task owns socket and session; nothing is answered `accepted` before its commit; what waits for the socket
//! is bounded, and above the bound neither the client nor the log is read. Rules live in `session`, `hello` and `sends`.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use flotilla_machine::command::LimitName;
use flotilla_machine::query::{EntriesPage, InboxRow, RowsPage};
use flotilla_machine::reply::MarkReply;
use flotilla_machine::{Answer, Command, Query};
use flotilla_proto::frame::{
    self, Activity, CaughtUp, CloseCode, EntryFrame, ErrorBody, Goaway, Ready, RevToken, ServerFrame, Signal, Urls,
};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_raft::path;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::Instant;

use super::begin::{Unread, begin};
use super::hello::Session as Open;
use super::pace::Pace;
use super::sends::Sends;
use super::session::{Action, Session};
use super::shared::Shared;
use super::signals::{self, Signals};
use super::socket::Socket;
use super::watches::Heard;
use super::window::Item;
use super::withdrawals::Attempt;
use super::{asks, ops, pool, pulled};
use crate::backend::{CallError, Freshness, NodeView, Route};

/// What a job brings back to the actor.
pub(super) enum Done {
    Answer(Option<u32>, ServerFrame),
    Sent {
        id: Option<u32>,
        conv: ConvId,
        cid: Cid,
        asked: Instant,
        result: Result<frame::Accepted, ErrorBody>,
    },
    Changed(Option<RowsPage>),
    /// With the conversations that cannot say now where they stand.
    Pending(Option<(RowsPage, Vec<ConvId>)>),
    Row(ConvId, Result<Option<InboxRow>, ()>),
    Log {
        conv: ConvId,
        from: Seq,
        to: Seq,
        page: Option<EntriesPage>,
    },
    Count {
        conv: ConvId,
        seq: Seq,
        n: Result<Option<Count>, ()>,
    },
    Marks(Option<Vec<MarkReply>>),
    Receipts(Heard),
}

/// What it takes to begin is boxed, and gone when the session is open: a silent connection keeps what it needs to talk.
pub fn run<S>(shared: Arc<Shared>, socket: Socket<S>, peer: SocketAddr) -> impl Future<Output = ()> + Send
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let begun = Box::pin(begin(shared, socket, peer));
    async move {
        let Some((mut connection, rest)) = begun.await else { return };
        let code = connection.serve(rest).await;
        connection.shared.figures.sessions.add(-1);
        Box::pin(connection.finish(code)).await;
    }
}

/// Fields are for the handlers in `requests` too.
pub struct Connection<S> {
    pub(super) shared: Arc<Shared>,
    pub(super) socket: Socket<S>,
    pub(super) peer: SocketAddr,
    pub(super) open: Open,
    pub(super) session: Session,
    pub(super) jobs: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Requests among the jobs.
    pub(super) requests: usize,
    pub(super) sends: Sends,
    pub(super) pace: Pace,
    /// cids sent here whose entries have not come back.
    pub(super) own: VecDeque<Cid>,
    pub(super) node: watch::Receiver<NodeView>,
    pub(super) urls: Arc<[String]>,
    pub(super) start: Instant,
    pub(super) received_at: u64,
    pub(super) sent_at: u64,
    /// Since when the socket has taken nothing though something waits.
    pub(super) stuck_at: Option<u64>,
    pub(super) pinged: bool,
    /// Monotonic end of the token, and whether its warning is still to come.
    pub(super) expires_at: Option<(u64, bool)>,
    pub(super) drain_at: Option<u64>,
    pub(super) signals: Signals,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    pub(super) fn new(
        shared: Arc<Shared>,
        socket: Socket<S>,
        peer: SocketAddr,
        open: Open,
        (window, state): (Option<u32>, Activity),
        start: Instant,
    ) -> Self {
        let mut node = shared.backend.node();
        let urls = node.borrow_and_update().urls.clone();
        let mut connection = Self {
            session: Session::new(open.since, open.rev, window),
            jobs: FuturesUnordered::new(),
            requests: 0,
            sends: Sends::default(),
            pace: Pace::default(),
            own: VecDeque::new(),
            node,
            urls,
            received_at: 0,
            sent_at: 0,
            stuck_at: None,
            pinged: false,
            expires_at: None,
            drain_at: None,
            signals: Signals::new(state),
            shared,
            socket,
            peer,
            open,
            start,
        };
        connection.received_at = connection.now();
        connection.sent_at = connection.received_at;
        let expires = connection.open.caller.expires;
        connection.token_ends(expires);
        connection
    }

    /// Milliseconds of this connection.
    pub(super) fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    pub(super) fn token_ends(&mut self, expires: Option<TsMs>) {
        let left = |end: TsMs| end.0.saturating_sub(self.shared.now().0);
        self.expires_at = expires.map(|end| (self.now() + left(end), true));
    }

    pub(super) fn ready(&mut self, id: Option<u32>) {
        let ready = Ready {
            session: self.open.number,
            node: self.node.borrow().id,
            user: self.open.caller.user.clone(),
            device: self.open.device,
            rev: self.rev(self.open.rev),
            server_time: self.shared.now(),
            token_expires_at: self.open.caller.expires,
            limits: frame::server::Limits {
                sends_per_user: self.shared.limit(LimitName::SendsPerUser),
                sends_per_conversation: self.shared.limit(LimitName::SendsPerConversation),
                ..Default::default()
            },
            urls: self.urls.to_vec(),
            reset: self.open.reset,
        };
        self.socket.put(id, ServerFrame::Ready(ready));
    }

    fn rev(&self, rev: Rev) -> RevToken {
        RevToken::new(self.open.epoch, rev)
    }

    /// Until the connection is to be closed; none: the client is gone.
    async fn serve(&mut self, rest: Box<Unread>) -> Option<CloseCode> {
        let code = self.talk(rest).await?;
        // What was asked before a bad frame, or before a shutdown, is answered.
        if matches!(code, CloseCode::BadFrame | CloseCode::GoingAway | CloseCode::MessageTooBig) {
            let deadline = Duration::from_millis(limits::REQUEST_DEADLINE_MS);
            let _ = tokio::time::timeout(deadline, async {
                while self.requests > 0
                    && let Some(done) = self.jobs.next().await
                {
                    self.on_done(done);
                }
            })
            .await;
        }
        Some(code)
    }

    async fn talk(&mut self, rest: Box<Unread>) -> Option<CloseCode> {
        if let Err(code) = self.on_rest(rest) {
            return Some(code);
        }
        let mut alarm = std::pin::pin!(tokio::time::sleep_until(self.start));
        let mut set_for = None;
        loop {
            if let Err(code) = self.advance() {
                return Some(code);
            }
            let may_read = self.socket.waiting() < limits::OUT_BYTES_MAX;
            let wake = self.start + Duration::from_millis(self.wake_at().max(self.now() + 1));
            // Setting it costs more than one look too many, and most that happens puts it off.
            if set_for.is_none_or(|at| wake < at) {
                alarm.as_mut().reset(wake);
                set_for = Some(wake);
            }
            tokio::select! {
                biased;
                Some(done) = self.jobs.next(), if !self.jobs.is_empty() => self.on_done(done),
                push = self.open.pushes.recv() => match push {
                    Some(push) => self.on_push(*push),
                    None => return Some(CloseCode::NotReady),
                },
                incoming = self.socket.next(may_read) => {
                    if let Err(closed) = self.on_incoming(incoming) {
                        return closed;
                    }
                }
                Ok(()) = self.node.changed() => self.on_node(),
                () = alarm.as_mut() => set_for = None,
            }
        }
    }

    /// Not in `talk`, which would keep the empty box for as long as it lasts.
    #[expect(clippy::boxed_local, reason = "unboxed it would be a part of the task")]
    fn on_rest(&mut self, rest: Box<Unread>) -> Result<(), CloseCode> {
        self.on_frames(*rest)
    }

    // Time.

    fn wake_at(&self) -> u64 {
        let now = self.now();
        let times = self.shared.options.timings;
        let room = self.socket.waiting() < limits::OUT_BYTES_MAX;
        let session = self.session.wake_at(now).filter(|at| room || *at > now);
        let token =
            self.expires_at.map(|(end, warn)| if warn { end.saturating_sub(limits::AUTH_EXPIRING_MS) } else { end });
        let ping = self.sent_at.min(if self.pinged { u64::MAX } else { self.received_at }) + times.ping_after_ms;
        let silence = self.received_at + times.silence_max_ms;
        // Slow consumers and stuck sockets are looked for every second, only while there is something to look at.
        let look = self.socket.is_writing().then_some(now + limits::READ_RETRY_MS);
        let unacked = Some(now + times.unacked_max_ms / 4);
        [session, token, Some(ping), Some(silence), look, unacked, self.drain_at]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(now)
    }

    /// Does what the session and the clock ask for.
    fn advance(&mut self) -> Result<(), CloseCode> {
        let now = self.now();
        self.keep_time(now)?;
        loop {
            let room = self.socket.waiting() < limits::OUT_BYTES_MAX;
            let Some(action) = self.session.next(now, room) else { return Ok(()) };
            self.perform(action)?;
        }
    }

    fn keep_time(&mut self, now: u64) -> Result<(), CloseCode> {
        let times = self.shared.options.timings;
        if now.saturating_sub(self.received_at) >= times.silence_max_ms {
            // One that does not take what it is sent cannot answer a ping either: it is slow, not silent. (Its last word may be
            // older than its full socket, so this can come first.)
            let stuck = self.socket.is_writing() && self.stuck_at.is_some();
            return Err(if stuck { CloseCode::SlowConsumer } else { CloseCode::HeartbeatTimeout });
        }
        if self.session.is_slow(now, times.unacked_max_ms) {
            return Err(CloseCode::SlowConsumer);
        }
        self.stuck_at = match (self.socket.is_writing(), self.stuck_at) {
            (true, None) => Some(now),
            (true, since) => since,
            (false, _) => None,
        };
        if self.stuck_at.is_some_and(|at| now.saturating_sub(at) >= times.socket_full_max_ms) {
            return Err(CloseCode::SlowConsumer);
        }
        let silent = !self.pinged && now.saturating_sub(self.received_at) >= times.ping_after_ms;
        if silent || now.saturating_sub(self.sent_at) >= times.ping_after_ms {
            self.pinged = true;
            self.put(None, ServerFrame::Ping);
        }
        match self.expires_at {
            Some((end, _)) if now >= end => return Err(CloseCode::TokenExpired),
            Some((end, true)) if now + limits::AUTH_EXPIRING_MS >= end => {
                self.expires_at = Some((end, false));
                let at = self.open.caller.expires;
                self.signal(Signal { at, ..signals::signal("auth_expiring") });
            }
            _ => {}
        }
        // What is under way is still answered.
        if self.drain_at.is_some_and(|at| now >= at) {
            return Err(CloseCode::GoingAway);
        }
        Ok(())
    }

    pub(super) fn put(&mut self, id: Option<u32>, frame: ServerFrame) {
        self.sent_at = self.now();
        self.socket.put(id, frame);
    }

    fn on_node(&mut self) {
        let view = self.node.borrow_and_update().clone();
        if view.draining && self.drain_at.is_none() {
            self.drain_at = Some(self.now() + limits::DRAIN_MS);
            let reconnect_in_ms = rand::random_range(0..500);
            let others = view.urls.iter().skip(1).cloned().collect();
            let goaway = Goaway { reason: "going_away".into(), reconnect_in_ms, urls: others };
            self.put(None, ServerFrame::Goaway(goaway));
        }
        if view.urls != self.urls {
            self.urls.clone_from(&view.urls);
            self.put(None, ServerFrame::Urls(Urls { urls: view.urls.to_vec() }));
        }
    }

    // What the session asks for.

    fn perform(&mut self, action: Action) -> Result<(), CloseCode> {
        let user = self.open.caller.user.clone();
        let device = self.open.device;
        let shared = self.shared.clone();
        let session = self.open.guard.id;
        match action {
            Action::Close(code) => return Err(code),
            Action::Confirm(rev) => self.shared.backend.confirm(&self.open.guard, self.open.number, rev),
            Action::Conv(row) => {
                let frame = ops::conv_frame(&user, self.open.epoch, &row);
                self.put(None, ServerFrame::Conv(Box::new(frame)));
            }
            Action::CaughtUp { rev, behind } => {
                let rev = self.rev(rev);
                self.put(None, ServerFrame::CaughtUp(CaughtUp { rev, behind }));
            }
            Action::Send(conv, item) => self.send_item(&conv, item),
            Action::AskChanged { since, at_least } => self.job(async move {
                let page = asks::changed(&shared, user.clone(), device, since, at_least).await;
                Done::Changed(pulled::stand_page(&shared, session, &user, page).await)
            }),
            Action::AskPending { after } => self.job(async move {
                let query = Query::Pending { user: user.clone(), device, after, limit: limits::ROWS_PER_PAGE };
                let Some(mut page) = asks::rows(&shared, user.clone(), query, Freshness::Linearizable).await else {
                    return Done::Pending(None);
                };
                let behind = pulled::stand(&shared, session, &user, &mut page.rows).await;
                Done::Pending(Some((page, behind)))
            }),
            Action::AskRow(conv) => self.job(async move {
                let query = Query::Row { user: user.clone(), device, conv: conv.clone() };
                let row = match shared.backend.query(Route::User(user.clone()), query, Freshness::Linearizable).await {
                    Ok(Answer::Row(Some(mut row))) => {
                        pulled::stand(&shared, session, &user, std::slice::from_mut(&mut row)).await;
                        Ok(Some(row))
                    }
                    Ok(Answer::Row(None)) => Ok(None),
                    Ok(Answer::NotFound) => Ok(None),
                    _ => Err(()),
                };
                Done::Row(conv, row)
            }),
            Action::AskLog { conv, from, to, fresh } => self.job(async move {
                let page = asks::read_log(&shared, user, &conv, from, to, fresh).await;
                Done::Log { conv, from, to, page }
            }),
            Action::AskCount { conv, seq } => self.job(async move {
                let n = asks::count_at(&shared, user, &conv, seq).await;
                Done::Count { conv, seq, n }
            }),
            Action::Marks(batch) => {
                let marks = asks::batch_of(&user, device, self.open.number, batch);
                marks.iter().for_each(|mark| path::position("marks", &user, &mark.conv, mark.seq));
                let stamped: Vec<_> = if path::is_on() { marks.clone() } else { vec![] };
                self.job(async move {
                    let replies = pool::send(&shared, user, marks).await;
                    stamped.iter().for_each(|mark| path::position("cursor", &mark.user, &mark.conv, mark.seq));
                    Done::Marks(replies)
                });
            }
        }
        Ok(())
    }

    pub(super) fn job(&mut self, job: impl Future<Output = Done> + Send + 'static) {
        self.jobs.push(Box::pin(job));
    }

    fn send_item(&mut self, conv: &ConvId, item: Item) {
        self.pace.on_sent();
        let entry = match item.into_gap(conv) {
            Ok(gap) => return self.put(None, ServerFrame::Gap(gap)),
            Err(entry) => entry,
        };
        path::entry(entry.cid, &self.open.caller.user, conv, entry.seq);
        let own = self.own.iter().position(|cid| entry.device == self.open.device && *cid == entry.cid);
        let frame = match own.and_then(|at| self.own.remove(at)) {
            Some(_) => EntryFrame::echo_of(&entry),
            None => EntryFrame::of(&entry),
        };
        let figures = &self.shared.figures;
        figures.entries_sent.inc();
        figures.delivery_seconds.observe(Duration::from_millis(self.shared.now().0.saturating_sub(entry.ts.0)));
        self.put(None, ServerFrame::Entry(Box::new(frame)));
    }

    fn on_done(&mut self, done: Done) {
        let now = self.now();
        match done {
            Done::Answer(id, frame) => {
                self.request_ended();
                self.put(id, frame);
            }
            Done::Sent { id, conv, cid, asked, result } => {
                self.request_ended();
                self.sends.leave(&conv, cid);
                path::cid("answered", cid);
                let figures = &self.shared.figures;
                match &result {
                    Ok(_) => figures.accepted.inc(),
                    Err(error) => figures.send_result(error.code.name()),
                }
                figures.accept_seconds.observe(asked.elapsed());
                let frame = match result {
                    Ok(accepted) => ServerFrame::Accepted(accepted),
                    Err(error) => {
                        self.own.retain(|own| *own != cid);
                        ServerFrame::Error(error)
                    }
                };
                self.put(id, frame);
            }
            Done::Changed(Some(page)) => self.session.on_changed(page, now),
            Done::Changed(None) => self.session.on_changed_failed(now),
            Done::Pending(Some((page, behind))) => {
                self.session.on_behind(behind);
                self.session.on_pending(page, now);
            }
            Done::Pending(None) => self.session.on_pending_failed(now),
            Done::Row(conv, Ok(row)) => self.session.on_row(&conv, row, now),
            Done::Row(conv, Err(())) => self.session.on_row_failed(&conv, now),
            Done::Log { conv, from, to, page: Some(page) } => self.session.on_log(&conv, from, to, page, now),
            Done::Log { conv, from, to, page: None } => self.session.on_log_failed(&conv, from, to, now),
            Done::Count { conv, seq, n: Ok(n) } => self.session.on_count(&conv, seq, n, now),
            Done::Count { conv, seq: _, n: Err(()) } => self.session.reading_failed(&conv, now),
            Done::Marks(Some(replies)) => self.session.on_marks(&replies, now),
            Done::Marks(None) => self.session.on_marks_failed(now),
            Done::Receipts(heard) => self.on_heard(heard),
        }
    }

    pub(super) fn request_ended(&mut self) {
        self.requests -= 1;
        self.shared.figures.requests_waiting.add(-1);
    }

    /// Says good-bye, hands over the last marks, closes the session.
    async fn finish(self: Box<Self>, code: Option<CloseCode>) {
        let Self { shared, socket, open, mut session, requests, .. } = *self;
        shared.figures.requests_waiting.add(-(requests as i64));
        let farewell = async {
            match code {
                Some(code) => {
                    shared.figures.closed(code);
                    socket.close(code).await;
                }
                None => drop(socket),
            }
        };
        let taken_over =
            matches!(code, Some(CloseCode::Superseded | CloseCode::SessionReplaced | CloseCode::DeviceRevoked));
        let user = open.caller.user.clone();
        let close = async {
            if taken_over {
                return;
            }
            if let Some(batch) = session.last_marks() {
                let marks = asks::batch_of(&user, open.device, open.number, batch);
                pool::send(&shared, user.clone(), marks).await;
            }
            let command = Command::CloseSession { user: user.clone(), device: open.device, number: open.number };
            if !matches!(
                shared.backend.execute(Route::User(user.clone()), command).await,
                Ok(_) | Err(CallError::Rejected(_))
            ) {
                let (device, instance, attempt) = (open.device, open.instance, open.attempt);
                shared.withdrawals.put(&shared.backend, Attempt { user: user.clone(), device, instance, attempt });
            }
        };
        futures::future::join(farewell, close).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::bytes_of;
    use flotilla_raft::seam::net::Stream;

    /// The task and its box live as long as the connection does, most of the time silent.
    #[test]
    fn a_silent_connection_is_small() {
        let task = bytes_of(|(shared, socket, peer)| run::<Stream>(shared, socket, peer));
        let connection = size_of::<Connection<Stream>>();
        assert!(task <= 512, "{task} bytes");
        assert!(connection <= 1_536, "{connection} bytes");
    }
}
