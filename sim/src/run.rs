//! One run from its seed to its verdict: start, work while something breaks, heal, wait, judge.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use flotilla_client::history::{Record, Recorder};
use madsim::Config;
use madsim::runtime::Runtime;

use crate::cluster::Cluster;
use crate::judge::{self, Outcome};
use crate::nemesis;
use crate::options::{Options, Overrides};
use crate::trace::{self, Trace};
use crate::workload::Chat;

/// Simulated; a run that takes longer has stopped making progress.
const TIME_LIMIT: Duration = Duration::from_secs(600);

pub struct Report {
    pub trace: String,
    pub summary: String,
    pub outcome: Outcome,
}

/// What a run leaves behind, however it ends.
#[derive(Default)]
struct Left {
    records: Vec<Record>,
    origin: Duration,
    end: Duration,
    outcome: Option<Outcome>,
}

/// Once per process: a second run would start with other random states.
pub fn run(flags: &Overrides) -> Report {
    let options = Options::draw(flags);
    let drawn = options.to_string();
    // A thread of its own, so that thread-local generators are seeded inside the simulation.
    let trace = Trace::default();
    let (inner, seen) = (trace.clone(), options.clone());
    let (left, panicked) = std::thread::spawn(move || simulate(seen, inner))
        .join()
        .unwrap_or_else(|_| (Left::default(), Some("the simulator itself panicked".to_owned())));
    let counts = judge::count(&left.records);
    let outcome = match (panicked, left.outcome) {
        (Some(why), _) => Outcome::Violated(vec![format!("a panic ended the run: {why}")]),
        (None, Some(outcome)) => outcome,
        (None, None) => Outcome::Unknown("the run ended without a verdict".into()),
    };
    Report {
        trace: format!("{drawn}\n{}", trace.print(&left.records, left.origin)),
        summary: format!("seed {}: {:.3} s simulated; {counts}", options.seed, left.end.as_secs_f64()),
        outcome,
    }
}

fn simulate(options: Options, trace: Trace) -> (Left, Option<String>) {
    let _listening = trace.listen();
    let mut config = Config::default();
    config.net.send_latency = options.latency.clone();
    let mut runtime = Runtime::with_seed_and_config(options.seed, config);
    runtime.set_time_limit(TIME_LIMIT);
    let mut left = Left::default();
    let done = std::panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(play(&options, &trace, &mut left))));
    let panicked = done.err().map(|payload| {
        let text = payload.downcast_ref::<String>().cloned();
        text.or_else(|| payload.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_else(|| "no message".into())
    });
    // The simulated world is not worth taking down in order; destructors outside of it would only panic.
    std::mem::forget(runtime);
    (left, panicked)
}

async fn play(options: &Options, trace: &Trace, left: &mut Left) {
    left.origin = trace::now();
    let recorder = Recorder::memory();
    let outcome = match act(options, trace, &recorder, &mut left.records).await {
        Ok(outcome) => outcome,
        Err(error) => Outcome::Violated(vec![format!("the run could not go on: {error:#}")]),
    };
    left.records.extend(recorder.take());
    left.end = trace::now();
    left.outcome = Some(outcome);
}

async fn act(
    options: &Options,
    trace: &Trace,
    recorder: &Recorder,
    records: &mut Vec<Record>,
) -> anyhow::Result<Outcome> {
    let cluster = Cluster::start(options, trace);
    cluster.init(options.shards).await?;
    trace.say("run        the cluster serves");
    let chat = Chat::open(options, &cluster, recorder).await?;
    trace.say("run        everybody is connected");
    let (sent, covered) = futures::future::join(chat.send_all(options), nemesis::run(options, &cluster)).await;
    sent?;
    trace.say("run        all is sent and healed");
    for (fault, times) in &covered {
        trace.say(format!("run        fault: {fault} x{times}"));
    }

    let unmet = judge::wait_delivered(&chat, recorder, records).await;
    let mut violations: Vec<String> = unmet.into_iter().collect();
    trace.say("run        delivery has ended");
    violations.extend(judge::agreement(options, &cluster).await);
    records.extend(recorder.take());
    violations.extend(cluster.fatal().into_iter().map(|why| format!("a node ended by itself: {why}")));
    violations.extend(judge::oracle(records));
    let counts = judge::count(records);
    Ok(match judge::unshown(options, &counts, covered.values().sum()) {
        _ if !violations.is_empty() => Outcome::Violated(violations),
        Some(why) => Outcome::Unknown(why),
        None => Outcome::Passed,
    })
}
