//! Pushes news to the live sessions of a shard's users: at once with the entries when a `notify` arrives, and again when
//! its heads are applied.
//!
//! The first look may miss a session that opens in between; the second sees it in applied state. Pushes are hints with
//! numbers: what is lost is noticed by the gateway.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_machine::query::{DirtyItem, LiveSession};
use flotilla_machine::{Answer, Query};
use flotilla_proto::ids::*;

use super::Cluster;
use super::leader::Leader;
use super::wire::{NodeCast, PushHead, PushItem, PushTo};

/// Users looked up at once.
const USERS_PER_LOOK: usize = 256;

/// Second look: sessions in the state in which the heads were applied.
pub async fn run(cluster: Arc<Cluster>, leader: Arc<Leader>) {
    loop {
        let taken = leader.news.take().await;
        if taken.overflow {
            leader.hub.skip();
        }
        let news: Vec<_> = taken.items.into_iter().collect();
        for part in news.chunks(USERS_PER_LOOK) {
            let users = part.iter().map(|((user, _), _)| user.clone()).collect();
            let sessions = live_sessions(&leader, users).await;
            let mut frames = Frames::default();
            for ((user, conv), news) in part {
                for session in sessions.get(user).into_iter().flatten() {
                    let to = PushTo { device: session.device, number: session.number };
                    if let Some(rev) = news.conv {
                        frames
                            .add(session.node, PushItem::Conv { conv: conv.clone(), rev, sessions: vec![to.clone()] });
                    }
                    if let Some((head, n_head, rev)) = news.head {
                        let head = PushHead { to, head, n_head, rev: Some(rev) };
                        frames.add(
                            session.node,
                            PushItem::Head { conv: conv.clone(), entries: vec![], sessions: vec![head] },
                        );
                    }
                }
            }
            frames.send(&cluster, &leader);
        }
    }
}

/// First look: committed entries, before the heads are durable in users' rows.
pub async fn push_entries(cluster: &Cluster, leader: &Leader, items: &[DirtyItem]) {
    let mut users: Vec<UserId> = items.iter().flat_map(|i| i.notify.users.iter().map(|u| u.user.clone())).collect();
    users.sort();
    users.dedup();
    let mut sessions = BTreeMap::new();
    for part in users.chunks(USERS_PER_LOOK) {
        sessions.extend(live_sessions(leader, part.to_vec()).await);
    }
    let mut frames = Frames::default();
    for item in items {
        let mut by_node: BTreeMap<NodeId, Vec<PushHead>> = BTreeMap::new();
        for named in &item.notify.users {
            let (head, n_head) = match &named.part {
                Some(part) => (part.effective_head(item.notify.head), part.effective_n(item.notify.n_head)),
                None => (item.notify.head, item.notify.n_head),
            };
            for session in sessions.get(&named.user).into_iter().flatten() {
                let to = PushTo { device: session.device, number: session.number };
                by_node.entry(session.node).or_default().push(PushHead { to, head, n_head, rev: None });
            }
        }
        for (node, heads) in by_node {
            let conv = item.notify.conv.clone();
            frames.add(node, PushItem::Head { conv, entries: item.entries.clone(), sessions: heads });
        }
    }
    frames.send(cluster, leader);
}

async fn live_sessions(leader: &Leader, users: Vec<UserId>) -> BTreeMap<UserId, Vec<LiveSession>> {
    let mut by_user: BTreeMap<UserId, Vec<LiveSession>> = BTreeMap::new();
    match leader.group.query(&Query::LiveSessions { users }).await {
        Ok(Answer::LiveSessions(sessions)) => {
            for session in sessions {
                by_user.entry(session.user.clone()).or_default().push(session);
            }
        }
        // Nobody was looked up: leave a hole, so that gateways look for themselves.
        _ => leader.hub.skip(),
    }
    by_user
}

/// Items gathered per gateway.
#[derive(Default)]
struct Frames(BTreeMap<NodeId, Vec<PushItem>>);

impl Frames {
    fn add(&mut self, node: NodeId, item: PushItem) {
        self.0.entry(node).or_default().push(item);
    }

    fn send(self, cluster: &Cluster, leader: &Leader) {
        for (node, items) in self.0 {
            cluster.push(leader, node, items);
        }
    }
}

impl Cluster {
    /// Offers one numbered frame to a gateway. Dropped frames leave a hole in the numbers.
    pub fn push(&self, leader: &Leader, gateway: NodeId, items: Vec<PushItem>) {
        leader.hub.send(gateway, items, |frame| self.cast(gateway, NodeCast::Push(frame)));
    }
}
