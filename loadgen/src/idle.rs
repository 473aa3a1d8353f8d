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
use serde::Serialize;

use crate::Outcome;
use crate::cluster::{Cluster, Place};
use crate::engine::Engine;
use crate::process::mib;
use crate::workload::setup;

const AT_ONCE: usize = 64;
/// A node needs a moment to see that connections are gone.
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
    let cluster = place.cluster(options.connections).await?;
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
    // The engine waits by itself; what it asks of the nodes' metrics is waited for here too.
    tokio::task::block_in_place(|| hold(options, cluster))
}

fn hold(options: &Options, cluster: &Cluster) -> anyhow::Result<Idle> {
    let settle = Duration::from_secs_f64(options.settle);
    let mut engine = Engine::new(&cluster.urls, 0)?;
    let mut people = Vec::new();
    for at in 0..options.connections {
        let name = engine.name('i', at)?;
        people.push(engine.device(name, at));
    }
    let before = look(cluster, 0);
    introduce(&mut engine, &people)?;
    gone(&mut engine, cluster)?;
    rest(&mut engine, settle)?;
    let known = look(cluster, 0);
    engine.tally.reconnects = 0;
    let mut steps = Vec::new();
    for part in people.chunks(options.connections.div_ceil(options.steps as usize).max(1)) {
        setup::online(&mut engine, part.iter().copied())?;
        rest(&mut engine, settle)?;
        steps.push(look(cluster, engine.online));
    }
    let (at_rest, began) = (cluster.usage(), std::time::Instant::now());
    rest(&mut engine, Duration::from_secs_f64(options.seconds))?;
    let (after, seconds) = (cluster.usage(), began.elapsed().as_secs_f64());
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
        cpu_percent: 100.0 * cpu / seconds,
        closed: engine.tally.reconnects as usize,
    })
}

impl Step {
    fn rss(&self) -> f64 {
        self.rss_mib.iter().sum()
    }
}

fn metric(cluster: &Cluster, name: &str) -> f64 {
    tokio::runtime::Handle::current().block_on(cluster.metric(name))
}

fn look(cluster: &Cluster, connections: usize) -> Step {
    let rss_mib = cluster.usage().iter().map(|usage| mib(usage.rss_bytes)).collect();
    let storage_mib = mib(metric(cluster, "flotilla_storage_memory_bytes") as u64);
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

/// Everyone logs in once and leaves; never more than a few are there.
fn introduce(engine: &mut Engine, people: &[usize]) -> anyhow::Result<()> {
    for part in people.chunks(AT_ONCE) {
        setup::online(engine, part.iter().copied())?;
        for at in part {
            engine.dismiss(*at);
        }
    }
    Ok(())
}

/// Until the nodes have closed every session. Nodes without metrics are not waited for.
fn gone(engine: &mut Engine, cluster: &Cluster) -> anyhow::Result<()> {
    let limit = engine.clock.now().after(PATIENCE);
    while metric(cluster, "flotilla_sessions") > 0.0 {
        ensure!(engine.clock.now() < limit, "sessions stay although their connections are gone");
        rest(engine, Duration::from_millis(200))?;
    }
    Ok(())
}

/// Answers what the nodes say meanwhile.
fn rest(engine: &mut Engine, time: Duration) -> anyhow::Result<()> {
    let end = engine.clock.now().after(time);
    engine.turn_until(end, |_| false)?;
    Ok(())
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
