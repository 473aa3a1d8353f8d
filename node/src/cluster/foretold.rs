//! The body of one planted bug ([`PushUncommitted`](flotilla_proto::plant::Plant::PushUncommitted)): the entry that a command
//! would become is pushed to the sessions that this node knows before anybody has committed it. Empty in production.

#[cfg(not(madsim))]
pub use none::push;
#[cfg(madsim)]
pub use planted::push;

#[cfg(not(madsim))]
mod none {
    use crate::cluster::Cluster;
    use crate::cluster::leader::Leader;

    pub async fn push(_: &Cluster, _: &Leader, _: &[u8]) {}
}

#[cfg(madsim)]
mod planted {
    use flotilla_machine::command::{Append, Notify, NotifyUser};
    use flotilla_machine::query::DirtyItem;
    use flotilla_machine::{Answer, Command, Query};
    use flotilla_proto::entry::{Entry, body_hash};
    use flotilla_proto::ids::*;
    use flotilla_raft::seam::clock;

    use crate::cluster::Cluster;
    use crate::cluster::leader::Leader;
    use crate::cluster::pusher;

    pub async fn push(cluster: &Cluster, leader: &Leader, command: &[u8]) {
        let Ok(Command::Append(append)) = Command::decode(command) else { return };
        let Some(item) = foretell(leader, &append).await else { return };
        // Only where this node leads the users' shards too.
        let leaders: Vec<_> = cluster.leaders().values().map(|l| l.leader.clone()).collect();
        for users in leaders {
            pusher::push_entries(cluster, &users, std::slice::from_ref(&item)).await;
        }
    }

    /// The next entry as it would be if nothing came in between.
    async fn foretell(leader: &Leader, append: &Append) -> Option<DirtyItem> {
        let last = last_entry(leader, append).await?;
        let mut entry = Entry {
            conv: append.conv.clone(),
            seq: last.seq.next(),
            n: Count(last.n.0 + 1),
            msg_id: MsgId(last.msg_id.0 + 1),
            ts: clock::wall().max(last.ts),
            from: append.sender.clone(),
            device: append.device,
            cid: append.cid,
            kind: append.what.kind().to_owned(),
            what: Some(append.what.clone()),
            body_hash: body_hash(append.cid, &append.what),
            chain: Hash32::default(),
        };
        entry.chain = entry.chain_after(last.chain);
        let users = members(leader, append).await?;
        let users = users.into_iter().map(|user| NotifyUser { user, n_sent: Count(0), part: None }).collect();
        let notify = Notify {
            conv: entry.conv.clone(),
            head: entry.seq,
            n_head: entry.n,
            last_id: entry.msg_id,
            last_ts: entry.ts,
            users,
        };
        Some(DirtyItem { notify, parts: Seq::ZERO, entries: vec![entry] })
    }

    async fn last_entry(leader: &Leader, append: &Append) -> Option<Entry> {
        let query = Query::Entries {
            conv: append.conv.clone(),
            user: append.sender.clone(),
            from: Seq(1),
            to: Seq(u64::MAX),
            newest_first: true,
            limit: 1,
            bytes_max: 1 << 16,
        };
        match leader.group.query(&query).await {
            Ok(Answer::Entries(page)) => page.entries.into_iter().next(),
            _ => None,
        }
    }

    async fn members(leader: &Leader, append: &Append) -> Option<Vec<UserId>> {
        let query = Query::Members { conv: append.conv.clone(), user: append.sender.clone(), after: None, limit: 100 };
        match leader.group.query(&query).await {
            Ok(Answer::Members { members, .. }) => Some(members.into_iter().map(|m| m.user).collect()),
            _ => None,
        }
    }
}
