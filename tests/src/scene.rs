//! Devices on a cluster, all writing into one history, and waiting for conditions with a deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use flotilla_client::device::{Event, Status, TokenSource, fixed_token, message};
use flotilla_client::history::{Op, Recorder};
use flotilla_client::oracle::{Demand, Verdict, judge};
use flotilla_client::store::{MemStore, Store, install_of};
use flotilla_client::terminal::account::password_tokens;
use flotilla_client::{Config, Device, Handle, Outcome};
use flotilla_proto::frame::{Accepted, Encoding, Target};
use flotilla_proto::ids::{ConvId, Seq, UserId};
use futures::future::FutureExt;
use rand::RngExt;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

pub const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

pub fn user(name: &str) -> UserId {
    UserId::parse(name).expect("the tests' names are valid")
}

/// One open device and what it has seen last.
pub struct Seat {
    pub handle: Handle,
    pub label: String,
    /// Latest event of each kind that tests wait for.
    pub seen: watch::Receiver<Seen>,
    /// The groups that it made.
    pub owns: Mutex<BTreeSet<ConvId>>,
}

#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub entries: u64,
    pub holes: u64,
    /// Bodies of messages, by (conversation, seq); the newest ones only.
    pub bodies: BTreeMap<(ConvId, Seq), Vec<u8>>,
    /// The peer's read mark in direct conversations.
    pub peer_read: BTreeMap<ConvId, Seq>,
    pub unread: BTreeMap<ConvId, u64>,
}

const BODIES_MAX: usize = 4_096;

pub struct Scene {
    pub urls: Vec<String>,
    pub recorder: Recorder,
    /// Fresh tokens that users with passwords have had.
    pub renewed: Arc<AtomicU64>,
}

impl Scene {
    pub fn new(urls: Vec<String>) -> Self {
        Self { urls, recorder: Recorder::memory(), renewed: Arc::default() }
    }

    pub fn note(&self, text: impl Into<String>) {
        self.recorder.record("nemesis", &user("nemesis"), Op::Note { text: text.into() });
    }

    /// A device in memory that may use any node.
    pub async fn open(&self, name: &str, number: u32) -> anyhow::Result<Seat> {
        self.open_at(name, number, self.urls.clone(), MemStore::new()).await
    }

    /// Opened and caught up.
    pub async fn open_at(&self, name: &str, number: u32, urls: Vec<String>, store: impl Store) -> anyhow::Result<Seat> {
        self.open_with(name, number, urls, store, fixed_token(format!("dev:{name}"))).await
    }

    /// A user with a password: registered or logged in over HTTP. On some reconnects the tokens are refreshed first, as if
    /// the access token's quarter of an hour were over.
    pub async fn open_account(&self, name: &str, number: u32) -> anyhow::Result<Seat> {
        let mut store = MemStore::new();
        let install = install_of(&mut store).await?;
        let password = format!("{name}'s long password");
        let tokens = password_tokens(self.urls.clone(), user(name), install, password, true);
        let renewed = self.renewed.clone();
        let token: TokenSource = Arc::new(move |fresh| {
            let (fresh, renewed) = (fresh || rand::rng().random_bool(0.25), renewed.clone());
            let token = tokens(fresh);
            async move {
                let token = token.await;
                renewed.fetch_add(u64::from(fresh && token.is_ok()), Ordering::Relaxed);
                token
            }
            .boxed()
        });
        self.open_with(name, number, self.urls.clone(), store, token).await
    }

    async fn open_with(
        &self,
        name: &str,
        number: u32,
        urls: Vec<String>,
        store: impl Store,
        token: TokenSource,
    ) -> anyhow::Result<Seat> {
        let mut config = Config::new(urls, user(name), token);
        config.label = format!("{name}/{number}");
        config.recorder = self.recorder.clone();
        config.encoding = if number.is_multiple_of(2) { Encoding::Json } else { Encoding::MsgPack };
        config.backoff_max = Duration::from_secs(1);
        let label = config.label.clone();
        let (handle, events) = Device::open(config, store);
        let (tell, seen) = watch::channel(Seen::default());
        tokio::spawn(watch_events(events, tell));
        let seat = Seat { handle, label, seen, owns: Mutex::default() };
        seat.until("is connected", LIMIT, |s| s.caught_up).await?;
        Ok(seat)
    }

    /// The verdict on everything recorded so far; the records are taken.
    pub fn verdict(&self, demand: Demand) -> anyhow::Result<Verdict> {
        let records = self.recorder.take();
        if let Some(path) = std::env::var_os("FLOTILLA_HISTORY") {
            let lines: Vec<String> = records.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
            std::fs::write(path, lines.join("\n"))?;
        }
        let verdict = judge(&records, demand);
        ensure!(verdict.holds(), "{verdict}");
        Ok(verdict)
    }
}

async fn watch_events(mut events: mpsc::Receiver<Event>, tell: watch::Sender<Seen>) {
    while let Some(event) = events.recv().await {
        tell.send_modify(|seen| match event {
            Event::Entry(entry) => {
                seen.entries += 1;
                if let Some(body) = entry.body {
                    seen.bodies.insert((entry.conv, entry.seq), body.0.to_vec());
                }
                while seen.bodies.len() > BODIES_MAX {
                    seen.bodies.pop_first();
                }
            }
            Event::Hole { .. } => seen.holes += 1,
            Event::Conv(conv) => {
                seen.unread.insert(conv.conv.clone(), conv.unread);
                if let Some(peer) = conv.peer {
                    seen.peer_read.insert(conv.conv, peer.read);
                }
            }
            _ => {}
        });
    }
}

impl Seat {
    pub fn own(&self, conv: ConvId) {
        self.owns.lock().unwrap_or_else(PoisonError::into_inner).insert(conv);
    }

    /// A message with its answer, which must be `accepted`.
    pub async fn say(&self, target: Target, body: &str) -> anyhow::Result<Accepted> {
        let sent = tokio::time::timeout(LIMIT, self.handle.send(target, body));
        match sent.await.with_context(|| format!("{}: no answer in time", self.label))?? {
            Outcome::Accepted(accepted) => Ok(accepted),
            other => bail!("{}: {other:?}", self.label),
        }
    }

    /// Waits for a status of the device.
    pub async fn until(&self, what: &str, limit: Duration, is: fn(&Status) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        while !self.handle.status().await.as_ref().is_some_and(is) {
            ensure!(Instant::now() < deadline, "not within {limit:?}: {} {what}", self.label);
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    pub async fn position(&self, conv: &ConvId) -> Seq {
        let status = self.handle.status().await.unwrap_or_default();
        status.positions.get(conv).copied().unwrap_or_default()
    }

    /// Waits until this device has stored everything up to `seq`.
    pub async fn holds(&self, conv: &ConvId, seq: Seq) -> anyhow::Result<()> {
        let what = format!("{} holds {conv} up to {seq}", self.label);
        eventually(&what, LIMIT, async || self.position(conv).await >= seq).await
    }

    pub async fn sees(&self, what: &str, is: impl Fn(&Seen) -> bool) -> anyhow::Result<()> {
        let what = format!("{} sees {what}", self.label);
        eventually(&what, LIMIT, async || is(&self.seen.borrow())).await
    }
}

pub fn to(name: &str) -> Target {
    Target::User(user(name))
}

pub fn text(body: impl Into<Vec<u8>>) -> flotilla_proto::entry::What {
    message(body)
}

/// Waits for a condition, at most `limit`.
pub async fn eventually(what: &str, limit: Duration, mut is: impl AsyncFnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    while !is().await {
        ensure!(Instant::now() < deadline, "not within {limit:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
