//! The commands: each chooses runs and says what came of them.

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::hunt::Hunt;
use crate::options::Chosen;
use crate::regressions::{Record, Regressions};
use crate::report::{Summary, Verdict};
use crate::scenarios::command::Scenarios;
use crate::shrink::Shrink;
use crate::swarm::Swarm;
use crate::{page, run, trace};

/// Whole Flotilla clusters on simulated time, network and disks, from one seed.
#[derive(Debug, Parser)]
#[command(name = "flotilla-sim", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// One run: its trace, a summary and the verdict. Exit code 1: a promise was broken; 3: the run showed nothing
    Run {
        #[command(flatten)]
        chosen: Chosen,
        /// No trace unless something is wrong
        #[arg(long)]
        quiet: bool,
        /// Only the summary, as one line of JSON
        #[arg(long)]
        json: bool,
    },
    /// The same seed in two processes; exit code 1 unless the traces are equal byte for byte
    Meta {
        #[command(flatten)]
        chosen: Chosen,
        /// The second process runs this executable, for example one of another build profile
        #[arg(long, value_name = "FILE")]
        against: Option<PathBuf>,
    },
    /// Many seeds, a process each; exit code 1 if any breaks a promise. A coverage table in the end
    Swarm(Swarm),
    /// One run with every step of every message in its trace
    Replay {
        #[command(flatten)]
        chosen: Chosen,
        /// Leave out what happened after so many simulated seconds
        #[arg(long, value_name = "SECONDS")]
        until: Option<f64>,
        /// Write the run as one page for a browser, in place of the text
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
    },
    /// Hand-written stories, each named after what it tells; exit code 1 if any fails
    Scenarios(Scenarios),
    /// The deliberate bugs that `--plant NAME` switches on, a sentence each; or the hunt for them
    Plants(Hunt),
    /// Leaves out faults and workload while the same promise is violated; prints the smallest run found
    Shrink(Shrink),
    /// The runs of sim/regressions/, which once broke a promise
    Regressions(Regressions),
    /// Writes a failing run into sim/regressions/
    Record(Record),
    /// The options that a seed draws, as JSON for `--options`
    Options {
        #[command(flatten)]
        chosen: Chosen,
    },
}

pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        What::Run { chosen, quiet, json } => one(&chosen, quiet, json),
        What::Meta { chosen, against } => meta(&chosen, against),
        What::Swarm(swarm) => swarm.run(),
        What::Replay { chosen, until, html } => replay(&chosen, until, html),
        What::Scenarios(scenarios) => scenarios.run(),
        What::Plants(hunt) => Ok(hunt.run()),
        What::Shrink(shrink) => shrink.run(),
        What::Regressions(regressions) => regressions.run(),
        What::Record(record) => record.run(),
        What::Options { chosen } => print_options(&chosen),
    };
    done.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::from(2)
    })
}

fn code(summary: &Summary) -> ExitCode {
    ExitCode::from(match summary.verdict {
        Verdict::Passed => 0,
        Verdict::Violated | Verdict::Broken => 1,
        Verdict::Unknown => 3,
    })
}

fn one(chosen: &Chosen, quiet: bool, json: bool) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let options = chosen.load()?;
    if !json {
        println!("{options}");
    }
    let run = run::run(options, false);
    if json {
        println!("{}", serde_json::to_string(&run.summary)?);
        return Ok(code(&run.summary));
    }
    if !quiet || run.summary.verdict != Verdict::Passed {
        print!("{}", trace::print(&run.lines()));
    }
    print!("{}", run.summary.text());
    if run.summary.verdict != Verdict::Passed {
        println!("again: ./scripts/sim run {}", chosen.args().join(" "));
    }
    tell_speed(&run.summary, started.elapsed());
    Ok(code(&run.summary))
}

/// Not part of what two runs must share.
fn tell_speed(summary: &Summary, real: Duration) {
    let (real, simulated) = (real.as_secs_f64(), summary.simulated_us as f64 / 1e6);
    eprintln!("{real:.2} s of real time, {:.0} simulated seconds in each", simulated / real);
}

fn replay(chosen: &Chosen, until: Option<f64>, html: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let options = chosen.load()?;
    println!("{options}");
    let run = run::run(options, true);
    if let Some(file) = html {
        let again = format!("./scripts/sim run {}", chosen.args().join(" "));
        std::fs::write(&file, page::html(&run, &again)).with_context(|| format!("cannot write {}", file.display()))?;
        print!("{}", run.summary.text());
        println!("page: {}", file.display());
        return Ok(code(&run.summary));
    }
    let mut lines = run.lines();
    if let Some(until) = until {
        lines.retain(|line| line.at.as_secs_f64() <= until);
    }
    print!("{}", trace::print(&lines));
    print!("{}", run.summary.text());
    Ok(code(&run.summary))
}

fn print_options(chosen: &Chosen) -> anyhow::Result<ExitCode> {
    println!("{}", serde_json::to_string_pretty(&chosen.load()?)?);
    Ok(ExitCode::SUCCESS)
}

fn meta(chosen: &Chosen, against: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let own = std::env::current_exe()?;
    let run = |binary: &PathBuf| Command::new(binary).arg("run").args(chosen.args()).stderr(Stdio::null()).output();
    let (first, second) = (run(&own)?, run(&against.unwrap_or_else(|| own.clone()))?);
    let name = chosen.args().join(" ");
    let mut lines = first.stdout.split(|b| *b == b'\n').zip(second.stdout.split(|b| *b == b'\n')).enumerate();
    if let Some((at, (a, b))) = lines.find(|(_, (a, b))| a != b) {
        println!("{name}: the traces differ from line {} on:", at + 1);
        println!("  {}\n  {}", String::from_utf8_lossy(a), String::from_utf8_lossy(b));
        return Ok(ExitCode::from(1));
    }
    if first.stdout != second.stdout || first.status != second.status {
        println!("{name}: one trace is longer than the other, or the verdicts differ");
        return Ok(ExitCode::from(1));
    }
    let lines = first.stdout.iter().filter(|b| **b == b'\n').count();
    println!("{name}: {} lines, {} bytes, equal in two processes", lines, first.stdout.len());
    let text = String::from_utf8_lossy(&first.stdout);
    if let Some(verdict) = text.lines().rfind(|line| line.starts_with("verdict: ")) {
        println!("  {verdict}");
    }
    Ok(if first.status.success() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
