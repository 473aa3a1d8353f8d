//! Follows openraft's metrics: publishes the leadership, and notices a core that died in a living process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flotilla_proto::ids::{ReplicaId, ShardId};
use openraft::async_runtime::WatchReceiver as _;
use openraft::metrics::RaftMetrics;
use tokio::sync::watch;

use super::Leadership;
use crate::hooks::Hooks;
use crate::types::{Raft, TypeConfig};

pub(super) struct Watcher {
    pub raft: Raft,
    pub shard: ShardId,
    pub leadership: watch::Sender<Leadership>,
    pub hooks: Arc<dyn Hooks>,
    pub stopping: Arc<AtomicBool>,
}

impl Watcher {
    pub async fn run(self) {
        let mut metrics = self.raft.metrics();
        loop {
            let (now, running) = {
                let metrics = metrics.borrow_watched();
                (leadership_of(&metrics), metrics.running_state.clone())
            };
            self.publish(now);
            if let Err(fatal) = running {
                return self.on_stop(&fatal.to_string());
            }
            if metrics.changed().await.is_err() {
                return self.on_stop("its task is gone");
            }
        }
    }

    fn publish(&self, now: Leadership) {
        self.leadership.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
    }

    /// A dead group in a living process is the worst kind of failure: peers think that the node is there.
    fn on_stop(&self, why: &str) {
        self.publish(Leadership::default());
        if !self.stopping.load(Ordering::Acquire) {
            self.hooks.on_fatal(Some(self.shard), format!("the core of shard {} stopped: {why}", self.shard));
        }
    }
}

pub(super) fn leadership_of(metrics: &RaftMetrics<TypeConfig>) -> Leadership {
    let leads = metrics.state.is_leader() && metrics.running_state.is_ok();
    let applied_term = metrics.last_applied.map(|applied| applied.committed_leader_id().term);
    Leadership {
        term: metrics.current_term,
        leader: metrics.current_leader.map(ReplicaId::from_raft),
        leads,
        ready: leads && applied_term == Some(metrics.current_term),
    }
}
