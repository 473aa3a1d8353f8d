//! A device on its own machine, with a store that outlives its process; and a browser on another one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use flotilla_client::device::{Config, Device, Event, Handle, fixed_token, random_cid};
use flotilla_client::history::{Op, Recorder};
use flotilla_client::http::Http;
use flotilla_client::store::{Change, MemStore, Saved, Store};
use flotilla_proto::ids::{ConvId, Seq, UserId};
use madsim::runtime::{Handle as World, NodeHandle};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::shown::Shown;
use super::watching::Watching;
use super::web::Web;
use crate::cluster::machine;

/// The password of every user. Real accounts, because demo users exist on loopback only.
const PASSWORD: &str = "correct horse battery staple";
const LOGIN_PATIENCE: Duration = Duration::from_secs(60);
/// What the browsers' addresses are above those of devices.
const BROWSERS: u8 = 100;
/// And of the second places.
const SECONDS: u8 = 150;
/// A process that stands still does not answer.
pub(super) const ANSWER: Duration = Duration::from_secs(1);

pub struct Person {
    pub user: UserId,
    number: u8,
    machine: NodeHandle,
    config: Config,
    store: MemStore,
    handle: Mutex<Handle>,
    /// The person without the device: requests from another machine.
    browser: NodeHandle,
    pub web: Web,
    /// What it watches, on whatever connection.
    pub watching: Watching,
    /// Held while a process is replaced by the next: two must not open one store.
    changing: tokio::sync::Mutex<()>,
    /// The machine of the second place, from the first time on.
    second: Mutex<Option<NodeHandle>>,
    /// What was stored in second places, which the first was not sent any more.
    elsewhere: Mutex<BTreeMap<ConvId, Seq>>,
}

/// What a connection ends with that nobody has closed.
const GONE: u16 = 1006;

impl Person {
    /// Registers, then opens the device.
    pub(super) async fn enter(
        index: usize,
        urls: Vec<String>,
        recorder: Recorder,
        shown: Shown,
    ) -> anyhow::Result<Self> {
        let name = format!("user{}", index + 1);
        Self::with_device(index, name.clone(), &name, urls, recorder, shown).await
    }

    /// Another device of a user that has one.
    pub(super) async fn enter_again(
        index: usize,
        user: &UserId,
        urls: Vec<String>,
        recorder: Recorder,
        shown: Shown,
    ) -> anyhow::Result<Self> {
        Self::with_device(index, format!("{user}-two"), user.as_str(), urls, recorder, shown).await
    }

    async fn with_device(
        index: usize,
        label: String,
        name: &str,
        urls: Vec<String>,
        recorder: Recorder,
        shown: Shown,
    ) -> anyhow::Result<Self> {
        let number = u8::try_from(index + 1).context("too many users for one network")?;
        let machine = machine(&label, Ipv4Addr::new(10, 0, 1, number));
        let user = UserId::parse(name).context("a user's name")?;
        let registered = register(label.clone(), user.clone(), urls.clone(), recorder.clone());
        let (token, config, store) = machine.spawn(registered).await??;
        let watching = Watching::new(shown.clone());
        let handle = machine.spawn(open(config.clone(), store.clone(), Some(watching.clone()))).await?;
        timeout(LOGIN_PATIENCE, connected(&handle)).await.context("the device does not connect")?;
        let browser =
            crate::cluster::machine(&format!("{label}-web"), Ipv4Addr::new(10, 0, 1, number.saturating_add(BROWSERS)));
        let web = Web { user: user.clone(), label, token, urls, recorder, shown, acting: Default::default() };
        Ok(Self {
            user,
            number,
            machine,
            config,
            store,
            handle: Mutex::new(handle),
            browser,
            web,
            watching,
            changing: Default::default(),
            second: Mutex::new(None),
            elsewhere: Mutex::default(),
        })
    }

    /// Of the process that runs, or ran last.
    pub fn handle(&self) -> Handle {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs on the person's other machine.
    pub(super) fn browse<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.browser.spawn(work)
    }

    pub fn ip(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 1, self.number))
    }

    pub(super) fn pause(&self) {
        World::current().pause(self.machine.id());
    }

    pub(super) fn resume(&self) {
        World::current().resume(self.machine.id());
    }

    /// The process dies, and comes back on its store when it has been away so long.
    pub(super) async fn is_away(&self, lasts: Duration) {
        let _alone = self.changing.lock().await;
        World::current().kill(self.machine.id());
        // It cannot say so itself, and whoever looks at connections must know.
        let Web { recorder, label, user, .. } = &self.web;
        recorder.record(label, user, Op::Closed { code: GONE, reason: "its process died".into() });
        sleep(lasts).await;
        self.rise().await;
    }

    /// A device that was stopped, because another place has taken its session, is opened again.
    pub(super) async fn comes_back(&self) {
        let status = timeout(ANSWER, self.handle().status()).await.ok().flatten();
        // One that dies just now comes back by itself.
        let Ok(_alone) = self.changing.try_lock() else { return };
        if status.is_some_and(|status| status.stopped.is_some()) {
            World::current().kill(self.machine.id());
            self.rise().await;
        }
    }

    /// What the device keeps.
    pub(super) fn saved(&self) -> Saved {
        self.store.load()
    }

    /// Opens the device on another store, on another machine.
    pub(super) async fn opens_elsewhere(&self, store: MemStore) -> Option<Handle> {
        let machine = {
            let mut second = self.second.lock().unwrap_or_else(PoisonError::into_inner);
            let place = || {
                machine(
                    &format!("{}-b", self.config.label),
                    Ipv4Addr::new(10, 0, 1, self.number.saturating_add(SECONDS)),
                )
            };
            second.get_or_insert_with(place).clone()
        };
        World::current().restart(machine.id());
        // Another life of the machine has another handle.
        let machine = World::current().get_node(machine.id())?;
        let mut config = self.config.clone();
        config.label = format!("{}-b", self.config.label);
        machine.spawn(open(config, store, None)).await.ok()
    }

    pub(super) fn ends_elsewhere(&self, store: &MemStore) {
        let second = self.second.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(machine) = &*second {
            World::current().kill(machine.id());
        }
        let mut elsewhere = self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner);
        for (conv, seq) in store.load().positions {
            let known = elsewhere.entry(conv).or_default();
            *known = seq.max(*known);
        }
    }

    /// A second place has stored what the first was not sent: the first believes in a hole only when it has met it twice.
    pub fn is_torn(&self) -> bool {
        !self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Its device in the history.
    pub fn label(&self) -> &str {
        &self.config.label
    }

    /// Up to where second places have stored a conversation.
    pub fn has_elsewhere(&self, conv: &ConvId) -> Seq {
        self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner).get(conv).copied().unwrap_or_default()
    }

    /// Another process on the same store, as after a crash.
    async fn rise(&self) {
        let world = World::current();
        world.restart(self.machine.id());
        let Some(machine) = world.get_node(self.machine.id()) else { return };
        let watching = Some(self.watching.clone());
        if let Ok(handle) = machine.spawn(open(self.config.clone(), self.store.clone(), watching)).await {
            *self.handle.lock().unwrap_or_else(PoisonError::into_inner) = handle;
        }
    }
}

async fn connected(handle: &Handle) {
    while !handle.status().await.is_some_and(|status| status.caught_up) {
        sleep(Duration::from_millis(20)).await;
    }
}

/// Opens the device and keeps its events flowing.
async fn open(config: Config, store: MemStore, watching: Option<Watching>) -> Handle {
    let (handle, mut events) = Device::open(config, store);
    let asking = handle.clone();
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            if let (Event::Connected { .. }, Some(watching)) = (event, watching.clone()) {
                let handle = asking.clone();
                tokio::spawn(async move { watching.connected(&handle).await });
            }
        }
    });
    handle
}

/// Who has the name of the user is its first device; others log in.
pub(super) async fn register(
    label: String,
    user: UserId,
    urls: Vec<String>,
    recorder: Recorder,
) -> anyhow::Result<(String, Config, MemStore)> {
    let name = user.as_str().to_owned();
    let install = format!("install of {label}");
    let (key, end) = (random_cid(), Instant::now() + LOGIN_PATIENCE);
    let mut tries = urls.iter().cycle();
    let tokens = loop {
        let url = tries.next().context("no node to register at")?;
        let door = Http::new(url.clone());
        let entered = if label == name {
            door.register(key, &name, PASSWORD, &install).await
        } else {
            door.login(key, &name, PASSWORD, &install).await
        };
        match entered {
            Ok(tokens) => break tokens,
            Err(error) if error.is_retryable() && Instant::now() < end => {
                recorder.record(&label, &user, Op::Note { text: format!("cannot register at {url} yet: {error}") });
                sleep(Duration::from_secs(2)).await;
            }
            Err(error) => return Err(error).context("cannot register"),
        }
    };
    let mut store = MemStore::new();
    store.commit(vec![Change::Install(install)]).await?;
    let mut config = Config::new(urls, user, fixed_token(tokens.access_token.clone()));
    config.label = label;
    config.recorder = recorder;
    Ok((tokens.access_token, config, store))
}
