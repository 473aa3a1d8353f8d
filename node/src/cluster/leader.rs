//! What this node does for a shard while it leads it: one `Leader` per shard and term, dropped with the leadership.
//!
//! Invariant: everything here is driven by rows and may be started again by the next leader; effects only wake it early.
//! What others have asked to hear of (presence, pull mode, live receipts) they ask for again.

use std::collections::BTreeSet;
use std::sync::Arc;

use flotilla_machine::Effect;
use flotilla_machine::command::Receipt;
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_raft::Group;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::fanout::Wakes;
use super::heads::Heads;
use super::live::Live;
use super::pending::Pending;
use super::push::hub::Hub;
use super::receipts::{Marks, Owed};
use super::subscribers::Subscribers;
use super::wire::PushItem;
use super::{Cluster, fanout, heads, housekeeping, presence, pusher, receipt_interest, receipts, subscribers};

/// What changed for one (user, conversation).
#[derive(Debug, Clone, Default)]
pub struct News {
    /// The effective head and its n, once durable.
    pub head: Option<(Seq, Count)>,
    /// The row's revs that the heads up to this one made. Without all of them a session could not tell a head that rode along
    /// from a revision that it missed.
    pub revs: Vec<Rev>,
    /// The revs of its other changes, the newest last.
    pub conv: Vec<Rev>,
}

pub struct Leader {
    pub shard: ShardId,
    pub term: u64,
    /// When this leadership began.
    pub since: Instant,
    pub group: Group,
    pub hub: Hub,
    /// Targets with dirty rows, and no pump yet.
    pub dirty: Pending<ShardId, ()>,
    /// Conversations with dirty rows, for the pumps of their targets.
    pub wakes: Wakes,
    pub live: Live,
    /// Heads of this shard's users that wait for others.
    pub heads: Heads,
    /// Targets that are owed peer watermarks.
    pub receipts_dirty: Pending<ShardId, Owed>,
    /// Users of this shard owe watermarks to conversations.
    pub receipts_due: Pending<(UserId, ConvId), Marks>,
    pub news: Pending<(UserId, ConvId), News>,
    pub jobs: Notify,
    /// Gateways with watchers of users of this shard.
    pub interest: presence::Interest,
    /// Gateways with members of conversations in pull mode, and those of them that have news.
    pub subscribers: Subscribers,
    pub pulled: Pending<ConvId, Seq>,
    /// Gateways with watchers of members' marks in conversations of this shard, and whose marks may have moved.
    pub receipt_interest: receipt_interest::Interest,
    pub receipts_moved: Pending<ConvId, BTreeSet<UserId>>,
}

/// Keeps a leader's tasks; they end when it is dropped.
pub struct Leading {
    pub leader: Arc<Leader>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Leading {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        // Those who wait hold the leader.
        self.leader.heads.end();
    }
}

impl Leading {
    pub fn start(cluster: &Arc<Cluster>, group: Group, shard: ShardId, term: u64) -> Self {
        let leader = Arc::new(Leader {
            shard,
            term,
            since: Instant::now(),
            group,
            hub: Hub::new(shard, term),
            dirty: Pending::new(limits::TARGETS_PENDING_MAX),
            wakes: Wakes::default(),
            live: Live::default(),
            heads: Heads::default(),
            receipts_dirty: Pending::new(limits::TARGETS_PENDING_MAX),
            receipts_due: Pending::new(limits::RECEIPTS_PENDING_MAX),
            news: Pending::new(limits::NEWS_PENDING_MAX),
            jobs: Notify::new(),
            interest: presence::Interest::default(),
            subscribers: Subscribers::default(),
            pulled: Pending::new(limits::PULLED_PENDING_MAX),
            receipt_interest: receipt_interest::Interest::default(),
            receipts_moved: Pending::new(limits::RECEIPTS_MOVED_MAX),
        });
        let tasks = vec![
            cluster.spawn_vital("the fan-out of a shard", fanout::run(cluster.clone(), leader.clone())),
            cluster.spawn_vital("the receipts of a shard", receipts::run_due(cluster.clone(), leader.clone())),
            cluster.spawn_vital("the peers' receipts of a shard", receipts::run_dirty(cluster.clone(), leader.clone())),
            cluster.spawn_vital("the heads of a shard", heads::run(cluster.clone(), leader.clone())),
            cluster.spawn_vital("the pushes of a shard", pusher::run(cluster.clone(), leader.clone())),
            cluster.spawn_vital("the housekeeping of a shard", housekeeping::run(cluster.clone(), leader.clone())),
            cluster.spawn_vital("the pulls of a shard", subscribers::run(cluster.clone(), leader.clone())),
            cluster.spawn_vital("the live receipts of a shard", receipt_interest::run(cluster.clone(), leader.clone())),
        ];
        Self { leader, tasks }
    }
}

impl Leader {
    /// Wakes the pump that an effect concerns. Never waits.
    pub fn on_effect(&self, cluster: &Cluster, effect: Effect) {
        match effect {
            Effect::Dirty { target, conv, entry } => {
                if !self.wakes.wake(target, conv, entry) {
                    self.dirty.add(target, (), |(), ()| {});
                }
            }
            Effect::Sessions { user } => self.live.forget(&user),
            Effect::ReceiptDirty { target, receipt } => {
                self.receipts_dirty.add(target, Owed::of(receipt), Owed::join);
            }
            Effect::ReceiptDue { receipt: Receipt { user, conv, delivered, read } } => {
                self.receipts_due.add((user, conv), Marks { delivered, read }, Marks::raise);
            }
            Effect::Head { user, conv, head, n_head, rev } => {
                let news = News { head: Some((head, n_head)), revs: rev.into_iter().collect(), conv: vec![] };
                self.news.add((user, conv), news, News::merge);
            }
            Effect::Conv { user, conv, rev } => {
                let news = News { head: None, revs: vec![], conv: vec![rev] };
                self.news.add((user, conv), news, News::merge);
            }
            Effect::SessionEnded { device, number, node, why, .. } => {
                let to = super::wire::PushTo { device, number };
                cluster.push(self, node, vec![PushItem::End { to, why }]);
            }
            Effect::Presence { user } => self.presence_changed(cluster, &user),
            Effect::Pulled { conv, head } => {
                // The first that waits: those above it are told with it.
                self.pulled.add(conv, head, |first, other| *first = (*first).min(other));
            }
            Effect::Job => self.jobs.notify_one(),
            Effect::Control => cluster.control_changed.notify_one(),
        }
    }
}

impl News {
    fn merge(&mut self, other: News) {
        self.head = self.head.max(other.head);
        // Above the bound the session finds a hole, and reads its rows once more than needed.
        let room = limits::REVS_PER_HEAD_MAX.saturating_sub(self.revs.len());
        self.revs.extend(other.revs.into_iter().take(room));
        for rev in other.conv {
            // The newest is the one that must not be lost.
            if self.conv.len() >= limits::REVS_PER_HEAD_MAX {
                self.conv.pop();
            }
            self.conv.push(rev);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_that_ride_together_account_for_all_their_revisions() {
        let head = |seq, rev| News { head: Some((Seq(seq), Count(seq))), revs: vec![Rev(rev)], conv: vec![] };
        let mut news = head(4, 11);
        let other = |rev| News { head: None, revs: vec![], conv: vec![Rev(rev)] };
        news.merge(other(12));
        news.merge(head(5, 13));
        news.merge(other(14));
        assert_eq!(news.head, Some((Seq(5), Count(5))));
        assert_eq!((&news.revs[..], &news.conv[..]), (&[Rev(11), Rev(13)][..], &[Rev(12), Rev(14)][..]));
        (15..200).for_each(|n| news.merge(head(n, n)));
        (200..400).for_each(|n| news.merge(other(n)));
        assert_eq!((news.revs.len(), news.conv.len()), (limits::REVS_PER_HEAD_MAX, limits::REVS_PER_HEAD_MAX));
        assert_eq!(news.conv.last(), Some(&Rev(399)));
    }
}
