//! Pushes news to the live sessions of a shard's users: at once with the entries when a `notify` arrives, and again when
//! its heads are applied.
//!
//! The first look may miss a session that opens in between; the second sees it in applied state, or knows it from there (see
//! [`super::live`]). Pushes are hints with
//! numbers: what is lost is noticed by the gateway.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_machine::command::Notify;
use flotilla_machine::query::{DirtyItem, InboxRow, LiveSession};
use flotilla_machine::{Answer, Query};
use flotilla_proto::ids::*;
use flotilla_proto::limits;

use super::Cluster;
use super::leader::{Leader, News};
use super::live::{Found, Sessions};
use super::wire::{NodeCast, PushHead, PushItem, PushTo};

/// The second look is not what brings an entry to a session that is open: waiting a moment lets heads of one conversation ride
/// together, and those of many conversations share a frame.
const GATHER: Duration = Duration::from_millis(50);

/// Second look: sessions in the state in which the heads were applied.
pub async fn run(cluster: Arc<Cluster>, leader: Arc<Leader>) {
    loop {
        leader.news.ready().await;
        tokio::time::sleep(GATHER).await;
        let taken = leader.news.take().await;
        if taken.overflow {
            leader.hub.skip();
        }
        let news: Vec<_> = taken.items.into_iter().collect();
        for part in news.chunks(limits::USERS_PER_LOOK_MAX) {
            let users = part.iter().map(|((user, _), _)| user.clone()).collect();
            let sessions = live_sessions(&leader, users).await;
            let mut rows = rows(&cluster, &leader, part, &sessions).await;
            let mut frames = Frames::default();
            for ((user, conv), news) in in_order(part) {
                for session in sessions.get(user).into_iter().flat_map(|all| all.iter()) {
                    let to = PushTo { device: session.device, number: session.number };
                    if let Some(rev) = news.conv.last().copied() {
                        let item = match rows.remove(&(session.device, conv)) {
                            Some(row) => PushItem::Row { to: to.clone(), row, revs: news.conv.clone() },
                            None => PushItem::Conv { conv: conv.clone(), rev, sessions: vec![to.clone()] },
                        };
                        frames.add(session.node, item);
                    }
                    if let Some((head, n_head)) = news.head {
                        let head = PushHead { to, head, n_head, from: Seq::ZERO, revs: news.revs.clone() };
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

/// The news of each user by the revisions of their changes: a session that is told of them in another order has to keep rows back.
fn in_order(news: &[((UserId, ConvId), News)]) -> Vec<&((UserId, ConvId), News)> {
    let mut news: Vec<_> = news.iter().collect();
    news.sort_by_key(|((user, _), news)| (user, news.conv.last().max(news.revs.last())));
    news
}

/// What sessions would have to ask for if they were only told that something has changed. What is missing here they ask for:
/// rows in pull mode, whose heads their conversations know, and those for which there is no room.
async fn rows<'a>(
    cluster: &Cluster,
    leader: &Leader,
    news: &'a [((UserId, ConvId), News)],
    sessions: &BTreeMap<UserId, Sessions>,
) -> BTreeMap<(DeviceId, &'a ConvId), InboxRow> {
    if cluster.level() < limits::ROWS_PUSHED_LEVEL {
        return BTreeMap::new();
    }
    let changed = news.iter().filter(|(_, news)| !news.conv.is_empty());
    let told = changed.flat_map(|((user, conv), _)| {
        let sessions = sessions.get(user).into_iter().flat_map(|all| all.iter());
        sessions.map(move |session| (user, session.device, conv))
    });
    let asked: Vec<_> = told.take(limits::ROWS_PUSHED_MAX).collect();
    let mut rows = BTreeMap::new();
    for some in asked.chunks(limits::ROWS_PUSHED_PER_READ) {
        let devices = some.iter().map(|(user, device, conv)| ((*user).clone(), *device, (*conv).clone())).collect();
        let Ok(Answer::RowsOf(read)) = leader.group.query(&Query::RowsOf { devices }).await else { break };
        let read = some.iter().zip(read).filter_map(|((_, device, conv), row)| Some(((*device, *conv), row?)));
        rows.extend(read.filter(|(_, row)| !row.part.is_pulled()));
    }
    cluster.metrics.rows_pushed.add(rows.len() as u64);
    rows
}

/// First look: committed entries, before the heads are durable in users' rows.
pub async fn push_entries(cluster: &Cluster, leader: &Leader, items: &[DirtyItem]) {
    let mut users: Vec<UserId> = items.iter().flat_map(|i| i.notify.users.iter().map(|u| u.user.clone())).collect();
    users.sort();
    users.dedup();
    let mut sessions = BTreeMap::new();
    for part in users.chunks(limits::USERS_PER_LOOK_MAX) {
        sessions.extend(live_sessions(leader, part.to_vec()).await);
    }
    let mut frames = Frames::default();
    for item in items {
        for (node, heads) in heads_of(&item.notify, &sessions) {
            let conv = item.notify.conv.clone();
            frames.add(node, PushItem::Head { conv, entries: item.entries.clone(), sessions: heads });
        }
    }
    frames.send(cluster, leader);
}

/// Who is told on which gateway, and what of the entries is theirs.
fn heads_of(news: &Notify, sessions: &BTreeMap<UserId, Sessions>) -> BTreeMap<NodeId, Vec<PushHead>> {
    let mut by_node: BTreeMap<NodeId, Vec<PushHead>> = BTreeMap::new();
    for named in &news.users {
        // Without a part the target has confirmed the latest stay, and no entry below what it confirmed comes along.
        let (head, n_head, from) = match &named.part {
            Some(part) => {
                let from = part.intervals.last().map_or(Seq::ZERO, |stay| stay.from);
                (part.effective_head(news.head), part.effective_n(news.n_head), from)
            }
            None => (news.head, news.n_head, Seq::ZERO),
        };
        for session in sessions.get(&named.user).into_iter().flat_map(|all| all.iter()) {
            let to = PushTo { device: session.device, number: session.number };
            by_node.entry(session.node).or_default().push(PushHead { to, head, n_head, from, revs: vec![] });
        }
    }
    by_node
}

async fn live_sessions(leader: &Leader, users: Vec<UserId>) -> BTreeMap<UserId, Sessions> {
    let Found { mut known, missing, at } = leader.live.find(&users);
    if missing.is_empty() {
        return known;
    }
    match leader.group.query(&Query::LiveSessions { users: missing.clone() }).await {
        Ok(Answer::LiveSessions(sessions)) => {
            let mut read: BTreeMap<UserId, Vec<LiveSession>> = missing.into_iter().map(|u| (u, vec![])).collect();
            for session in sessions {
                read.entry(session.user.clone()).or_default().push(session);
            }
            let read = read.into_iter().map(|(user, sessions)| (user, Sessions::from(sessions))).collect();
            leader.live.remember(at, &read);
            known.extend(read);
        }
        // Nobody was looked up: leave a hole, so that gateways look for themselves.
        _ => leader.hub.skip(),
    }
    known
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

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_machine::command::NotifyUser;
    use flotilla_proto::member::{Interval, MembershipPart};

    #[test]
    fn news_of_a_user_come_in_the_order_of_their_revisions() {
        let user = |name| UserId::parse(name).expect("valid");
        let key = |name, n| (user(name), ConvId::group(&user(name), Cid(n)));
        let news = |revs: &[u64], conv: &[u64]| News {
            head: None,
            revs: revs.iter().copied().map(Rev).collect(),
            conv: conv.iter().copied().map(Rev).collect(),
        };
        let all = [
            (key("ann", 1), news(&[4, 7], &[])),
            (key("ann", 2), news(&[], &[5])),
            (key("ann", 3), news(&[3], &[6])),
            (key("bob", 1), news(&[1], &[])),
        ];
        let told: Vec<_> = in_order(&all).iter().map(|((user, _), news)| (user.as_str(), news.conv.clone())).collect();
        assert_eq!(told, [("ann", vec![Rev(5)]), ("ann", vec![Rev(6)]), ("ann", vec![]), ("bob", vec![])]);
    }

    #[test]
    fn what_was_said_between_two_stays_is_not_pushed_to_who_comes_back() {
        let user = UserId::parse("bob").expect("valid");
        let stay = |from, until: Option<u64>| Interval {
            from: Seq(from),
            n_before: Count(0),
            until: until.map(Seq),
            n_until: Count(0),
            history_from: Seq(from),
        };
        let intervals = vec![stay(1, Some(7)), stay(9, None)];
        let part = MembershipPart { mseq: Seq(9), intervals, ..Default::default() };
        let news = Notify {
            conv: ConvId::group(&user, Cid(1)),
            head: Seq(9),
            n_head: Count(4),
            last_id: MsgId(1),
            last_ts: TsMs(1),
            users: vec![NotifyUser { user: user.clone(), n_sent: Count(0), part: Some(part) }],
        };
        let (device, number, node, incarnation) = (DeviceId(1), SessionNo(1), NodeId(3), Incarnation(1));
        let live = LiveSession { user: user.clone(), device, number, node, incarnation };
        let heads = heads_of(&news, &BTreeMap::from([(user, Sessions::from(vec![live]))]));
        assert_eq!((heads[&node][0].head, heads[&node][0].from), (Seq(9), Seq(9)), "entry 8 is not bob's");
    }
}
