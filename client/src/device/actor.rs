//! The one task of a device: waits for whatever comes first, then acts on it.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::time::Duration;

use flotilla_proto::entry::What;
use flotilla_proto::frame::{AckItem, Auth, ClientFrame, ClientMessage, CloseCode, Hello, RevToken, Typing, Verdict};
use flotilla_proto::ids::{Cid, ConvId, DeviceId, Instance};
use flotilla_proto::limits;
use futures::future::{BoxFuture, FutureExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::calls::{CallError, Calls};
use super::config::{Config, TokenError};
use super::dial::{Backoff, Dialed, Urls, dial};
use super::handle::{Ask, Event, Outcome};
use super::inbox::Inbox;
use super::outbox::Outbox;
use super::reads::Reads;
use crate::clock;
use crate::connection::{Closed, Connection, Incoming};
use crate::history::Op;
use crate::store::{Change, Store, StoreError, install_of};

/// Contents kept for echoes of own entries; beyond it an echo stays without.
const SENT_CONTENTS_MAX: usize = 1_024;
/// Without anything to wait for.
const IDLE: Duration = Duration::from_secs(60);

/// What an answer's id stands for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Flight {
    Command(Cid),
    Call(u64),
}

pub(super) struct Link {
    pub connection: Connection,
    pub url: String,
    pub caught_up: bool,
    pub flights: BTreeMap<u32, Flight>,
    pub last_id: u32,
    /// `unavailable` answers in a row.
    pub unavailable: u32,
}

pub(super) struct Actor {
    pub config: Config,
    pub store: Box<dyn Store>,
    pub install: String,
    pub device: Option<DeviceId>,
    pub rev: Option<RevToken>,
    pub outbox: Outbox,
    pub inbox: Inbox,
    pub calls: Calls,
    pub reads: Reads,
    /// Where the person types; the newest only.
    pub typing: Option<ConvId>,
    pub contents: BTreeMap<Cid, What>,
    pub waiters: BTreeMap<Cid, oneshot::Sender<Outcome>>,
    pub link: Option<Link>,
    pub urls: Urls,
    /// The node of the last connection that ended.
    left: Option<String>,
    /// Another instance has taken the session once.
    replaced: bool,
    pub backoff: Backoff,
    pub fresh_token: bool,
    pub events: VecDeque<Event>,
    pub stopped: Option<String>,
    instance: Instance,
    attempt: u64,
    dialing: Option<BoxFuture<'static, Box<Dialed>>>,
    pub dial_at: Option<Instant>,
    pub refreshing: Option<BoxFuture<'static, Result<String, TokenError>>>,
    auth_due: Option<String>,
    started: Instant,
    pub asks: mpsc::Receiver<Ask>,
    pub out: mpsc::Sender<Event>,
}

/// What came first.
enum Step {
    Write(mpsc::OwnedPermit<ClientMessage>),
    Tell,
    Incoming(Option<Incoming>),
    Ask(Option<Ask>),
    Dialed(Box<Dialed>),
    Token(Result<String, TokenError>),
    Wake,
}

impl Actor {
    pub fn new(config: Config, store: Box<dyn Store>, asks: mpsc::Receiver<Ask>, out: mpsc::Sender<Event>) -> Self {
        let saved = store.load();
        Self {
            urls: Urls::new(config.urls.clone()),
            backoff: Backoff::new(config.backoff_min, config.backoff_max),
            install: saved.install,
            device: saved.device.filter(|(user, _)| *user == config.user).map(|(_, device)| device),
            rev: saved.rev,
            outbox: Outbox::restored(saved.commands),
            inbox: Inbox::restored(saved.positions),
            reads: Reads::restored(saved.reads),
            calls: Calls::default(),
            typing: None,
            contents: BTreeMap::new(),
            waiters: BTreeMap::new(),
            link: None,
            left: None,
            replaced: false,
            fresh_token: false,
            events: VecDeque::new(),
            stopped: None,
            instance: Instance(rand::random()),
            attempt: 0,
            dialing: None,
            dial_at: Some(Instant::now()),
            refreshing: None,
            auth_due: None,
            started: Instant::now(),
            config,
            store,
            asks,
            out,
        }
    }

    pub async fn run(mut self) {
        match install_of(self.store.as_mut()).await {
            Ok(install) => self.install = install,
            Err(error) => self.on_store_error(&error),
        }
        while self.turn().await {}
    }

    /// One step; false when the device is to end.
    async fn turn(&mut self) -> bool {
        let now_ms = self.now_ms();
        if self.outbox.expire(now_ms) > 0 && self.link.is_some() {
            // The server answers in less, if only that it does not know: this node hangs, another one may not.
            self.on_closed(Closed { code: 1006, reason: "an answer is overdue".into() });
        }
        for call in self.calls.expire(now_ms) {
            self.end_call(call, Err(CallError::Unknown("no answer in time".into())));
        }
        self.dial_if_due();
        match self.next_step(now_ms).await {
            Step::Write(permit) => self.write(permit),
            Step::Tell => self.tell(),
            Step::Incoming(first) => self.on_incoming(first).await,
            Step::Ask(Some(ask)) => return self.on_asks(ask).await,
            Step::Ask(None) => return false,
            Step::Dialed(dialed) => self.on_dialed(dialed).await,
            Step::Token(token) => self.on_token(token),
            Step::Wake => {}
        }
        true
    }

    async fn next_step(&mut self, now_ms: u64) -> Step {
        let wake = self.wake(now_ms);
        let has_output = self.has_output(now_ms);
        let writer = self.link.as_ref().filter(|_| has_output).map(|l| l.connection.outgoing.clone());
        let teller = (!self.events.is_empty()).then_some(&self.out);
        let reader = self.link.as_mut().map(|l| &mut l.connection.incoming);
        // Writes first: what they depend on is bounded, while reading could go on for ever.
        tokio::select! {
            biased;
            permit = maybe(writer.map(|w| w.reserve_owned())) => match permit {
                Ok(permit) => Step::Write(permit),
                // The writer is gone; the reader will say why.
                Err(_) => Step::Incoming(self.link.as_mut().and_then(|l| l.connection.incoming.try_recv().ok())),
            },
            _ = maybe(teller.map(|t| t.reserve())) => Step::Tell,
            incoming = maybe(reader.map(|r| r.recv())) => Step::Incoming(incoming),
            ask = self.asks.recv() => Step::Ask(ask),
            dialed = maybe(self.dialing.as_mut()) => Step::Dialed(dialed),
            token = maybe(self.refreshing.as_mut()) => Step::Token(token),
            () = tokio::time::sleep_until(wake) => Step::Wake,
        }
    }

    fn wake(&self, now_ms: u64) -> Instant {
        let inbox = self.link.as_ref().and_then(|_| self.inbox.wake_ms());
        let marks = [inbox.filter(|at| *at > now_ms), self.outbox.wake_ms(now_ms), self.calls.wake_ms(now_ms)];
        let soonest = marks.into_iter().flatten().min();
        let timer = soonest.map_or(Instant::now() + IDLE, |at| self.started + Duration::from_millis(at));
        self.dial_at.filter(|_| self.dialing.is_none()).map_or(timer, |at| at.min(timer))
    }

    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub fn record(&self, op: Op) {
        self.config.recorder.record(&self.config.label, &self.config.user, op);
    }

    /// False: the store failed, and the device stops.
    pub async fn commit(&mut self, changes: Vec<Change>) -> bool {
        if changes.is_empty() {
            return true;
        }
        match self.store.commit(changes).await {
            Ok(()) => true,
            Err(error) => {
                self.on_store_error(&error);
                false
            }
        }
    }

    fn on_store_error(&mut self, error: &StoreError) {
        tracing::error!(%error, "the device's store failed");
        self.stop(0, format!("store: {error}"));
    }

    // Connecting.

    fn dial_if_due(&mut self) {
        let due = self.dial_at.is_some_and(|at| at <= Instant::now());
        if !due || self.dialing.is_some() || self.stopped.is_some() {
            return;
        }
        self.dial_at = None;
        // Also the one that was just left: what it is ill of may be silence, and that costs a whole timeout. Once only: it may be
        // the one node that this device reaches.
        let left = self.left.take();
        let avoid = self.link.as_ref().map(|l| l.url.clone()).or(left);
        let Some(url) = self.urls.next(avoid.as_deref()) else {
            return self.stop(0, "no node's URL is known".into());
        };
        self.attempt += 1;
        let hello = Hello {
            token: String::new(),
            device: self.device,
            install: self.install.clone(),
            instance: self.instance,
            attempt: self.attempt,
            rev: self.rev.clone(),
            client: self.config.client.clone(),
            window: self.config.window,
            state: Default::default(),
        };
        self.dialing = Some(dial(self.config.clone(), url, hello, self.fresh_token).map(Box::new).boxed());
    }

    async fn on_dialed(&mut self, dialed: Box<Dialed>) {
        self.dialing = None;
        let Dialed { url, attempt, result } = *dialed;
        let (connection, ready) = match result {
            Ok(open) => open,
            Err(error) => {
                tracing::debug!(url, %error, "attempt failed");
                return self.on_verdict(error.verdict(), error.code(), error.to_string());
            }
        };
        self.leave();
        self.fresh_token = false;
        self.urls.learn(&ready.urls);
        let mut changes = Vec::new();
        if self.device != Some(ready.device) {
            if self.device.is_some() {
                self.inbox.reset();
                changes.push(Change::PositionsDropped);
                self.record(Op::Reset);
                self.events.push_back(Event::Reset);
            }
            self.device = Some(ready.device);
            changes.push(Change::Device { user: ready.user.clone(), device: ready.device });
        }
        if ready.reset.is_some() && self.rev.take().is_some() {
            changes.push(Change::Rev(None));
        }
        if !self.commit(changes).await {
            return;
        }
        self.record(Op::Connected { device: ready.device, session: ready.session, url: url.clone(), attempt });
        self.events.push_back(Event::Connected {
            url: url.clone(),
            node: ready.node,
            user: ready.user,
            device: ready.device,
        });
        self.link =
            Some(Link { connection, url, caught_up: false, flights: BTreeMap::new(), last_id: 0, unavailable: 0 });
    }

    /// Nothing more comes over the current connection.
    pub fn leave(&mut self) {
        let Some(link) = self.link.take() else { return };
        self.left = Some(link.url);
        let now_ms = self.now_ms();
        self.outbox.disconnected(now_ms);
        self.calls.disconnected(now_ms);
        self.inbox.disconnected();
        self.reads.disconnected();
        self.typing = None;
        self.contents.clear();
        self.auth_due = None;
    }

    pub fn on_closed(&mut self, closed: Closed) {
        self.leave();
        self.record(Op::Closed { code: closed.code, reason: closed.reason.clone() });
        self.events.push_back(Event::Disconnected { code: closed.code, reason: closed.reason.clone() });
        self.on_verdict(closed.verdict(), closed.code, closed.reason);
    }

    fn on_verdict(&mut self, verdict: Verdict, code: u16, reason: String) {
        match verdict {
            // The other instance may be the process before this one on the same store: it died with a hello under way,
            // which waited for a leader and was done after ours. That happens once; two living holders of a copied store
            // would replace each other for ever, so the second time is final.
            // An instance that was replaced cannot take the session back: the one that comes again is a new one.
            Verdict::Stop if code == CloseCode::SessionReplaced.number() && !self.replaced => {
                self.replaced = true;
                self.instance = Instance(rand::random());
            }
            Verdict::Stop => return self.stop(code, reason),
            Verdict::NewToken => self.fresh_token = true,
            // Dropped in the store too with the next token that is stored.
            Verdict::DropRev => self.rev = None,
            Verdict::Reconnect => {}
        }
        self.redial();
    }

    pub fn redial(&mut self) {
        if self.stopped.is_none() && self.dialing.is_none() {
            self.dial_at = Some(Instant::now() + self.backoff.pause());
        }
    }

    pub fn stop(&mut self, code: u16, reason: String) {
        self.leave();
        (self.dialing, self.dial_at, self.refreshing) = (None, None, None);
        self.events.push_back(Event::Stopped { code, reason: reason.clone() });
        for (_, waiter) in std::mem::take(&mut self.waiters) {
            // Nobody may wait.
            let _ = waiter.send(Outcome::Unknown(format!("the device has stopped: {reason}")));
        }
        for call in self.calls.drain() {
            self.end_call(call, Err(CallError::Unknown(format!("the device has stopped: {reason}"))));
        }
        self.stopped = Some(reason);
    }

    fn on_token(&mut self, token: Result<String, TokenError>) {
        self.refreshing = None;
        match token {
            Ok(token) => self.auth_due = Some(token),
            // The server will close with 4100 in its time.
            Err(error) => tracing::debug!(%error, "no new token yet"),
        }
    }

    // Writing.

    fn has_output(&self, now_ms: u64) -> bool {
        let Some(link) = &self.link else { return false };
        let room = self.outbox.flying() + self.calls.flying() < limits::CLIENT_REQUESTS_IN_FLIGHT_MAX;
        (self.inbox.acks_due(now_ms) && self.events.len() < limits::CLIENT_EVENTS_MAX)
            || self.auth_due.is_some()
            || self.reads.is_due()
            || self.typing.is_some()
            || (room && (self.calls.has_next(now_ms) || (link.caught_up && self.outbox.has_next(now_ms))))
    }

    /// As many frames as are due and find room.
    fn write(&mut self, permit: mpsc::OwnedPermit<ClientMessage>) {
        let mut permit = Some(permit);
        while let Some(place) = permit.take() {
            let now_ms = self.now_ms();
            if !self.has_output(now_ms) {
                return;
            }
            let Some(message) = self.next_output(now_ms) else { return };
            permit = place.send(message).try_reserve_owned().ok();
        }
    }

    fn next_output(&mut self, now_ms: u64) -> Option<ClientMessage> {
        if self.inbox.acks_due(now_ms) && self.events.len() < limits::CLIENT_EVENTS_MAX {
            let items = self.inbox.take_acks();
            for AckItem { conv, seq } in &items {
                self.record(Op::Acked { conv: conv.clone(), seq: *seq });
            }
            return Some(ClientMessage { id: None, frame: ClientFrame::Ack(items) });
        }
        if let Some(item) = self.reads.next() {
            return Some(ClientMessage { id: None, frame: ClientFrame::Read(item) });
        }
        if let Some(conv) = self.typing.take() {
            return Some(ClientMessage { id: None, frame: ClientFrame::Typing(Typing { conv }) });
        }
        let link = self.link.as_mut()?;
        if let Some(token) = self.auth_due.take() {
            link.last_id = link.last_id.wrapping_add(1);
            return Some(ClientMessage { id: Some(link.last_id), frame: ClientFrame::Auth(Auth { token }) });
        }
        let (flight, frame) = if let Some((key, frame)) = self.calls.next(now_ms) {
            (Flight::Call(key), frame)
        } else {
            if !link.caught_up {
                return None;
            }
            let (cid, frame) = self.outbox.next(now_ms, clock::wall_ms())?;
            if let (Some(command), true) = (frame.command(), self.contents.len() < SENT_CONTENTS_MAX) {
                self.contents.insert(cid, command.what);
            }
            (Flight::Command(cid), frame)
        };
        link.last_id = link.last_id.wrapping_add(1);
        link.flights.insert(link.last_id, flight);
        Some(ClientMessage { id: Some(link.last_id), frame })
    }

    pub fn tell(&mut self) {
        while let Some(event) = self.events.pop_front() {
            match self.out.try_send(event) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(event)) => return self.events.push_front(event),
                // Nobody listens: the store has everything.
                Err(mpsc::error::TrySendError::Closed(_)) => self.events.clear(),
            }
        }
    }
}

/// The future if there is one, else never.
async fn maybe<F: Future>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
