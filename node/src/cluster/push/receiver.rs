//! The gateway's side of the push streams: hands pushes to sessions, and presents its sessions to a shard's leader after
//! a gap, a broken stream or a new leader.
//!
//! Invariant: a lost frame is noticed by the next frame or keepalive (2 s); a silent leader by the lease: then the
//! sessions of that shard's users are closed with 4006. So every lossy hop has a bound.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flotilla_machine::query::SessionNews;
use flotilla_proto::entry::Entry;
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_raft::path;
use tokio::time::Instant;

use super::stream::{Stream, Verdict};
use crate::backend::Push;
use crate::cluster::wire::{Failure, NodeReply, NodeRequest, PushFrame, PushItem, PushTo, StreamPosition};
use crate::cluster::{Cluster, pending::Pending};

const RETRY: Duration = Duration::from_millis(200);

struct ShardStream {
    stream: Stream,
    heard: Instant,
    /// Who spoke last for the shard's leader.
    from: Option<NodeId>,
}

pub struct Receiver {
    streams: Mutex<BTreeMap<ShardId, ShardStream>>,
    /// Shards whose sessions must be presented.
    to_sync: Pending<ShardId, ()>,
}

impl ShardStream {
    fn heard_from(&mut self, from: NodeId, take: impl FnOnce(&mut Stream) -> Verdict) -> Verdict {
        let verdict = take(&mut self.stream);
        if verdict != Verdict::Ignore {
            self.from = Some(from);
        }
        verdict
    }
}

impl Default for Receiver {
    fn default() -> Self {
        Self { streams: Mutex::default(), to_sync: Pending::new(usize::from(limits::SHARDS_MAX) + 1) }
    }
}

impl Receiver {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ShardId, ShardStream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<R>(&self, shard: ShardId, f: impl FnOnce(&mut ShardStream) -> R) -> R {
        let mut streams = self.lock();
        let new = || ShardStream { stream: Stream::default(), heard: Instant::now(), from: None };
        f(streams.entry(shard).or_insert_with(new))
    }

    fn note(&self, shard: ShardId, verdict: Verdict) {
        if verdict == Verdict::TakeAndSync {
            self.to_sync.add(shard, (), |(), ()| {});
        }
    }

    pub fn on_frame(&self, cluster: &Cluster, from: NodeId, frame: PushFrame) {
        // Only keepalives count as heard: a leader that was cut off from its quorum may still push.
        let verdict = self.with(frame.shard, |s| s.heard_from(from, |stream| stream.on_frame(frame.position)));
        self.note(frame.shard, verdict);
        if verdict != Verdict::Ignore {
            frame.items.into_iter().for_each(|item| hand(cluster, from, frame.shard, item));
        }
    }

    pub fn on_keepalive(&self, from: NodeId, shard: ShardId, position: StreamPosition) {
        let verdict = self.with(shard, |s| {
            let verdict = s.heard_from(from, |stream| stream.on_keepalive(position));
            if verdict != Verdict::Ignore {
                s.heard = Instant::now();
            }
            verdict
        });
        self.note(shard, verdict);
    }

    /// The connection from a node broke: frames may be gone with it. The streams that it carried are looked at again, now
    /// and not when a keepalive shows the hole.
    pub fn on_broken(&self, node: NodeId) {
        let mut streams = self.lock();
        for (shard, s) in streams.iter_mut().filter(|(_, s)| s.from == Some(node)) {
            s.stream.on_broken();
            self.to_sync.add(*shard, (), |(), ()| {});
        }
    }

    /// Streams without a hole.
    pub fn live(&self) -> usize {
        self.lock().values().filter(|s| s.stream.is_live()).count()
    }

    /// Every data shard is watched from the start, so that silence counts.
    pub fn expect(&self, shards: impl Iterator<Item = ShardId>) {
        for shard in shards {
            self.with(shard, |_| ());
            self.to_sync.add(shard, (), |(), ()| {});
        }
    }

    /// Shards not heard from for `lease`; each is named once per silence.
    fn take_silent(&self, lease: Duration) -> Vec<ShardId> {
        let now = Instant::now();
        let mut silent = Vec::new();
        for (shard, s) in self.lock().iter_mut().filter(|(_, s)| now.duration_since(s.heard) > lease) {
            s.heard = now;
            s.stream.on_broken();
            silent.push(*shard);
        }
        silent
    }
}

/// Presents the sessions of each shard that asks for it, one task per shard at a time.
pub async fn run_sync(cluster: Arc<Cluster>) {
    let mut running: BTreeMap<ShardId, tokio::task::JoinHandle<()>> = BTreeMap::new();
    loop {
        let taken = cluster.receiver.to_sync.take().await;
        let shards = if taken.overflow { cluster.data_shards() } else { taken.items.into_keys().collect() };
        for shard in shards {
            let busy = running.get(&shard).is_some_and(|task| !task.is_finished());
            if !busy {
                let task = cluster.spawn_vital("presenting sessions", sync(cluster.clone(), shard));
                running.insert(shard, task);
            }
        }
    }
}

/// Until the stream of this shard is live.
async fn sync(cluster: Arc<Cluster>, shard: ShardId) {
    loop {
        cluster.receiver.with(shard, |s| s.stream.on_sync_started());
        match present(&cluster, shard).await {
            Some(position) => cluster.receiver.with(shard, |s| s.stream.on_synced(position)),
            None => {
                cluster.receiver.with(shard, |s| s.stream.on_sync_failed());
                tokio::time::sleep(RETRY).await;
            }
        }
        if cluster.receiver.with(shard, |s| s.stream.is_live()) {
            if let Some(owned) = cluster.owner_of(shard) {
                cluster.sessions.receipts_again(&owned);
                cluster.watch_again(owned);
            }
            return;
        }
    }
}

/// Presents all sessions of the shard's users; the position is the leader's before the first of its reads.
async fn present(cluster: &Arc<Cluster>, shard: ShardId) -> Option<StreamPosition> {
    let owned = cluster.owner_of(shard)?;
    let sessions = cluster.sessions.to_present(&owned);
    let incarnation = *cluster.incarnation.borrow();
    let mut position: Option<StreamPosition> = None;
    let mut parts: Vec<_> = sessions.chunks(limits::SESSIONS_PER_PRESENT_MAX).map(<[_]>::to_vec).collect();
    if parts.is_empty() {
        parts.push(vec![]);
    }
    for part in parts {
        let request = NodeRequest::Present { shard, node: cluster.node, incarnation, sessions: part.clone() };
        let deadline = Instant::now() + Duration::from_millis(limits::REQUEST_DEADLINE_MS);
        match cluster.at_leader(shard, request, deadline, true).await.ok()? {
            NodeReply::Presented { stream, news } => {
                for (session, news) in part.iter().zip(news) {
                    let to = PushTo { device: session.device, number: session.number };
                    match news {
                        SessionNews::Gone(why) => cluster.sessions.deliver(&to, &Push::End(why)),
                        SessionNews::Rows(page) if page.rows.is_empty() && !page.more => {}
                        SessionNews::Rows(_) => cluster.sessions.deliver(&to, &Push::Resync),
                    }
                }
                // Two leaders answered: start over.
                if position.is_some_and(|p| p.term != stream.term) {
                    return None;
                }
                position = Some(position.map_or(stream, |p| p.min(stream)));
            }
            NodeReply::Failed(Failure::IncarnationUnknown) => {
                cluster.incarnation_refused.notify_one();
                return None;
            }
            _ => return None,
        }
    }
    cluster.sessions.resync_others(&owned, &sessions);
    // Whatever the lost frames said of conversations in pull mode is read again.
    let subscribed = cluster.subscribe_again(shard, &owned).await?;
    match (position, subscribed) {
        (Some(position), Some(other)) if position.term != other.term => None,
        (Some(position), Some(other)) => Some(position.min(other)),
        (position, _) => position,
    }
}

/// Closes the users of shards that no leader has spoken for.
pub async fn run_silence(cluster: Arc<Cluster>, lease: Duration) {
    let mut timer = tokio::time::interval(lease / 8);
    loop {
        timer.tick().await;
        cluster.sessions.repair();
        for shard in cluster.receiver.take_silent(lease) {
            if let Some(owned) = cluster.owner_of(shard) {
                tracing::warn!(%shard, "no keepalive from the shard's leader for a lease, closing its users' sessions");
                // Conversations of that shard are asked for again when it is back; their members stay.
                cluster.sessions.close(&owned, 4006);
                cluster.watch_again(&owned);
            }
            cluster.receiver.to_sync.add(shard, (), |(), ()| {});
        }
    }
}

/// What of a push's entries is a session's own. Others of the conversation may have more above its head: 1. it was removed,
/// 2. it is in again, and knows that head, 3. the push of its first stay comes late: what was said between lies below.
fn own(entries: &[Arc<Entry>], from: Seq, head: Seq) -> Vec<Arc<Entry>> {
    entries.iter().filter(|entry| (from..=head).contains(&entry.seq)).cloned().collect()
}

fn hand(cluster: &Cluster, from: NodeId, shard: ShardId, item: PushItem) {
    match item {
        PushItem::Head { conv, entries, sessions } => {
            let entries: Vec<_> = entries.into_iter().map(Arc::new).collect();
            for s in sessions {
                entries.iter().for_each(|entry| path::cid("arrived", entry.cid));
                let push = Push::Head {
                    conv: conv.clone(),
                    head: s.head,
                    n_head: s.n_head,
                    revs: s.revs,
                    entries: own(&entries, s.from, s.head),
                };
                cluster.sessions.deliver(&s.to, &push);
            }
        }
        PushItem::Conv { conv, rev, sessions } => {
            for to in sessions {
                cluster.sessions.deliver(&to, &Push::Conv { conv: conv.clone(), rev });
            }
        }
        PushItem::Row { to, row, revs } => cluster.sessions.deliver(&to, &Push::Row { row: Arc::new(row), revs }),
        PushItem::Pulled { conv, entries } => cluster.on_pulled(&conv, entries),
        PushItem::Presence { users } => cluster.on_presence(from, shard, users),
        PushItem::End { to, why } => cluster.sessions.deliver(&to, &Push::End(why)),
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::entry::What;

    use super::*;

    fn entry(seq: u64) -> Arc<Entry> {
        let from = UserId::parse("ann").expect("valid");
        Arc::new(Entry {
            conv: ConvId::group(&from, Cid(1)),
            seq: Seq(seq),
            n: Count(0),
            msg_id: MsgId(seq),
            ts: TsMs(seq),
            from,
            device: DeviceId(1),
            cid: Cid(seq.into()),
            kind: "delete".into(),
            what: Some(What::Delete { target: Seq(1) }),
            body_hash: Hash32::default(),
            chain: Hash32::default(),
        })
    }

    #[test]
    fn of_a_push_nobody_keeps_what_lies_outside_of_the_own_stay() {
        let entries: Vec<_> = (2..=5).map(entry).collect();
        let seqs = |from, head| own(&entries, Seq(from), Seq(head)).iter().map(|entry| entry.seq.0).collect::<Vec<_>>();
        assert_eq!(seqs(0, 5), [2, 3, 4, 5], "who stayed");
        assert_eq!(seqs(1, 3), [2, 3], "who was removed by 3");
        assert_eq!(seqs(5, 5), [5], "who came back with 5");
    }

    #[tokio::test]
    async fn a_broken_connection_unsettles_the_streams_that_it_carried_and_no_others() {
        let receiver = Receiver::default();
        let at = StreamPosition { term: 3, n: 7 };
        for (shard, from) in [(ShardId(1), NodeId(1)), (ShardId(2), NodeId(2))] {
            receiver.on_keepalive(from, shard, at);
            receiver.with(shard, |s| {
                s.stream.on_sync_started();
                s.stream.on_synced(at);
            });
        }
        assert_eq!(receiver.live(), 2);
        receiver.to_sync.take().await;
        receiver.on_broken(NodeId(2));
        assert_eq!(receiver.live(), 1);
        let taken = receiver.to_sync.take().await;
        assert_eq!(taken.items.into_keys().collect::<Vec<_>>(), [ShardId(2)]);
    }
}
