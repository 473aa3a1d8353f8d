//! How the cluster half of a node comes up, and goes down.
//!
//! Order: the boot number is durable first; then the peer port answers; a node without a plan waits to be adopted; with
//! one it opens its control replica, registers, opens its other replicas, and is ready when its groups have leaders.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use flotilla_machine::Effect;
use flotilla_machine::command::NodeInfo;
use flotilla_machine::control::boot;
use flotilla_machine::query::ControlState;
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_raft::peer::{Peers, PeersConfig};
use flotilla_raft::runtime::blocking;
use flotilla_raft::seam::net::Listener;
use flotilla_raft::set::{Groups, Placement, Router, SetOptions};
use flotilla_raft::{Hooks, Timings, replicas};
use flotilla_storage::Engine;
use tokio::sync::{Notify, mpsc, watch};

use super::leader::Leading;
use super::local::{Local, LocalError};

use super::pending::Pending;
use super::serve::Service;
use super::wire::Plan;
use super::{
    Cluster, Metrics, control, figures, keepalive, levels, live_receipts, presence, pressure, pulls, push, tables,
    typing,
};
use crate::auth::wrap;
use crate::backend::{NodeView, SigningKey};
use crate::metrics::Registry;

/// Everything a node needs that is not in its data.
pub struct Options {
    pub info: NodeInfo,
    pub insecure_peers: bool,
    pub lease: Duration,
    pub timings: Timings,
    pub engine: Arc<dyn Engine>,
    pub registry: Arc<Registry>,
    /// The disk came back without writes that were synced: none of its replicas votes again under its id.
    pub tail_lost: bool,
    /// Told once why the process must end.
    pub fatal: mpsc::Sender<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Local(#[from] LocalError),
    #[error("this node cannot start: {0}")]
    Groups(String),
}

/// Passes what the groups say on to the cluster, once it exists.
#[derive(Default)]
struct ClusterHooks(OnceLock<Weak<Cluster>>);

impl ClusterHooks {
    fn cluster(&self) -> Option<Arc<Cluster>> {
        self.0.get()?.upgrade()
    }
}

impl Hooks for ClusterHooks {
    fn on_applied(&self, shard: ShardId, effects: Vec<Effect>) {
        let Some(cluster) = self.cluster() else { return };
        if effects.contains(&Effect::Control) {
            cluster.control_changed.notify_one();
        }
        let leader = cluster.leaders().get(&shard).map(|l| l.leader.clone());
        if let Some(leader) = leader {
            effects.into_iter().for_each(|effect| leader.on_effect(&cluster, effect));
        }
    }

    fn on_damaged(&self, shard: ShardId, replica: ReplicaId, what: String) {
        // `open_group` sees the same error and replaces the replica.
        tracing::error!(%shard, %replica, %what, "a replica is damaged");
    }

    fn on_forgotten(&self, shard: ShardId, replica: ReplicaId, what: String) {
        let Some(cluster) = self.cluster() else { return };
        cluster.clone().spawn_vital("fencing what the disk has lost", async move {
            let held = distrust_held(&cluster.local, cluster.engine.clone(), cluster.node).await;
            let then = match held {
                Ok(()) => "start it again: its replicas come back as learners of new generations".to_string(),
                Err(error) => format!("and this cannot be remembered ({error}): start it with an empty directory"),
            };
            cluster.fatal(format!(
                "the disk of node {} has lost writes that were synced: replica {replica} of shard {shard} has forgotten \
                 {what}. Check the disk (a cache that lies about syncs?), then {then}",
                cluster.node
            ));
        });
    }

    fn on_fatal(&self, shard: Option<ShardId>, reason: String) {
        match self.cluster() {
            Some(cluster) => cluster.fatal(shard.map_or(reason.clone(), |shard| format!("shard {shard}: {reason}"))),
            None => tracing::error!(?shard, %reason, "fatal while starting"),
        }
    }
}

impl Cluster {
    pub async fn start(options: Options, listener: Listener) -> Result<Arc<Self>, StartError> {
        let node = options.info.node;
        let local = Local::new(options.engine.clone());
        // Before any other write: each one brings the database nearer to its watermark, and the next start must not take it
        // for whole because this one ended in between.
        if options.tail_lost {
            distrust_held(&local, options.engine.clone(), node).await?;
        }
        local.claim(node).await?;
        local.check_refused()?;
        let boot = local.next_boot().await?;
        let plan = local.plan()?;
        let clocks: Arc<super::clocks::Clocks> = Arc::default();
        let hooks = Arc::new(ClusterHooks::default());
        let service = Arc::new(Service::default());
        let peers_config = PeersConfig {
            node,
            incarnation: Incarnation(boot),
            cluster: plan.as_ref().map(|p| p.cluster),
            insecure_peers: options.insecure_peers,
        };
        let router = Router::new(service.clone());
        let peers = Peers::start(peers_config, listener, router.clone());
        let groups_options = SetOptions {
            cluster: plan.as_ref().map_or_else(String::new, |p| p.cluster.to_string()),
            timings: options.timings,
            engine: options.engine.clone(),
            hooks: hooks.clone(),
            display: {
                let clocks = clocks.clone();
                Arc::new(move || clocks.display())
            },
            log_cache_bytes: options.timings.log_cache_bytes,
        };
        let groups = Groups::start(groups_options, peers.clone(), &router);
        let view = NodeView {
            id: node,
            incarnation: Incarnation(0),
            cluster: plan.as_ref().map_or(ClusterId(0), |p| p.cluster),
            epoch: plan.as_ref().map_or(Epoch(0), |p| p.epoch),
            level: plan.as_ref().map_or(1, |p| p.settings.feature_level),
            urls: Arc::new([options.info.client_url.clone()]),
            draining: false,
            ready: false,
        };
        let cluster = Arc::new(Self {
            node,
            info: options.info,
            boot: AtomicU64::new(boot),
            returning: AtomicBool::new(false),
            admitted: AtomicBool::new(false),
            insecure_peers: options.insecure_peers,
            engine: options.engine,
            groups,
            peers,
            tables: tables::Tables::default(),
            client_limits: watch::channel(Default::default()).0,
            local,
            plan: plan.map_or_else(OnceLock::new, OnceLock::from),
            incarnation: watch::channel(Incarnation(0)).0,
            incarnation_refused: Notify::new(),
            control_changed: Notify::new(),
            sessions: Default::default(),
            receiver: Default::default(),
            hints: Pending::new(limits::WATCHED_MAX),
            typing: Default::default(),
            renewals: Default::default(),
            clocks,
            strained: Default::default(),
            pressure: Default::default(),
            levels: Default::default(),
            metrics: Metrics::new(&options.registry),
            leaders: Mutex::new(BTreeMap::new()),
            view: watch::channel(view).0,
            keys: watch::channel(vec![]).0,
            disk_low: Default::default(),
            adopting: Default::default(),
            forgetting: Default::default(),
            fatal: options.fatal,
            lease: options.lease,
        });
        figures::register(&options.registry, &cluster);
        // Set once, right here.
        let _ = hooks.0.set(Arc::downgrade(&cluster));
        service.set(&cluster);
        match cluster.plan.get() {
            Some(plan) => cluster.open(plan).await.map_err(StartError::Groups)?,
            None => tracing::info!(%node, "this node belongs to no cluster yet: waiting for `flotilla init`"),
        }
        Ok(cluster)
    }

    /// Takes the plan for ever. The same one again is harmless. `returning`: the cluster lives and has seen this boot
    /// number of the node, so this directory is a new one, and the replicas of the plan are lost. Done once it is durable.
    pub async fn adopt(self: &Arc<Self>, plan: Plan, secret: [u8; 32], returning: Option<u64>) -> Result<(), String> {
        let cluster = self.clone();
        // In a task of its own: whoever asks may stop waiting half-way, and what the disk has the memory must have too.
        let adopting =
            self.spawn_vital("adopting a plan", async move { cluster.take_plan(plan, secret, returning).await });
        adopting.await.unwrap_or_else(|_| Err("this node stops".into()))
    }

    async fn take_plan(self: &Arc<Self>, plan: Plan, secret: [u8; 32], returning: Option<u64>) -> Result<(), String> {
        // One at a time: of two plans at once, one must not reach the disk and the other the memory.
        let _one = self.adopting.lock().await;
        if let Some(mine) = self.plan.get() {
            return if mine.cluster == plan.cluster {
                Ok(())
            } else {
                Err(format!(
                    "node {} belongs to cluster {} for ever; give it an empty data directory",
                    self.node, mine.cluster
                ))
            };
        }
        levels::check_known(plan.settings.feature_level).map_err(|why| format!("node {}: {why}", self.node))?;
        if !plan.slots.is_whole() || plan.nodes.iter().all(|n| n.node != self.node) {
            return Err(format!("the plan does not name node {}", self.node));
        }
        match returning {
            // Without a mark on the disk no replica is ever opened: an empty one must not vote under an old id.
            None => self.mark_founders(&plan).await?,
            Some(seen) => {
                self.take_next_directory(seen).await?;
                self.returning.store(true, Ordering::Relaxed);
                let boot = boot::Shown(self.boot());
                tracing::warn!(node = %self.node, %boot, "coming back to the cluster with an empty data directory");
            }
        }
        self.local.adopt(&plan, secret).await.map_err(|e| e.to_string())?;
        self.peers.set_cluster(plan.cluster);
        // Set once: this is under the lock, and there was none.
        let plan = self.plan.get_or_init(|| plan).clone();
        let cluster = self.clone();
        // Not waited for: it asks all peers, of which one may be away for longer than whoever adopts this node waits.
        self.spawn_vital("opening", async move {
            if let Err(why) = cluster.open(&plan).await {
                // Half open it would serve nobody, and say that it has adopted the plan.
                cluster.fatal(why);
            }
        });
        Ok(())
    }

    /// The numbers of a directory that the cluster has seen nothing of.
    pub(super) async fn take_next_directory(&self, seen: u64) -> Result<(), String> {
        let next = boot::of_next_directory(seen).ok_or("this node has had more directories than can be counted")?;
        let boot = self.boot().max(next);
        self.local.raise_boot(boot).await.map_err(|e| e.to_string())?;
        self.boot.store(boot, Ordering::Relaxed);
        self.peers.raise_incarnation(Incarnation(boot));
        Ok(())
    }

    /// Opens the control replica and starts what runs for as long as the node does. The other replicas follow when the
    /// cluster has taken this process in: a directory that was rolled back must not vote.
    async fn open(self: &Arc<Self>, plan: &Plan) -> Result<(), String> {
        let kept = self.local.tables().map_err(|e| e.to_string())?;
        let known = kept.unwrap_or_else(|| tables::from_plan(plan));
        levels::check_known(known.settings.feature_level)?;
        self.tables.offer(known);
        // Before any peer is dialled: they would take this process for the node's newest life and end the other one's.
        control::ask_peers(self).await?;
        self.follow_tables();
        self.open_control().await?;
        self.receiver.expect(self.data_shards().into_iter());
        let lease = self.lease;
        self.spawn_vital("registration", control::run_registration(self.clone()));
        self.spawn_vital("lease renewal", control::run_renewal(self.clone(), lease));
        self.spawn_vital("limits on clients", control::run_limits(self.clone()));
        self.spawn_vital("the control leader's work", control::run_leader(self.clone(), lease));
        self.spawn_vital("presentation of sessions", push::receiver::run_sync(self.clone()));
        self.spawn_vital("the subscriptions of this gateway", pulls::run(self.clone()));
        self.spawn_vital("the receipts watched at this gateway", live_receipts::run(self.clone()));
        self.spawn_vital("the watch over silent shards", push::receiver::run_silence(self.clone(), lease));
        self.spawn_vital("presence", presence::run(self.clone()));
        self.spawn_vital("typing", typing::run(self.clone()));
        self.spawn_vital("typing for members", typing::run_spread(self.clone()));
        self.spawn_vital("the pulse", pressure::run(self.pressure.clone()));
        self.spawn_vital("keepalives", keepalive::run(self.clone()));
        self.spawn_vital("following the tables", run_tables(self.clone()));
        self.spawn_vital("readiness", run_readiness(self.clone()));
        Ok(())
    }

    /// Tells the groups of this node where their replicas shall be, and who shall lead.
    pub(super) fn place(&self) {
        let Some(state) = self.tables.current() else { return };
        for (shard, replicas) in &state.placement {
            let stays = |r: &&ReplicaId| !state.retiring.contains(&(*shard, **r));
            let order = self.strained.order(replicas.iter().filter(stays).copied());
            self.groups.place(*shard, Placement::of_voters(order));
        }
    }

    /// What follows from the tables at once: peers' addresses, URLs, keys.
    fn follow_tables(&self) {
        let Some(state) = self.tables.current() else { return };
        for row in &state.nodes {
            self.peers.set_address(row.info.node, &row.info.peer_addr);
        }
        let mine = self.info.client_url.clone();
        let others = state.nodes.iter().filter(|r| r.info.node != self.node && !r.lapsed);
        let urls: Arc<[_]> = std::iter::once(mine).chain(others.map(|r| r.info.client_url.clone())).collect();
        self.view.send_if_modified(|view| {
            let level = state.settings.feature_level;
            let ids = (state.cluster, state.epoch, level);
            let changed = view.urls != urls || (view.cluster, view.epoch, view.level) != ids;
            // Unchanged, they stay those that the connections have.
            if view.urls != urls {
                view.urls = urls;
            }
            (view.cluster, view.epoch, view.level) = ids;
            changed
        });
        let secret = self.local.secret().ok().flatten();
        let keys = state.keys.iter().map(|row| {
            let private = secret.as_ref().and_then(|secret| wrap::unwrap(secret, row.id, &row.wrapped).ok());
            if private.is_none() {
                tracing::error!(
                    key = row.id,
                    "cannot unwrap this signing key: the cluster secret of this node does not fit"
                );
            }
            SigningKey { id: row.id, public: row.public, private }
        });
        self.keys.send_replace(keys.collect());
    }

    /// Hands all leaderships over, waits a bounded time, stops.
    pub async fn shutdown(&self) {
        self.set_draining();
        self.groups.shutdown().await;
        self.leaders().clear();
        self.peers.shutdown().await;
    }
}

/// No replica that this directory holds runs again under its id. One write-ahead log carries them all, so what was lost of
/// one may have been lost of any. What the directory itself remembers counts, not only what its tables say: they are
/// written unsynced, and may have fallen back behind a replica's newest generation.
async fn distrust_held(local: &Local, engine: Arc<dyn Engine>, node: NodeId) -> Result<(), LocalError> {
    let held = blocking(move || replicas::list(&*engine)).await?;
    let mut all: Vec<_> = held.into_iter().map(|(shard, g)| (shard, ReplicaId::new(node, g))).collect();
    if let Some(plan) = local.plan()? {
        all.extend(replicas_of(node, &plan, local.tables()?.as_ref()));
    }
    local.distrust(&all).await
}

/// All replicas of this node that the plan or newer tables name.
fn replicas_of(node: NodeId, plan: &Plan, tables: Option<&ControlState>) -> Vec<(ShardId, ReplicaId)> {
    let placements = plan.placement.iter().chain(tables.iter().flat_map(|t| &t.placement));
    placements.flat_map(|(shard, all)| all.iter().map(|r| (*shard, *r))).filter(|(_, r)| r.node == node).collect()
}

async fn run_tables(cluster: Arc<Cluster>) {
    let mut tables = cluster.tables.watch();
    while tables.changed().await.is_ok() {
        cluster.follow_tables();
        cluster.place();
        cluster.forget_old_replicas().await;
    }
}

/// Starts and ends what a leader does.
pub(super) async fn follow_leadership(cluster: Arc<Cluster>, shard: ShardId) {
    let Some(group) = cluster.groups.get(shard) else { return };
    let mut leadership = group.watch_leadership();
    loop {
        let now = *leadership.borrow_and_update();
        let term = (now.leads && now.ready).then_some(now.term);
        let running = cluster.leaders().get(&shard).map(|l| l.leader.term);
        if term != running {
            // Dropped outside of the lock: ending tasks may wake others.
            let old = cluster.leaders().remove(&shard);
            if old.is_some() && term.is_none() {
                tracing::info!(%shard, "no longer leading");
            }
            drop(old);
            if let Some(term) = term {
                tracing::info!(%shard, term, "leading");
                cluster.metrics.leaderships.inc();
                // Under the lock: an effect that came between the pumps' first look at the rows and the entry in the map
                // would wake nobody.
                let mut leaders = cluster.leaders();
                leaders.insert(shard, Leading::start(&cluster, group.clone(), shard, term));
            }
        }
        if leadership.changed().await.is_err() {
            return;
        }
    }
}

/// Ready: registered, and every replica here knows a leader.
async fn run_readiness(cluster: Arc<Cluster>) {
    let mut timer = tokio::time::interval(Duration::from_millis(100));
    loop {
        timer.tick().await;
        let incarnation = *cluster.incarnation.borrow();
        let led = cluster.admitted.load(Ordering::Acquire) && cluster.groups.all().iter().all(|g| g.leader().is_some());
        cluster.view.send_if_modified(|view| {
            let ready = !view.draining && incarnation > Incarnation(0) && led;
            let changed = view.ready != ready || view.incarnation != incarnation;
            if view.ready != ready {
                tracing::info!(node = %cluster.node, ready, "readiness changed");
            }
            (view.ready, view.incarnation) = (ready, incarnation);
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use flotilla_storage::MemEngine;

    use super::*;

    #[tokio::test]
    async fn a_lost_tail_distrusts_also_generations_that_the_tables_do_not_know_and_in_the_first_write() {
        let engine: Arc<dyn Engine> = Arc::new(MemEngine::new());
        replicas::add(&*engine, ShardId(3), Generation(5)).expect("added");
        let before = engine.last_write();
        let local = Local::new(engine.clone());
        distrust_held(&local, engine.clone(), NodeId(2)).await.expect("written");
        let replica = ReplicaId::new(NodeId(2), Generation(5));
        assert_eq!(local.distrusted().expect("readable"), [(ShardId(3), replica)], "without plan and tables");
        assert_eq!(engine.last_write().0, before.0 + 1, "one write, so it is all or nothing");
    }
}
