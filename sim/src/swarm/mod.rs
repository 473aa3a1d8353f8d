//! Many seeds, a process each, a bounded number at once: which of them break a promise, and what all of them covered.
//!
//! Rule for the exit code: 1 if any run violates a promise or does not end, or if more runs than allowed are unknown, for
//! a swarm that shows nothing proves nothing.
//!
//! - `progress` what is said meanwhile · `totals` what is said in the end, as text and as JSON

mod progress;
mod totals;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;

use crate::child::{self, Ended};
use crate::options::{Chosen, Overrides};
use crate::report::Verdict;
use progress::Progress;
use totals::Totals;

#[derive(Debug, Args)]
pub struct Swarm {
    /// Seeds A..B, both included
    #[arg(long, value_name = "A..B", value_parser = seeds)]
    seeds: (u64, u64),
    /// Runs at once [default: one for each core]
    #[arg(long)]
    jobs: Option<usize>,
    /// Begin no run after so many minutes
    #[arg(long)]
    minutes: Option<f64>,
    /// Real seconds after which a run counts as broken
    #[arg(long, default_value_t = child::LIMIT_S)]
    limit: u64,
    /// Of a hundred runs so many may be unknown
    #[arg(long, value_name = "PERCENT", default_value_t = 2.0)]
    unknown: f64,
    /// End with the first failure
    #[arg(long)]
    first: bool,
    /// Write everything into this file as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    over: Overrides,
}

/// `A..B`, `A..=B` or `A`.
pub fn seeds(text: &str) -> Result<(u64, u64), String> {
    let (from, to) = text.split_once("..").unwrap_or((text, text));
    let number = |text: &str| text.trim_start_matches('=').parse::<u64>().map_err(|e| format!("{text}: {e}"));
    let (from, to) = (number(from)?, number(to)?);
    if from > to || to == u64::MAX { Err("seeds A..B with A <= B".into()) } else { Ok((from, to)) }
}

/// What workers share.
struct Queue {
    next: AtomicU64,
    last: u64,
    end: Option<Instant>,
    stop: AtomicBool,
}

impl Queue {
    fn next(&self) -> Option<u64> {
        let late = self.end.is_some_and(|end| Instant::now() > end);
        if late || self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let seed = self.next.fetch_add(1, Ordering::Relaxed);
        (seed <= self.last).then_some(seed)
    }
}

impl Swarm {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let started = Instant::now();
        let (first, last) = self.seeds;
        let queue = Queue {
            next: AtomicU64::new(first),
            last,
            end: self.minutes.map(|minutes| started + Duration::from_secs_f64(minutes * 60.0)),
            stop: AtomicBool::new(false),
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let jobs = self.jobs.unwrap_or(cores).max(1);
        let (mut totals, mut progress) = (Totals::default(), Progress::new(last - first + 1));
        std::thread::scope(|scope| {
            let (tell, ended) = mpsc::sync_channel(jobs);
            for _ in 0..jobs {
                let (tell, queue) = (tell.clone(), &queue);
                scope.spawn(move || self.work(queue, &tell));
            }
            drop(tell);
            while let Ok((seed, ended)) = ended.recv() {
                let failed = matches!(ended.verdict(), Verdict::Violated | Verdict::Broken);
                if failed && self.first {
                    queue.stop.store(true, Ordering::Relaxed);
                }
                progress.on_end(seed, &ended, &self.over);
                totals.add(seed, ended);
            }
        });
        progress.close();
        totals.close(started.elapsed());
        print!("{}", totals.text());
        if let Some(file) = &self.json {
            let text = serde_json::to_string_pretty(&totals)?;
            std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(if totals.good(self.unknown) { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }

    fn work(&self, queue: &Queue, tell: &mpsc::SyncSender<(u64, Ended)>) {
        while let Some(seed) = queue.next() {
            let chosen = Chosen::of_seed(seed, self.over.clone());
            let ended = child::play(&chosen, Duration::from_secs(self.limit));
            if tell.send((seed, ended)).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_a_range_with_both_ends() {
        assert_eq!(seeds("2..5"), Ok((2, 5)));
        assert_eq!(seeds("2..=5"), Ok((2, 5)));
        assert_eq!(seeds("7"), Ok((7, 7)));
        assert!(seeds("5..2").is_err() && seeds("x").is_err() && seeds("0..18446744073709551615").is_err());
    }
}
