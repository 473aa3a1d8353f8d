//! Hand-written stories: faults at named points or conditions, never at times, and the one thing that each is about.
//!
//! Invariant: a story that did not come to its point is *unknown*, and that is a failure. Beside its own point every story
//! is judged like any other run: nothing lost, replicas equal, the oracle content, fresh sends accepted.
//!
//! - `kit` the stage: a cluster, its people, faults at points · `person` one user with a device
//! - one file for each family of stories · `command` the `scenarios` command

mod clocks;
mod codes;
pub mod command;
mod disks;
mod fan_out;
mod hellos;
mod kit;
mod leaders;
mod levels;
mod members;
mod person;
mod pulled;
mod receipts;
mod sessions;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use flotilla_client::history::Recorder;
use futures::future::LocalBoxFuture;
use madsim::Config;
use madsim::runtime::Runtime;

use crate::judge::Outcome;
use crate::options::Options;
use crate::plants;
use crate::report::{Counts, Summary};
use crate::run::Run;
use crate::trace::{self, Trace};
pub use kit::{Fail, Stage};

/// Simulated; a story that takes longer has stopped making progress.
const TIME_LIMIT: Duration = Duration::from_secs(600);

pub type Told<'a> = LocalBoxFuture<'a, Result<(), Fail>>;

pub struct Scenario {
    pub name: &'static str,
    /// What must hold, in a sentence.
    pub tells: &'static str,
    pub nodes: usize,
    pub shards: u16,
    /// Groups of three and more are in pull mode.
    pub pull: bool,
    /// The feature level that the cluster is made at; none: the newest.
    pub level: Option<u32>,
    pub play: for<'a> fn(&'a Stage) -> Told<'a>,
}

/// Three nodes, two shards: enough for most stories.
const fn story(name: &'static str, tells: &'static str, play: for<'a> fn(&'a Stage) -> Told<'a>) -> Scenario {
    Scenario { name, tells, nodes: 3, shards: 2, pull: false, level: None, play }
}

pub fn all() -> Vec<Scenario> {
    [
        fan_out::ALL,
        pulled::ALL,
        receipts::ALL,
        disks::ALL,
        leaders::ALL,
        members::ALL,
        sessions::ALL,
        hellos::ALL,
        clocks::ALL,
        levels::ALL,
        codes::ALL,
    ]
    .into_iter()
    .flat_map(|family| family())
    .collect()
}

/// Once per process, like [`crate::run::run`].
pub fn play(scenario: Scenario, seed: u64, plant: Option<String>, full: bool) -> Run {
    let options = Options {
        seed,
        nodes: scenario.nodes,
        shards: scenario.shards,
        pull: scenario.pull.then_some((2, 2)),
        level: scenario.level,
        plant,
        ..Options::default()
    };
    let trace = Trace::new(full);
    let (inner, seen) = (trace.clone(), options.clone());
    let played = std::thread::spawn(move || simulate(&scenario, &seen, &inner)).join();
    let Played { outcome, records, origin, end } = played.unwrap_or_else(|_| Played {
        outcome: Outcome::Violated(vec!["no panic: the simulator itself panicked".into()]),
        ..Played::default()
    });
    let simulated_us = u64::try_from(end.as_micros()).unwrap_or(u64::MAX);
    let counts = Counts::from([("records".to_owned(), records.len() as u64)]);
    let summary = Summary { simulated_us, counts, ..Summary::new(options, outcome) };
    Run { trace, records, origin, summary }
}

struct Played {
    outcome: Outcome,
    records: Vec<flotilla_client::history::Record>,
    origin: Duration,
    end: Duration,
}

impl Default for Played {
    fn default() -> Self {
        let outcome = Outcome::Unknown("the story ended without a verdict".into());
        Self { outcome, records: Vec::new(), origin: Duration::ZERO, end: Duration::ZERO }
    }
}

fn simulate(scenario: &Scenario, options: &Options, trace: &Trace) -> Played {
    let _listening = trace.listen();
    let mut played = Played::default();
    if let Some(name) = &options.plant
        && !plants::switch_on(name)
    {
        played.outcome = Outcome::Unknown(format!("there is no planted bug called {name}"));
        return played;
    }
    let mut config = Config::default();
    config.net.send_latency = options.latency.clone();
    let mut runtime = Runtime::with_seed_and_config(options.seed, config);
    runtime.set_time_limit(TIME_LIMIT);
    let done =
        std::panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(tell(scenario, options, trace, &mut played))));
    if let Err(payload) = done {
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| payload.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default();
        played.outcome = Outcome::Violated(vec![format!("no panic: a panic ended the story: {text}")]);
    }
    // As in a run: taking the simulated world down in order would only panic.
    std::mem::forget(runtime);
    played
}

async fn tell(scenario: &Scenario, options: &Options, trace: &Trace, played: &mut Played) {
    played.origin = trace::now();
    let recorder = Recorder::memory();
    let told = async {
        let stage = Stage::open(options, trace, &recorder).await?;
        let told = (scenario.play)(&stage).await;
        let judged = match told {
            Ok(()) => stage.judge().await,
            Err(fail) => Err(fail),
        };
        played.records.extend(stage.records());
        judged
    };
    let outcome = match told.await {
        Ok(()) => Outcome::Passed,
        Err(Fail::Broken(what)) => Outcome::Violated(vec![what]),
        Err(Fail::NotShown(what)) => Outcome::Unknown(what),
    };
    played.end = trace::now();
    played.outcome = outcome;
}
