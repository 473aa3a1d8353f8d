//! One user with one device, on a machine of its own.
//!
//! What its store holds survives the end of the app; everything that it sees and does is in the shared history.

use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context;
use flotilla_client::device::{
    Config, Device, Event, Handle, Outcome, Status, Ticket, fixed_token, message, random_cid,
};
use flotilla_client::history::Recorder;
use flotilla_client::http::{Http, HttpError};
use flotilla_client::store::{Change, MemStore, Store};
use flotilla_proto::entry::{HistoryAccess, What};
use flotilla_proto::frame::{Accepted, SyncRequest, Target};
use flotilla_proto::ids::{Cid, ConvId, Seq, UserId};
use madsim::net::NetSim;
use madsim::runtime::{Handle as World, NodeHandle};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::kit::Fail;
use crate::cluster::{CLIENT_PORT, machine};

const PASSWORD: &str = "correct horse battery staple";
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Person {
    pub user: UserId,
    /// In the history.
    label: String,
    pub machine: NodeHandle,
    urls: Vec<String>,
    token: String,
    store: MemStore,
    recorder: Recorder,
    handle: RefCell<Option<Handle>>,
    events: std::sync::Arc<std::sync::Mutex<Vec<Event>>>,
}

impl Person {
    /// Registers; the app is not started yet.
    pub async fn register(name: &str, number: u8, urls: Vec<String>, recorder: Recorder) -> anyhow::Result<Self> {
        let machine = machine(name, Ipv4Addr::new(10, 0, 1, number));
        let user = UserId::parse(name).context("a user's name")?;
        let install = format!("install of {name}");
        let (key, end) = (random_cid(), Instant::now() + PATIENCE);
        let tokens = loop {
            let (url, name, install) = (urls[0].clone(), name.to_owned(), install.clone());
            let asked = machine.spawn(async move { Http::new(url).register(key, &name, PASSWORD, &install).await });
            match asked.await? {
                Ok(tokens) => break tokens,
                Err(error) if error.is_retryable() && Instant::now() < end => sleep(Duration::from_millis(500)).await,
                Err(error) => return Err(error).context("cannot register"),
            }
        };
        let mut store = MemStore::new();
        store.commit(vec![Change::Install(install)]).await?;
        let (handle, events) = (RefCell::new(None), std::sync::Arc::default());
        let label = user.to_string();
        Ok(Self { user, label, machine, urls, token: tokens.access_token, store, recorder, handle, events })
    }

    /// Another device of the same user, beside the first: a new store, which has no device yet.
    pub async fn second(&self) -> anyhow::Result<Self> {
        let mut store = MemStore::new();
        store.commit(vec![Change::Install(format!("second install of {}", self.user))]).await?;
        Ok(Self {
            user: self.user.clone(),
            label: format!("{}2", self.user),
            machine: self.machine.clone(),
            urls: self.urls.clone(),
            token: self.token.clone(),
            store,
            recorder: self.recorder.clone(),
            handle: RefCell::new(None),
            events: std::sync::Arc::default(),
        })
    }

    /// Starts the app on what its store holds; connects to whichever node it reaches.
    pub async fn opens(&self) -> Result<(), Fail> {
        let mut config = Config::new(self.urls.clone(), self.user.clone(), fixed_token(self.token.clone()));
        (config.label, config.recorder) = (self.label.clone(), self.recorder.clone());
        let (store, seen) = (self.store.clone(), self.events.clone());
        let opened = self.machine.spawn(async move {
            let (handle, mut events) = Device::open(config, store);
            tokio::spawn(async move {
                while let Some(event) = events.recv().await {
                    seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(event);
                }
            });
            handle
        });
        *self.handle.borrow_mut() = Some(opened.await.map_err(anyhow::Error::from)?);
        Ok(())
    }

    /// The app dies: nothing is said to anybody, the store stays.
    pub fn app_dies(&self) {
        *self.handle.borrow_mut() = None;
    }

    /// Acks what is due, says good-bye.
    pub async fn closes(&self) {
        let handle = self.handle.borrow_mut().take();
        if let Some(handle) = handle {
            handle.close().await;
        }
    }

    /// None while the app does not run.
    fn open_handle(&self) -> Option<Handle> {
        self.handle.borrow().clone()
    }

    fn handle(&self) -> Result<Handle, Fail> {
        self.open_handle()
            .ok_or_else(|| Fail::Broken(format!("the story lets {} act while its app is dead", self.user)))
    }

    pub fn runs(&self) -> bool {
        self.handle.borrow().is_some()
    }

    pub async fn status(&self) -> Status {
        match self.open_handle() {
            Some(handle) => handle.status().await.unwrap_or_default(),
            None => Status::default(),
        }
    }

    /// The number of the node that serves it, from 0; none while it is not caught up.
    pub async fn node(&self) -> Option<usize> {
        let status = self.status().await;
        let url = status.connected.filter(|_| status.caught_up)?;
        self.urls.iter().position(|known| *known == url)
    }

    /// Up to where it has stored a conversation.
    pub async fn has(&self, conv: &ConvId) -> Seq {
        self.status().await.positions.get(conv).copied().unwrap_or_default()
    }

    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    // Talking.

    /// Into the outbox; the answer comes with the ticket.
    pub async fn says(&self, conv: &ConvId, text: &str) -> Result<Ticket, Fail> {
        self.says_as(random_cid(), conv, text).await
    }

    pub async fn says_as(&self, cid: Cid, conv: &ConvId, text: &str) -> Result<Ticket, Fail> {
        self.submits(cid, conv, message(text)).await
    }

    async fn submits(&self, cid: Cid, conv: &ConvId, what: What) -> Result<Ticket, Fail> {
        let target = match conv.peer_of(&self.user) {
            Some(peer) => Target::User(peer),
            None => Target::Conv(conv.clone()),
        };
        self.handle()?.submit_as(cid, target, what).await.map_err(|e| Fail::Broken(format!("no send: {e}")))
    }

    /// Waits until it is accepted.
    pub async fn sends(&self, conv: &ConvId, text: &str) -> Result<Accepted, Fail> {
        self.sends_as(random_cid(), conv, text).await
    }

    pub async fn sends_as(&self, cid: Cid, conv: &ConvId, text: &str) -> Result<Accepted, Fail> {
        self.is_accepted(self.says_as(cid, conv, text).await?).await
    }

    /// More than a text.
    pub async fn sends_what(&self, conv: &ConvId, what: What) -> Result<Accepted, Fail> {
        self.is_accepted(self.submits(random_cid(), conv, what).await?).await
    }

    pub async fn is_accepted(&self, ticket: Ticket) -> Result<Accepted, Fail> {
        let user = &self.user;
        match tokio::time::timeout(PATIENCE, ticket.answer()).await {
            Ok(Outcome::Accepted(accepted)) => Ok(accepted),
            Ok(other) => Err(Fail::Broken(format!("liveness: a send of {user} was not accepted but {other:?}"))),
            Err(_) => Err(Fail::Broken(format!("liveness: no answer to a send of {user} within {PATIENCE:?}"))),
        }
    }

    pub async fn makes_group(&self, others: &[&Person]) -> Result<ConvId, Fail> {
        let others: Vec<UserId> = others.iter().map(|person| person.user.clone()).collect();
        let made = self.handle()?.create_group(random_cid(), "group", &others, HistoryAccess::FromJoin).await;
        made.map_err(|e| Fail::Broken(format!("liveness: no group: {e}")))
    }

    pub async fn makes_channel(&self, others: &[&Person]) -> Result<ConvId, Fail> {
        let others: Vec<UserId> = others.iter().map(|person| person.user.clone()).collect();
        let made = self.handle()?.create_channel(random_cid(), "channel", &others, HistoryAccess::FromJoin).await;
        made.map_err(|e| Fail::Broken(format!("liveness: no channel: {e}")))
    }

    pub async fn puts_out(&self, conv: &ConvId, other: &Person) -> Result<(), Fail> {
        let done = self.handle()?.remove_member(random_cid(), conv, &other.user).await;
        done.map(|_| ()).map_err(|e| Fail::Broken(format!("liveness: {} cannot be put out: {e}", other.user)))
    }

    pub async fn takes_in(&self, conv: &ConvId, other: &Person) -> Result<(), Fail> {
        let done = self.handle()?.add_members(random_cid(), conv, std::slice::from_ref(&other.user)).await;
        done.map(|_| ()).map_err(|e| Fail::Broken(format!("liveness: {} cannot be taken in: {e}", other.user)))
    }

    pub async fn leaves(&self, conv: &ConvId) -> Result<(), Fail> {
        let done = self.handle()?.leave(random_cid(), conv).await;
        done.map(|_| ()).map_err(|e| Fail::Broken(format!("liveness: {} cannot leave: {e}", self.user)))
    }

    pub async fn reads(&self, conv: &ConvId, seq: Seq) -> Result<(), Fail> {
        self.handle()?.read(conv.clone(), seq).await;
        Ok(())
    }

    /// The receipts of this group, on the connection that there is.
    pub async fn watches(&self, conv: &ConvId) -> Result<(), Fail> {
        let asked = self.handle()?.watch_receipts(vec![conv.clone()]).await;
        asked.map(|_| ()).map_err(|e| Fail::Broken(format!("liveness: receipts cannot be watched: {e}")))
    }

    /// A request without the app, through this node.
    pub async fn web(&self, node: usize, method: &str, path: &str, body: Value) -> Result<Value, HttpError> {
        let http = Http::new(self.urls[node].clone()).with_token(self.token.clone());
        let (method, path) = (method.parse().expect("a verb of ours"), path.to_owned());
        let asked = self.machine.spawn(async move {
            let body = Some(&body).filter(|body| !body.is_null());
            http.json(method, &path, Some(random_cid()), body).await
        });
        asked.await.unwrap_or(Err(HttpError::Timeout))
    }

    /// The head of a conversation as the server tells it now; none if it does not answer.
    pub async fn reads_head(&self, conv: &ConvId) -> Option<Seq> {
        let asked = self.open_handle()?.sync(SyncRequest { rev: None, limit: None }).await;
        asked.ok()?.convs.iter().find(|row| row.conv == *conv).map(|row| row.head)
    }

    // Its network.

    /// Of the cluster only these nodes reach it, and it only them.
    pub fn sees_only(&self, nodes: &[usize]) {
        for at in 0..self.urls.len() {
            let Some(node) = node_of(at) else { continue };
            let (net, me) = (NetSim::current(), self.machine.id());
            if nodes.contains(&at) {
                net.unclog_link(me, node.id());
                net.unclog_link(node.id(), me);
            } else {
                net.clog_link(me, node.id());
                net.clog_link(node.id(), me);
            }
        }
    }

    pub fn sees_all(&self) {
        self.sees_only(&(0..self.urls.len()).collect::<Vec<_>>());
    }
}

/// The machine of a node.
pub fn node_of(at: usize) -> Option<NodeHandle> {
    World::current().get_node(format!("node{}", at + 1))
}

/// Where clients find a node.
pub fn url_of(ip: Ipv4Addr) -> String {
    format!("http://{ip}:{CLIENT_PORT}")
}
