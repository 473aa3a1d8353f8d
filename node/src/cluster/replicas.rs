//! Which replicas of this node run: those that its own disk remembers, and new ones for all others.
//!
//! Invariants:
//! - A replica is opened only if this directory has held it since its id was given. The counter-example: (1) an entry is
//!   accepted by nodes 1 and 3, (2) node 3's directory is wiped, (3) its empty replica votes for node 2, which never had
//!   the entry. So a lost replica is retired, and the node comes back as a learner of a new generation.
//! - Data replicas open only after the cluster has taken this process in: a directory that was rolled back is found out
//!   by its boot number before it votes. The control group's own replica cannot wait for itself.
//! - What a retired replica has stored is deleted once the placement is without it, never earlier.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flotilla_machine::command::Control;
use flotilla_machine::{Command, Reply};
use flotilla_proto::ids::*;
use flotilla_raft::replicas;
use flotilla_raft::runtime::blocking;
use flotilla_raft::set::{OpenError, Start};

use super::wire::Plan;
use super::{Cluster, start};

const RETRY: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opened {
    Running,
    /// It is lost, or its log or vote cannot be trusted: it must come back under a new generation.
    Lost,
}

impl Cluster {
    /// Of two, the newer one: the older is being replaced.
    fn newest_here(&self, placed: &[ReplicaId]) -> Option<ReplicaId> {
        placed.iter().filter(|r| r.node == self.node).max().copied()
    }

    /// The plan's replicas of this node are its own from now on: the directory has just been made.
    pub(super) async fn mark_founders(&self, plan: &Plan) -> Result<(), String> {
        let mine: Vec<_> =
            plan.placement.iter().filter_map(|(shard, all)| Some((*shard, self.newest_here(all)?))).collect();
        let engine = self.engine.clone();
        let marked = blocking(move || mine.iter().try_for_each(|(s, r)| replicas::add(&*engine, *s, r.generation)));
        marked.await.map_err(|e| e.to_string())
    }

    /// Opens the control group's replica if this node has a good one. If not, [`Self::open_all`] sees to it.
    pub(super) async fn open_control(self: &Arc<Self>) -> Result<(), String> {
        let Some(state) = self.tables.current() else { return Ok(()) };
        let placed = state.placement.iter().find(|(shard, _)| *shard == ShardId::CONTROL);
        if let Some(mine) = placed.and_then(|(_, all)| self.newest_here(all)) {
            self.open_replica(ShardId::CONTROL, mine).await?;
            self.place();
        }
        Ok(())
    }

    /// Opens everything that the tables place here. They must be fresh: this node has been taken in.
    pub(super) async fn open_all(self: &Arc<Self>) -> Result<(), String> {
        let Some(state) = self.tables.current() else { return Ok(()) };
        let closed = state.placement.iter().filter(|(shard, _)| self.groups.get(*shard).is_none());
        let opening = closed.filter_map(|(shard, all)| {
            let mine = self.newest_here(all)?;
            Some(async move {
                if self.open_replica(*shard, mine).await? == Opened::Lost {
                    self.spawn_vital("replacing a replica", replace(self.clone(), *shard, mine));
                }
                Ok::<_, String>(())
            })
        });
        futures::future::try_join_all(opening).await?;
        self.admitted.store(true, Ordering::Release);
        self.place();
        self.forget_old_replicas().await;
        Ok(())
    }

    async fn open_replica(self: &Arc<Self>, shard: ShardId, mine: ReplicaId) -> Result<Opened, String> {
        let engine = self.engine.clone();
        let here = blocking(move || replicas::is_here(&*engine, shard, mine.generation)).await;
        let here = here.map_err(|e| format!("the mark of shard {shard}'s replica {mine}: {e}"))?;
        let distrusted = self.local.distrusted().map_err(|e| e.to_string())?.contains(&(shard, mine));
        if !here || distrusted {
            return Ok(Opened::Lost);
        }
        self.open_group(shard, mine).await
    }

    async fn open_group(self: &Arc<Self>, shard: ShardId, mine: ReplicaId) -> Result<Opened, String> {
        let founders = self.plan.get().and_then(|plan| plan.placement.iter().find(|(s, _)| *s == shard));
        let start = match founders {
            Some((_, all)) if all.contains(&mine) => Start::Found(all.iter().copied().collect()),
            _ => Start::Resume,
        };
        match self.groups.open(shard, mine, start).await {
            Ok(_) => {
                self.spawn_vital("following a leadership", start::follow_leadership(self.clone(), shard));
                Ok(Opened::Running)
            }
            Err(OpenError::Start(error)) if error.is_damage() => Ok(Opened::Lost),
            Err(error) => Err(format!("shard {shard}: {error}")),
        }
    }

    /// Deletes what replaced replicas have stored here, once nothing but the disk remembers them. Level-triggered: what
    /// fails now is seen again at the next change of the tables.
    pub(super) async fn forget_old_replicas(&self) {
        // One at a time: two that had read the same list would both delete, and both say so.
        let _turn = self.forgetting.lock().await;
        let Some(state) = self.tables.current() else { return };
        let engine = self.engine.clone();
        let stored = match blocking(move || replicas::list(&*engine)).await {
            Ok(stored) => stored,
            Err(error) => return tracing::error!(%error, "cannot read which replicas this node holds"),
        };
        let placed: BTreeSet<_> = state.placement.iter().flat_map(|(s, all)| all.iter().map(|r| (*s, *r))).collect();
        for (shard, generation) in stored {
            let old = ReplicaId::new(self.node, generation);
            // A newer one runs: the old one can never be asked for again.
            let replaced = self.groups.get(shard).is_some_and(|group| group.replica() > old);
            if !replaced || placed.contains(&(shard, old)) {
                continue;
            }
            let engine = self.engine.clone();
            match blocking(move || replicas::retire(&*engine, shard, generation)).await {
                Ok(()) => tracing::info!(%shard, replica = %old, "deleted what a replaced replica had stored"),
                Err(error) => tracing::error!(%shard, replica = %old, %error, "cannot retire a replica"),
            }
        }
    }
}

/// A replica that is lost, or whose log or vote is damaged, has forgotten its promises: it never votes again under its id.
/// The control group gives a new one, which starts empty and is brought up by the group's leader.
async fn replace(cluster: Arc<Cluster>, shard: ShardId, lost: ReplicaId) {
    let allocate = Control::AllocateReplica { shard, node: cluster.node, replaces: Some(lost) };
    let allocate = Command::Control(allocate);
    let new = loop {
        match cluster.shard_command(ShardId::CONTROL, &allocate).await {
            Ok(Reply::Replica(new)) => break new,
            Ok(Reply::Rejected(why)) => return cluster.fatal(format!("shard {shard}: no new replica id: {why}")),
            _ => tokio::time::sleep(RETRY).await,
        }
    };
    tracing::warn!(%shard, %lost, %new, "coming back as a learner of a new generation");
    let engine = cluster.engine.clone();
    if let Err(error) = blocking(move || replicas::add(&*engine, shard, new.generation)).await {
        return cluster.fatal(format!("shard {shard}: cannot remember the new replica {new}: {error}"));
    }
    match cluster.open_group(shard, new).await {
        Ok(Opened::Running) => cluster.place(),
        Ok(Opened::Lost) => cluster.fatal(format!("shard {shard}: the fresh replica {new} is damaged; check the disk")),
        Err(why) => cluster.fatal(why),
    }
}
