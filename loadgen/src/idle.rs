//! The workload `idle`: connections that are logged in and silent, and what the nodes use with and without them.
//!
//! What one connection costs is a slope: all users log in once and leave again, a few at a time, so that their rows, the
//! caches of the logs and whatever a first login touches are there; then they come back in steps of equal size, the memory
//! of all nodes is read after each, and a line is laid through the steps. Nothing is taken from it: rows that a session
//! writes, their replicas and their log entries are in it. The older figure, everything that has grown since before the
//! first login, divided by the connections, stands beside it.
//!
//! The step without connections is no point of that line: memory that the first logins left free would be used again below
//! the first step, and make a connection look cheaper than it is.

use std::time::Duration;

use anyhow::ensure;
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
/// A node that has just started may still say "not ready"; a client comes back.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Connections at the last step, spread over the nodes
    #[arg(long, default_value_t = 9_000)]
    pub connections: usize,
    /// Steps of equal size
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=100))]
    pub steps: u32,
    /// Seconds between the last connection of a step and its measurement
    #[arg(long, default_value_t = 10.0)]
    pub settle: f64,
    /// Seconds over which the nodes' CPU is measured at the end
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
}

/// The nodes at one number of connections.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    pub connections: usize,
    pub rss_mib: Vec<f64>,
    /// What the storage engines say that they hold, all nodes together.
    pub storage_mib: f64,
}

#[derive(Debug, Clone, Serialize)]
pub struct Idle {
    pub connections: usize,
    /// Before the first login; then with all users known and nobody there.
    pub before: Step,
    pub known: Step,
    pub steps: Vec<Step>,
    /// The slope through the steps: growth of all nodes together for one more connection of a known user.
    pub kib_per_connection: f64,
    /// The same without what the storage engines say that they hold.
    pub kib_per_connection_without_storage: f64,
    /// Everything since before the first login, by connection: also the replicas of the user's rows and all first times.
    pub kib_with_first_time: f64,
    /// All nodes together, of one core, at the last step.
    pub cpu_percent: f64,
    pub closed: usize,
}

pub async fn command(options: &Options, place: &Place) -> anyhow::Result<Outcome> {
    let cluster = place.cluster().await?;
    let idle = run(options, &cluster).await?;
    for step in [&idle.before, &idle.known].into_iter().chain(&idle.steps) {
        println!(
            "{:>6} connections: nodes {:.1?} MiB, of that {:.1} MiB storage",
            step.connections, step.rss_mib, step.storage_mib
        );
    }
    println!("{}, {:.1} % of a core, {} closed", idle.says(), idle.cpu_percent, idle.closed);
    Outcome::new(idle.closed == 0, &idle)
}

impl Idle {
    pub fn says(&self) -> String {
        format!(
            "{:.1} KiB each ({:.1} without storage; {:.1} with first logins)",
            self.kib_per_connection, self.kib_per_connection_without_storage, self.kib_with_first_time
        )
    }
}

pub async fn run(options: &Options, cluster: &Cluster) -> anyhow::Result<Idle> {
    let settle = Duration::from_secs_f64(options.settle);
    let tag = rand::random::<u64>();
    let names = (0..options.connections).map(|at| Ok(Who::new(UserId::parse(&format!("i{at}.{tag:x}"))?)));
    let people = names.collect::<anyhow::Result<Vec<_>>>()?;
    let before = look(cluster, 0).await;
    let people = introduce(cluster, people).await?;
    gone(cluster).await?;
    tokio::time::sleep(settle).await;
    let known = look(cluster, 0).await;
    let (mut lines, mut steps, mut closed) = (Vec::new(), Vec::new(), 0);
    for part in people.chunks(options.connections.div_ceil(options.steps as usize).max(1)) {
        let first = lines.len() + closed;
        let mut opening = futures::stream::iter(part.iter().cloned().enumerate())
            .map(|(at, who)| open(cluster, first + at, who))
            .buffer_unordered(CONNECTING_AT_ONCE);
        while let Some(opened) = opening.next().await {
            lines.push(opened?.0);
        }
        closed += hold(&mut lines, settle).await;
        steps.push(look(cluster, lines.len()).await);
    }
    let at_rest = cluster.usage();
    closed += hold(&mut lines, Duration::from_secs_f64(options.seconds)).await;
    let after = cluster.usage();
    let cpu: f64 = at_rest.iter().zip(&after).map(|(b, a)| a.cpu.saturating_sub(b.cpu).as_secs_f64()).sum();
    let kib = |of: &dyn Fn(&Step) -> f64| slope(&steps, of) * 1024.0;
    let last = steps.last().unwrap_or(&known);
    Ok(Idle {
        connections: options.connections,
        kib_per_connection: kib(&Step::rss),
        kib_per_connection_without_storage: kib(&|step| step.rss() - step.storage_mib),
        kib_with_first_time: (last.rss() - before.rss()) * 1024.0 / options.connections.max(1) as f64,
        before,
        known,
        steps,
        cpu_percent: 100.0 * cpu / options.seconds,
        closed,
    })
}

impl Step {
    fn rss(&self) -> f64 {
        self.rss_mib.iter().sum()
    }
}

async fn look(cluster: &Cluster, connections: usize) -> Step {
    let rss_mib = cluster.usage().iter().map(|usage| mib(usage.rss_bytes)).collect();
    let storage_mib = mib(cluster.metric("flotilla_storage_memory_bytes").await as u64);
    Step { connections, rss_mib, storage_mib }
}

/// Least squares: MiB for one more connection.
fn slope(steps: &[Step], of: impl Fn(&Step) -> f64) -> f64 {
    let n = steps.len() as f64;
    let mean_x = steps.iter().map(|s| s.connections as f64).sum::<f64>() / n;
    let mean_y = steps.iter().map(&of).sum::<f64>() / n;
    let (mut over, mut under) = (0.0, 0.0);
    for step in steps {
        let x = step.connections as f64 - mean_x;
        over += x * (of(step) - mean_y);
        under += x * x;
    }
    over / under
}

async fn open(cluster: &Cluster, at: usize, mut who: Who) -> anyhow::Result<(Line, Who)> {
    let url = &cluster.urls[at % cluster.urls.len()];
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Line::open(url, Encoding::Json, 512, &mut who).await {
            Ok((line, _)) => return Ok((line, who)),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Everyone logs in once and leaves; never more than a few are there.
async fn introduce(cluster: &Cluster, people: Vec<Who>) -> anyhow::Result<Vec<Who>> {
    let coming = futures::stream::iter(people.into_iter().enumerate()).map(|(at, who)| async move {
        let (_left, who) = open(cluster, at, who).await?;
        anyhow::Ok(who)
    });
    let mut coming = coming.buffered(CONNECTING_AT_ONCE);
    let mut known = Vec::new();
    while let Some(who) = coming.next().await {
        known.push(who?);
    }
    Ok(known)
}

/// Until the nodes have closed every session. Nodes without metrics are not waited for.
async fn gone(cluster: &Cluster) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while cluster.metric("flotilla_sessions").await > 0.0 {
        ensure!(Instant::now() < deadline, "sessions stay although their connections are gone");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_does_not_see_what_was_there_before() {
        let step = |connections, mib: f64| Step { connections, rss_mib: vec![mib, mib], storage_mib: 0.0 };
        let steps = [step(1_000, 510.0), step(2_000, 520.0), step(3_000, 530.0)];
        assert!((slope(&steps, Step::rss) * 1_000.0 - 20.0).abs() < 1e-9, "two nodes of 10 MiB for 1,000 connections");
    }
}
