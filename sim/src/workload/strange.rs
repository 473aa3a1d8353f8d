//! A client that keeps to no rule: acks that are too high, foreign, repeated or late, and `hello`s of sessions that are over.
//!
//! Invariant: what it may not ack is not in its history as acked, so that a cursor that moves by it has no ack to stand on (I5).
//! What it receives and rightly acks is, so that it is owed entries like anybody. Once calm, it is a good client.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use flotilla_client::connection::{Closed, ConnectError, Connection, Incoming};
use flotilla_client::history::{Op, Recorder};
use flotilla_proto::frame::{
    AckItem, ClientFrame, ClientInfo, ClientMessage, CloseCode, Encoding, Hello, Ready, ServerFrame,
};
use flotilla_proto::ids::{ConvId, DeviceId, Instance, Seq, UserId};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep, timeout};

use super::person::register;
use super::shown::Shown;
use crate::cluster::machine;
use crate::options::stream;

const ACK_PAUSE: Duration = Duration::from_millis(200);
const DIAL_PAUSE: Duration = Duration::from_millis(300);
/// What must be seen of it, see [`crate::options::LOADS`].
const PARTS: [&str; 3] = ["strange-acks", "late-acks", "old-hellos"];
/// Addresses above those of other machines of people.
const STRANGERS: u8 = 200;

const NAME: &str = "strange";

pub fn is_one(user: &UserId) -> bool {
    user.as_str().starts_with(NAME)
}

pub struct Stranger {
    pub user: UserId,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    device: Option<DeviceId>,
    calm: bool,
    /// Parts that are still to be shown once everything is healed.
    left: BTreeSet<&'static str>,
}

impl Stranger {
    /// Registers and connects; from then on it does as it likes.
    pub(super) async fn enter(
        index: usize,
        seed: u64,
        urls: Vec<String>,
        recorder: Recorder,
        shown: Shown,
        others: Vec<ConvId>,
    ) -> anyhow::Result<Self> {
        let name = format!("{NAME}{}", index + 1);
        let ip = Ipv4Addr::new(10, 0, 1, STRANGERS.saturating_add(u8::try_from(index).unwrap_or(u8::MAX)));
        let machine = machine(&name, ip);
        let user = UserId::parse(&name).context("a user's name")?;
        let registered = register(name.clone(), user.clone(), urls.clone(), recorder.clone());
        let (token, _, _) = machine.spawn(registered).await??;
        let state: Arc<Mutex<State>> = Arc::default();
        let mut rng = stream(seed, 8 + index as u64);
        let instance = Instance(rng.random());
        let (ever, at, taken, replaced) = Default::default();
        let mut client = Client {
            name,
            user: user.clone(),
            token,
            urls,
            recorder,
            shown,
            others,
            state: state.clone(),
            rng,
            instance,
            attempt: 0,
            replaced,
            ever,
            at,
            taken,
        };
        machine.spawn(async move { client.run().await });
        while state.lock().unwrap_or_else(PoisonError::into_inner).device.is_none() {
            sleep(DIAL_PAUSE).await;
        }
        Ok(Self { user, state })
    }

    pub fn device(&self) -> Option<DeviceId> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).device
    }

    /// Nothing is broken any more: it shows what it has not shown yet, then keeps to the rules. Returns when it does.
    pub async fn calms(&self, shown: &Shown, patience: Duration) {
        let counts = shown.counts();
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.left = PARTS.into_iter().filter(|part| !counts.contains_key(*part)).collect();
            state.calm = true;
        }
        let end = Instant::now() + patience;
        while !self.state.lock().unwrap_or_else(PoisonError::into_inner).left.is_empty() && Instant::now() < end {
            sleep(ACK_PAUSE).await;
        }
    }
}

struct Client {
    name: String,
    user: UserId,
    token: String,
    urls: Vec<String>,
    recorder: Recorder,
    shown: Shown,
    /// Conversations of others.
    others: Vec<ConvId>,
    state: Arc<Mutex<State>>,
    rng: StdRng,
    instance: Instance,
    attempt: u64,
    /// Instances that another one has replaced.
    replaced: Vec<Instance>,
    /// Up to where it has received each conversation, ever; on this connection; and acked it on this connection.
    ever: BTreeMap<ConvId, Seq>,
    at: BTreeMap<ConvId, Seq>,
    taken: BTreeMap<ConvId, Seq>,
}

impl Client {
    fn record(&self, op: Op) {
        self.recorder.record(&self.name, &self.user, op);
    }

    fn is_calm(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).calm
    }

    fn is_left(&self, part: &'static str) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).left.contains(part)
    }

    fn has_shown(&self, part: &'static str) {
        self.shown.add(part);
        self.state.lock().unwrap_or_else(PoisonError::into_inner).left.remove(part);
    }

    async fn run(&mut self) {
        loop {
            self.attempt += 1;
            let (instance, attempt) = (self.instance, self.attempt);
            match self.hello(instance, attempt).await {
                Ok((connection, ready)) => self.live(connection, ready).await,
                Err(code) => self.on_stop(code),
            }
            sleep(DIAL_PAUSE).await;
        }
    }

    /// Replaced for good: whoever comes again is a new instance.
    fn on_stop(&mut self, code: u16) {
        if code == CloseCode::SessionReplaced.number() {
            self.instance = Instance(self.rng.random());
        }
    }

    /// The code with which it was closed; 0: there was no connection.
    async fn hello(&mut self, instance: Instance, attempt: u64) -> Result<(Connection, Ready), u16> {
        let url = self.urls[self.rng.random_range(0..self.urls.len())].clone();
        let client = ClientInfo { name: "strange".into(), version: "1".into(), platform: "sim".into() };
        let hello = Hello {
            token: self.token.clone(),
            device: self.state.lock().unwrap_or_else(PoisonError::into_inner).device,
            install: format!("install of {}", self.name),
            instance,
            attempt,
            rev: None,
            client,
            window: None,
            state: Default::default(),
        };
        let encoding = if self.rng.random_bool(0.5) { Encoding::Json } else { Encoding::MsgPack };
        match Connection::open(&url, encoding, hello).await {
            Ok((connection, ready)) => {
                let (device, session) = (ready.device, ready.session);
                self.record(Op::Connected { device, session, url, attempt });
                self.state.lock().unwrap_or_else(PoisonError::into_inner).device = Some(device);
                // What this connection brings is acked on it.
                (self.at, self.taken) = Default::default();
                Ok((connection, ready))
            }
            Err(ConnectError::Closed(closed)) => Err(closed.code),
            Err(_) => Err(0),
        }
    }

    /// One connection after the other, each taken over by the next, until one ends.
    async fn live(&mut self, mut connection: Connection, mut ready: Ready) {
        loop {
            let lasts = Duration::from_millis(self.rng.random_range(500..=4_000));
            if let Some(closed) = self.listen(&mut connection, lasts).await {
                self.record(Op::Closed { code: closed.code, reason: closed.reason.clone() });
                return self.on_stop(closed.code);
            }
            if self.is_calm() && PARTS.iter().all(|part| !self.is_left(part)) {
                continue;
            }
            let choice = self.rng.random_range(0..4);
            if self.is_left("late-acks") || choice == 0 {
                match self.takes_over(connection).await {
                    Some(next) => (connection, ready) = next,
                    None => return,
                }
            } else if self.is_left("old-hellos") || choice == 1 {
                self.old_hello(&ready).await;
            } else if choice == 2 && !self.is_calm() {
                return;
            }
        }
    }

    /// Receives and acks, rightly and wrongly. How the connection ended, if it did.
    async fn listen(&mut self, connection: &mut Connection, lasts: Duration) -> Option<Closed> {
        let end = Instant::now() + lasts;
        let mut acks = Instant::now() + ACK_PAUSE;
        while Instant::now() < end {
            tokio::select! {
                biased;
                incoming = connection.incoming.recv() => match incoming {
                    Some(Incoming::Message(message)) => self.on_frame(message.frame),
                    Some(Incoming::Closed(closed)) => return Some(closed),
                    None => return Some(Closed { code: 1006, reason: "socket lost".into() }),
                },
                () = tokio::time::sleep_until(acks) => {
                    acks = Instant::now() + ACK_PAUSE;
                    if self.is_calm() || self.rng.random_bool(0.6) {
                        self.acks_rightly(connection).await;
                    }
                    if self.is_left("strange-acks") || (!self.is_calm() && self.rng.random_bool(0.5)) {
                        self.acks_strangely(connection).await;
                    }
                }
            }
        }
        None
    }

    fn on_frame(&mut self, frame: ServerFrame) {
        match frame {
            ServerFrame::Entry(entry) => {
                self.at.insert(entry.conv.clone(), entry.seq);
                self.ever.insert(entry.conv.clone(), entry.seq);
                self.record(Op::Entry { entry });
            }
            ServerFrame::Gap(gap) => {
                self.at.insert(gap.conv.clone(), gap.to);
                self.record(Op::Gap { gap });
            }
            ServerFrame::CaughtUp(_) => self.record(Op::CaughtUp),
            _ => {}
        }
    }

    async fn acks_rightly(&mut self, connection: &Connection) {
        let due: Vec<AckItem> = self
            .at
            .iter()
            .filter(|(conv, seq)| self.taken.get(*conv) != Some(*seq))
            .map(|(conv, seq)| AckItem { conv: conv.clone(), seq: *seq })
            .collect();
        for AckItem { conv, seq } in &due {
            self.taken.insert(conv.clone(), *seq);
            // Before it leaves, so that no cursor moves before.
            self.record(Op::Acked { conv: conv.clone(), seq: *seq });
        }
        say(connection, due).await;
    }

    async fn acks_strangely(&mut self, connection: &Connection) {
        let known: Vec<(ConvId, Seq)> = self.ever.iter().map(|(conv, seq)| (conv.clone(), *seq)).collect();
        let Some((conv, seq)) = known.get(self.rng.random_range(0..known.len().max(1))).cloned() else { return };
        let foreign = self.others[self.rng.random_range(0..self.others.len())].clone();
        // Far above what can be sent before it arrives.
        let high = Seq(seq.0 + self.rng.random_range(10_000..=1_000_000));
        let item = match self.rng.random_range(0..5) {
            0 | 1 => AckItem { conv, seq: high },
            2 => AckItem { conv: foreign, seq },
            3 => AckItem { conv: ConvId::group(&self.user, flotilla_proto::ids::Cid(self.rng.random())), seq },
            // Once more, or less than before.
            _ => AckItem { seq: self.taken.get(&conv).copied().unwrap_or_default().min(seq), conv },
        };
        let twice = self.rng.random_bool(0.3);
        say(connection, vec![item.clone(); if twice { 2 } else { 1 }]).await;
        self.has_shown("strange-acks");
    }

    /// Another connection, of the same instance or of another one; acks of what the first has received go down the first,
    /// which is over by then.
    async fn takes_over(&mut self, old: Connection) -> Option<(Connection, Ready)> {
        let another = self.rng.random_bool(0.5);
        if another {
            self.replaced.push(self.instance);
            self.instance = Instance(self.rng.random());
        }
        let late: Vec<AckItem> =
            self.ever.iter().map(|(conv, seq)| AckItem { conv: conv.clone(), seq: *seq }).collect();
        self.attempt += 1;
        let (instance, attempt) = (self.instance, self.attempt);
        let next = match self.hello(instance, attempt).await {
            Ok(next) => next,
            Err(code) => {
                self.on_stop(code);
                return None;
            }
        };
        if !late.is_empty() {
            say(&old, late).await;
            self.has_shown("late-acks");
        }
        Some(next)
    }

    /// While its session lives, an earlier attempt of the same instance comes, or an instance that it has replaced.
    async fn old_hello(&mut self, now: &Ready) {
        let (instance, attempt) = match self.replaced.last() {
            Some(instance) if self.rng.random_bool(0.5) => (*instance, self.attempt + 1),
            _ => (self.instance, self.attempt - 1),
        };
        let url = self.urls[self.rng.random_range(0..self.urls.len())].clone();
        let hello = Hello {
            token: self.token.clone(),
            device: Some(now.device),
            install: format!("install of {}", self.name),
            instance,
            attempt,
            rev: None,
            client: ClientInfo { name: "strange".into(), version: "1".into(), platform: "sim".into() },
            window: None,
            state: Default::default(),
        };
        let refusals = [CloseCode::Superseded.number(), CloseCode::SessionReplaced.number()];
        match timeout(Duration::from_secs(15), Connection::open(&url, Encoding::Json, hello)).await {
            Ok(Err(ConnectError::Closed(closed))) if refusals.contains(&closed.code) => self.has_shown("old-hellos"),
            // Its own session may have ended meanwhile; what holds of the rows is checked there (I7).
            _ => {}
        }
    }
}

async fn say(connection: &Connection, acks: Vec<AckItem>) {
    if !acks.is_empty() {
        let frame = ClientMessage { id: None, frame: ClientFrame::Ack(acks) };
        // A queue that is full or gone: as if lost.
        let _ = timeout(Duration::from_secs(1), connection.outgoing.send(frame)).await;
    }
}
