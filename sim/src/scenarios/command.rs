//! The `scenarios` command: all stories, a process each, or one of them with its trace.

use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use clap::Args;

use crate::report::Verdict;
use crate::{plants, trace};

#[derive(Debug, Args)]
pub struct Scenarios {
    /// Only this story, with its trace
    name: Option<String>,
    /// What is left to chance in a story
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Stories at once [default: one for each core]
    #[arg(long)]
    jobs: Option<usize>,
    /// Switch on one deliberate bug (`plants` lists them): a story about it must fail
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(plants::names()), hide_possible_values = true)]
    plant: Option<String>,
    /// No trace unless something is wrong
    #[arg(long)]
    quiet: bool,
    /// Say what each story tells, play none
    #[arg(long)]
    list: bool,
}

impl Scenarios {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if self.list {
            super::all().iter().for_each(|story| println!("{}\n    {}", story.name, story.tells));
            return Ok(ExitCode::SUCCESS);
        }
        match &self.name {
            Some(name) => self.one(name),
            None => self.each(),
        }
    }

    fn one(&self, name: &str) -> anyhow::Result<ExitCode> {
        let Some(story) = super::all().into_iter().find(|story| story.name == name) else {
            anyhow::bail!("there is no story called {name} (`scenarios --list`)");
        };
        println!("{}: {}", story.name, story.tells);
        let run = super::play(story, self.seed, self.plant.clone(), false);
        if !self.quiet || run.summary.verdict != Verdict::Passed {
            print!("{}", trace::print(&run.lines()));
        }
        print!("{}", run.summary.text());
        // A story that did not come to its point is a failure.
        Ok(ExitCode::from(u8::from(run.summary.verdict != Verdict::Passed)))
    }

    fn each(&self) -> anyhow::Result<ExitCode> {
        let (stories, own) = (super::all(), std::env::current_exe()?);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (next, failed, started) = (AtomicUsize::new(0), AtomicUsize::new(0), Instant::now());
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.unwrap_or(cores).max(1) {
                scope.spawn(|| {
                    while let Some(story) = stories.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let (good, line) = self.apart(&own, story.name);
                        failed.fetch_add(usize::from(!good), Ordering::Relaxed);
                        println!("{line}");
                    }
                });
            }
        });
        let failed = failed.load(Ordering::Relaxed);
        println!("{} stories, {failed} failed, {:.1} s", stories.len(), started.elapsed().as_secs_f64());
        Ok(ExitCode::from(u8::from(failed > 0)))
    }

    /// In a process of its own: whether it passed, and a line about it.
    fn apart(&self, own: &std::path::Path, name: &str) -> (bool, String) {
        let started = Instant::now();
        let mut command = Command::new(own);
        command.args(["scenarios", name, "--quiet", "--seed", &self.seed.to_string()]);
        if let Some(plant) = &self.plant {
            command.args(["--plant", plant]);
        }
        let out = match command.stdin(Stdio::null()).output() {
            Ok(out) => out,
            Err(error) => return (false, format!("FAILED   {name}: no process: {error}")),
        };
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let why = text.lines().rev().nth(1).filter(|_| !out.status.success()).unwrap_or_default();
        let why = text.lines().find(|line| line.starts_with("VIOLATION")).unwrap_or(why);
        let state = if out.status.success() { "ok      " } else { "FAILED  " };
        let seconds = started.elapsed().as_secs_f64();
        (out.status.success(), format!("{state} {seconds:5.1} s  {name} {why}").trim_end().to_owned())
    }
}
