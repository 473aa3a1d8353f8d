//! What the client-facing half of a node needs from the cluster half: commands, queries, pushes, identity and keys.
//!
//! The one trait between the two halves; it exists so that session and delivery logic can be tested against a backend in
//! memory. Invariant: the three outcomes never mix. `Rejected`, `Unavailable` and `Overloaded` mean that nothing happened;
//! `Unknown` means that it may have.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flotilla_machine::effect::Ended;
use flotilla_machine::query::{InboxRow, MarksOf, PresenceView, Standing};
use flotilla_machine::{Answer, Command, Query, Rejection, Reply};
use flotilla_proto::entry::Entry;
use flotilla_proto::ids::*;
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::queue;

/// Whose slot decides the shard.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Route {
    User(UserId),
    Conv(ConvId),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Decided by `apply`: no effect.
    #[error("{0}")]
    Rejected(Rejection),
    /// No quorum or no leader in time; nothing happened.
    #[error("the shard cannot answer now")]
    Unavailable,
    /// A bounded queue is full; nothing happened.
    #[error("too much is waiting")]
    Overloaded,
    /// It may have happened: retry with the same key.
    #[error("the outcome is not known")]
    Unknown,
}

/// How new the view must be that answers a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Freshness {
    /// At the leader, after a ReadIndex.
    Linearizable,
    /// Any replica that has applied this position would do. As it is, the leader is asked all the same, without a ReadIndex: one
    /// that has been deposed answers out of its past, and `min_seq` is not looked at. Whoever needs it compares by itself.
    Any { min_seq: Option<(ConvId, Seq)> },
}

/// A session as the push streams know it before it has a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    pub user: UserId,
    pub device: DeviceId,
    pub instance: Instance,
    pub attempt: u64,
}

/// Keeps a session attached; dropped = detached.
pub struct AttachGuard {
    pub id: u64,
    detach: Option<Box<dyn FnOnce(u64) + Send + Sync>>,
}

impl AttachGuard {
    pub fn new(id: u64, detach: impl FnOnce(u64) + Send + Sync + 'static) -> Self {
        Self { id, detach: Some(Box::new(detach)) }
    }
}

impl Drop for AttachGuard {
    fn drop(&mut self) {
        if let Some(detach) = self.detach.take() {
            detach(self.id);
        }
    }
}

impl fmt::Debug for AttachGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AttachGuard({})", self.id)
    }
}

/// Whether somebody still waits for what is asked for. Clones say the same.
#[derive(Debug, Clone)]
pub struct Wanted(Option<Arc<AtomicBool>>);

impl Wanted {
    pub const ALWAYS: Self = Self(None);

    /// Until [`Wanted::end`].
    pub fn for_now() -> Self {
        Self(Some(Arc::new(AtomicBool::new(true))))
    }

    pub fn get(&self) -> bool {
        self.0.as_ref().is_none_or(|wanted| wanted.load(Ordering::Relaxed))
    }

    /// For good.
    pub fn end(&self) {
        if let Some(wanted) = &self.0 {
            wanted.store(false, Ordering::Relaxed);
        }
    }
}

/// News for one attached session. A full queue may lose some: then `Resync` follows (the sender's duty).
#[derive(Debug, Clone)]
pub enum Push {
    /// Committed news: the effective head for this session's user, and the entries that came along (contiguous up to the
    /// head, maybe none). `revs` once the row is durable: those that this
    /// head and heads below it made.
    Head { conv: ConvId, head: Seq, n_head: Count, revs: Vec<Rev>, entries: Vec<Arc<Entry>> },
    /// The row changed otherwise: read it and send `conv`.
    Conv { conv: ConvId, rev: Rev },
    /// The same with the row as the shard's leader has it by now, for this device. `revs`: those that the changes made, none above
    /// the row's own.
    Row { row: Arc<InboxRow>, revs: Vec<Rev> },
    /// Close with the code of `Ended`.
    End(Ended),
    /// A watched user came or went; none: nobody can tell now.
    Presence { user: UserId, seen: Option<PresenceView> },
    /// Another member types.
    Typing { conv: ConvId, user: UserId },
    /// Members' marks in a watched conversation, as they are registered: at least those that have moved since the last of these.
    Receipts { conv: ConvId, marks: Vec<MarksOf> },
    /// Something may have been lost: read rows above the last rev again, at the leader.
    Resync,
    /// Close with this code: 4006 lease lost, 4001 going away.
    Close(u16),
}

/// This node as its clients may know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    pub id: NodeId,
    pub incarnation: Incarnation,
    pub cluster: ClusterId,
    pub epoch: Epoch,
    /// The cluster's feature level: what is newer some nodes may not know.
    pub level: u32,
    /// Client URLs of all nodes, this one's first. Every connection has the same ones.
    pub urls: Arc<[String]>,
    /// `goaway` goes to every connection, and no new one is taken.
    pub draining: bool,
    /// Registered, and its replicas serve.
    pub ready: bool,
}

/// One key that signs access tokens. Only the nodes that could unwrap it hold the private half.
#[derive(Clone)]
pub struct SigningKey {
    pub id: u32,
    pub public: [u8; 32],
    pub private: Option<[u8; 32]>,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.id)
    }
}

/// Members' marks of some conversations, in the order in which they were asked for; none: nobody can tell now.
pub type MarksOfEach = Vec<Option<Vec<MarksOf>>>;

pub trait Backend: Send + Sync + 'static {
    /// One deadline of 5 s inside. `Reply::Rejected` comes as `CallError::Rejected`, never in `Ok`.
    fn execute(&self, route: Route, command: Command) -> BoxFuture<'_, Result<Reply, CallError>> {
        self.execute_while(Wanted::ALWAYS, route, command)
    }

    /// As `execute`, and not proposed (any more) once nobody wants it: `Unavailable` then. What was proposed before is
    /// waited for.
    fn execute_while(&self, wanted: Wanted, route: Route, command: Command) -> BoxFuture<'_, Result<Reply, CallError>>;

    /// Where a user or a conversation lives, as far as this node knows. None: nothing is gathered for it.
    fn shard_of(&self, _route: &Route) -> Option<ShardId> {
        None
    }

    /// One deadline of 5 s inside. `Answer::Moved` is retried inside and never comes out.
    fn query(&self, route: Route, query: Query, freshness: Freshness) -> BoxFuture<'_, Result<Answer, CallError>>;

    /// What `by` sees of these users now, in order; none: nobody can tell. With `watcher` (the id of an [`AttachGuard`]) that
    /// session gets `Push::Presence` for these users from now on, and for no others.
    fn presence(
        &self,
        by: UserId,
        users: Vec<UserId>,
        watcher: Option<u64>,
    ) -> BoxFuture<'_, Result<Vec<Option<PresenceView>>, CallError>>;

    /// The first users in order of ids whose ids begin so, and whether every shard has answered.
    fn find_users(&self, prefix: String, limit: u32) -> BoxFuture<'_, Result<(Vec<UserId>, bool), CallError>>;

    /// Says to the other members that `user` types. May be lost.
    fn typing(&self, conv: ConvId, user: UserId);

    /// The session (the id of an [`AttachGuard`]) hears of these conversations in pull mode from now on, by `Push::Head`; each
    /// with the `mseq` of the part in its row. Where its user stands in each now, as `Standing::users[0]`; none: nobody can
    /// tell, and a push will.
    fn pulled(&self, session: u64, user: UserId, convs: Vec<(ConvId, Seq)>) -> BoxFuture<'_, Vec<Option<Standing>>>;

    /// The session hears of members' marks in these conversations from now on, by `Push::Receipts`, and in no others: as long as its
    /// user is a member, and the conversation in push mode. How they are now; of whom nobody can tell now, a push will.
    /// Rejected where the user is no member of one of them: then nothing is watched.
    fn receipts(&self, session: u64, user: UserId, convs: Vec<ConvId>)
    -> BoxFuture<'_, Result<MarksOfEach, CallError>>;

    /// Registered before `OpenSession` is proposed, so that no head falls between the two.
    fn attach(&self, session: Attach, pushes: queue::Sender<Box<Push>>) -> AttachGuard;

    /// The session has this number and its rows have been looked at up to `rev`. Called again as `rev` rises.
    fn confirm(&self, guard: &AttachGuard, number: SessionNo, rev: Rev);

    fn node(&self) -> watch::Receiver<NodeView>;

    /// A key for this purpose, made of the cluster's secret: the same at every node, and none before a node has the secret.
    fn secret(&self, purpose: &str) -> Option<[u8; 32]>;

    /// All valid keys, the newest last; it signs.
    fn keys(&self) -> watch::Receiver<Vec<SigningKey>>;
}
