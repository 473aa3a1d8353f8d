//! One node, put together: the cluster half, the client-facing half, the watermark and the disk's reserve.
//!
//! The binary and the simulator start the same thing; they differ in the engine, the listeners' addresses and the cost of
//! a password.

use std::sync::Arc;
use std::time::Duration;

use flotilla_machine::command::NodeInfo;
use flotilla_proto::limits;
use flotilla_raft::peer::BindError;
use flotilla_raft::runtime::blocking;
use flotilla_raft::seam::{clock, net};
use flotilla_raft::{Timings, peer};
use flotilla_storage::watermark::{Verdict, Watermark, WatermarkStore, check};
use flotilla_storage::{Engine, StorageError};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::auth::password::Passwords;
use crate::cluster::start::StartError;
use crate::cluster::{Cluster, ClusterBackend, start};
use crate::gateway::limits as limits_on_clients;
use crate::gateway::shared::{Options as ClientOptions, Shared};
use crate::http::server;
use crate::metrics::Registry;

/// What a node is started with.
pub struct NodeOptions {
    pub info: NodeInfo,
    /// Where to listen for clients and for nodes, host:port.
    pub client_addr: String,
    pub peer_addr: String,
    pub insecure_peers: bool,
    pub lease: Duration,
    pub timings: Timings,
    pub clients: ClientOptions,
    pub passwords: Passwords,
    pub engine: Arc<dyn Engine>,
    pub watermark: Arc<dyn WatermarkStore>,
    pub registry: Arc<Registry>,
    /// Whether the disk's reserve is used up; asked every second on a blocking thread.
    pub disk_low: Arc<dyn Fn() -> bool + Send + Sync>,
}

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("cannot listen for clients on {addr}; is another process there? choose another --client-addr")]
    ClientPort { addr: String, source: std::io::Error },
    #[error(transparent)]
    PeerPort(#[from] BindError),
    #[error("the watermark cannot be read: {0}")]
    Watermark(StorageError),
    #[error(transparent)]
    Start(#[from] StartError),
}

/// A running node. Dropping it ends its tasks without any farewell; see [`Node::shutdown`].
pub struct Node {
    pub cluster: Arc<Cluster>,
    pub shared: Arc<Shared>,
    /// Why the process must end, once.
    pub fatal: mpsc::Receiver<String>,
    tasks: Vec<JoinHandle<()>>,
}

const WATERMARK_PERIOD: Duration = Duration::from_millis(500);
const DISK_PERIOD: Duration = Duration::from_secs(1);
/// Clients have followed `goaway`, or were closed with their answers, by then: the life of a connection after it, the last
/// answer, and the farewell.
const DRAIN_MAX: Duration = Duration::from_millis(limits::DRAIN_MS + limits::REQUEST_DEADLINE_MS + 1_000);
/// Nodes that found this one by a health check or a hint learn meanwhile that it goes.
const DRAIN_MIN: Duration = Duration::from_millis(500);
const DRAIN_LOOK: Duration = Duration::from_millis(20);

impl Node {
    pub async fn start(options: NodeOptions) -> Result<Self, NodeError> {
        let tail_lost = tail_lost(&options).await?;
        let addr = options.client_addr.clone();
        let clients = net::bind(&addr).await.map_err(|source| NodeError::ClientPort { addr, source })?;
        let peers = peer::bind(&options.peer_addr, options.insecure_peers).await?;
        let (fatal_tx, fatal) = mpsc::channel(1);
        let cluster = Cluster::start(
            start::Options {
                info: options.info,
                insecure_peers: options.insecure_peers,
                lease: options.lease,
                timings: options.timings,
                engine: options.engine.clone(),
                registry: options.registry.clone(),
                tail_lost,
                fatal: fatal_tx,
            },
            peers,
        )
        .await?;
        let backend = Arc::new(ClusterBackend(cluster.clone()));
        let shared = Shared::new(backend, Arc::new(clock::wall), options.clients, options.passwords, options.registry);
        let shared = Arc::new(shared);
        let limits = limits_on_clients::follow(shared.clone(), cluster.client_limits.subscribe());
        let watermark = keep_watermark(cluster.clone(), options.engine, options.watermark);
        let tasks = vec![
            cluster.spawn_vital("taking clients' connections", server::serve(clients, shared.clone())),
            cluster.spawn_vital("following the limits on clients", limits),
            cluster.spawn_vital("keeping the watermark", watermark),
            cluster.spawn_vital("the watch over the disk", watch_disk(cluster.clone(), options.disk_low)),
        ];
        Ok(Self { cluster, shared, fatal, tasks })
    }

    /// `goaway` to the clients; when they are gone, leaderships are handed over, then everything stops. No send is left
    /// unanswered: a connection ends with the answers to what was asked on it, and nodes find the new leaders by
    /// themselves.
    ///
    /// An error is the reason why the process must end at once: a disk may fail on the way too, and then neither answers
    /// nor a hand-over of this process can be trusted.
    pub async fn shutdown(mut self) -> Result<(), String> {
        let (_, nobody) = mpsc::channel(1);
        let mut fatal = std::mem::replace(&mut self.fatal, nobody);
        tokio::select! {
            biased;
            Some(reason) = fatal.recv() => Err(reason),
            () = self.wind_down() => Ok(()),
        }
    }

    async fn wind_down(&mut self) {
        self.cluster.set_draining();
        tokio::time::sleep(DRAIN_MIN).await;
        let deadline = Instant::now() + DRAIN_MAX;
        while self.shared.figures.connections.get() > 0 && Instant::now() < deadline {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
        self.cluster.shutdown().await;
        self.tasks.drain(..).for_each(|task| task.abort());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Compares what the engine recovered with the watermark, before anything is written.
async fn tail_lost(options: &NodeOptions) -> Result<bool, NodeError> {
    let (engine, store) = (options.engine.clone(), options.watermark.clone());
    let verdict = blocking(move || Ok(check(engine.last_write(), store.read()?))).await;
    match verdict {
        Ok(Verdict::TailLost { expected, found }) => {
            tracing::error!(
                ?expected,
                ?found,
                "the disk came back without writes that were synced: its replicas will not vote again under their ids"
            );
            Ok(true)
        }
        Ok(Verdict::Whole | Verdict::Unknown) => Ok(false),
        // The evidence itself is damaged: assume the worst that it could have said.
        Err(StorageError::Corrupt { what }) => {
            tracing::error!(%what, "the watermark is damaged: replicas will not vote again under their ids");
            Ok(true)
        }
        Err(error) => Err(NodeError::Watermark(error)),
    }
}

async fn keep_watermark(cluster: Arc<Cluster>, engine: Arc<dyn Engine>, store: Arc<dyn WatermarkStore>) {
    let mut timer = tokio::time::interval(WATERMARK_PERIOD);
    let mut written = None;
    loop {
        timer.tick().await;
        // Groups say so themselves. A node that runs none yet, or writes only rows of its own, would go on for ever.
        if let Some(error) = engine.failure() {
            cluster.fatal(format!("nothing can be written any more: {error}"));
            return;
        }
        let synced = engine.synced();
        if written == Some(synced) {
            continue;
        }
        let store = store.clone();
        if let Err(error) = blocking(move || store.write(Watermark(synced))).await {
            cluster.fatal(format!("cannot write the watermark: {error}"));
            return;
        }
        written = Some(synced);
    }
}

async fn watch_disk(cluster: Arc<Cluster>, low: Arc<dyn Fn() -> bool + Send + Sync>) {
    let mut timer = tokio::time::interval(DISK_PERIOD);
    loop {
        timer.tick().await;
        let low = low.clone();
        cluster.set_disk_low(blocking(move || low()).await);
    }
}
