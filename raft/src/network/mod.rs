//! openraft's network over [`Peers`]: one client per group and target, all of them on one connection per peer.
//!
//! RPCs of one group to one target go one after the other: a pipeline would save a round trip, but after a refusal in the middle it
//! delivers appends out of order, and openraft takes the conflict that follows for a follower that lost its log. Heartbeats and
//! appends of many groups share frames because the peer's writer takes everything that waits; an append that only says what is
//! committed waits for company ([`ride`]). What RPCs mean is openraft's.

pub mod acked;
pub mod receive;
mod ride;
pub mod snapshot;
pub mod wire;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::ids::{ReplicaId, ShardId};
use flotilla_proto::plant::{self, Plant};
use flotilla_storage::Engine;
use futures::Stream;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption, RPCTypes, stream_append_sequential};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::Instant;

use crate::hooks::Hooks;
use crate::peer::{NotSent, Outcome, PeerRefusal, Peers};
use crate::runtime::blocking;
use crate::snapshot::SnapshotError;
use crate::state::mark_damaged;
use crate::types::{LogId, Snapshot, SnapshotData, TypeConfig, Vote};
use acked::Acked;
use snapshot::TransferError;
use wire::{Route, kind};

/// An append with entries waits for the follower's disk, so it gets longer than a heartbeat; a dead connection is noticed at once
/// and a silent one by the heartbeats beside it.
const APPEND_PATIENCE: u32 = 8;
/// Waits between tries to reach a target, the last one again and again.
const BACKOFF_MS: [u64; 4] = [50, 100, 200, 400];

type Rpc<T> = Result<T, RPCError<TypeConfig>>;
type Responses<'s> = BoxStream<'s, Rpc<StreamAppendResult<TypeConfig>>>;

/// Makes the clients of one group's replica.
#[derive(Clone)]
pub struct Network {
    peers: Arc<Peers>,
    shard: ShardId,
    me: ReplicaId,
    acked: Acked,
    /// See [`ride::patience`].
    beat: Instant,
    engine: Arc<dyn Engine>,
    hooks: Arc<dyn Hooks>,
}

impl Network {
    pub fn new(
        peers: Arc<Peers>,
        shard: ShardId,
        me: ReplicaId,
        beat: Instant,
        engine: Arc<dyn Engine>,
        hooks: Arc<dyn Hooks>,
    ) -> Self {
        Self { peers, shard, me, acked: Acked::default(), beat, engine, hooks }
    }

    /// A leader whose own state is damaged has no snapshot to give, and whoever needs one would wait for ever. As everywhere
    /// else where such a row is read: marked, so that the next start rebuilds the state, and the end of this process.
    async fn on_own_damage(&self) {
        let (engine, shard) = (self.engine.clone(), self.shard);
        blocking(move || mark_damaged(&*engine, shard)).await;
        self.hooks
            .on_fatal(Some(shard), format!("shard {shard} cannot send a snapshot: {}", SnapshotError::DamagedHere));
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Client {
        Client { network: self.clone(), target: ReplicaId::from_raft(target) }
    }
}

/// RPCs of one replica to another.
pub struct Client {
    network: Network,
    target: ReplicaId,
}

impl Client {
    fn route(&self) -> Route {
        Route { shard: self.network.shard, generation: self.target.generation }
    }

    async fn send(&self, kind: u8, payload: Bytes, action: RPCTypes, ttl: Duration) -> Rpc<Bytes> {
        let deadline = Instant::now() + ttl;
        match self.network.peers.request(self.target.node, kind, payload, deadline).await {
            Outcome::Answer(answer) => Ok(answer),
            Outcome::Refused(PeerRefusal::Overloaded) | Outcome::NotSent(NotSent::Overloaded) => {
                Err(retry("overloaded"))
            }
            Outcome::Refused(refusal) => Err(unreachable(refusal)),
            Outcome::Unknown | Outcome::NotSent(NotSent::Expired) if Instant::now() >= deadline => {
                let (id, target) = (self.network.me.to_raft(), self.target.to_raft());
                Err(RPCError::Timeout(Timeout { action, id, target, timeout: ttl }))
            }
            Outcome::Unknown => Err(unreachable("connection lost")),
            Outcome::NotSent(reason) => Err(unreachable(reason)),
        }
    }

    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        kind: u8,
        rpc: &Q,
        action: RPCTypes,
        ttl: Duration,
    ) -> Rpc<A> {
        let payload = wire::encode(self.route(), rpc).map_err(unreachable)?;
        let answer = self.send(kind, payload, action, ttl).await?;
        wire::decode(&answer).map_err(unreachable)
    }

    /// Tells the replica what it has forgotten, so that its node takes it out. Until then it is nobody for this leader.
    async fn on_loss(&self, before: Option<LogId>, ttl: Duration) -> RPCError<TypeConfig> {
        let (shard, target) = (self.network.shard, self.target);
        let before = before.map_or(0, |id| id.index());
        tracing::error!(%shard, %target, acknowledged = before, "a replica has lost entries that it had acknowledged as synced");
        if let Ok(payload) = wire::encode(self.route(), &before) {
            // Lost: the next conflict says it again.
            let _ = self.send(kind::FORGOTTEN, payload, RPCTypes::AppendEntries, ttl).await;
        }
        unreachable("the replica has lost entries that it had acknowledged")
    }
}

/// Worth another try at once.
fn retry(reason: impl ToString) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::from_string(reason))
}

/// Worth another try after a while.
fn unreachable(reason: impl ToString) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(reason))
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        let patience = if rpc.entries.is_empty() { 1 } else { APPEND_PATIENCE };
        let (payload, cut) = wire::encode_append(self.route(), &rpc).map_err(unreachable)?;
        let ttl = option.soft_ttl() * patience;
        let before = self.network.acked.before(&rpc.vote, self.target);
        let answer = match self.send(kind::APPEND, payload, RPCTypes::AppendEntries, ttl).await {
            Err(_) if plant::on(Plant::CommitAlone) => return Ok(AppendEntriesResponse::Success),
            answered => answered?,
        };
        let response = wire::decode(&answer).map_err(unreachable)?;
        let response = match (response, cut) {
            (AppendEntriesResponse::Success, Some(last)) => AppendEntriesResponse::PartialSuccess(Some(last)),
            (response, _) => response,
        };
        match &response {
            AppendEntriesResponse::Success => {
                let last = rpc.entries.last().map(|entry| entry.log_id).or(rpc.prev_log_id);
                self.network.acked.note(&rpc.vote, self.target, last);
            }
            AppendEntriesResponse::PartialSuccess(last) => self.network.acked.note(&rpc.vote, self.target, *last),
            AppendEntriesResponse::Conflict if acked::is_loss(before, rpc.prev_log_id) => {
                return Err(self.on_loss(before, ttl).await);
            }
            AppendEntriesResponse::Conflict | AppendEntriesResponse::HigherVote(_) => {}
        }
        Ok(response)
    }

    fn stream_append<'s, S>(&'s mut self, input: S, option: RPCOption) -> BoxFuture<'s, Rpc<Responses<'s>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let requests = ride::riding(input, ride::patience(self.network.shard, self.network.beat));
        stream_append_sequential(self, requests, option)
    }

    async fn vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        self.call(kind::VOTE, &rpc, RPCTypes::Vote, option.soft_ttl()).await
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        self.call(kind::PRE_VOTE, &rpc, RPCTypes::Vote, option.soft_ttl()).await
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        self.call(kind::TRANSFER_LEADER, &rpc, RPCTypes::TransferLeader, option.soft_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let SnapshotData::Live(view) = snapshot.snapshot else {
            return Err(StreamingError::Unreachable(Unreachable::from_string("a staged snapshot is not for sending")));
        };
        let opening = wire::encode(self.route(), &wire::SnapshotOpen { vote, meta: snapshot.meta })
            .map_err(|e| StreamingError::Unreachable(Unreachable::from_string(e)))?;
        let deadline = Instant::now() + option.soft_ttl();
        let sending = snapshot::send(&self.network.peers, self.target.node, opening, view.chunks(), deadline);
        tokio::select! {
            biased;
            // Dropping the transfer closes its connection, and the receiver drops what it has.
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = sending => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(e) => {
                    tracing::warn!(shard = %self.network.shard, target = %self.target, error = %e, "snapshot not delivered");
                    if matches!(e, TransferError::Snapshot(SnapshotError::DamagedHere)) {
                        self.network.on_own_damage().await;
                    }
                    Err(StreamingError::Unreachable(Unreachable::from_string(e)))
                }
            },
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        let last = BACKOFF_MS[BACKOFF_MS.len() - 1];
        let waits = BACKOFF_MS.into_iter().chain(std::iter::repeat(last));
        Some(Backoff::new(waits.map(Duration::from_millis)))
    }
}
