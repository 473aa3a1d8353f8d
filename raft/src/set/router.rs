//! Which replica a message is for. Raft's go to the groups of this node, everything else to the node.
//!
//! Invariant: an RPC for another generation than the one that runs here is refused: it is meant for a replica that this node no
//! longer is, or not yet, and answering it under the wrong id could elect a leader without an accepted entry.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::ids::ShardId;
use flotilla_proto::limits;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::Semaphore;

use super::Placement;
use crate::group::Group;
use crate::network::wire::{self, Route};
use crate::network::{receive, snapshot};
use crate::peer::{BulkStream, PeerInfo, PeerRefusal, PeerService, kind};

/// One group of this node.
#[derive(Clone)]
pub(super) struct Member {
    pub group: Group,
    /// What is wished for; none until somebody says so. Shared: a member is looked up for every message.
    pub placement: Option<Arc<Placement>>,
    /// One snapshot at a time.
    pub receiving: Arc<Semaphore>,
}

/// The groups that run here.
pub(super) struct Table {
    members: Mutex<BTreeMap<ShardId, Member>>,
    /// Snapshots of all groups that are being taken.
    taking: Arc<Semaphore>,
}

impl Default for Table {
    fn default() -> Self {
        Self { members: Mutex::default(), taking: Arc::new(Semaphore::new(limits::SNAPSHOTS_TAKEN_AT_ONCE)) }
    }
}

impl Table {
    /// Snapshots on their way in.
    pub fn taking(&self) -> usize {
        limits::SNAPSHOTS_TAKEN_AT_ONCE - self.taking.available_permits()
    }

    pub fn lock(&self) -> MutexGuard<'_, BTreeMap<ShardId, Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, shard: ShardId) -> Option<Member> {
        self.lock().get(&shard).cloned()
    }

    pub fn all(&self) -> Vec<Member> {
        self.lock().values().cloned().collect()
    }

    fn route(&self, payload: &mut Bytes) -> Result<Member, PeerRefusal> {
        let route = Route::take(payload).map_err(|e| PeerRefusal::Other(e.to_string()))?;
        let Some(member) = self.get(route.shard) else {
            return Err(PeerRefusal::NotReady(format!("shard {} does not run here", route.shard)));
        };
        let here = member.group.replica();
        if here.generation != route.generation {
            let meant = route.generation;
            return Err(PeerRefusal::NotReady(format!(
                "shard {} runs here as {here}, not as generation {meant}",
                route.shard
            )));
        }
        Ok(member)
    }
}

/// What [`crate::peer::Peers`] is started with; the groups come to it later.
pub struct Router {
    pub(super) table: Arc<Table>,
    node: Arc<dyn PeerService>,
}

impl Router {
    /// `node` gets everything that is not Raft's.
    pub fn new(node: Arc<dyn PeerService>) -> Arc<Self> {
        Arc::new(Self { table: Arc::default(), node })
    }
}

impl PeerService for Router {
    fn request(&self, from: PeerInfo, kind: u8, mut payload: Bytes) -> BoxFuture<'static, Result<Bytes, PeerRefusal>> {
        if !kind::is_raft(kind) {
            return self.node.request(from, kind, payload);
        }
        match self.table.route(&mut payload) {
            Ok(member) if kind == wire::kind::FORGOTTEN => {
                let told = wire::decode(&payload).map(|upto: u64| member.group.on_forgotten(from.node, upto));
                let answer = told.map(|()| Bytes::new()).map_err(|e| PeerRefusal::Other(e.to_string()));
                futures::future::ready(answer).boxed()
            }
            Ok(member) => receive::serve(member.group, kind, payload),
            Err(refusal) => futures::future::ready(Err(refusal)).boxed(),
        }
    }

    fn is_patient(&self, kind: u8, payload: &[u8]) -> bool {
        !kind::is_raft(kind) && self.node.is_patient(kind, payload)
    }

    fn cast(&self, from: PeerInfo, kind: u8, payload: Bytes) {
        if !kind::is_raft(kind) {
            self.node.cast(from, kind, payload);
        }
    }

    fn gone(&self, from: PeerInfo) {
        self.node.gone(from);
    }

    fn bulk(&self, from: PeerInfo, kind: u8, mut payload: Bytes, stream: BulkStream) -> BoxFuture<'static, ()> {
        if !kind::is_raft(kind) {
            return self.node.bulk(from, kind, payload, stream);
        }
        if kind != wire::kind::SNAPSHOT {
            return snapshot::refuse(stream, PeerRefusal::Unsupported(kind)).boxed();
        }
        let member = match self.table.route(&mut payload) {
            Ok(member) => member,
            Err(refusal) => return snapshot::refuse(stream, refusal).boxed(),
        };
        match member.receiving.try_acquire_owned() {
            Err(_) => snapshot::refuse(stream, PeerRefusal::Overloaded).boxed(),
            Ok(permit) => {
                let taking = self.table.taking.clone();
                async move {
                    // Meanwhile the sender waits with its first chunks on the way, for longer than this.
                    let patience = Duration::from_millis(limits::SNAPSHOT_TURN_MS);
                    match tokio::time::timeout(patience, taking.acquire_owned()).await {
                        Ok(Ok(_turn)) => snapshot::receive(&member.group, payload, stream).await,
                        _ => snapshot::refuse(stream, PeerRefusal::Overloaded).await,
                    }
                    drop(permit);
                }
                .boxed()
            }
        }
    }
}
