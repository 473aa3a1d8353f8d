//! What one pair counts, and what a run reports.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::judge::Faults;

/// Longest time that is told apart, in microseconds.
const LONGEST_US: u64 = 120_000_000;
/// One per cent.
const DIGITS: u8 = 2;

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, DIGITS).expect("the bounds are in order")
}

pub fn record(into: &mut Histogram<u64>, took: Duration) {
    into.saturating_record((took.as_micros() as u64).max(1));
}

/// Counts of one pair, added up at the end.
pub struct Tally {
    pub sent: u64,
    pub accept: Histogram<u64>,
    pub deliver: Histogram<u64>,
    /// How far behind the intended times the generator itself was.
    pub late: Histogram<u64>,
    pub answered_in_window: u64,
    pub entries_in_window: u64,
    pub errors: BTreeMap<String, u64>,
    pub reconnects: u64,
    /// Neither accepted nor refused at the end.
    pub unanswered: u64,
    pub faults: Faults,
}

impl Tally {
    pub fn new() -> Self {
        Self {
            sent: 0,
            accept: histogram(),
            deliver: histogram(),
            late: histogram(),
            answered_in_window: 0,
            entries_in_window: 0,
            errors: BTreeMap::new(),
            reconnects: 0,
            unanswered: 0,
            faults: Faults::default(),
        }
    }

    pub fn accepted(&mut self, took: Duration) {
        record(&mut self.accept, took);
    }

    pub fn delivered(&mut self, took: Duration) {
        record(&mut self.deliver, took);
    }

    pub fn lateness(&mut self, by: Duration) {
        record(&mut self.late, by);
    }

    pub fn error(&mut self, what: &str) {
        *self.errors.entry(what.to_owned()).or_default() += 1;
    }

    pub fn add(&mut self, other: &Tally) {
        self.sent += other.sent;
        for (mine, theirs) in
            [(&mut self.accept, &other.accept), (&mut self.deliver, &other.deliver), (&mut self.late, &other.late)]
        {
            mine.add(theirs).expect("all histograms have the same bounds");
        }
        self.answered_in_window += other.answered_in_window;
        self.entries_in_window += other.entries_in_window;
        for (what, count) in &other.errors {
            *self.errors.entry(what.clone()).or_default() += count;
        }
        self.reconnects += other.reconnects;
        self.unanswered += other.unanswered;
        self.faults.add(&other.faults);
    }
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
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
        Self {
            count: histogram.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: ms(histogram.max()),
        }
    }

    pub fn line(&self, name: &str) -> String {
        format!(
            "  {name:<10} p50 {:>8.2}  p90 {:>8.2}  p99 {:>8.2}  p99.9 {:>8.2}  max {:>8.2} ms  ({})",
            self.p50, self.p90, self.p99, self.p999, self.max, self.count
        )
    }
}

/// What the nodes used, where they are on this machine.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ServerCost {
    /// All nodes together, of one core, per cent.
    pub cpu_percent: f64,
    pub cpu_us_per_accepted: f64,
    pub disk_bytes_per_accepted: f64,
    /// Synced writes of all nodes.
    pub syncs_per_accepted: f64,
    pub rss_mib: Vec<f64>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub workload: String,
    pub seconds: f64,
    pub sent: u64,
    pub accepted: u64,
    pub accepted_per_s: f64,
    /// To receivers and the senders' own devices.
    pub entries_per_s: f64,
    pub accept_ms: Latency,
    pub deliver_ms: Latency,
    pub generator_late_ms: Latency,
    pub errors: BTreeMap<String, u64>,
    pub reconnects: u64,
    pub unanswered: u64,
    pub faults: Faults,
    pub server: Option<ServerCost>,
}

impl Report {
    pub fn new(workload: String, seconds: f64, tally: &Tally) -> Self {
        Self {
            workload,
            seconds,
            sent: tally.sent,
            accepted: tally.answered_in_window,
            accepted_per_s: tally.answered_in_window as f64 / seconds,
            entries_per_s: tally.entries_in_window as f64 / seconds,
            accept_ms: Latency::of(&tally.accept),
            deliver_ms: Latency::of(&tally.deliver),
            generator_late_ms: Latency::of(&tally.late),
            errors: tally.errors.clone(),
            reconnects: tally.reconnects,
            unanswered: tally.unanswered,
            faults: tally.faults.clone(),
            server: None,
        }
    }

    /// No promise broken.
    pub fn ok(&self) -> bool {
        self.faults.none() && self.unanswered == 0
    }

    pub fn errors_in_all(&self) -> u64 {
        self.errors.values().sum()
    }

    pub fn print(&self) {
        println!(
            "{}: {:.0} accepted/s, {:.0} entries/s over {:.0} s",
            self.workload, self.accepted_per_s, self.entries_per_s, self.seconds
        );
        println!("{}", self.accept_ms.line("accept"));
        println!("{}", self.deliver_ms.line("deliver"));
        println!("{}", self.generator_late_ms.line("generator"));
        if let Some(server) = &self.server {
            println!(
                "  servers    {:.0} % of a core, {:.0} us CPU, {:.0} bytes written, {:.2} syncs per accepted; RSS {:.0?} MiB",
                server.cpu_percent,
                server.cpu_us_per_accepted,
                server.disk_bytes_per_accepted,
                server.syncs_per_accepted,
                server.rss_mib
            );
        }
        let Faults { lost, doubled, reordered, differing, foreign } = &self.faults;
        println!(
            "  lost {lost}, doubled {doubled}, reordered {reordered}, differing {differing}, foreign {foreign}, unanswered {}, reconnects {}, errors {:?}",
            self.unanswered, self.reconnects, self.errors
        );
    }
}
