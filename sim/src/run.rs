//! One run from its seed to its verdict: start, work while something breaks, heal, wait, judge.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use flotilla_client::history::{Op, Record, Recorder};
use flotilla_proto::frame::CloseCode;
use flotilla_proto::plant;
use flotilla_raft::seam::fault;
use flotilla_storage::MemDisk;
use madsim::Config;
use madsim::net::NetSim;
use madsim::runtime::Runtime;

use crate::checkers::blocks;
use crate::cluster::Cluster;
use crate::judge::{self, Outcome};
use crate::lasting::acts;
use crate::nemesis;
use crate::options::{Options, stream};
use crate::plants;
use crate::report::{Counts, Summary};
use crate::trace::{self, Line, Trace};
use crate::workload::Chat;

/// Simulated; a run that takes longer has stopped making progress.
const TIME_LIMIT: Duration = Duration::from_secs(600);
/// Kinds of faults that keep nodes from hearing each other.
const PARTITIONS: [&str; 8] = ["isolate", "isolate-leader", "cut", "minority", "deposed", "partial", "flap", "swizzle"];

/// A run that has ended, and everything that is known of it.
pub struct Run {
    pub trace: Trace,
    pub records: Vec<Record>,
    /// When the clients' recorder was made.
    pub origin: Duration,
    pub summary: Summary,
}

impl Run {
    pub fn lines(&self) -> Vec<Line> {
        self.trace.lines(&self.records, self.origin)
    }
}

/// What a run leaves behind, however it ends.
#[derive(Default)]
struct Left {
    records: Vec<Record>,
    origin: Duration,
    end: Duration,
    outcome: Option<Outcome>,
    disks: Vec<MemDisk>,
    packets: u64,
    faults: Counts,
    points: Counts,
    checks: Counts,
    load: Counts,
    /// How often the planted bug has acted.
    bites: u64,
    /// Changes between push and pull mode, and entries in pull mode.
    pulled: (u64, u64),
}

/// Once per process: a second run would start with other random states. A full trace has every step of every message.
pub fn run(options: Options, full: bool) -> Run {
    // A thread of its own, so that thread-local generators are seeded inside the simulation.
    let trace = Trace::new(full);
    let (inner, seen) = (trace.clone(), options.clone());
    let (mut left, panicked) = std::thread::spawn(move || simulate(seen, inner))
        .join()
        .unwrap_or_else(|_| (Left::default(), Some("the simulator itself panicked".to_owned())));
    let outcome = match (panicked, left.outcome.take()) {
        (Some(why), _) => Outcome::Violated(vec![format!("no panic: a panic ended the run: {why}")]),
        (None, Some(outcome)) => outcome,
        (None, None) => Outcome::Unknown("the run ended without a verdict".into()),
    };
    let counts = count(&left, &trace);
    let mut kinds = Counts::new();
    for band in trace.bands() {
        *kinds.entry(band.fault.kind().to_owned()).or_default() += 1;
    }
    let Left { records, origin, end, faults, points, checks, load, .. } = left;
    let simulated_us = u64::try_from(end.as_micros()).unwrap_or(u64::MAX);
    let summary =
        Summary { simulated_us, counts, kinds, faults, points, checks, load, ..Summary::new(options, outcome) };
    Run { trace, records, origin, summary }
}

/// What happened, by name.
fn count(left: &Left, trace: &Trace) -> Counts {
    let seen = judge::count(&left.records);
    let disks = left.disks.iter().map(MemDisk::counters);
    let (crashes, lost) = disks.fold((0, 0), |(c, b), disk| (c + disk.crashes, b + disk.unsynced_bytes_lost));
    let closed = |codes: &[u16]| {
        let is = |record: &&Record| matches!(&record.op, Op::Closed { code, .. } if codes.contains(code));
        left.records.iter().filter(is).count() as u64
    };
    let partitions = trace.bands().iter().filter(|band| PARTITIONS.contains(&band.fault.kind())).count() as u64;
    let counts = [
        ("sends", seen.invoked as u64),
        ("accepted", seen.accepted as u64),
        ("accepted again", seen.repeats as u64),
        ("rejected", seen.rejected as u64),
        ("unknown", seen.unknown as u64),
        ("delivered", seen.delivered as u64),
        ("redelivered", redelivered(&left.records)),
        ("connections", seen.connections as u64),
        ("takeovers", closed(&[CloseCode::Superseded.number(), CloseCode::SessionReplaced.number()])),
        ("elections", trace.count("leading")),
        ("crashes", crashes),
        ("unsynced bytes lost", lost),
        ("partitions", partitions),
        ("packets", left.packets),
        ("changes of mode", left.pulled.0),
        ("entries in pull mode", left.pulled.1),
        ("snapshots installed", left.points.get("snapshot.installed").copied().unwrap_or(0)),
    ];
    let bites = (left.bites > 0).then_some(("planted bug acted", left.bites));
    counts.into_iter().chain(bites).map(|(name, count)| (name.to_owned(), count)).collect()
}

/// Entries that a device was sent more than once.
fn redelivered(records: &[Record]) -> u64 {
    let mut seen = BTreeSet::new();
    let entries = records.iter().filter_map(|record| match &record.op {
        Op::Entry { entry } => Some((&record.device, &entry.conv, entry.seq)),
        _ => None,
    });
    entries.filter(|sight| !seen.insert(*sight)).count() as u64
}

fn simulate(options: Options, trace: Trace) -> (Left, Option<String>) {
    let _listening = trace.listen();
    if let Some(name) = &options.plant
        && !plants::switch_on(name)
    {
        return (Left::default(), Some(format!("there is no planted bug called {name}")));
    }
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
    left.bites = plant::hits();
    left.points = fault::passes().into_iter().map(|(name, times)| (name.to_owned(), times)).collect();
    // The simulated world is not worth taking down in order; destructors outside of it would only panic.
    std::mem::forget(runtime);
    (left, panicked)
}

async fn play(options: &Options, trace: &Trace, left: &mut Left) {
    left.origin = trace::now();
    let recorder = Recorder::memory();
    let outcome = match act(options, trace, &recorder, left).await {
        Ok(outcome) => outcome,
        Err(error) => Outcome::Violated(vec![format!("the run could not go on: {error:#}")]),
    };
    left.records.extend(recorder.take());
    left.end = trace::now();
    left.packets = NetSim::current().stat().msg_count;
    left.outcome = Some(outcome);
}

async fn act(options: &Options, trace: &Trace, recorder: &Recorder, left: &mut Left) -> anyhow::Result<Outcome> {
    let cluster = Cluster::start(options, trace);
    left.disks = cluster.seats.iter().map(|seat| seat.disk.clone()).collect();
    cluster.init(options).await?;
    cluster.remember_for(options).await?;
    trace.say("run        the cluster serves");
    let chat = Chat::open(options, &cluster, recorder).await?;
    trace.say("run        everybody is connected");
    let mut elsewhere = stream(options.seed, 4);
    let (sent, covered, (), ()) = futures::future::join4(
        chat.send_all(options),
        nemesis::run(options, &cluster, &chat),
        chat.two_places(&mut elsewhere, options.load.places, &cluster),
        chat.come_by_code(options, &cluster),
    )
    .await;
    sent?;
    trace.say("run        all is sent and healed");
    left.faults = covered.into_iter().map(|(fault, times)| (fault, u64::from(times))).collect();
    chat.settles().await;
    let records = &mut left.records;

    let unmet = judge::settle(options, &cluster, &chat, recorder, records).await;
    // What was seen as it happened explains more than what did not happen after it.
    let mut violations = cluster.watch.violations();
    violations.extend(cluster.fatal().into_iter().map(|why| format!("a node ended by itself: {why}")));
    let (broken, checked) = judge::oracle(records);
    violations.extend(broken);
    violations.extend(judge::refused(records));
    let blocks = blocks::judge(records, &acts(records));
    violations.extend(blocks.as_ref().err().map(|what| format!("a block holds: {what}")));
    violations.extend(chat.shown.violations());
    left.load = chat.shown.counts();
    left.pulled = cluster.watch.with_world(|world| {
        let models = world.models.values().map(|(model, _)| (model.switches, model.pulled));
        models.fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1))
    });
    violations.extend(unmet);
    let checked = checked.into_iter().chain(cluster.watch.verified()).chain([("a block holds", blocks.unwrap_or(0))]);
    left.checks = checked.map(|(name, times)| (name.to_owned(), times)).collect();
    let counts = judge::count(records);
    let broke = u32::try_from(left.faults.values().sum::<u64>()).unwrap_or(u32::MAX);
    Ok(match judge::unshown(options, &counts, broke, &left.load) {
        _ if !violations.is_empty() => Outcome::Violated(violations),
        Some(why) => Outcome::Unknown(why),
        None => Outcome::Passed,
    })
}
