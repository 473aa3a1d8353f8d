//! Figures of this half that are read when the metrics page is asked for: groups, the log writer, peers, the node.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};

use flotilla_proto::ids::*;

use super::Cluster;
use crate::metrics::{Page, Registry};

pub fn register(registry: &Registry, cluster: &Arc<Cluster>) {
    let cluster: Weak<Cluster> = Arc::downgrade(cluster);
    registry.on_page(move |page| {
        if let Some(cluster) = cluster.upgrade() {
            node(page, &cluster);
            groups(page, &cluster);
            writer(page, &cluster);
            peers(page, &cluster);
        }
    });
}

fn one(page: &mut Page, name: &str, help: &str, kind: &str, value: f64) {
    page.head(name, help, kind);
    page.sample(name, &[], value);
}

fn node(page: &mut Page, cluster: &Cluster) {
    let ready = cluster.view.borrow().ready;
    one(page, "flotilla_ready", "1 while the node serves.", "gauge", f64::from(u8::from(ready)));
    let incarnation = cluster.incarnation.borrow().0 as f64;
    one(page, "flotilla_incarnation", "This node's incarnation; 0 while it is not registered.", "gauge", incarnation);
    let wait = cluster.pressure.wait(tokio::time::Instant::now()).as_secs_f64();
    one(
        page,
        "flotilla_task_wait_seconds",
        "How long a task waits for its turn on a processor; above 0.3 s sends are refused.",
        "gauge",
        wait,
    );
    let low = f64::from(u8::from(cluster.disk_is_low()));
    one(
        page,
        "flotilla_disk_low",
        "1 while client writes are refused because the disk's reserve is used up.",
        "gauge",
        low,
    );
    let taken = cluster.groups.snapshots_taken_now() as f64;
    one(page, "flotilla_snapshots_taken_now", "Snapshots of shards on their way in.", "gauge", taken);
    one(
        page,
        "flotilla_raft_early_campaigns_total",
        "Votes asked for by replicas here because the node of their leader refused connections.",
        "counter",
        cluster.groups.campaigns() as f64,
    );
    let live = cluster.receiver.live() as f64;
    one(page, "flotilla_push_streams_live", "Shards whose push stream to this gateway has no hole.", "gauge", live);
    let watched = cluster.sessions.receipts_watched() as f64;
    one(page, "flotilla_receipts_watched", "Conversations whose receipts connections watch here.", "gauge", watched);
}

fn groups(page: &mut Page, cluster: &Cluster) {
    let all = cluster.groups.all();
    let groups: Vec<_> = all.iter().map(|g| (g.shard().to_string(), g.facts(), g.is_leader())).collect();
    let mut family = |name: &str, help: &str, value: &dyn Fn(&flotilla_raft::group::Facts, bool) -> f64| {
        page.head(name, help, "gauge");
        for (shard, facts, leads) in &groups {
            page.sample(name, &[("shard", shard)], value(facts, *leads));
        }
    };
    family("flotilla_raft_leader", "1 where this node leads the shard.", &|_, leads| f64::from(u8::from(leads)));
    family("flotilla_raft_term", "Term of the shard's group.", &|f, _| f.term as f64);
    family("flotilla_raft_committed_index", "Last log index known to be committed.", &|f, _| f.committed as f64);
    family("flotilla_raft_applied_index", "Last log index applied here.", &|f, _| f.applied as f64);
    family("flotilla_raft_snapshot_index", "Log index of the last snapshot.", &|f, _| f.snapshot as f64);
    let name = "flotilla_raft_queue_wait_seconds";
    let help = "How long the oldest command of the newest proposal had waited; above 1.5 s sends are refused.";
    page.head(name, help, "gauge");
    for group in &all {
        page.sample(name, &[("shard", &group.shard().to_string())], group.waited().as_secs_f64());
    }
}

fn writer(page: &mut Page, cluster: &Cluster) {
    let stats = cluster.groups.writer().stats();
    let counters = [
        ("flotilla_log_writes_total", "Appends, votes and truncations of all groups.", &stats.writes),
        ("flotilla_log_batches_total", "Batches that they were gathered into.", &stats.batches),
        ("flotilla_log_syncs_total", "Batches that were synced.", &stats.syncs),
        ("flotilla_log_bytes_total", "Bytes of those batches.", &stats.bytes),
    ];
    for (name, help, value) in counters {
        one(page, name, help, "counter", value.load(Relaxed) as f64);
    }
}

fn peers(page: &mut Page, cluster: &Cluster) {
    let peers: Vec<_> = cluster.peers.status().into_iter().map(|p| (p.node.to_string(), p)).collect();
    let mut family = |name: &str, help: &str, value: &dyn Fn(NodeId, &flotilla_raft::peer::PeerStatus) -> f64| {
        page.head(name, help, "gauge");
        for (node, peer) in &peers {
            page.sample(name, &[("peer", node)], value(peer.node, peer));
        }
    };
    family("flotilla_peer_connected", "1 while connected.", &|node, _| {
        f64::from(u8::from(cluster.peers.is_connected(node)))
    });
    family("flotilla_peer_queue_messages", "Messages that wait for the socket.", &|_, p| p.queued as f64);
    family("flotilla_peer_requests_open", "Requests without an answer.", &|_, p| p.open as f64);
}
