//! Fills a cluster with entries, kills a node, starts it again, and measures the time to ready; then the same with all nodes
//! at once. At the end sends must be accepted as before.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::time::Instant;

use crate::Outcome;
use crate::cluster::{Cluster, Place};
use crate::process::mib;
use crate::workload::direct;

#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Entries in the cluster before the kill
    #[arg(long, default_value_t = 200_000)]
    pub entries: u64,
    /// Direct conversations that they are in
    #[arg(long, default_value_t = 64)]
    pub pairs: usize,
}

#[derive(Debug, Clone, Serialize)]
pub struct Restart {
    pub entries: u64,
    pub filling_s: f64,
    /// One killed node, from its start.
    pub ready_s: f64,
    /// All nodes killed together, from the start of the first until the last is ready.
    pub all_ready_s: f64,
    pub rss_mib: f64,
    pub disk_mib: f64,
}

pub async fn command(options: &Options, place: &Place) -> anyhow::Result<Outcome> {
    let mut cluster = place.cluster(2 * options.pairs).await?;
    let restart = run(options, &mut cluster).await?;
    Outcome::new(true, &restart)
}

pub async fn run(options: &Options, cluster: &mut Cluster) -> anyhow::Result<Restart> {
    let start = Instant::now();
    let mut entries = 0;
    while entries < options.entries {
        let part = direct::Options::closed(options.pairs, 16).lasting(0.0, 5.0);
        let report = direct::run(&part, cluster).await?;
        anyhow::ensure!(report.ok() && report.accepted > 0, "filling went wrong: {report:?}");
        entries += report.accepted;
    }
    let filling_s = start.elapsed().as_secs_f64();
    let local = cluster.local()?;
    local.kill(1)?;
    let start = Instant::now();
    local.spawn(1)?;
    local.ready(1).await?;
    let ready_s = start.elapsed().as_secs_f64();
    let rss = local.nodes[1].pid().and_then(|pid| crate::process::usage(pid).ok()).map_or(0, |usage| usage.rss_bytes);
    let disk = disk_bytes(&local.nodes[1].dir);
    tokio::time::sleep(Duration::from_secs(1)).await;
    for at in 0..local.nodes.len() {
        local.kill(at)?;
    }
    let start = Instant::now();
    for at in 0..local.nodes.len() {
        local.spawn(at)?;
    }
    for at in 0..local.nodes.len() {
        local.ready(at).await?;
    }
    let all_ready_s = start.elapsed().as_secs_f64();
    let restart = Restart { entries, filling_s, ready_s, all_ready_s, rss_mib: mib(rss), disk_mib: mib(disk) };
    println!(
        "{entries} entries in {filling_s:.0} s; a killed node is ready {ready_s:.2} s after its start, with {:.0} MiB of memory and {:.0} MiB on disk; all nodes killed together: {all_ready_s:.2} s",
        restart.rss_mib, restart.disk_mib
    );
    local.spread().await?;
    let after = direct::run(&direct::Options::closed(options.pairs, 1).lasting(2.0, 1.0), cluster).await?;
    anyhow::ensure!(after.ok() && after.accepted > 0, "sends after the restart went wrong: {after:?}");
    Ok(restart)
}

fn disk_bytes(dir: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => disk_bytes(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    });
    bytes.sum()
}
