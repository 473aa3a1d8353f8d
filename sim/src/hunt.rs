//! The hunt for planted bugs: for each, seeds until one breaks a promise, and what spoke.
//!
//! Invariant: a bug counts as found only by a seed that passes without it.

use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use clap::Args;

use crate::child::{self, Ended};
use crate::options::{Chosen, Overrides};
use crate::plants::{self, Planted};
use crate::report::Verdict;
use crate::swarm::seeds;

/// The deliberate bugs that `--plant NAME` switches on.
#[derive(Debug, Args)]
pub struct Hunt {
    /// Only these [default: all]
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(plants::names()), hide_possible_values = true)]
    names: Vec<String>,
    /// Look for a seed that finds each, and print the table; exit code 1 if one is not found
    #[arg(long)]
    find: bool,
    /// Seeds A..B, both included
    #[arg(long, value_name = "A..B", value_parser = seeds, default_value = "1..200")]
    seeds: (u64, u64),
    /// Runs at once [default: one for each core]
    #[arg(long)]
    jobs: Option<usize>,
    /// Real seconds after which a run counts as broken
    #[arg(long, default_value_t = 300)]
    limit: u64,
}

/// How a bug was found.
struct Found {
    seed: u64,
    promise: String,
}

/// What one hunt has come to.
struct Trail {
    runs: u64,
    cores: Duration,
    /// Runs in which the bug has acted.
    acted: u64,
    found: Option<Found>,
}

impl Hunt {
    pub fn run(self) -> ExitCode {
        let wanted = |planted: &&Planted| self.names.is_empty() || self.names.iter().any(|name| name == planted.name);
        let hunted: Vec<&Planted> = plants::ALL.iter().filter(wanted).collect();
        if !self.find {
            hunted.iter().for_each(|planted| println!("{:<26} {}", planted.name, planted.sentence));
            return ExitCode::SUCCESS;
        }
        println!("| planted bug | what it does | found by seed | runs | core seconds | what spoke |");
        println!("|---|---|---|---|---|---|");
        let mut missed = 0;
        for planted in hunted {
            let trail = self.hunt(planted);
            let told = trail.found.is_none() && plants::story(planted.plant).is_some_and(|s| fails(s, planted.name));
            let (seed, promise) = match &trail.found {
                Some(found) => (found.seed.to_string(), found.promise.clone()),
                None => {
                    missed += u32::from(!told);
                    let story = plants::story(planted.plant).filter(|_| told);
                    let by = story.map_or("not found".into(), |story| format!("only the story `{story}`"));
                    (by, format!("it acted in {} runs", trail.acted))
                }
            };
            let (name, cores) = (planted.name, trail.cores.as_secs_f64());
            println!("| `{name}` | {} | {seed} | {} | {cores:.1} | {promise} |", planted.sentence, trail.runs);
        }
        ExitCode::from(u8::from(missed > 0))
    }

    fn hunt(&self, planted: &Planted) -> Trail {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (next, stop) = (AtomicU64::new(self.seeds.0), AtomicBool::new(false));
        let trail = Mutex::new(Trail { runs: 0, cores: Duration::ZERO, acted: 0, found: None });
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.unwrap_or(cores).max(1) {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed > self.seeds.1 {
                            return;
                        }
                        let found = self.try_seed(planted, seed, &trail);
                        stop.fetch_or(found, Ordering::Relaxed);
                    }
                });
            }
        });
        trail.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_seed(&self, planted: &Planted, seed: u64, trail: &Mutex<Trail>) -> bool {
        let ended = self.play(seed, Some(planted.name.to_owned()));
        let broke = is_broken(&ended);
        // Whoever fails without the bug as well has found something else.
        let found = broke && !is_broken(&self.play(seed, None));
        let mut trail = trail.lock().unwrap_or_else(PoisonError::into_inner);
        trail.runs += 1;
        trail.cores += ended.real;
        let acted = ended.summary.as_ref().is_ok_and(|summary| summary.counts.contains_key("planted bug acted"));
        trail.acted += u64::from(acted || broke);
        if found && trail.found.as_ref().is_none_or(|known| seed < known.seed) {
            let mut promise = ended.promise().unwrap_or_default();
            if promise == "no panic" {
                let reason = ended.reason();
                promise = format!("a panic: {}", reason.rsplit(": ").next().unwrap_or_default());
            }
            trail.found = Some(Found { seed, promise: promise.replace('|', "/") });
        }
        found
    }

    fn play(&self, seed: u64, plant: Option<String>) -> Ended {
        let over = Overrides { plant, ..Overrides::default() };
        child::play(&Chosen::of_seed(seed, over), Duration::from_secs(self.limit))
    }
}

/// Whether the story fails with the bug.
fn fails(story: &str, plant: &str) -> bool {
    let played = std::env::current_exe().and_then(|own| {
        let mut command = Command::new(own);
        command.args(["scenarios", story, "--quiet", "--plant", plant]).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null()).status()
    });
    played.is_ok_and(|status| status.code() == Some(1))
}

fn is_broken(ended: &Ended) -> bool {
    matches!(ended.verdict(), Verdict::Violated | Verdict::Broken)
}
