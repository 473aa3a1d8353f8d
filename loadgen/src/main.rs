//! `flotilla-loadgen`: loads a cluster the way clients do, judges what came back, and says how fast it was.
//!
//! - [`engine`] all devices on one thread, the judge, the counts · [`schedule`] when sends of an open loop are due
//! - [`workload`] who is there and what they do · [`chaos`] nodes die meanwhile ·
//!   [`find_max`] the knee
//! - [`standard`] the set of rows with floors and goals, and the table that is kept
//! - [`idle`], [`failover`], [`restart`], [`snapshot`] single questions · [`floor`] the least figures of a young cluster ·
//!   [`path`] where the time of one message goes, from the nodes' traces
//! - [`cluster`] local nodes as child processes · [`process`], [`sample`] what the system says about them ·
//!   [`open_files`] whether it allows so many connections
//! - [`report`] figures, bounds, differences, charts
//!
//! Invariant: a run that saw anything lost, doubled or reordered ends with exit code 1.

mod capacity;
mod chaos;
mod cluster;
mod engine;
mod failover;
mod find_max;
mod floor;
mod idle;
mod open_files;
mod path;
mod process;
mod report;
mod restart;
mod sample;
mod schedule;
mod snapshot;
mod standard;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use cluster::Place;
use report::output::Output;
use workload::{Shape, Workload};

#[derive(Debug, Parser)]
#[command(
    name = "flotilla-loadgen",
    version,
    about = "Loads a Flotilla cluster and judges it",
    arg_required_else_help = true
)]
struct Cli {
    #[command(flatten)]
    place: Place,
    /// Also write the results to this file
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Direct conversations, both sides online on different nodes
    Direct(Measured<workload::direct::Options>),
    /// Groups of which everybody is online
    Group(Measured<workload::group::Options>),
    /// Recipients that are away while others send to them, and then come back
    Offline(Measured<workload::offline::Options>),
    /// Everybody reconnects at the same instant
    Storm(Measured<workload::storm::Options>),
    /// The shape of a day: mostly direct, some groups, typing, reads, reconnects
    Mixed(Measured<workload::mixed::Options>),
    /// Channels of which everybody is online: one to many, in pull mode
    Channel(Measured<workload::channel::Options>),
    /// Conversations that are long before anything is measured, and pages of their history
    Long(Measured<workload::long::Options>),
    /// More conversations than are warm, of many users or of one
    Many(Measured<workload::many::Options>),
    /// Connections that are logged in and silent: what they cost the nodes
    Idle(idle::Options),
    /// Kill a leader with SIGKILL and see when sends are accepted again (local cluster only)
    Failover(failover::Options),
    /// Fill a cluster, kill a node, and see how long it takes to be ready again (local cluster only)
    Restart(restart::Options),
    /// Fill a cluster without one node and let it catch up by snapshot: time, and memory of both sides (local cluster only)
    Snapshot(snapshot::Options),
    /// The set of least figures: a table of target, measured, ok (local clusters only)
    Floor(floor::Options),
    /// The standard set: every row of the targets on fresh nodes, with floor and goal (local clusters only)
    Standard(standard::Options),
    /// How many nodes a load needs: from users and messages a day to nodes, disks and network (pure arithmetic; starts nothing)
    Capacity(capacity::Options),
    /// Where the time of one message goes, hop by hop (local cluster only, or the logs of traced nodes)
    Path(path::Options),
}

/// A workload and what may be done around it.
#[derive(Debug, Args)]
struct Measured<W: Args> {
    #[command(flatten)]
    load: W,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
struct How {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    chaos: chaos::Options,
    #[command(flatten)]
    search: find_max::Options,
}

/// What a run ends with.
#[derive(Debug, Serialize)]
struct Outcome {
    /// Nothing lost, doubled or reordered, and every bound held.
    ok: bool,
    result: serde_json::Value,
}

impl Outcome {
    fn new(ok: bool, result: &impl Serialize) -> anyhow::Result<Self> {
        Ok(Self { ok, result: serde_json::to_value(result)? })
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("flotilla-loadgen: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
            outcome = perform(cli.command, &cli.place) => outcome,
        }
    })?;
    if let Some(file) = &cli.json {
        std::fs::write(file, serde_json::to_vec_pretty(&outcome)?)?;
    }
    Ok(outcome.ok)
}

async fn perform(command: Command, place: &Place) -> anyhow::Result<Outcome> {
    match command {
        Command::Direct(options) => measured(options.load.workload(), &options.load.shape, &options.how, place).await,
        Command::Group(options) => measured(options.load.workload(), &options.load.shape, &options.how, place).await,
        Command::Offline(options) => measured(options.load.workload(), &options.load.shape, &options.how, place).await,
        Command::Storm(options) => measured(options.load.workload(), &options.load.shape, &options.how, place).await,
        Command::Mixed(options) => measured(options.load.workload(), &options.load.shape, &options.how, place).await,
        Command::Channel(options) => measured(options.load.workload(), &options.load.shape, &options.how, place).await,
        Command::Long(options) => measured(options.load.workload(), &options.load.shape, &options.how, place).await,
        Command::Many(options) => measured(options.load.workload(), &options.load.shape, &options.how, place).await,
        Command::Idle(options) => idle::command(&options, place).await,
        Command::Failover(options) => failover::command(&options, place).await,
        Command::Restart(options) => restart::command(&options, place).await,
        Command::Snapshot(options) => snapshot::command(&options, place).await,
        Command::Floor(options) => floor::command(&options, place).await,
        Command::Standard(options) => standard::command(&options, place).await,
        Command::Path(options) => path::command(&options, place).await,
        Command::Capacity(options) => capacity::command(&options),
    }
}

async fn measured(workload: Arc<dyn Workload>, shape: &Shape, how: &How, place: &Place) -> anyhow::Result<Outcome> {
    how.output.check()?;
    anyhow::ensure!(!how.chaos.chaos || place.urls.is_empty(), "--chaos works with local nodes only: leave --urls out");
    let mut cluster = place.cluster(workload.devices()).await?;
    if how.search.find_max {
        let (knee, steps) = find_max::run(&how.search, workload, shape, &mut cluster).await?;
        println!("the knee: {knee:.0}/s");
        let clean = steps.iter().all(|step| step.report.ok());
        if let Some(best) = steps.iter().filter(|step| step.held).max_by(|a, b| a.rate.total_cmp(&b.rate)) {
            let ok = how.output.finish(&best.report)?;
            return Outcome::new(
                ok && clean,
                &serde_json::json!({"version": report::VERSION, "knee": knee, "steps": steps}),
            );
        }
        return Outcome::new(false, &serde_json::json!({"version": report::VERSION, "knee": knee, "steps": steps}));
    }
    let chaos = how.chaos.chaos.then_some(&how.chaos);
    let report = workload::run(workload, shape, &mut cluster, chaos).await?;
    Outcome::new(how.output.finish(&report)?, &report)
}
