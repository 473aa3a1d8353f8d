//! The cluster half of a node: which groups it holds, what it does for the shards it leads, and how requests reach the
//! leaders of others.
//!
//! - [`router`] user or conversation -> shard -> leader, three outcomes · [`serve`] what is done for a request here
//! - [`leader`] one leadership: [`fanout`], [`receipts`], [`pusher`], [`housekeeping`]
//! - [`push`] numbered streams to gateways, [`keepalive`] · [`sessions`] this gateway's sessions
//! - [`subscribers`] who hears of conversations in pull mode, [`pulls`] and [`subscriptions`] what this gateway hears of them
//! - [`presence`] who is here, for [`watchers`] · [`typing`] what is never stored
//! - [`receipt_interest`] which gateways hear of members' marks, [`live_receipts`] and [`receipt_watches`] for whom
//! - [`start`] the order in which all this comes up · [`replicas`] which replicas run, which are replaced and forgotten
//! - [`control`] registration, leases, tables · [`tables`], [`plan`], [`local`] · [`admin`] `init` and status
//! - [`figures`] metrics of groups and peers · [`clocks`] the median rule · [`strain`] who should not lead · [`wire`] messages between nodes · [`pending`] hints that coalesce

pub mod admin;
pub mod clocks;
pub mod control;
pub mod fanout;
pub mod figures;
mod foretold;
mod fresh;
mod heads;
pub mod housekeeping;
pub mod keepalive;
pub mod leader;
mod levels;
pub mod live;
pub mod live_receipts;
pub mod local;
pub mod pending;
pub mod plan;
pub mod presence;
pub mod pressure;
pub mod pulls;
pub mod push;
pub mod pusher;
pub mod receipt_interest;
pub mod receipt_watches;
pub mod receipts;
mod replicas;
pub mod router;
pub mod serve;
pub mod sessions;
pub mod start;
pub mod strain;
pub mod subscribers;
pub mod subscriptions;
pub mod tables;
mod told;
pub mod typing;
pub mod watchers;
pub mod wire;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use flotilla_machine::command::{ClientLimits, NodeInfo};
use flotilla_machine::query::{ControlState, PresenceView, Standing};
use flotilla_machine::{Answer, Command, Query, Reply};
use flotilla_proto::ids::*;
use flotilla_raft::peer::Peers;
use flotilla_raft::set::Groups;
use flotilla_storage::Engine;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

use crate::backend::{
    Attach, AttachGuard, Backend, CallError, Freshness, MarksOfEach, NodeView, Push, Route, SigningKey, Wanted,
};
use crate::metrics::{Counter, Registry};
use crate::queue;
use leader::Leading;
use wire::Plan;

pub struct Cluster {
    pub node: NodeId,
    pub info: NodeInfo,
    /// The number of this process's start in its data directory.
    boot: AtomicU64,
    /// The directory is a new one and this process has not been taken in yet: no replica is here, nothing was promised.
    returning: AtomicBool,
    /// This process has been taken in, with a boot number that the cluster had not seen.
    admitted: AtomicBool,
    insecure_peers: bool,
    engine: Arc<dyn Engine>,
    pub groups: Arc<Groups>,
    pub peers: Arc<Peers>,
    pub tables: tables::Tables,
    /// What the cluster has set of the limits on clients.
    pub client_limits: watch::Sender<ClientLimits>,
    pub local: local::Local,
    /// What this node was adopted with.
    pub plan: OnceLock<Plan>,
    /// 0 while not registered.
    pub incarnation: watch::Sender<Incarnation>,
    /// Somebody said that this incarnation is dead.
    pub incarnation_refused: Notify,
    pub control_changed: Notify,
    pub sessions: sessions::SessionTable,
    pub receiver: push::receiver::Receiver,
    /// Watched users who may have come or gone.
    pub hints: pending::Pending<UserId, ()>,
    pub typing: typing::Typing,
    pub renewals: control::Renewals,
    pub clocks: Arc<clocks::Clocks>,
    pub strained: strain::Strained,
    pub pressure: Arc<pressure::Pressure>,
    pub levels: levels::Levels,
    pub metrics: Metrics,
    leaders: Mutex<BTreeMap<ShardId, Leading>>,
    view: watch::Sender<NodeView>,
    keys: watch::Sender<Vec<SigningKey>>,
    disk_low: AtomicBool,
    adopting: tokio::sync::Mutex<()>,
    /// Held by whoever deletes what old replicas have stored.
    forgetting: tokio::sync::Mutex<()>,
    fatal: mpsc::Sender<String>,
    lease: std::time::Duration,
}

/// Counters of this half.
pub struct Metrics {
    pub fanout_retries: Arc<Counter>,
    pub fanout_spared: Arc<Counter>,
    pub fanout_reads: Arc<Counter>,
    pub heads_joined: Arc<Counter>,
    pub receipt_retries: Arc<Counter>,
    pub rows_pushed: Arc<Counter>,
    pub casts_dropped: Arc<Counter>,
    pub leaderships: Arc<Counter>,
    pub presence_looks: Arc<Counter>,
    pub pulled_pushes: Arc<Counter>,
    pub pulled_holes: Arc<Counter>,
    pub receipt_pushes: Arc<Counter>,
}

impl Metrics {
    fn new(registry: &Registry) -> Self {
        let counter = |name, help| registry.counter(name, help, &[]);
        Self {
            fanout_retries: counter(
                "flotilla_fanout_retries_total",
                "Batches of heads that a target shard did not take.",
            ),
            fanout_spared: counter(
                "flotilla_fanout_spared_total",
                "Changes of a conversation told to a target shard without a read of its rows.",
            ),
            fanout_reads: counter(
                "flotilla_fanout_reads_total",
                "Changed conversations whose rows were read before a target shard was told.",
            ),
            heads_joined: counter(
                "flotilla_heads_joined_total",
                "Heads that a shard of users was told and wrote as one with others of the conversation.",
            ),
            rows_pushed: counter(
                "flotilla_rows_pushed_total",
                "Changed rows of lists that were told to sessions with all that is in them, so that they need not ask.",
            ),
            receipt_retries: counter(
                "flotilla_receipt_retries_total",
                "Batches of receipts that a target shard did not take, or whose clear did not commit.",
            ),
            casts_dropped: counter("flotilla_casts_dropped_total", "One-way messages to nodes that could not be sent."),
            presence_looks: counter(
                "flotilla_presence_looks_total",
                "Times that a watcher's view of a user was read again.",
            ),
            pulled_pushes: counter(
                "flotilla_pulled_pushes_total",
                "Pushes of conversations in pull mode to gateways that have subscribed.",
            ),
            pulled_holes: counter(
                "flotilla_pulled_holes_total",
                "Pushes of conversations in pull mode with something missing before them.",
            ),
            receipt_pushes: counter(
                "flotilla_receipt_pushes_total",
                "Changes of members' marks told to gateways that have watchers.",
            ),
            leaderships: counter("flotilla_leaderships_total", "Leaderships of shards that began on this node."),
        }
    }
}

impl Cluster {
    pub fn leaders(&self) -> MutexGuard<'_, BTreeMap<ShardId, Leading>> {
        self.leaders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn boot(&self) -> u64 {
        self.boot.load(Ordering::Relaxed)
    }

    /// The feature level that the cluster was made with; before its tables are known the lowest.
    pub fn level(&self) -> u32 {
        self.tables.current().map_or(1, |state| state.settings.feature_level)
    }

    /// All shards that hold slots.
    pub fn data_shards(&self) -> Vec<ShardId> {
        let state = self.tables.current();
        state.iter().flat_map(|s| s.placement.iter().map(|(s, _)| *s)).filter(|s| *s != ShardId::CONTROL).collect()
    }

    /// Whether a slot belongs to `shard`, by the tables of this moment.
    pub fn owner_of(&self, shard: ShardId) -> Option<impl Fn(Slot) -> bool + use<>> {
        let state: Arc<ControlState> = self.tables.current()?;
        Some(move |slot| state.slots.shard(slot) == Some(shard))
    }

    pub async fn take_tables(&self, state: ControlState) {
        if let Err(why) = levels::check_known(state.settings.feature_level) {
            return self.fatal(why);
        }
        if self.tables.offer(state.clone())
            && let Err(error) = self.local.keep_tables(&state).await
        {
            self.fatal(format!("cannot keep the control tables: {error}"));
        }
    }

    pub fn disk_is_low(&self) -> bool {
        self.disk_low.load(Ordering::Relaxed)
    }

    /// Told by the shell that watches the disk.
    pub fn set_disk_low(&self, low: bool) {
        if self.disk_low.swap(low, Ordering::Relaxed) != low {
            tracing::warn!(low, "the disk's reserve was passed: client writes are refused while it is low");
        }
    }

    /// Registered, and every replica here knows a leader.
    pub fn is_ready(&self) -> bool {
        self.view.borrow().ready
    }

    pub fn set_draining(&self) {
        self.view.send_modify(|view| {
            view.draining = true;
            view.ready = false;
        });
    }

    /// A task that a live process cannot do without: a shard whose fan-out has died would accept and never deliver, and
    /// nobody would take over. Its panic ends the process instead.
    pub fn spawn_vital<T: Send + 'static>(
        self: &Arc<Self>,
        what: &'static str,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        tokio::spawn(vital(self.fatal.clone(), what, task))
    }

    /// The process must end: the reason is said by whoever runs it.
    pub fn fatal(&self, reason: String) {
        tracing::error!(%reason, "fatal");
        // Full: a reason is on its way already.
        let _ = self.fatal.try_send(reason);
    }
}

async fn vital<T>(fatal: mpsc::Sender<String>, what: &'static str, task: impl Future<Output = T>) -> T {
    AssertUnwindSafe(task).catch_unwind().await.unwrap_or_else(|panic| {
        tracing::error!(what, "a task panicked");
        // Full: a reason is on its way already.
        let _ = fatal.try_send(format!("{what} panicked"));
        std::panic::resume_unwind(panic)
    })
}

/// The handle that the client-facing half holds.
pub struct ClusterBackend(pub Arc<Cluster>);

impl Backend for ClusterBackend {
    fn execute_while(&self, wanted: Wanted, route: Route, command: Command) -> BoxFuture<'_, Result<Reply, CallError>> {
        Box::pin(async move { self.0.route_command(&route, &command, &wanted).await })
    }

    fn shard_of(&self, route: &Route) -> Option<ShardId> {
        self.0.shard_of(route)
    }

    fn query(&self, route: Route, query: Query, freshness: Freshness) -> BoxFuture<'_, Result<Answer, CallError>> {
        Box::pin(async move { self.0.route_query(&route, &query, &freshness).await })
    }

    fn presence(
        &self,
        by: UserId,
        users: Vec<UserId>,
        watcher: Option<u64>,
    ) -> BoxFuture<'_, Result<Vec<Option<PresenceView>>, CallError>> {
        Box::pin(self.0.presence_of(by, users, watcher))
    }

    fn find_users(&self, prefix: String, limit: u32) -> BoxFuture<'_, Result<(Vec<UserId>, bool), CallError>> {
        Box::pin(async move { self.0.find_users(&prefix, limit).await })
    }

    fn typing(&self, conv: ConvId, user: UserId) {
        self.0.type_in(conv, user);
    }

    fn pulled(&self, session: u64, user: UserId, convs: Vec<(ConvId, Seq)>) -> BoxFuture<'_, Vec<Option<Standing>>> {
        Box::pin(async move { self.0.pulled(session, &user, &convs).await })
    }

    fn receipts(
        &self,
        session: u64,
        user: UserId,
        convs: Vec<ConvId>,
    ) -> BoxFuture<'_, Result<MarksOfEach, CallError>> {
        Box::pin(async move { self.0.watch_receipts(session, &user, &convs).await })
    }

    fn attach(&self, session: Attach, pushes: queue::Sender<Box<Push>>) -> AttachGuard {
        self.0.sessions.attach(session, pushes)
    }

    fn confirm(&self, guard: &AttachGuard, number: SessionNo, rev: Rev) {
        self.0.sessions.confirm(guard.id, number, rev);
    }

    fn node(&self) -> watch::Receiver<NodeView> {
        self.0.view.subscribe()
    }

    fn secret(&self, purpose: &str) -> Option<[u8; 32]> {
        let secret = self.0.local.secret().ok().flatten()?;
        Some(crate::auth::wrap::derive(&secret, purpose))
    }

    fn keys(&self) -> watch::Receiver<Vec<SigningKey>> {
        self.0.keys.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_panic_of_a_vital_task_ends_the_process() {
        let (fatal, mut reason) = mpsc::channel(1);
        tokio::spawn(vital(fatal.clone(), "a task", async {}));
        tokio::spawn(vital(fatal, "a pump", async { panic!("on purpose") }));
        assert_eq!(reason.recv().await.as_deref(), Some("a pump panicked"));
    }
}
