//! The workloads: who is there, who sends to whom, at what pace. Each prepares an engine; [`run`] does the rest.
//!
//! - [`direct`] pairs · [`group`] groups, all online · [`offline`] recipients that are away and come back · [`storm`]
//!   everybody reconnects at once · [`mixed`] a day's shape ·
//!   [`long`] long conversations · [`many`] many of them · [`setup`] what they share

pub mod channel;
pub mod direct;
pub mod group;
pub mod long;
pub mod many;
pub mod mixed;
pub mod offline;
pub mod setup;
pub mod storm;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use flotilla_client::oracle::Verdict;
use tokio::sync::oneshot;

use crate::chaos;
use crate::cluster::Cluster;
use crate::engine::Engine;
pub use crate::engine::load::Workload;
use crate::engine::load::{Load, Pace, Times};
use crate::report::Report;
use crate::sample::{Sampler, Taken};
use crate::schedule::Schedule;

/// How a run goes, whatever the workload.
#[derive(Debug, Clone, Args)]
pub struct Shape {
    /// Open loop: sends a second of all senders together, latency from the intended time. Steps: 500:10,1000:10,2000
    /// (rate:seconds)
    #[arg(long, conflicts_with = "in_flight", value_name = "RATE")]
    pub rate: Option<Schedule>,
    /// Closed loop: unanswered sends of each sender [default: 1]
    #[arg(long, value_name = "N")]
    pub in_flight: Option<usize>,
    /// Seconds that are measured [default: 10, or the length of the steps]
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Seconds of the same load before
    #[arg(long, default_value_t = 2.0)]
    pub warm_up: f64,
    /// Bytes of a body
    #[arg(long, default_value_t = 256)]
    pub body: usize,
    /// Seconds within which everything must have arrived after the last send
    #[arg(long, default_value_t = 15.0)]
    pub drain: f64,
    /// Direct conversations whose whole history is kept and judged by the oracle of the simulator and the tests
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub oracle: usize,
}

impl Shape {
    pub fn closed(in_flight: usize) -> Self {
        Self { rate: None, in_flight: Some(in_flight), seconds: None, warm_up: 2.0, body: 256, drain: 15.0, oracle: 1 }
    }

    pub fn open(rate: f64) -> Self {
        Self { rate: Some(Schedule::constant(rate)), in_flight: None, ..Self::closed(1) }
    }

    pub fn lasting(self, warm_up: f64, seconds: f64) -> Self {
        Self { warm_up, seconds: Some(seconds), ..self }
    }

    pub fn says(&self) -> String {
        match &self.rate {
            Some(rate) => format!("{rate} open loop"),
            None => format!("{} in flight", self.in_flight.unwrap_or(1)),
        }
    }

    fn load(&self, gap: Option<Duration>) -> Load {
        let steps = self.rate.as_ref().map_or(0.0, Schedule::seconds);
        let all = if steps > self.warm_up { steps - self.warm_up } else { 10.0 };
        Load {
            pace: match &self.rate {
                Some(rate) => Pace::Open(rate.clone()),
                None => Pace::Closed(self.in_flight.unwrap_or(1).max(1)),
            },
            warm_up: Duration::from_secs_f64(self.warm_up),
            seconds: Duration::from_secs_f64(self.seconds.unwrap_or(all)),
            drain: Duration::from_secs_f64(self.drain),
            gap,
            live: true,
        }
    }
}

/// What others may do to a run while it is under way.
#[derive(Clone, Default)]
pub struct Hold {
    /// Ends it early.
    pub stop: Arc<AtomicBool>,
    /// Times without `accepted` above this are kept, by conversation.
    pub gap: Option<Duration>,
    /// Direct conversations whose whole history is kept and judged by the client's oracle.
    pub kept: usize,
}

/// A run that is being prepared or under way.
pub struct Running {
    pub started: oneshot::Receiver<Times>,
    pub engine: tokio::task::JoinHandle<anyhow::Result<Engine>>,
}

/// Starts a run on a thread of its own.
pub fn start(workload: Arc<dyn Workload>, shape: &Shape, urls: &[String], hold: Hold) -> Running {
    let (tell, started) = oneshot::channel();
    let (urls, body, load) = (urls.to_vec(), shape.body, shape.load(hold.gap));
    let engine = tokio::task::spawn_blocking(move || {
        let mut engine = Engine::new(&urls, body)?;
        engine.kept = hold.kept;
        workload.prepare(&mut engine)?;
        let told = |times| {
            // Nobody waits for them any more: the run is being ended.
            let _ = tell.send(times);
        };
        engine.load(&load, &workload, told, || hold.stop.load(Ordering::Relaxed))?;
        Ok(engine)
    });
    Running { started, engine }
}

/// Runs a load and reports it; with chaos, nodes die meanwhile.
pub async fn run(
    workload: Arc<dyn Workload>,
    shape: &Shape,
    cluster: &mut Cluster,
    chaos: Option<&chaos::Options>,
) -> anyhow::Result<Report> {
    let name = format!("{}, {}", workload.name(), shape.says());
    let hold = Hold { gap: chaos.map(|_| chaos::GAP), kept: shape.oracle, ..Hold::default() };
    let running = start(workload, shape, &cluster.urls, hold);
    let Ok(times) = running.started.await else {
        running.engine.await??;
        anyhow::bail!("the run ended before it began");
    };
    let sampler = Sampler::start(cluster.pids(), times.start);
    tokio::time::sleep_until(times.from.into()).await;
    let before = Taken::of(cluster).await;
    let kills = match chaos {
        Some(options) => chaos::reign(options, cluster, times.from, times.to).await?,
        None => Vec::new(),
    };
    tokio::time::sleep_until(times.to.into()).await;
    let after = Taken::of(cluster).await;
    let engine = running.engine.await??;
    let mut report = Report::of(name, &engine, times);
    report.cost(&before, &after, kills.is_empty());
    report.samples = sampler.end();
    if chaos.is_some() {
        chaos::tell(&mut report, &kills, &engine, times.start);
    }
    match engine.oracle() {
        None | Some(Verdict::Holds(_)) => {}
        Some(verdict) => {
            eprintln!("the oracle says of the conversations whose history was kept: {verdict}");
            report.faults.oracle += 1;
        }
    }
    Ok(report)
}
