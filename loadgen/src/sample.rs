//! What nodes and generator use over time: a line every second, and the difference over the window.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::cluster::Cluster;
use crate::process::{self, Usage, mib};

const EVERY: Duration = Duration::from_secs(1);

/// One second: per cent of a core and MiB, by node.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Sample {
    pub at_s: f64,
    pub cpu_percent: Vec<f64>,
    pub rss_mib: Vec<f64>,
    pub generator_percent: f64,
}

/// Looks at processes while a run goes on.
pub struct Sampler {
    task: JoinHandle<()>,
    samples: std::sync::Arc<std::sync::Mutex<Vec<Sample>>>,
}

impl Sampler {
    /// `pids` is asked anew every second: a node may be another process by then, or none.
    pub fn start(pids: crate::cluster::Pids, start: Instant) -> Self {
        let samples = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let into = samples.clone();
        let task = tokio::spawn(async move {
            let mut timer = tokio::time::interval(EVERY);
            let mut before: Option<(Instant, Vec<(u32, Usage)>, Usage)> = None;
            loop {
                timer.tick().await;
                let pids = pids.all();
                let nodes: Vec<(u32, Usage)> =
                    pids.into_iter().map(|pid| (pid, process::usage(pid).unwrap_or_default())).collect();
                let own = process::usage(std::process::id()).unwrap_or_default();
                let now = Instant::now();
                if let Some((then, old, own_before)) = before.replace((now, nodes.clone(), own)) {
                    let wall = (now - then).as_secs_f64();
                    let percent = |new: Usage, old: Usage| 100.0 * new.cpu.saturating_sub(old.cpu).as_secs_f64() / wall;
                    let cpu = nodes.iter().enumerate().map(|(at, (pid, usage))| match old.get(at) {
                        Some((same, old)) if same == pid => percent(*usage, *old),
                        _ => 0.0,
                    });
                    let sample = Sample {
                        at_s: now.saturating_duration_since(start).as_secs_f64(),
                        cpu_percent: cpu.collect(),
                        rss_mib: nodes.iter().map(|(_, usage)| mib(usage.rss_bytes)).collect(),
                        generator_percent: percent(own, own_before),
                    };
                    into.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(sample);
                }
            }
        });
        Self { task, samples }
    }

    pub fn end(self) -> Vec<Sample> {
        self.task.abort();
        std::mem::take(&mut *self.samples.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

/// What everybody had used at one time.
pub struct Taken {
    pub at: Instant,
    pub nodes: Vec<Usage>,
    pub own: Usage,
    /// Everything on this machine.
    pub busy: Duration,
    pub syncs: f64,
}

impl Taken {
    pub async fn of(cluster: &Cluster) -> Self {
        let nodes = cluster.usage();
        let own = process::usage(std::process::id()).unwrap_or_default();
        let (at, busy) = (Instant::now(), process::busy());
        let here = !nodes.is_empty();
        let syncs = if here { cluster.metric("flotilla_fsync_seconds_count").await } else { 0.0 };
        Self { at, nodes, own, busy, syncs }
    }
}
