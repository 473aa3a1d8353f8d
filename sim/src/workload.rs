//! Users with a device each, and what they send: messages in direct conversations and in groups, pipelined.
//!
//! Invariant: everything goes through the real client over its own simulated machine; what happened is in its history.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context;
use flotilla_client::device::{Config, Device, Handle, fixed_token, message, random_cid};
use flotilla_client::history::{Op, Recorder};
use flotilla_client::http::Http;
use flotilla_client::store::{Change, MemStore, Store};
use flotilla_proto::entry::HistoryAccess;
use flotilla_proto::frame::Target;
use flotilla_proto::ids::{Cid, ConvId, UserId};
use madsim::runtime::NodeHandle;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep, timeout};

use crate::cluster::{Cluster, machine};
use crate::options::Options;

/// The password of every user. Real accounts, because demo users exist on loopback only.
const PASSWORD: &str = "correct horse battery staple";
const LOGIN_PATIENCE: Duration = Duration::from_secs(60);

/// A device on its machine.
pub struct Person {
    pub user: UserId,
    pub handle: Handle,
    machine: NodeHandle,
}

/// Conversations and who is in them.
pub struct Chat {
    pub people: Vec<Person>,
    pub convs: Vec<(ConvId, Vec<usize>)>,
}

impl Chat {
    /// Accounts, devices, groups.
    pub async fn open(options: &Options, cluster: &Cluster, recorder: &Recorder) -> anyhow::Result<Self> {
        let watch = cluster.watch.clone();
        recorder.tap(move |record| watch.on_record(record));
        let mut people = Vec::new();
        for index in 0..options.users {
            people.push(person(index, cluster.urls(), recorder.clone()).await?);
        }
        let mut convs = Vec::new();
        for a in 0..people.len() {
            for b in a + 1..people.len() {
                convs.push((ConvId::direct(&people[a].user, &people[b].user), vec![a, b]));
            }
        }
        for number in 0..options.groups {
            let creator = number % people.len();
            let others =
                people.iter().enumerate().filter(|(i, _)| *i != creator).map(|(_, p)| p.user.clone()).collect();
            let handle = people[creator].handle.clone();
            let conv = people[creator]
                .machine
                .spawn(async move {
                    let others: Vec<UserId> = others;
                    handle.create_group(random_cid(), "group", &others, HistoryAccess::FromJoin).await
                })
                .await?
                .context("a group cannot be made")?;
            convs.push((conv, (0..people.len()).collect()));
        }
        Ok(Self { people, convs })
    }

    /// Sends everything; returns when all of it is in the outboxes, answered or not.
    pub async fn send_all(&self, options: &Options) -> anyhow::Result<()> {
        let mut tasks = Vec::new();
        for (index, person) in self.people.iter().enumerate() {
            let share = options.sends / self.people.len() + usize::from(index < options.sends % self.people.len());
            let mine = self.convs.iter().filter(|(_, members)| members.contains(&index));
            let (groups, directs): (Vec<ConvId>, Vec<ConvId>) =
                mine.map(|(conv, _)| conv.clone()).partition(|conv| conv.peers().is_none());
            let plan = Plan { index, share, groups, directs, options: options.clone() };
            tasks.push(person.machine.spawn(talk(person.handle.clone(), plan)));
        }
        for task in tasks {
            task.await??;
        }
        Ok(())
    }

    /// One more message from everybody to every conversation; gives their cids.
    pub async fn send_fresh(&self) -> anyhow::Result<Vec<Cid>> {
        let mut cids = Vec::new();
        for (conv, members) in &self.convs {
            for person in members.iter().map(|index| &self.people[*index]) {
                let ticket = person.handle.submit(target_of(&person.user, conv), message("fresh")).await?;
                cids.push(ticket.cid);
            }
        }
        Ok(cids)
    }
}

fn target_of(user: &UserId, conv: &ConvId) -> Target {
    match conv.peer_of(user) {
        Some(peer) => Target::User(peer),
        None => Target::Conv(conv.clone()),
    }
}

struct Plan {
    index: usize,
    share: usize,
    groups: Vec<ConvId>,
    directs: Vec<ConvId>,
    options: Options,
}

async fn talk(handle: Handle, plan: Plan) -> anyhow::Result<()> {
    // Another stream than the one that drew the options.
    let mut rng = StdRng::seed_from_u64(plan.options.seed.wrapping_mul(31).wrapping_add(1 + plan.index as u64));
    for number in 0..plan.share {
        let pause = plan.options.pause.as_micros() as u64;
        sleep(Duration::from_micros(rng.random_range(0..=2 * pause))).await;
        let to_group = rng.random_range(0..100) < plan.options.group_percent;
        let among = if to_group || plan.directs.is_empty() { &plan.groups } else { &plan.directs };
        let conv = &among[rng.random_range(0..among.len())];
        let target = target_of(handle.user(), conv);
        let body = format!("{} {number}", handle.user());
        // The answer arrives in the history; the next message does not wait for it.
        handle.submit(target, message(body)).await?;
    }
    Ok(())
}

async fn person(index: usize, urls: Vec<String>, recorder: Recorder) -> anyhow::Result<Person> {
    let name = format!("user{}", index + 1);
    let ip = Ipv4Addr::new(10, 0, 1, u8::try_from(index + 1).context("too many users for one network")?);
    let machine = machine(&name, ip);
    let user = UserId::parse(&name).context("a user's name")?;
    let handle = machine.spawn(enter(name, user.clone(), urls, recorder)).await??;
    Ok(Person { user, handle, machine })
}

/// Registers, then opens the device and keeps its events flowing.
async fn enter(name: String, user: UserId, urls: Vec<String>, recorder: Recorder) -> anyhow::Result<Handle> {
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
    let (handle, mut events) = Device::open(config, store);
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let connected = async {
        while !handle.status().await.is_some_and(|s| s.caught_up) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LOGIN_PATIENCE, connected).await.context("the device does not connect")?;
    Ok(handle)
}
