//! A device on its own machine, with a store that outlives its process.

use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use flotilla_client::device::{Config, Device, Handle, fixed_token, random_cid};
use flotilla_client::history::{Op, Recorder};
use flotilla_client::http::Http;
use flotilla_client::store::{Change, MemStore, Store};
use flotilla_proto::ids::UserId;
use madsim::runtime::{Handle as World, NodeHandle};
use tokio::time::{Instant, sleep, timeout};

use crate::cluster::machine;

/// The password of every user. Real accounts, because demo users exist on loopback only.
const PASSWORD: &str = "correct horse battery staple";
const LOGIN_PATIENCE: Duration = Duration::from_secs(60);

pub struct Person {
    pub user: UserId,
    machine: NodeHandle,
    config: Config,
    store: MemStore,
    handle: Mutex<Handle>,
}

impl Person {
    /// Registers, then opens the device.
    pub(super) async fn enter(index: usize, urls: Vec<String>, recorder: Recorder) -> anyhow::Result<Self> {
        let name = format!("user{}", index + 1);
        let ip = Ipv4Addr::new(10, 0, 1, u8::try_from(index + 1).context("too many users for one network")?);
        let machine = machine(&name, ip);
        let user = UserId::parse(&name).context("a user's name")?;
        let (config, store) = machine.spawn(register(name, user.clone(), urls, recorder)).await??;
        let handle = machine.spawn(open(config.clone(), store.clone())).await?;
        timeout(LOGIN_PATIENCE, connected(&handle)).await.context("the device does not connect")?;
        Ok(Self { user, machine, config, store, handle: Mutex::new(handle) })
    }

    /// Of the process that runs, or ran last.
    pub fn handle(&self) -> Handle {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn pause(&self) {
        World::current().pause(self.machine.id());
    }

    pub(super) fn resume(&self) {
        World::current().resume(self.machine.id());
    }

    pub(super) fn die(&self) {
        World::current().kill(self.machine.id());
    }

    /// Another process on the same store, as after a crash.
    pub(super) async fn rise(&self) {
        let world = World::current();
        world.restart(self.machine.id());
        let Some(machine) = world.get_node(self.machine.id()) else { return };
        if let Ok(handle) = machine.spawn(open(self.config.clone(), self.store.clone())).await {
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
async fn open(config: Config, store: MemStore) -> Handle {
    let (handle, mut events) = Device::open(config, store);
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    handle
}

async fn register(
    name: String,
    user: UserId,
    urls: Vec<String>,
    recorder: Recorder,
) -> anyhow::Result<(Config, MemStore)> {
    let install = format!("install of {name}");
    let (key, end) = (random_cid(), Instant::now() + LOGIN_PATIENCE);
    let mut tries = urls.iter().cycle();
    let tokens = loop {
        let url = tries.next().context("no node to register at")?;
        match Http::new(url.clone()).register(key, &name, PASSWORD, &install).await {
            Ok(tokens) => break tokens,
            Err(error) if error.is_retryable() && Instant::now() < end => {
                recorder.record(&name, &user, Op::Note { text: format!("cannot register at {url} yet: {error}") });
                sleep(Duration::from_secs(2)).await;
            }
            Err(error) => return Err(error).context("cannot register"),
        }
    };
    let mut store = MemStore::new();
    store.commit(vec![Change::Install(install)]).await?;
    let mut config = Config::new(urls, user, fixed_token(tokens.access_token));
    config.label = name;
    config.recorder = recorder;
    Ok((config, store))
}
