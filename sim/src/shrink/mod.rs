//! The smallest run that still breaks the same promise: switches off kinds of faults, lanes, single faults and parts of
//! the workload, one after the other, and keeps what still fails.
//!
//! Works on the options as JSON, so that it knows what to leave out of options that were added after it. An edit that
//! makes no sense gives a run that fails in another way, or not at all, and is not kept.
//!
//! - `edit` what can be left out

mod edit;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;

use crate::child::{self, Ended};
use crate::options::{Chosen, Options};
use crate::report::Verdict;
use edit::Edit;

#[derive(Debug, Args)]
pub struct Shrink {
    #[command(flatten)]
    chosen: Chosen,
    /// Where the smallest options go [default: shrunk-SEED.json]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Begin no try after so many minutes
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Real seconds after which a try counts as broken
    #[arg(long, default_value_t = child::LIMIT_S)]
    limit: u64,
    /// Tries at once [default: one for each core]
    #[arg(long)]
    jobs: Option<usize>,
}

/// A folder for the options of tries; it goes with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("flotilla-sim-shrink-{}", std::process::id()));
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left behind in the system's temporary folder goes with it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Search {
    now: Value,
    promise: String,
    tries: usize,
    kept: usize,
    end: Instant,
    limit: Duration,
    jobs: usize,
    scratch: Scratch,
}

impl Shrink {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let options = self.chosen.load()?;
        let (limit, seed) = (Duration::from_secs(self.limit), options.seed);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let scratch = Scratch::new()?;
        let now = serde_json::to_value(&options)?;
        let first = play(&scratch.0, 0, &now, limit)?;
        let Some(promise) = first.promise().filter(|_| first.verdict() != Verdict::Unknown) else {
            bail!("nothing to shrink: {} is {}", self.chosen.args().join(" "), first.verdict().name());
        };
        println!("violated: {}", first.reason());
        println!("kept as long as the same promise is violated: {promise}");
        let end = Instant::now() + Duration::from_secs_f64(self.minutes * 60.0);
        let jobs = self.jobs.unwrap_or(cores).max(1);
        let mut search = Search { now, promise, tries: 0, kept: 0, end, limit, jobs, scratch };
        while search.pass()? {}
        let smallest: Options = serde_json::from_value(search.now)?;
        let out = self.out.clone().unwrap_or_else(|| PathBuf::from(format!("shrunk-{seed}.json")));
        std::fs::write(&out, serde_json::to_string_pretty(&smallest)? + "\n")
            .with_context(|| format!("cannot write {}", out.display()))?;
        println!("\nsmallest found after {} tries, {} of them kept:\n{smallest}", search.tries, search.kept);
        println!("\nagain: ./scripts/sim run --options {}", out.display());
        println!("as a page: ./scripts/sim replay --options {} --html shrunk-{seed}.html", out.display());
        Ok(ExitCode::SUCCESS)
    }
}

impl Search {
    /// Tries every edit once; true if any was kept, so that others may have become possible.
    fn pass(&mut self) -> anyhow::Result<bool> {
        let before = self.kept;
        let mut edits: std::collections::VecDeque<Edit> = edit::all(&self.now).into();
        while !edits.is_empty() && Instant::now() < self.end {
            let mut tries = Vec::new();
            while tries.len() < self.jobs
                && let Some(edit) = edits.pop_front()
            {
                // An edit before it may have taken away what this one is about.
                if let Some(changed) = edit.apply(&self.now) {
                    tries.push((edit, changed));
                }
            }
            let fails = self.play_all(&tries)?;
            let mut tries = tries.into_iter().zip(fails);
            if let Some(((edit, changed), _)) = tries.find(|(_, fails)| *fails) {
                println!("  try {:>3}: {edit}", self.tries);
                (self.now, self.kept) = (changed, self.kept + 1);
                // Those behind it were tried beside it, not on top of it.
                tries.rev().for_each(|((edit, _), _)| edits.push_front(edit));
            }
        }
        Ok(self.kept > before && Instant::now() < self.end)
    }

    /// Which of them break the same promise.
    fn play_all(&mut self, tries: &[(Edit, Value)]) -> anyhow::Result<Vec<bool>> {
        self.tries += tries.len();
        let (folder, limit, promise) = (&self.scratch.0, self.limit, &self.promise);
        std::thread::scope(|scope| {
            let running: Vec<_> = tries
                .iter()
                .enumerate()
                .map(|(at, (_, options))| scope.spawn(move || play(folder, at, options, limit)))
                .collect();
            let ended = running.into_iter().map(|run| run.join().unwrap_or_else(|_| bail!("a try panicked")));
            ended.map(|ended| Ok(ended?.promise().as_ref() == Some(promise))).collect()
        })
    }
}

fn play(folder: &Path, slot: usize, options: &Value, limit: Duration) -> anyhow::Result<Ended> {
    let file = folder.join(format!("{slot}.json"));
    std::fs::write(&file, serde_json::to_vec(options)?).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(child::play(&Chosen::of_file(&file), limit))
}
