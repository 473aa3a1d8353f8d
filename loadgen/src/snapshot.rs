//! The workload `snapshot`: a node is away while a cluster is filled with large bodies, until its log is too old everywhere;
//! it comes back and gets the shards as snapshots. How long that takes, and what it costs senders and receiver in memory.
//!
//! *Extra* is the highest resident memory during the transfer, less what the process used at rest: for the receiver with
//! next to nothing stored, just before it was killed; for the senders just before the receiver came back.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::Outcome;
use crate::cluster::{Cluster, Node, Place};
use crate::process::{self, mib};
use crate::workload::direct;

const AWAY: usize = 2;
const FILLING_S: f64 = 5.0;
const LIMIT: Duration = Duration::from_secs(600);
const EXTRA_MIB_MAX: f64 = 64.0;

#[derive(Debug, Clone, Args)]
pub struct Options {
    /// MiB of bodies in the state that is sent
    #[arg(long, default_value_t = 1_024)]
    pub mib: u64,
    /// Direct conversations that they are in
    #[arg(long, default_value_t = 16)]
    pub pairs: usize,
    /// Bytes of a body
    #[arg(long, default_value_t = 24 * 1024)]
    pub body: usize,
}

#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    pub entries: u64,
    pub state_mib: f64,
    pub filling_s: f64,
    /// Shards whose log had been purged beyond what the node had.
    pub shards: usize,
    /// From the start of the process until it has applied what the others had when it came.
    pub seconds: f64,
    pub sender_extra_mib: Vec<f64>,
    pub receiver_extra_mib: f64,
    pub receiver_at_rest_mib: f64,
}

pub async fn command(options: &Options, place: &Place) -> anyhow::Result<Outcome> {
    ensure!(place.nodes == 3, "this works with three nodes");
    let mut cluster = place.local(2 * options.pairs, &[("FLOTILLA_SNAPSHOT_ENTRIES", "100")]).await?;
    let snapshot = run(options, &mut cluster).await?;
    let worst = snapshot.sender_extra_mib.iter().copied().fold(snapshot.receiver_extra_mib, f64::max);
    println!(
        "{:.0} MiB of bodies in {} entries, {} shards by snapshot in {:.1} s; extra memory: receiver {:.1} MiB (over {:.1}), senders {:.1?} MiB",
        snapshot.state_mib,
        snapshot.entries,
        snapshot.shards,
        snapshot.seconds,
        snapshot.receiver_extra_mib,
        snapshot.receiver_at_rest_mib,
        snapshot.sender_extra_mib
    );
    Outcome::new(worst <= EXTRA_MIB_MAX, &snapshot)
}

async fn run(options: &Options, cluster: &mut Cluster) -> anyhow::Result<Snapshot> {
    let local = cluster.local()?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let old = figures(&local.status().await?, AWAY, "last_log");
    let at_rest = usage(&local.nodes[AWAY])?.rss_bytes;
    local.kill(AWAY)?;
    cluster.urls.remove(AWAY);

    let began = Instant::now();
    let mut entries = 0;
    while entries * (options.body as u64) < options.mib << 20 {
        let mut part = direct::Options::closed(options.pairs, 4).lasting(0.0, FILLING_S);
        part.shape.body = options.body;
        let report = direct::run(&part, cluster).await?;
        ensure!(report.ok() && report.accepted > 0, "filling went wrong: {report:?}");
        entries += report.accepted;
    }
    let filling_s = began.elapsed().as_secs_f64();

    let local = cluster.local()?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let now = local.status().await?;
    let (wanted, purged) = (figures(&now, 0, "applied"), figures(&now, 0, "purged"));
    let gone: Vec<_> = old.iter().filter(|(shard, last)| purged.get(shard) > Some(last)).map(|(s, _)| *s).collect();
    ensure!(!gone.is_empty(), "no log was purged beyond what the node has: {old:?} {purged:?}");
    let mut senders = Vec::new();
    for node in &local.nodes[..AWAY] {
        let pid = node.pid().context("a node that runs")?;
        senders.push((pid, process::reset_peak(pid)?));
    }
    let began = Instant::now();
    local.spawn(AWAY)?;
    local.ready(AWAY).await?;
    loop {
        let there = local.status().await.map(|now| figures(&now, AWAY, "applied")).unwrap_or_default();
        if wanted.iter().all(|(shard, index)| there.get(shard) >= Some(index)) {
            break;
        }
        ensure!(began.elapsed() < LIMIT, "not caught up in time: {wanted:?} {there:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let seconds = began.elapsed().as_secs_f64();
    let jumped = figures(&local.status().await?, AWAY, "purged");
    for shard in &gone {
        // Only a snapshot purges what it never had.
        ensure!(jumped.get(shard) > old.get(shard), "shard {shard} came entry by entry: {jumped:?} {old:?}");
    }
    let extra = |peak: u64, before: u64| mib(peak.saturating_sub(before));
    let mut sender_extra_mib = Vec::new();
    for (pid, before) in senders {
        sender_extra_mib.push(extra(process::peak(pid)?, before));
    }
    let receiver = local.nodes[AWAY].pid().context("a node that runs")?;
    Ok(Snapshot {
        entries,
        state_mib: mib(entries * options.body as u64),
        filling_s,
        shards: gone.len(),
        seconds,
        sender_extra_mib,
        receiver_extra_mib: extra(process::peak(receiver)?, at_rest),
        receiver_at_rest_mib: mib(at_rest),
    })
}

fn usage(node: &Node) -> anyhow::Result<process::Usage> {
    process::usage(node.pid().context("a node that runs")?)
}

/// One figure of every group of one node.
fn figures(status: &[Value], at: usize, what: &str) -> BTreeMap<u64, u64> {
    let groups = status.get(at).and_then(|node| node["status"]["groups"].as_array());
    let figure = |group: &Value| Some((group["shard"].as_u64()?, group[what].as_u64()?));
    groups.into_iter().flatten().filter_map(figure).collect()
}
