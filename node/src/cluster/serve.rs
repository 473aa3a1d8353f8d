//! What this node does when another one asks (or itself, through the router).
//!
//! Invariant: `NotLeader`, `NotReady` and `Overloaded` prove that nothing was appended; of heads, which may come any number of times,
//! some of a request may have been.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use flotilla_machine::command::Notify;
use flotilla_machine::query::{DirtyItem, SessionSince};
use flotilla_machine::user::gather::may_wait;
use flotilla_machine::user::split_notify;
use flotilla_machine::{Answer, Command, Query, Rejection, Reply};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_proto::plant::{self, Plant};
use flotilla_raft::peer::{BulkStream, PeerInfo, PeerRefusal, PeerService};
use flotilla_raft::{ProposeError, ReadError};
use futures::future::BoxFuture;
use serde::Serialize;
use tokio::time::Instant;

use super::leader::Leader;
use super::router::AskError;
use super::wire::{self, Failure, KIND_ADMIN, KIND_NODE, NodeCast, NodeReply, NodeRequest, Subscription};
use super::{Cluster, admin, control, fanout, pusher};

/// The transport's view of this node. The cluster is set once it exists.
#[derive(Default)]
pub struct Service {
    cluster: OnceLock<Weak<Cluster>>,
}

impl Service {
    pub fn set(&self, cluster: &Arc<Cluster>) {
        // A second call would be a programmer's error without consequence: the first cluster stays.
        let _ = self.cluster.set(Arc::downgrade(cluster));
    }

    fn cluster(&self) -> Option<Arc<Cluster>> {
        self.cluster.get()?.upgrade()
    }
}

impl PeerService for Service {
    fn request(&self, from: PeerInfo, kind: u8, payload: Bytes) -> BoxFuture<'static, Result<Bytes, PeerRefusal>> {
        let cluster = self.cluster();
        Box::pin(async move {
            let cluster = cluster.ok_or_else(|| PeerRefusal::NotReady("starting".into()))?;
            let malformed = |e| PeerRefusal::Other(format!("malformed request: {e}"));
            let reply = match kind {
                KIND_NODE => {
                    let request = wire::decode::<NodeRequest>(&payload).map_err(malformed)?;
                    answer(&cluster.serve(from.node, request).await)
                }
                KIND_ADMIN => {
                    let request = wire::decode(&payload).map_err(malformed)?;
                    answer(&admin::serve(&cluster, request).await)
                }
                kind => return Err(PeerRefusal::Unsupported(kind)),
            };
            match reply {
                Some(bytes) => Ok(bytes),
                // The transport gives up without a word, which the asker reads as "unknown".
                None => std::future::pending().await,
            }
        })
    }

    fn is_patient(&self, kind: u8, payload: &[u8]) -> bool {
        kind == KIND_NODE && wire::is_patient(payload)
    }

    fn gone(&self, from: PeerInfo) {
        if let Some(cluster) = self.cluster() {
            cluster.receiver.on_broken(from.node);
        }
    }

    fn cast(&self, from: PeerInfo, kind: u8, payload: Bytes) {
        let Some(cluster) = self.cluster().filter(|_| kind == KIND_NODE) else { return };
        match wire::decode::<NodeCast>(&payload) {
            Ok(cast) => cluster.on_cast(from.node, cast),
            Err(error) => tracing::warn!(from = %from.node, %error, "malformed cast ignored"),
        }
    }

    fn bulk(&self, _from: PeerInfo, kind: u8, _payload: Bytes, mut stream: BulkStream) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            // The peer sees a refusal or a closed transfer; both mean the same to it.
            let _ = stream.refuse(&PeerRefusal::Unsupported(kind)).await;
        })
    }
}

/// None: it cannot be encoded. The work is done by then, so a refusal, which says that nothing happened, would be a lie.
fn answer<T: Serialize>(reply: &T) -> Option<Bytes> {
    let encoded = wire::encode(reply);
    encoded.inspect_err(|error| tracing::error!(%error, "a reply cannot be encoded")).ok()
}

impl Cluster {
    pub async fn serve(&self, from: NodeId, request: NodeRequest) -> NodeReply {
        let reply = match request {
            NodeRequest::Execute { shard, lane, command } => self.serve_execute(shard, lane, command).await,
            NodeRequest::Query { shard, query, linearizable } => self.serve_query(shard, &query, linearizable).await,
            NodeRequest::Notify { shard, items } => self.serve_notify(shard, items).await,
            NodeRequest::Present { shard, node, incarnation, sessions } => {
                self.serve_present(shard, node, incarnation, sessions).await
            }
            NodeRequest::Subscribe { shard, subscriptions } => self.serve_subscribe(from, shard, subscriptions).await,
            NodeRequest::WatchReceipts { shard, watched } => self.serve_watch_receipts(from, shard, watched).await,
            NodeRequest::Watch { shard, pairs } => self.serve_watch(from, shard, pairs).await,
            NodeRequest::Renew { node, incarnation, version } => {
                control::serve_renew(self, from, node, incarnation, version).await
            }
        };
        reply.unwrap_or_else(NodeReply::Failed)
    }

    /// The leadership of a shard that this node holds and whose earlier entries are applied.
    pub fn leading(&self, shard: ShardId) -> Result<Arc<Leader>, Failure> {
        if let Some(leader) = self.leaders().get(&shard) {
            return Ok(leader.leader.clone());
        }
        let leader = self.groups.get(shard).and_then(|g| g.leader()).map(|r| r.node).filter(|n| *n != self.node);
        Err(Failure::NotLeader { leader })
    }

    async fn serve_execute(&self, shard: ShardId, lane: Option<Slot>, command: Bytes) -> Result<NodeReply, Failure> {
        let leader = self.leading(shard)?;
        if plant::on(Plant::PushUncommitted) {
            super::foretold::push(self, &leader, &command).await;
        }
        if (self.disk_is_low() && shed(&command)) || (Command::is_append(&command) && self.pressure.is_high()) {
            return Err(Failure::Overloaded);
        }
        let receipts = leader.watched_receipts(lane, &command);
        let done = propose(&leader, lane, command).await.map(NodeReply::Reply);
        leader.receipts_proposed(receipts);
        done
    }

    async fn serve_query(&self, shard: ShardId, query: &Query, linearizable: bool) -> Result<NodeReply, Failure> {
        let leader = self.leading(shard)?;
        if linearizable {
            read_index(&leader).await?;
        }
        leader.group.query(query).await.map(NodeReply::Answer).map_err(|error| {
            tracing::error!(%shard, %error, "cannot read the shard's state");
            Failure::Unknown
        })
    }

    async fn serve_notify(&self, shard: ShardId, items: Vec<DirtyItem>) -> Result<NodeReply, Failure> {
        let leader = self.leading(shard)?;
        fanout::stamp("notified", &items);
        pusher::push_entries(self, &leader, &items).await;
        fanout::stamp("pushed", &items);
        flotilla_raft::seam::fault::point("notify.pushed");
        let (waits, goes): (Vec<_>, Vec<_>) = items.into_iter().map(|item| item.notify).partition(may_wait);
        let waits = async {
            match leader.heads.gather(waits.clone()).await {
                // Another's fault, or this one's: alone it is told which.
                Err(Failure::Malformed | Failure::NotReady) => tell_heads(&leader, waits.clone()).await,
                told => told,
            }
        };
        futures::future::try_join(waits, tell_heads(&leader, goes)).await?;
        Ok(NodeReply::Done)
    }

    async fn serve_present(
        &self,
        shard: ShardId,
        node: NodeId,
        incarnation: Incarnation,
        sessions: Vec<SessionSince>,
    ) -> Result<NodeReply, Failure> {
        let leader = self.leading(shard)?;
        if self.tables.lowest_incarnations().get(&node).is_some_and(|lowest| incarnation < *lowest) {
            return Err(Failure::IncarnationUnknown);
        }
        // Before the read: a frame numbered up to here concerns heads that the read sees, or that are pushed again
        // when they are applied.
        let stream = leader.hub.position(node);
        read_index(&leader).await?;
        match leader.group.query(&Query::Sessions { node, sessions }).await {
            Ok(Answer::Sessions(news)) => Ok(NodeReply::Presented { stream, news }),
            _ => Err(Failure::Unknown),
        }
    }

    async fn serve_subscribe(
        &self,
        from: NodeId,
        shard: ShardId,
        subscriptions: Vec<Subscription>,
    ) -> Result<NodeReply, Failure> {
        let leader = self.leading(shard)?;
        if subscriptions.len() > limits::SUBSCRIPTIONS_PER_REQUEST_MAX {
            return Err(Failure::Malformed);
        }
        // In this order: whatever the read does not see is pushed to who has subscribed before, under a later number.
        let stream = leader.hub.position(from);
        if !leader.subscribers.add(from, subscriptions.iter().map(|s| &s.conv), Instant::now()) {
            return Err(Failure::Overloaded);
        }
        read_index(&leader).await?;
        let mut standings = Vec::with_capacity(subscriptions.len());
        for Subscription { conv, users, .. } in subscriptions {
            match leader.group.query(&Query::Standing { conv, users }).await {
                Ok(Answer::Standing(standing)) => standings.push(Some(standing)),
                Ok(Answer::NotFound) => standings.push(None),
                Ok(Answer::Moved) => return Err(Failure::NotReady),
                _ => return Err(Failure::Unknown),
            }
        }
        Ok(NodeReply::Subscribed { stream, standings })
    }

    pub fn on_cast(&self, from: NodeId, cast: NodeCast) {
        match cast {
            NodeCast::Push(frame) => self.receiver.on_frame(self, from, frame),
            NodeCast::Keepalive { incarnation, wall, streams } => {
                self.clocks.observe(from, wall);
                let mine = *self.incarnation.borrow();
                if mine > Incarnation(0) && incarnation > mine {
                    self.incarnation_refused.notify_one();
                    return;
                }
                for (shard, position) in streams {
                    self.receiver.on_keepalive(from, shard, position);
                }
            }
            NodeCast::Disk { low } => self.strained.note(from, low, Instant::now()),
            NodeCast::Unwatch { shard, users } => {
                if let Ok(leader) = self.leading(shard) {
                    leader.interest.remove(from, &users);
                }
            }
            cast @ (NodeCast::Typing { .. } | NodeCast::TypingFor { .. } | NodeCast::Typed { .. }) => {
                self.on_typing(cast);
            }
            NodeCast::Receipts { conv, watchers, marks } => self.sessions.on_receipts(&conv, &watchers, &marks),
            NodeCast::ControlChanged { version } => {
                if version > self.tables.version() {
                    self.control_changed.notify_one();
                }
            }
        }
    }

    /// A one-way message to a node, this one included. May be lost; one that is lost here is counted.
    pub fn cast(&self, to: NodeId, cast: NodeCast) {
        if to == self.node {
            return self.on_cast(to, cast);
        }
        let sent = match wire::encode(&cast) {
            Ok(bytes) => self.peers.cast(to, KIND_NODE, bytes),
            Err(error) => {
                tracing::error!(%to, %error, "a one-way message cannot be encoded");
                false
            }
        };
        if !sent {
            self.metrics.casts_dropped.inc();
        }
    }

    pub async fn ask(&self, to: NodeId, request: &NodeRequest, deadline: Instant) -> Result<NodeReply, AskError> {
        use flotilla_raft::peer::{NotSent, Outcome, PeerRefusal};
        let bytes = wire::encode(request).map_err(|_| AskError::NotSent)?;
        match self.peers.request(to, KIND_NODE, bytes, deadline).await {
            Outcome::Answer(bytes) => wire::decode(&bytes).map_err(|_| AskError::Unknown),
            Outcome::Refused(PeerRefusal::Overloaded) | Outcome::NotSent(NotSent::Overloaded) => Err(AskError::Busy),
            Outcome::Refused(_) | Outcome::NotSent(_) => Err(AskError::NotSent),
            Outcome::Unknown => Err(AskError::Unknown),
        }
    }
}

/// Returns once they are durable.
pub async fn tell_heads(leader: &Leader, news: Vec<Notify>) -> Result<(), Failure> {
    let proposals = split_notify(news).into_iter().map(async |command| {
        let bytes = Command::Notify(command).encode().map_err(|_| Failure::Malformed)?;
        match propose(leader, None, bytes).await? {
            Reply::Done => Ok(()),
            Reply::Rejected(Rejection::Moved) => Err(Failure::NotReady),
            other => {
                tracing::error!(shard = %leader.shard, ?other, "heads were not taken");
                Err(Failure::Malformed)
            }
        }
    });
    futures::future::try_join_all(proposals).await.map(|_| ())
}

async fn propose(leader: &Leader, lane: Option<Slot>, command: Bytes) -> Result<Reply, Failure> {
    let deadline = Duration::from_millis(limits::REQUEST_DEADLINE_MS);
    match tokio::time::timeout(deadline, leader.group.propose_in(lane, command)).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(ProposeError::NotLeader { leader })) => Err(Failure::NotLeader { leader: leader.map(|r| r.node) }),
        Ok(Err(ProposeError::Overloaded)) => Err(Failure::Overloaded),
        Ok(Err(ProposeError::Stopped)) => Err(Failure::NotReady),
        Ok(Err(ProposeError::Unknown)) | Err(_) => Err(Failure::Unknown),
    }
}

pub async fn read_index(leader: &Leader) -> Result<(), Failure> {
    if plant::on(Plant::StaleRead) {
        return Ok(());
    }
    let deadline = Duration::from_millis(limits::REQUEST_DEADLINE_MS);
    match tokio::time::timeout(deadline, leader.group.read_index()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(ReadError::NotLeader { leader })) => Err(Failure::NotLeader { leader: leader.map(|r| r.node) }),
        Ok(Err(_)) | Err(_) => Err(Failure::Unknown),
    }
}

/// On a nearly full disk client writes are refused first; the cluster's own bookkeeping goes on, and whoever has an account
/// may come in to read.
fn shed(command: &Bytes) -> bool {
    matches!(Command::decode(command), Ok(Command::Append(_) | Command::Register(_) | Command::SetPassword { .. }))
}

#[cfg(test)]
mod tests {
    use serde::ser::Error as _;

    use super::*;

    struct Broken;

    impl Serialize for Broken {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(S::Error::custom("on purpose"))
        }
    }

    #[test]
    fn a_reply_that_cannot_be_encoded_is_no_refusal() {
        assert_eq!(answer(&Broken), None, "unanswered, so the asker takes the outcome for unknown");
        assert!(answer(&NodeReply::Done).is_some());
    }
}
