//! Keepalives of the push streams: every 2 s, one message per node pair for all streams between the two.
//!
//! Invariant: a stream is named only if a quorum has confirmed the leadership since its previous keepalive; so a leader
//! that was cut off falls silent within one period, and its gateways notice within a lease.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::ids::*;
use flotilla_proto::plant::{self, Plant};
use flotilla_raft::seam::clock;
use tokio::time::Instant;

use super::Cluster;
use super::leader::Leader;
use super::wire::NodeCast;

const PERIOD: Duration = Duration::from_secs(2);

pub async fn run(cluster: Arc<Cluster>) {
    let mut timer = tokio::time::interval(PERIOD);
    let mut named: BTreeMap<(ShardId, u64), Instant> = BTreeMap::new();
    let mut was_low = false;
    loop {
        timer.tick().await;
        let now = Instant::now();
        let leading: Vec<Arc<Leader>> = cluster.leaders().values().map(|l| l.leader.clone()).collect();
        named.retain(|key, _| leading.iter().any(|l| (l.shard, l.term) == *key));
        let confirmed: Vec<_> = leading
            .into_iter()
            .filter(|l| {
                let before = named.get(&(l.shard, l.term)).copied();
                let led = l.group.last_quorum_ack().is_some_and(|ack| before.is_none_or(|before| ack > before));
                led || plant::on(Plant::KeepaliveWithoutQuorum)
            })
            .collect();
        named.extend(confirmed.iter().map(|l| ((l.shard, l.term), now)));
        let Some(state) = cluster.tables.current() else { continue };
        let disk = cluster.disk_is_low();
        if disk || was_low {
            was_low = disk;
            state.nodes.iter().for_each(|row| cluster.cast(row.info.node, NodeCast::Disk { low: disk }));
        }
        if cluster.strained.look(now) {
            cluster.place();
        }
        for row in state.nodes.iter().filter(|row| row.incarnation > Incarnation(0)) {
            let node = row.info.node;
            let streams = confirmed.iter().map(|l| (l.shard, l.hub.position(node))).collect();
            let incarnation = Incarnation(row.incarnation.0.saturating_add(u64::from(row.lapsed)));
            cluster.cast(node, NodeCast::Keepalive { incarnation, wall: clock::wall(), streams });
        }
    }
}
