//! `flotilla-loadgen`: loads a cluster the way clients do, judges what came back, and says how fast it was.
//!
//! - [`engine`] all devices on one thread, the judge, the counts · [`schedule`] when sends of an open loop are due
//! - [`workload`] who is there and what they do · [`channel`] what is not there yet
//! - [`idle`] (with [`line`], one raw WebSocket), [`failover`], [`restart`], [`snapshot`] single questions · [`floor`] the
//!   set of least figures that must hold · [`path`] where the time of one message goes, from the nodes' traces
//! - [`standard`] the set of rows with floors and goals, and the table that is kept
//! - [`cluster`] local nodes as child processes · [`process`], [`sample`] what the system says about them
//! - [`report`] figures, tables, files
//!
//! Invariant: a run that saw anything lost, doubled or reordered ends with exit code 1.

mod channel;
mod cluster;
mod engine;
mod failover;
mod floor;
mod idle;
mod line;
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

use clap::{Parser, Subcommand};
use serde::Serialize;

use cluster::Place;
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
    Direct(workload::direct::Options),
    /// Groups of which everybody is online
    Group(workload::group::Options),
    /// Read fan-out, one to many: not in this version of the server
    Channel,
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
    /// Where the time of one message goes, hop by hop (local cluster only, or the logs of traced nodes)
    Path(path::Options),
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
        Command::Direct(options) => measured(options.workload(), &options.shape, place).await,
        Command::Group(options) => measured(options.workload(), &options.shape, place).await,
        Command::Channel => channel::command(),
        Command::Idle(options) => idle::command(&options, place).await,
        Command::Failover(options) => failover::command(&options, place).await,
        Command::Restart(options) => restart::command(&options, place).await,
        Command::Snapshot(options) => snapshot::command(&options, place).await,
        Command::Floor(options) => floor::command(&options, place).await,
        Command::Standard(options) => standard::command(&options, place).await,
        Command::Path(options) => path::command(&options, place).await,
    }
}

async fn measured(workload: Arc<dyn Workload>, shape: &Shape, place: &Place) -> anyhow::Result<Outcome> {
    let cluster = place.cluster().await?;
    let report = workload::run(workload, shape, &cluster).await?;
    report.print();
    Outcome::new(report.ok(), &report)
}
