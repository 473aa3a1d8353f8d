//! The workload `idle`: connections that are logged in and silent, and what the nodes use with and without them.

use std::time::Duration;

use clap::Args;
use flotilla_proto::frame::Encoding;
use flotilla_proto::ids::UserId;
use futures::StreamExt;
use serde::Serialize;
use tokio::time::Instant;

use crate::Outcome;
use crate::cluster::{Cluster, Place};
use crate::line::{Line, Who};
use crate::process::mib;

const CONNECTING_AT_ONCE: usize = 64;
/// Below the server's 25 s, so that no ping is needed and none is missed.
const LOOK: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Connections, spread over the nodes
    #[arg(long, default_value_t = 3_000)]
    pub connections: usize,
    /// Seconds between the last connection and the measurement
    #[arg(long, default_value_t = 10.0)]
    pub settle: f64,
    /// Seconds over which the nodes' CPU is measured
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
}

#[derive(Debug, Clone, Serialize)]
pub struct Idle {
    pub connections: usize,
    pub connecting_s: f64,
    pub rss_before_mib: Vec<f64>,
    pub rss_mib: Vec<f64>,
    /// Growth of all nodes together, by connection: socket, session, and all replicas of its user's rows in memory.
    pub kib_per_connection: f64,
    /// The same without what the storage engine says that it holds.
    pub kib_per_connection_without_storage: f64,
    /// All nodes together, of one core.
    pub cpu_percent: f64,
    pub closed: usize,
}

pub async fn command(options: &Options, place: &Place) -> anyhow::Result<Outcome> {
    let cluster = place.cluster().await?;
    let idle = run(options, &cluster).await?;
    println!(
        "{} idle connections in {:.1} s: {:.1} KiB each ({:.1} without storage), nodes {:.0?} MiB before, {:.0?} MiB now, {:.1} % of a core, {} closed",
        idle.connections,
        idle.connecting_s,
        idle.kib_per_connection,
        idle.kib_per_connection_without_storage,
        idle.rss_before_mib,
        idle.rss_mib,
        idle.cpu_percent,
        idle.closed
    );
    Outcome::new(idle.closed == 0, &idle)
}

pub async fn run(options: &Options, cluster: &Cluster) -> anyhow::Result<Idle> {
    let rss = |usage: &[crate::process::Usage]| usage.iter().map(|u| u.rss_bytes).sum::<u64>() as f64;
    let storage_before = cluster.metric("flotilla_storage_memory_bytes").await;
    let before = cluster.usage();
    let start = Instant::now();
    let tag = rand::random::<u64>();
    let opening = futures::stream::iter((0..options.connections).map(|at| {
        let url = cluster.urls[at % cluster.urls.len()].clone();
        async move {
            let mut who = Who::new(UserId::parse(&format!("i{at}.{tag:x}"))?);
            let (line, _) = Line::open(&url, Encoding::Json, 512, &mut who).await?;
            anyhow::Ok(line)
        }
    }));
    let mut opening = opening.buffer_unordered(CONNECTING_AT_ONCE);
    let mut lines = Vec::with_capacity(options.connections);
    while let Some(line) = opening.next().await {
        lines.push(line?);
    }
    let connecting_s = start.elapsed().as_secs_f64();
    let mut closed = hold(&mut lines, Duration::from_secs_f64(options.settle)).await;
    let at_rest = cluster.usage();
    closed += hold(&mut lines, Duration::from_secs_f64(options.seconds)).await;
    let after = cluster.usage();
    let storage = cluster.metric("flotilla_storage_memory_bytes").await - storage_before;
    let grown = rss(&after) - rss(&before);
    let each = |bytes: f64| bytes / 1024.0 / options.connections.max(1) as f64;
    let cpu: f64 = at_rest.iter().zip(&after).map(|(b, a)| a.cpu.saturating_sub(b.cpu).as_secs_f64()).sum();
    Ok(Idle {
        connections: options.connections,
        connecting_s,
        rss_before_mib: before.iter().map(|u| mib(u.rss_bytes)).collect(),
        rss_mib: after.iter().map(|u| mib(u.rss_bytes)).collect(),
        kib_per_connection: each(grown),
        kib_per_connection_without_storage: each(grown - storage),
        cpu_percent: 100.0 * cpu / options.seconds,
        closed,
    })
}

/// Answers what the server says meanwhile; how many connections it closed.
async fn hold(lines: &mut Vec<Line>, time: Duration) -> usize {
    let end = Instant::now() + time;
    let before = lines.len();
    while Instant::now() < end {
        tokio::time::sleep_until(end.min(Instant::now() + LOOK)).await;
        let mut kept = Vec::with_capacity(lines.len());
        for mut line in lines.drain(..) {
            let open = match futures::FutureExt::now_or_never(line.receive()) {
                Some(Err(_)) => false,
                Some(Ok(_)) | None => line.flush().await.is_ok(),
            };
            if open {
                kept.push(line);
            }
        }
        *lines = kept;
    }
    before - lines.len()
}
