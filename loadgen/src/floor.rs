//! The least figures that must hold: runs each, prints a table of target, measured, ok.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::Outcome;
use crate::cluster::{Cluster, Place};
use crate::process::{Usage, mib};
use crate::workload::direct;
use crate::{failover, idle, restart};

#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Entries before the restart
    #[arg(long, default_value_t = 200_000)]
    pub entries: u64,
    /// Idle connections
    #[arg(long, default_value_t = 9_000)]
    pub connections: usize,
    /// Times a leader is killed
    #[arg(long, default_value_t = 5)]
    pub kills: usize,
    /// Seconds of each load
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
struct Figure {
    what: String,
    target: String,
    measured: String,
    ok: bool,
}

#[derive(Default, Serialize)]
struct Table {
    figures: Vec<Figure>,
    runs: Vec<serde_json::Value>,
}

impl Table {
    fn add(&mut self, what: &str, target: &str, measured: String, ok: bool) {
        self.figures.push(Figure { what: what.into(), target: target.into(), measured, ok });
    }

    fn print(&self) {
        let width = |of: fn(&Figure) -> &String| self.figures.iter().map(|f| of(f).len()).max().unwrap_or(0);
        let (what, target, measured) = (width(|f| &f.what), width(|f| &f.target), width(|f| &f.measured));
        println!("\n{:<what$}  {:<target$}  {:<measured$}  ok", "", "target", "measured");
        for f in &self.figures {
            println!(
                "{:<what$}  {:<target$}  {:<measured$}  {}",
                f.what,
                f.target,
                f.measured,
                if f.ok { "yes" } else { "NO" }
            );
        }
    }
}

pub async fn command(options: &Options, place: &Place) -> anyhow::Result<Outcome> {
    let mut table = Table::default();
    {
        // Fresh nodes for what is measured at rest, others for what fills them.
        let cluster = place.local(options.connections, &[]).await?;
        at_rest(&cluster, &mut table).await?;
        idle_connections(options, &cluster, &mut table).await?;
    }
    // 64 pairs at most.
    let mut cluster = place.local(128, &[]).await?;
    cluster.local()?.spread().await?;
    loads(options, &mut cluster, &mut table).await?;
    kills(options, &mut cluster, &mut table).await?;
    let restart = restart::Options { entries: options.entries, pairs: 64 };
    let restart = restart::run(&restart, &mut cluster).await?;
    let what = format!("restart with {} entries", restart.entries);
    let measured = format!("{:.2} s, all nodes {:.2} s", restart.ready_s, restart.all_ready_s);
    table.add(&what, "ready in <= 10 s (1 M)", measured, restart.ready_s.max(restart.all_ready_s) <= 10.0);
    table.runs.push(serde_json::to_value(&restart)?);
    table.print();
    Outcome::new(table.figures.iter().all(|f| f.ok), &table)
}

async fn at_rest(cluster: &Cluster, table: &mut Table) -> anyhow::Result<()> {
    tokio::time::sleep(Duration::from_secs(10)).await;
    let window = Duration::from_secs(30);
    let before = cluster.usage();
    tokio::time::sleep(window).await;
    let after = cluster.usage();
    let most = |of: &dyn Fn((&Usage, &Usage)) -> f64| before.iter().zip(&after).map(of).fold(0.0, f64::max);
    let rss = most(&|(_, after)| mib(after.rss_bytes));
    let cpu =
        most(&|(before, after)| 100.0 * after.cpu.saturating_sub(before.cpu).as_secs_f64() / window.as_secs_f64());
    println!("idle nodes: at most {rss:.0} MiB and {cpu:.2} % of a core");
    table.add("idle node, 16 shards: memory", "<= 150 MiB", format!("{rss:.0} MiB"), rss <= 150.0);
    table.add("idle node, 16 shards: CPU over 30 s", "<= 3 % of a core", format!("{cpu:.2} %"), cpu <= 3.0);
    Ok(())
}

async fn idle_connections(options: &Options, cluster: &Cluster, table: &mut Table) -> anyhow::Result<()> {
    let idle = idle::Options { connections: options.connections, steps: 3, settle: 5.0, seconds: 10.0 };
    let idle = idle::run(&idle, cluster).await?;
    let measured = idle.says();
    println!("idle connections: {measured}, {} closed", idle.closed);
    let ok = idle.kib_per_connection <= 20.0 && idle.closed == 0;
    table.add(&format!("idle connection ({})", idle.connections), "<= 20 KiB", measured, ok);
    table.runs.push(serde_json::to_value(&idle)?);
    Ok(())
}

async fn loads(options: &Options, cluster: &mut Cluster, table: &mut Table) -> anyhow::Result<()> {
    let open = direct::Options::open(64, 500.0).lasting(2.0, options.seconds);
    let report = direct::run(&open, cluster).await?;
    report.print();
    let clean = report.ok() && report.errors_in_all() == 0;
    let (accept, deliver) = (report.accept_ms, report.deliver_ms);
    let measured = |l: crate::report::Latency| format!("{:.1} ms (p50 {:.1})", l.p99, l.p50);
    table.add("500/s over 64: accept p99", "<= 50 ms", measured(accept), accept.p99 <= 50.0 && clean);
    table.add("500/s over 64: delivery p99", "<= 100 ms", measured(deliver), deliver.p99 <= 100.0 && clean);
    table.runs.push(serde_json::to_value(&report)?);
    let closed = direct::Options::closed(64, 4).lasting(2.0, options.seconds);
    let report = direct::run(&closed, cluster).await?;
    report.print();
    let ok = report.accepted_per_s >= 2_000.0 && report.ok() && report.errors_in_all() == 0;
    let measured = format!("{:.0}/s, {} errors", report.accepted_per_s, report.errors_in_all());
    table.add("closed loop, 64 pairs, 4 in flight", ">= 2,000/s, 0 errors", measured, ok);
    table.runs.push(serde_json::to_value(&report)?);
    Ok(())
}

async fn kills(options: &Options, cluster: &mut Cluster, table: &mut Table) -> anyhow::Result<()> {
    let options = failover::Options { repeat: options.kills, pairs: 48 };
    let failover = failover::run(&options, cluster).await?;
    let ok = failover.max_s <= 4.0 && failover.faults.none() && failover.unanswered == 0;
    let measured = format!("median {:.2} s, max {:.2} s", failover.median_s, failover.max_s);
    table.add(&format!("next accepted after SIGKILL ({} times)", options.repeat), "<= 4 s", measured, ok);
    table.runs.push(serde_json::to_value(&failover)?);
    Ok(())
}
