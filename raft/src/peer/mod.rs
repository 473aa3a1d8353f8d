//! The network between nodes: requests, casts and transfers, over few and batched connections.
//!
//! - [`frame`] bytes on the wire · [`hello`] the handshake · [`service`] kinds, outcomes, and what a node does for its peers
//! - [`outbox`] what waits for one peer · [`dial`], [`remote`] the dialing side · [`server`], [`serve`] the accepting side
//! - [`bulk`] transfers with flow control
//!
//! Each node dials each other node once for Raft, requests and casts; answers come back on the same connection. Invariants: every
//! request is settled by its deadline as answered, refused (no effect), not sent (proof), or unknown; everything is bounded.
//! It does not know Raft, nor where addresses come from.

pub mod bulk;
pub mod dial;
pub mod frame;
pub mod hello;
pub mod outbox;
pub mod remote;
mod serve;
pub mod server;
pub mod service;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::ids::{ClusterId, Incarnation, NodeId};
use flotilla_proto::limits;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use bulk::{BulkError, BulkStream};
pub use dial::{Caller, DialError};
pub use hello::{HelloRefusal, Lane, RefusalCode, Welcome};
pub use remote::Link;
pub use service::{NotSent, Outcome, PeerInfo, PeerRefusal, PeerService, kind};

use crate::seam::net::{self, Listener};
use remote::Remote;

/// A byte stream between two nodes, whatever secures it.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}
pub type BoxIo = Box<dyn Io>;

/// Who this node is.
#[derive(Debug, Clone)]
pub struct PeersConfig {
    pub node: NodeId,
    pub incarnation: Incarnation,
    /// None until `init` or a join gives one.
    pub cluster: Option<ClusterId>,
    /// Plain TCP beyond loopback is allowed.
    pub insecure_peers: bool,
}

/// Why the peer port cannot be opened, with what to do.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("cannot listen for peers on {addr}; is another process there? choose another --peer-addr")]
    Io { addr: String, source: std::io::Error },
    #[error(
        "peer address {addr} is reachable from other machines, and peer connections are not encrypted: \
         use a loopback address, or set insecure_peers = true if the network between the nodes is trusted"
    )]
    Insecure { addr: String },
}

/// Opens the peer port: loopback only, unless told that the network is trusted.
pub async fn bind(addr: &str, insecure_peers: bool) -> Result<Listener, BindError> {
    let io = |source| BindError::Io { addr: addr.to_owned(), source };
    if !insecure_peers && !dial::all_loopback(&net::resolve(addr).await.map_err(io)?) {
        return Err(BindError::Insecure { addr: addr.to_owned() });
    }
    net::bind(addr).await.map_err(io)
}

/// One peer, for operators.
#[derive(Debug, Clone)]
pub struct PeerStatus {
    pub node: NodeId,
    pub addr: Option<String>,
    pub link: Link,
    /// Messages that wait for the socket.
    pub queued: usize,
    /// Requests without an answer.
    pub open: usize,
    /// Connections tried since the start, transfers included.
    pub attempts: u64,
}

/// What all connections of this node share.
pub struct Shared {
    node: NodeId,
    incarnation: AtomicU64,
    insecure_peers: bool,
    cluster: watch::Sender<Option<ClusterId>>,
    stop: watch::Sender<bool>,
    /// How often in a row each peer's address has refused a connection.
    refusals: watch::Sender<BTreeMap<NodeId, u32>>,
    seen: server::Seen,
    bulk_served: Semaphore,
    service: Arc<dyn PeerService>,
}

impl Shared {
    fn incarnation(&self) -> Incarnation {
        Incarnation(self.incarnation.load(Ordering::Relaxed))
    }

    /// What dialing a peer has come to.
    fn on_dialed(&self, node: NodeId, refused: bool) {
        self.refusals.send_if_modified(|refusals| {
            if refused {
                let times = refusals.entry(node).or_insert(0);
                *times = times.saturating_add(1);
            }
            refused || refusals.remove(&node).is_some()
        });
    }

    fn caller(&self) -> Caller {
        Caller {
            node: Some(self.node),
            incarnation: self.incarnation(),
            cluster: *self.cluster.borrow(),
            insecure_peers: self.insecure_peers,
        }
    }
}

/// This node's connections to all others, and theirs to it.
pub struct Peers {
    shared: Arc<Shared>,
    remotes: Mutex<BTreeMap<NodeId, Arc<Remote>>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Peers {
    pub fn start(config: PeersConfig, listener: Listener, service: Arc<dyn PeerService>) -> Arc<Self> {
        let shared = Arc::new(Shared {
            node: config.node,
            incarnation: AtomicU64::new(config.incarnation.0),
            insecure_peers: config.insecure_peers,
            cluster: watch::Sender::new(config.cluster),
            stop: watch::Sender::new(false),
            refusals: watch::Sender::default(),
            seen: server::Seen::default(),
            bulk_served: Semaphore::new(limits::PEER_BULK_SERVE_MAX),
            service,
        });
        let accept = tokio::spawn(server::run(listener, shared.clone()));
        Arc::new(Self { shared, remotes: Mutex::default(), tasks: Mutex::new(vec![accept]) })
    }

    pub fn node(&self) -> NodeId {
        self.shared.node
    }

    pub fn incarnation(&self) -> Incarnation {
        self.shared.incarnation()
    }

    /// For a node that learns, before it belongs to a cluster, that its peers have seen a higher one: they would refuse it.
    pub fn raise_incarnation(&self, incarnation: Incarnation) {
        self.shared.incarnation.fetch_max(incarnation.0, Ordering::Relaxed);
    }

    pub fn cluster(&self) -> Option<ClusterId> {
        *self.shared.cluster.borrow()
    }

    /// The node has become part of a cluster. Once: false if it belongs to another one.
    pub fn set_cluster(&self, cluster: ClusterId) -> bool {
        let mut fits = true;
        self.shared.cluster.send_if_modified(|mine| match mine {
            Some(mine) => {
                fits = *mine == cluster;
                false
            }
            None => {
                *mine = Some(cluster);
                true
            }
        });
        fits
    }

    /// Where a peer listens for peers (host:port); dials it from now on. Itself is ignored.
    pub fn set_address(&self, node: NodeId, addr: &str) {
        if node == self.shared.node || *self.shared.stop.borrow() {
            return;
        }
        let mut remotes = self.remotes.lock().unwrap_or_else(PoisonError::into_inner);
        let remote = remotes.entry(node).or_insert_with(|| {
            let remote = Arc::new(Remote::new(node));
            let task = tokio::spawn(remote.clone().run(self.shared.clone()));
            self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
            remote
        });
        remote.set_addr(addr.to_owned());
    }

    fn remote(&self, node: NodeId) -> Option<Arc<Remote>> {
        self.remotes.lock().unwrap_or_else(PoisonError::into_inner).get(&node).cloned()
    }

    pub fn is_connected(&self, node: NodeId) -> bool {
        node == self.shared.node || self.remote(node).is_some_and(|r| r.is_connected())
    }

    /// Peers whose address refuses connections, and how often in a row it did: no process listens there. Says nothing of those that
    /// cannot be reached.
    pub fn refusals(&self) -> watch::Receiver<BTreeMap<NodeId, u32>> {
        self.shared.refusals.subscribe()
    }

    pub fn status(&self) -> Vec<PeerStatus> {
        self.remotes.lock().unwrap_or_else(PoisonError::into_inner).values().map(|r| r.status()).collect()
    }

    fn info(&self) -> PeerInfo {
        PeerInfo { node: self.shared.node, incarnation: self.shared.incarnation(), lane: Lane::Main }
    }

    /// Asks a peer. Settled by the deadline at the latest. A request to this node itself goes straight to its service.
    pub async fn request(&self, to: NodeId, kind: u8, payload: Bytes, deadline: Instant) -> Outcome {
        let left = deadline.saturating_duration_since(Instant::now());
        if to == self.shared.node {
            return match tokio::time::timeout(left, self.shared.service.request(self.info(), kind, payload)).await {
                Ok(Ok(answer)) => Outcome::Answer(answer),
                Ok(Err(refusal)) => Outcome::Refused(refusal),
                Err(_) => Outcome::Unknown,
            };
        }
        let Some(remote) = self.remote(to) else { return Outcome::NotSent(NotSent::NoPeer) };
        if left.is_zero() {
            return Outcome::NotSent(NotSent::Expired);
        }
        let mut ticket = match remote.outbox.request(kind, payload) {
            Ok(ticket) => ticket,
            Err(reason) => return Outcome::NotSent(reason),
        };
        match tokio::time::timeout(left, &mut ticket.answer).await {
            Ok(outcome) => outcome.unwrap_or(Outcome::Unknown),
            Err(_) => ticket.expire(),
        }
    }

    /// Tells a peer something that may be lost; in order while a connection lasts. False: it surely was not sent.
    pub fn cast(&self, to: NodeId, kind: u8, payload: Bytes) -> bool {
        if to == self.shared.node {
            self.shared.service.cast(self.info(), kind, payload);
            return true;
        }
        self.remote(to).is_some_and(|remote| remote.outbox.cast(kind, payload).is_ok())
    }

    /// Opens a transfer to a peer, or gives up as soon as any other connection would.
    ///
    /// Why not wait until the deadline, which is that of all of it: 1. a node takes the connection and its machine goes dead, 2. a
    /// leader waits for its welcome, 3. the node is back at once, and gets no snapshot for as long as the largest one may take.
    pub async fn bulk(&self, to: NodeId, kind: u8, payload: Bytes, deadline: Instant) -> Result<BulkStream, BulkError> {
        let refused = |reason: NotSent| BulkError::Connect(reason.to_string());
        let remote = self.remote(to).ok_or_else(|| refused(NotSent::NoPeer))?;
        let addr = remote.addr().ok_or_else(|| refused(NotSent::NotConnected))?;
        let permit = remote.bulk.clone().try_acquire_owned().map_err(|_| refused(NotSent::Overloaded))?;
        let attempt = remote.next_attempt();
        let deadline = deadline.min(Instant::now() + Duration::from_millis(limits::PEER_HANDSHAKE_MS));
        let established = dial::establish(&self.shared.caller(), &addr, Some(to), Lane::Bulk, attempt, deadline)
            .await
            .map_err(|e| BulkError::Connect(e.to_string()))?;
        let mut stream = BulkStream::new(established.reader, established.writer, vec![permit]);
        stream.open(kind, payload).await?;
        Ok(stream)
    }

    /// One request of a join kind to an address, whether or not either side belongs to a cluster.
    pub async fn join(
        &self,
        addr: &str,
        to: Option<NodeId>,
        kind: u8,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<(Welcome, Outcome), DialError> {
        join(&self.shared.caller(), addr, to, kind, payload, deadline).await
    }

    /// Stops accepting and dialing, closes all connections, and waits a bounded time for it.
    pub async fn shutdown(&self) {
        self.shared.stop.send_replace(true);
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        let all = async {
            for task in tasks {
                let _ = task.await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(limits::PEER_SILENCE_MS), all).await;
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.shared.stop.send_replace(true);
    }
}

/// As [`Peers::join`], also for a tool that is no node.
pub async fn join(
    caller: &Caller,
    addr: &str,
    to: Option<NodeId>,
    kind: u8,
    payload: Bytes,
    deadline: Instant,
) -> Result<(Welcome, Outcome), DialError> {
    let established = dial::establish(caller, addr, to, Lane::Join, 0, deadline).await?;
    let welcome = established.welcome.clone();
    let mut stream = BulkStream::new(established.reader, established.writer, Vec::new());
    let ask = async {
        stream.open(kind, payload).await?;
        stream.recv().await
    };
    let left = deadline.saturating_duration_since(Instant::now());
    let outcome = match tokio::time::timeout(left, ask).await {
        Ok(Ok(Some(answer))) => Outcome::Answer(answer),
        Ok(Err(BulkError::Refused(refusal))) => Outcome::Refused(refusal),
        _ => Outcome::Unknown,
    };
    Ok((welcome, outcome))
}
