//! The workload `direct`: P direct conversations, open or closed loop.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use flotilla_proto::frame::Encoding;
use flotilla_proto::ids::{Blob, UserId};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Outcome;
use crate::cluster::{Cluster, Place};
use crate::pair::{Live, Pace, Pair, Run};
use crate::process::mib;
use crate::stats::{Report, ServerCost, Tally};

const CONNECTING_AT_ONCE: usize = 16;

#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Direct conversations, two users each
    #[arg(long, default_value_t = 64)]
    pub pairs: usize,
    /// Open loop: sends a second of all pairs together, latency from the intended time
    #[arg(long, conflicts_with = "in_flight")]
    pub rate: Option<f64>,
    /// Closed loop: unanswered sends of each pair
    #[arg(long)]
    pub in_flight: Option<usize>,
    /// Seconds that are measured
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Seconds of the same load before
    #[arg(long, default_value_t = 2.0)]
    pub warm_up: f64,
    /// Bytes of a body
    #[arg(long, default_value_t = 256)]
    pub body: usize,
    /// MessagePack instead of JSON
    #[arg(long)]
    pub msgpack: bool,
}

impl Options {
    pub fn open(pairs: usize, rate: f64) -> Self {
        Self { pairs, rate: Some(rate), in_flight: None, seconds: 10.0, warm_up: 2.0, body: 256, msgpack: false }
    }

    pub fn closed(pairs: usize, in_flight: usize) -> Self {
        Self { rate: None, in_flight: Some(in_flight), ..Self::open(pairs, 0.0) }
    }

    fn name(&self) -> String {
        match (self.rate, self.in_flight) {
            (Some(rate), _) => format!("direct, {} pairs, {rate}/s open loop", self.pairs),
            (None, in_flight) => format!("direct, {} pairs, {} in flight", self.pairs, in_flight.unwrap_or(1)),
        }
    }

    fn pace(&self, at: usize) -> Pace {
        match self.rate {
            Some(rate) => {
                let period = Duration::from_secs_f64(self.pairs as f64 / rate);
                Pace::Open { offset: period.mul_f64(at as f64 / self.pairs as f64), period }
            }
            None => Pace::Closed { in_flight: self.in_flight.unwrap_or(1).max(1) },
        }
    }
}

pub async fn command(options: &Options, place: &Place) -> anyhow::Result<Outcome> {
    let cluster = place.cluster().await?;
    let report = run(options, &cluster).await?;
    report.print();
    Outcome::new(report.ok(), &report)
}

/// Users of this run that no other run has.
pub fn names(tag: u64, at: usize) -> anyhow::Result<[UserId; 2]> {
    Ok([UserId::parse(&format!("a{at}.{tag:x}"))?, UserId::parse(&format!("b{at}.{tag:x}"))?])
}

/// The nodes of both sides: neighbours, every combination in turn.
pub fn seats(urls: &[String], at: usize) -> [Vec<String>; 2] {
    let seat = |first: usize| {
        let mut urls = urls.to_vec();
        let first = first % urls.len().max(1);
        urls.rotate_left(first);
        urls
    };
    [seat(at), seat(at + 1 + at / urls.len().max(1) % urls.len().saturating_sub(1).max(1))]
}

/// Connects all pairs, a few at a time.
pub async fn open_pairs(
    run: &Arc<Run>,
    urls: &[String],
    pairs: usize,
    pace: impl Fn(usize) -> Pace,
) -> anyhow::Result<Vec<Pair>> {
    let tag = rand::random::<u64>();
    let mut opening = JoinSet::new();
    let mut open = Vec::new();
    for at in 0..pairs {
        if opening.len() >= CONNECTING_AT_ONCE
            && let Some(pair) = opening.join_next().await
        {
            open.push(pair??);
        }
        opening.spawn(Pair::open(run.clone(), pace(at), names(tag, at)?, seats(urls, at)));
    }
    while let Some(pair) = opening.join_next().await {
        open.push(pair??);
    }
    Ok(open)
}

pub async fn run(options: &Options, cluster: &Cluster) -> anyhow::Result<Report> {
    let live = Arc::new(Live::default());
    let (_stop, stopped) = watch::channel(false);
    let body: Vec<u8> = (0..options.body).map(|_| rand::random_range(b' '..b'~')).collect();
    let mut shape = Run {
        pace_start: Instant::now(),
        from: Instant::now(),
        to: Instant::now(),
        stop: stopped,
        drain: Duration::from_secs(15),
        body: Blob::from(body),
        encoding: if options.msgpack { Encoding::MsgPack } else { Encoding::Json },
        live: live.clone(),
    };
    let pairs = open_pairs(&Arc::new(shape.copy()), &cluster.urls, options.pairs, |at| options.pace(at)).await?;
    shape.pace_start = Instant::now() + Duration::from_millis(100);
    shape.from = shape.pace_start + Duration::from_secs_f64(options.warm_up);
    shape.to = shape.from + Duration::from_secs_f64(options.seconds);
    let shape = Arc::new(shape);
    let mut running = JoinSet::new();
    for pair in pairs {
        running.spawn(pair.with_run(shape.clone()).run());
    }
    let shown = tokio::spawn(show(live, shape.to));
    tokio::time::sleep_until(shape.from).await;
    let before = Taken::of(cluster).await;
    tokio::time::sleep_until(shape.to).await;
    let after = Taken::of(cluster).await;
    let mut tally = Tally::new();
    while let Some(part) = running.join_next().await {
        tally.add(&part?);
    }
    shown.abort();
    eprint!("\r\x1b[K");
    let mut report = Report::new(options.name(), options.seconds, &tally);
    report.server = before.until(&after, report.accepted);
    Ok(report)
}

/// What the nodes had used at one time.
struct Taken {
    at: Instant,
    nodes: Vec<crate::process::Usage>,
    syncs: f64,
}

impl Taken {
    async fn of(cluster: &Cluster) -> Self {
        let syncs = if cluster.local.is_some() { cluster.metric("flotilla_fsync_seconds_count").await } else { 0.0 };
        Self { at: Instant::now(), nodes: cluster.usage(), syncs }
    }

    fn until(&self, after: &Taken, accepted: u64) -> Option<ServerCost> {
        if self.nodes.is_empty() || self.nodes.len() != after.nodes.len() || accepted == 0 {
            return None;
        }
        let pairs = || self.nodes.iter().zip(&after.nodes);
        let cpu: f64 = pairs().map(|(b, a)| a.cpu.saturating_sub(b.cpu).as_secs_f64()).sum();
        let written: u64 = pairs().map(|(b, a)| a.written_bytes.saturating_sub(b.written_bytes)).sum();
        let accepted = accepted as f64;
        Some(ServerCost {
            cpu_percent: 100.0 * cpu / after.at.duration_since(self.at).as_secs_f64(),
            cpu_us_per_accepted: cpu * 1e6 / accepted,
            disk_bytes_per_accepted: written as f64 / accepted,
            syncs_per_accepted: (after.syncs - self.syncs) / accepted,
            rss_mib: after.nodes.iter().map(|n| mib(n.rss_bytes)).collect(),
        })
    }
}

/// The live line, on standard error.
async fn show(live: Arc<Live>, to: Instant) {
    let mut timer = tokio::time::interval(Duration::from_secs(1));
    let mut before = 0;
    loop {
        timer.tick().await;
        let (accepted, delivered) = (live.accepted.load(Ordering::Relaxed), live.delivered.load(Ordering::Relaxed));
        let left = to.saturating_duration_since(Instant::now()).as_secs();
        eprint!(
            "\r\x1b[K{left:>4} s left  {:>7} accepted/s  {accepted} accepted, {delivered} delivered, {} errors",
            accepted - before,
            live.errors.load(Ordering::Relaxed)
        );
        before = accepted;
    }
}
