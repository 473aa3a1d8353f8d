//! `run` and `meta`.

use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use clap::{Parser, Subcommand};

use crate::judge::Outcome;
use crate::options::Overrides;
use crate::run;

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
        flags: Overrides,
        /// No trace unless something is wrong
        #[arg(long)]
        quiet: bool,
    },
    /// The same seed in two processes; exit code 1 unless the traces are equal byte for byte
    Meta {
        #[command(flatten)]
        flags: Overrides,
    },
}

pub fn main() -> ExitCode {
    match Cli::parse().command {
        What::Run { flags, quiet } => one(&flags, quiet),
        What::Meta { flags } => meta(&flags),
    }
}

fn one(flags: &Overrides, quiet: bool) -> ExitCode {
    let started = Instant::now();
    let report = run::run(flags);
    if !quiet || report.outcome != Outcome::Passed {
        print!("{}", report.trace);
    }
    println!("{}", report.summary);
    let code = match &report.outcome {
        Outcome::Passed => {
            println!("verdict: passed");
            0
        }
        Outcome::Violated(violations) => {
            for violation in violations {
                println!("VIOLATION {violation}");
            }
            println!("verdict: violated; replay with ./scripts/sim run {}", flags.command());
            1
        }
        Outcome::Unknown(why) => {
            println!("verdict: unknown, {why}; replay with ./scripts/sim run {}", flags.command());
            3
        }
    };
    // Not part of what two runs must share.
    eprintln!("{:.1} s of real time", started.elapsed().as_secs_f64());
    ExitCode::from(code)
}

fn meta(flags: &Overrides) -> ExitCode {
    let run = || {
        let binary = std::env::current_exe()?;
        Command::new(binary).arg("run").args(flags.command().split(' ')).stderr(Stdio::null()).output()
    };
    let (first, second) = match (run(), run()) {
        (Ok(first), Ok(second)) => (first, second),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("cannot start the simulator a second time: {error}");
            return ExitCode::from(2);
        }
    };
    let mut lines = first.stdout.split(|b| *b == b'\n').zip(second.stdout.split(|b| *b == b'\n')).enumerate();
    if let Some((at, (a, b))) = lines.find(|(_, (a, b))| a != b) {
        println!("seed {}: the traces differ from line {} on:", flags.seed, at + 1);
        println!("  {}\n  {}", String::from_utf8_lossy(a), String::from_utf8_lossy(b));
        return ExitCode::from(1);
    }
    if first.stdout != second.stdout || first.status != second.status {
        println!("seed {}: one trace is longer than the other, or the verdicts differ", flags.seed);
        return ExitCode::from(1);
    }
    let lines = first.stdout.iter().filter(|b| **b == b'\n').count();
    println!("seed {}: {} lines, {} bytes, equal in two processes", flags.seed, lines, first.stdout.len());
    if let Some(verdict) = String::from_utf8_lossy(&first.stdout).lines().last() {
        println!("  {verdict}");
    }
    if first.status.success() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}
