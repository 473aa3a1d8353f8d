//! The promise itself: three processes on RocksDB, eight clients, twenty conversations, nodes killed, paused, stopped and
//! restarted all the time while people write, edit, delete, react, join and leave. Then every device holds every accepted
//! entry of its conversations exactly once and in order, and all replicas of every shard hold the same state.
//!
//! Short by default (under 90 s); `FLOTILLA_CHAOS=long` gives at least 20,000 commands. `FLOTILLA_CHAOS_SEED=N` repeats a
//! schedule, `FLOTILLA_HISTORY=FILE` keeps the history, `FLOTILLA_KEEP=1` the data and logs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, ensure};
use flotilla_client::device::random_cid;
use flotilla_client::history::Record;
use flotilla_client::oracle::{Demand, Verdict, World, judge};
use flotilla_proto::entry::HistoryAccess;
use flotilla_proto::ids::{ConvId, UserId};
use flotilla_tests::cluster::Cluster;
use flotilla_tests::nemesis::Nemesis;
use flotilla_tests::phoenix::Phoenix;
use flotilla_tests::replicas;
use flotilla_tests::scene::{Scene, Seat, user};
use flotilla_tests::stalls::Stalls;
use flotilla_tests::talk::{Room, Run, Talker, shuffle};
use tokio::time::Instant;

/// The last two have passwords, the others are demo users.
const USERS: [&str; 6] = ["alice", "bob", "carol", "dave", "erin", "frank"];
const ACCOUNTS: [&str; 2] = ["erin", "frank"];
/// These have a second device.
const TWICE: [&str; 1] = ["erin"];
/// So has this one, and its process dies all the time.
const PHOENIX: &str = "alice";
const DIRECT: usize = 14;
const GROUPS: usize = 6;
/// Of the groups.
const VOLATILE: usize = 3;

struct Plan {
    seed: u64,
    sends_min: u64,
    faults_for: Duration,
    heal_limit: Duration,
    /// Commands per second of one device, at most.
    rate: u64,
}

impl Plan {
    fn of_env() -> anyhow::Result<Self> {
        let seed = match std::env::var("FLOTILLA_CHAOS_SEED") {
            Ok(text) => text.parse().context("FLOTILLA_CHAOS_SEED is no number")?,
            Err(_) => rand::random_range(0..1_000_000),
        };
        let long = std::env::var("FLOTILLA_CHAOS").is_ok_and(|form| form == "long");
        let (sends_min, faults_for, rate) = if long { (20_000, 300, 25) } else { (500, 45, 15) };
        let heal_limit = Duration::from_secs(if long { 300 } else { 90 });
        Ok(Self { seed, sends_min, faults_for: Duration::from_secs(faults_for), heal_limit, rate })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_accepted_is_lost_doubled_or_reordered_while_nodes_die() -> anyhow::Result<()> {
    let plan = Plan::of_env()?;
    println!("FLOTILLA_CHAOS_SEED={}", plan.seed);
    let mut cluster = Cluster::start(3).await?;
    let scene = Arc::new(Scene::new(cluster.urls()));
    let mut records = Vec::new();
    let done = chaos(&plan, &mut cluster, &scene, &mut records).await;
    records.extend(scene.recorder.take());
    if let Some(path) = std::env::var_os("FLOTILLA_HISTORY") {
        let lines: Vec<String> = records.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
        std::fs::write(path, lines.join("\n"))?;
    }
    println!("{}", Stalls::of(&records));
    let demand =
        Demand { accepted_min: plan.sends_min, delivered_min: plan.sends_min * 2, repeats_min: 1, ..Demand::default() };
    let verdict = judge(&records, demand);
    println!("{verdict}");
    done.with_context(|| format!("seed {}\n{verdict}{}", plan.seed, cluster.logs()))?;
    ensure!(verdict.holds(), "seed {}\n{verdict}{}", plan.seed, cluster.logs());
    Ok(())
}

async fn chaos(
    plan: &Plan,
    cluster: &mut Cluster,
    scene: &Arc<Scene>,
    records: &mut Vec<Record>,
) -> anyhow::Result<()> {
    let mut seats = Vec::new();
    for (number, names) in [(1, &USERS[..]), (2, &TWICE[..])] {
        for name in names {
            let account = ACCOUNTS.contains(name);
            seats.push(if account {
                scene.open_account(name, number).await?
            } else {
                scene.open(name, number).await?
            });
        }
    }
    let rooms = rooms(&seats).await?;
    let seats: Vec<Arc<Seat>> = seats.into_iter().map(Arc::new).collect();
    let run = Arc::new(Run::default());
    let mut workers = Vec::new();
    for (seat, n) in seats.iter().zip(1..) {
        workers.push(tokio::spawn(Talker::new(seat.clone(), &rooms, run.clone(), plan.seed + n).work(plan.rate)));
    }
    let phoenix = Phoenix::new(PHOENIX, 2, plan.seed);
    let first = phoenix.rise(scene).await?;
    let phoenix = tokio::spawn(phoenix.work(first, scene.clone(), rooms.clone(), run.clone()));
    workers.push(tokio::spawn(shuffle(seats.clone(), rooms.clone(), run.clone(), plan.seed)));

    let mut nemesis = Nemesis::new(plan.seed);
    let deadline = Instant::now() + plan.faults_for;
    while Instant::now() < deadline || run.sent.load(Ordering::Relaxed) < plan.sends_min {
        nemesis.strike(cluster, scene).await?;
        ensure!(Instant::now() < deadline + plan.heal_limit, "only {} sends in time", run.sent.load(Ordering::Relaxed));
    }
    scene.note("heal");
    run.stop();
    let healed = Instant::now();
    cluster.all_ready().await?;
    for worker in workers {
        tokio::time::timeout(plan.heal_limit, worker).await.context("commands stay unanswered")???;
    }
    let (risen, lives) =
        tokio::time::timeout(plan.heal_limit, phoenix).await.context("the phoenix stays away")???;
    println!("all answered {} ms after the last fault", healed.elapsed().as_millis());
    complete(records, scene, plan.heal_limit).await?;
    println!("all delivered {} ms after the last fault", healed.elapsed().as_millis());
    let shards = replicas::agree(cluster, plan.heal_limit).await?;
    println!("{shards} shards: all replicas equal {} ms after the last fault", healed.elapsed().as_millis());
    for seat in seats.iter().map(Arc::as_ref).chain([&risen]) {
        ensure!(seat.seen.borrow().holes == 0, "{} saw a hole", seat.label);
        seat.handle.close().await;
    }
    let moves = run.moves.load(Ordering::Relaxed);
    println!(
        "nodes killed: {}, paused: {}, stopped gracefully: {}; members moved: {moves}; pages read: {}; lives of {}: {lives}; tokens renewed: {}",
        nemesis.kills,
        nemesis.pauses,
        nemesis.graceful,
        run.pages.load(Ordering::Relaxed),
        risen.label,
        scene.renewed.load(Ordering::Relaxed)
    );
    ensure!(moves >= 10, "only {moves} changes of members were accepted");
    // Only then is membership judged everywhere.
    let whole = World::of(records).members.len();
    ensure!(whole == GROUPS, "the log of only {whole} groups was seen from its beginning");
    Ok(())
}

/// Waits until nothing that is owed to a device is missing; any other broken promise ends it at once.
async fn complete(records: &mut Vec<Record>, scene: &Scene, limit: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        records.extend(scene.recorder.take());
        match judge(records, Demand::default()) {
            Verdict::Violated(violation, _) if violation.promise == "I3 no-loss" && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            verdict => {
                ensure!(verdict.holds(), "{verdict}");
                return Ok(());
            }
        }
    }
}

async fn rooms(seats: &[Seat]) -> anyhow::Result<Vec<Room>> {
    let users: Vec<UserId> = USERS.iter().map(|n| user(n)).collect();
    let mut rooms = Vec::new();
    for (i, a) in users.iter().enumerate() {
        for b in &users[i..] {
            if rooms.len() < DIRECT {
                let members = BTreeSet::from([a.clone(), b.clone()]);
                rooms.push(Room { conv: ConvId::direct(a, b), members, volatile: false });
            }
        }
    }
    for g in 0..GROUPS {
        let creator = &seats[g % USERS.len()];
        let others: BTreeSet<UserId> = users.iter().cycle().skip(g + 1).take(2 + g % 4).cloned().collect();
        let list: Vec<UserId> = others.iter().cloned().collect();
        let name = format!("group {g}");
        let conv = creator.handle.create_group(random_cid(), &name, &list, HistoryAccess::FromJoin).await?;
        creator.own(conv.clone());
        let members = others.into_iter().chain([creator.handle.user().clone()]).collect();
        rooms.push(Room { conv, members, volatile: g < VOLATILE });
    }
    Ok(rooms)
}
