//! What a run reports.
//!
//! - [`figures`] every figure by its name · [`asserts`] bounds on them · [`baseline`] what changed · [`html`] charts
//! - [`output`] what a command does with a report

pub mod asserts;
pub mod baseline;
pub mod figures;
pub mod html;
pub mod output;

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::engine::ledger::Faults;
use crate::engine::load::Times;
use crate::engine::tally::Second;
use crate::process::mib;
use crate::sample::{Sample, Taken};

/// Raised when a field changes its meaning; readers refuse others.
pub const VERSION: u32 = 1;

/// One second of a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Point {
    /// Since the load began, warm-up included.
    pub at_s: f64,
    pub accepted: u64,
    pub delivered: u64,
    pub errors: u64,
    /// p50 and p99.
    pub accept_ms: [f64; 2],
    pub deliver_ms: [f64; 2],
    pub online: usize,
}

/// A time that charts mark: the warm-up, or a fault.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Band {
    pub from_s: f64,
    pub to_s: f64,
    pub what: String,
}

/// What clients saw of nodes that were killed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Chaos {
    pub kills: usize,
    /// Pauses between the last `accepted` before a kill and the first after it, one a shard and kill.
    pub pauses: usize,
    pub unavailable_p50_s: f64,
    pub unavailable_max_s: f64,
}

/// Devices that were away and came back.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Return {
    pub devices: usize,
    /// Entries that they had missed.
    pub entries: u64,
    /// From the first dial until the last of those entries was there.
    pub seconds: f64,
    pub entries_per_s: f64,
    /// From a device's dial to its `caught_up`.
    pub p50_s: f64,
    pub p99_s: f64,
    pub max_s: f64,
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Latency {
    pub count: u64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl Latency {
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let ms = |us: u64| us as f64 / 1_000.0;
        let at = |q| ms(histogram.value_at_quantile(q));
        let (count, max) = (histogram.len(), ms(histogram.max()));
        Self { count, p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max }
    }

    pub fn line(&self, name: &str) -> String {
        format!(
            "  {name:<10} p50 {:>8.2}  p90 {:>8.2}  p99 {:>8.2}  p99.9 {:>8.2}  max {:>8.2} ms  ({})",
            self.p50, self.p90, self.p99, self.p999, self.max, self.count
        )
    }
}

/// What the nodes used in the window, where they are on this machine.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerCost {
    /// All nodes together, of one core, per cent.
    pub cpu_percent: f64,
    pub cpu_us_per_accepted: f64,
    pub cpu_us_per_delivered: f64,
    pub disk_bytes_per_accepted: f64,
    /// Synced writes of all nodes.
    pub syncs_per_accepted: f64,
    pub rss_mib: Vec<f64>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    pub version: u32,
    /// Unix seconds.
    pub at: u64,
    pub workload: String,
    pub seconds: f64,
    pub connections: usize,
    pub sent: u64,
    pub accepted: u64,
    pub accepted_per_s: f64,
    /// To devices other than the sender's.
    pub delivered: u64,
    pub delivered_per_s: f64,
    /// Those, and the senders' own.
    pub entries_per_s: f64,
    pub accept_ms: Latency,
    pub deliver_ms: Latency,
    pub generator_late_ms: Latency,
    /// Of one core, per cent.
    pub generator_cpu_percent: f64,
    /// What neither nodes nor generator used, of one core, per cent: above a few, the machine was not quiet.
    pub others_cpu_percent: f64,
    pub errors: BTreeMap<String, u64>,
    pub reconnects: u64,
    pub unanswered: u64,
    pub faults: Faults,
    pub server: Option<ServerCost>,
    /// All nodes together, for one more connection of a known user.
    pub kib_per_connection: Option<f64>,
    pub chaos: Option<Chaos>,
    #[serde(rename = "return")]
    pub return_: Option<Return>,
    /// Pages of history, read one after the other.
    pub pages_ms: Option<Latency>,
    pub bands: Vec<Band>,
    pub series: Vec<Point>,
    pub samples: Vec<Sample>,
    /// Milliseconds and how many.
    pub accept_histogram: Vec<(f64, u64)>,
    pub deliver_histogram: Vec<(f64, u64)>,
}

/// Coarse enough to draw: each bucket is a fifth wider than the one before.
fn coarse(histogram: &Histogram<u64>) -> Vec<(f64, u64)> {
    const WIDER: f64 = 1.2;
    let mut buckets = BTreeMap::new();
    for value in histogram.iter_recorded() {
        let at = (value.value_iterated_to().max(1) as f64).log(WIDER) as i32;
        *buckets.entry(at).or_insert(0) += value.count_at_value();
    }
    buckets.into_iter().map(|(at, count)| (WIDER.powf(f64::from(at) + 0.5) / 1_000.0, count)).collect()
}

impl Report {
    pub fn of(workload: String, engine: &Engine, times: Times) -> Self {
        let (tally, seconds) = (&engine.tally, engine.measured_s());
        let start = engine.clock.at(times.start);
        let point = |second: &Second| Point {
            at_s: second.at.since(start) as f64 / 1e6,
            accepted: second.accepted,
            delivered: second.delivered,
            errors: second.errors,
            accept_ms: second.accept_ms,
            deliver_ms: second.deliver_ms,
            online: second.online,
        };
        let warm_up_s = times.from.duration_since(times.start).as_secs_f64();
        let warm_up = Band { from_s: 0.0, to_s: warm_up_s, what: "warm-up".into() };
        Self {
            version: VERSION,
            at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            workload,
            seconds,
            connections: engine.devices.len(),
            sent: tally.sent,
            accepted: tally.accepted_in_window,
            accepted_per_s: tally.accepted_in_window as f64 / seconds,
            delivered: tally.delivered_in_window,
            delivered_per_s: tally.delivered_in_window as f64 / seconds,
            entries_per_s: tally.entries_in_window as f64 / seconds,
            accept_ms: Latency::of(&tally.accept),
            deliver_ms: Latency::of(&tally.deliver),
            generator_late_ms: Latency::of(&tally.late),
            errors: tally.errors.clone(),
            reconnects: tally.reconnects,
            unanswered: tally.unanswered,
            faults: tally.faults.clone(),
            return_: engine.returned.clone(),
            pages_ms: engine.pages,
            bands: if warm_up_s > 0.0 { vec![warm_up] } else { vec![] },
            series: tally.seconds.iter().map(point).collect(),
            accept_histogram: coarse(&tally.accept),
            deliver_histogram: coarse(&tally.deliver),
            ..Self::default()
        }
    }

    /// What was used between two looks. Of nodes only if they are the same processes: another one counts from zero.
    pub fn cost(&mut self, before: &Taken, after: &Taken, same: bool) {
        let wall = after.at.duration_since(before.at).as_secs_f64();
        self.generator_cpu_percent = 100.0 * after.own.cpu.saturating_sub(before.own.cpu).as_secs_f64() / wall;
        let busy = after.busy.saturating_sub(before.busy).as_secs_f64();
        let own = after.own.cpu.saturating_sub(before.own.cpu).as_secs_f64();
        if !same || before.nodes.is_empty() || before.nodes.len() != after.nodes.len() {
            return;
        }
        let pairs = || before.nodes.iter().zip(&after.nodes);
        let cpu: f64 = pairs().map(|(b, a)| a.cpu.saturating_sub(b.cpu).as_secs_f64()).sum();
        self.others_cpu_percent = (100.0 * (busy - own - cpu) / wall).max(0.0);
        let written: u64 = pairs().map(|(b, a)| a.written_bytes.saturating_sub(b.written_bytes)).sum();
        let per = |total: f64, count: u64| if count == 0 { 0.0 } else { total / count as f64 };
        self.server = Some(ServerCost {
            cpu_percent: 100.0 * cpu / wall,
            cpu_us_per_accepted: per(cpu * 1e6, self.accepted),
            cpu_us_per_delivered: per(cpu * 1e6, self.delivered),
            disk_bytes_per_accepted: per(written as f64, self.accepted),
            syncs_per_accepted: per(after.syncs - before.syncs, self.accepted),
            rss_mib: after.nodes.iter().map(|n| mib(n.rss_bytes)).collect(),
        });
    }

    /// No promise broken, nothing without an outcome.
    pub fn ok(&self) -> bool {
        self.faults.none() && self.unanswered == 0
    }

    pub fn errors_in_all(&self) -> u64 {
        self.errors.values().sum()
    }

    pub fn print(&self) {
        println!(
            "{}: {:.0} accepted/s, {:.0} delivered/s over {:.0} s, {} connections",
            self.workload, self.accepted_per_s, self.delivered_per_s, self.seconds, self.connections
        );
        for (name, latency) in
            [("accept", self.accept_ms), ("deliver", self.deliver_ms), ("generator", self.generator_late_ms)]
        {
            if latency.count > 0 {
                println!("{}", latency.line(name));
            }
        }
        if let Some(server) = &self.server {
            println!(
                "  servers    {:.0} % of a core, {:.0} us CPU per delivered, {:.0} bytes written and {:.2} syncs per accepted; RSS {:.0?} MiB",
                server.cpu_percent,
                server.cpu_us_per_delivered,
                server.disk_bytes_per_accepted,
                server.syncs_per_accepted,
                server.rss_mib
            );
        }
        if let Some(kib) = self.kib_per_connection {
            println!("  memory     {kib:.1} KiB of the servers for one more connection");
        }
        println!(
            "  generator  {:.0} % of a core; others on this machine {:.0} %",
            self.generator_cpu_percent, self.others_cpu_percent
        );
        if let Some(pages) = &self.pages_ms {
            println!("{}", pages.line("history"));
        }
        if let Some(back) = &self.return_ {
            let entries = match back.entries {
                0 => String::new(),
                entries => format!("; {entries} entries in {:.2} s ({:.0}/s)", back.seconds, back.entries_per_s),
            };
            println!(
                "  back       {} devices, dial to caught_up p50 {:.2}, p99 {:.2}, max {:.2} s{entries}",
                back.devices, back.p50_s, back.p99_s, back.max_s
            );
        }
        if let Some(chaos) = &self.chaos {
            println!(
                "  chaos      {} kills; no `accepted` in a shard for p50 {:.2}, max {:.2} s ({} pauses)",
                chaos.kills, chaos.unavailable_p50_s, chaos.unavailable_max_s, chaos.pauses
            );
        }
        let errors: Vec<_> = self.errors.iter().map(|(code, count)| format!("{code} {count}")).collect();
        let errors = if errors.is_empty() { "none".into() } else { errors.join(", ") };
        println!("  errors     {errors}; {} reconnects, {} unanswered", self.reconnects, self.unanswered);
        let Faults { lost, doubled, reordered, differing, foreign, receipts_missing, oracle } = &self.faults;
        println!(
            "  promises   lost {lost}, doubled {doubled}, reordered {reordered}, differing {differing}, foreign {foreign}, receipts missing {receipts_missing}, oracle {oracle}"
        );
    }
}
