//! The promise itself: three processes on RocksDB, eight clients, twenty conversations, nodes killed, paused and restarted
//! all the time. Then every device holds every accepted entry of its conversations exactly once and in order.
//!
//! Short by default (about 90 s); `FLOTILLA_CHAOS=long` sends at least 20,000 commands. `FLOTILLA_HISTORY=FILE` keeps the
//! history, `FLOTILLA_KEEP=1` the data and logs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use flotilla_client::Outcome;
use flotilla_client::device::random_cid;
use flotilla_client::history::{Op, Record};
use flotilla_client::oracle::{Demand, judge};
use flotilla_proto::entry::HistoryAccess;
use flotilla_proto::frame::Target;
use flotilla_proto::ids::{ConvId, ConvKind, Seq, UserId};
use flotilla_tests::cluster::Cluster;
use flotilla_tests::scene::{Scene, Seat, eventually, text, user};
use rand::RngExt;
use tokio::sync::Semaphore;
use tokio::time::Instant;

const USERS: [&str; 6] = ["alice", "bob", "carol", "dave", "erin", "frank"];
const DIRECT: usize = 14;
const GROUPS: usize = 6;
/// Commands without an answer per device.
const OUTSTANDING: usize = 24;

struct Plan {
    sends_min: u64,
    faults_for: Duration,
    heal_limit: Duration,
    /// Sends per second of one device, at most.
    rate: u64,
}

impl Plan {
    fn of_env() -> Self {
        match std::env::var("FLOTILLA_CHAOS").as_deref() {
            Ok("long") => Self {
                sends_min: 20_000,
                faults_for: Duration::from_secs(300),
                heal_limit: Duration::from_secs(300),
                rate: 25,
            },
            _ => Self {
                sends_min: 500,
                faults_for: Duration::from_secs(45),
                heal_limit: Duration::from_secs(90),
                rate: 15,
            },
        }
    }
}

/// A conversation with the users that are in it for the whole run.
#[derive(Clone)]
struct Room {
    conv: ConvId,
    members: BTreeSet<UserId>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_accepted_is_lost_doubled_or_reordered_while_nodes_die() -> anyhow::Result<()> {
    let plan = Plan::of_env();
    let mut cluster = Cluster::start(3).await?;
    let scene = Scene::new(cluster.urls());
    let mut seats = Vec::new();
    for name in USERS {
        seats.push(scene.open(name, 1).await?);
    }
    for name in &USERS[..2] {
        seats.push(scene.open(name, 2).await?);
    }
    let rooms = rooms(&seats).await?;
    let seats: Vec<Arc<Seat>> = seats.into_iter().map(Arc::new).collect();
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let talkers: Vec<_> = seats
        .iter()
        .map(|seat| tokio::spawn(talk(seat.clone(), rooms.clone(), plan.rate, stop.clone(), sent.clone())))
        .collect();

    let deadline = Instant::now() + plan.faults_for;
    while Instant::now() < deadline || sent.load(Ordering::Relaxed) < plan.sends_min {
        fault(&mut cluster, &scene).await.with_context(|| cluster.logs())?;
        ensure!(Instant::now() < deadline + plan.heal_limit, "only {} sends in time", sent.load(Ordering::Relaxed));
    }
    scene.note("heal");
    stop.store(true, Ordering::Relaxed);
    cluster.all_ready().await?;
    let mut heads: BTreeMap<ConvId, Seq> = BTreeMap::new();
    for talker in talkers {
        let accepted = tokio::time::timeout(plan.heal_limit, talker).await.context("sends stay unanswered")???;
        for (conv, seq) in accepted {
            let head = heads.entry(conv).or_default();
            *head = seq.max(*head);
        }
    }
    for seat in &seats {
        let mine = rooms.iter().filter(|r| r.members.contains(seat.handle.user()));
        for room in mine {
            let Some(head) = heads.get(&room.conv) else { continue };
            let what = format!("{} holds {} up to {head}", seat.label, room.conv);
            let holds = eventually(&what, plan.heal_limit, async || seat.position(&room.conv).await >= *head).await;
            if let Err(missing) = holds {
                let records = scene.recorder.take();
                anyhow::bail!("{missing}\n{}{}", judge(&records, Demand::default()), cluster.logs());
            }
        }
    }
    for seat in &seats {
        ensure!(seat.seen.borrow().holes == 0, "{} saw a hole", seat.label);
        seat.handle.close().await;
    }
    let records = scene.recorder.take();
    if let Some(path) = std::env::var_os("FLOTILLA_HISTORY") {
        let lines: Vec<String> = records.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
        std::fs::write(path, lines.join("\n"))?;
    }
    println!("{}", recoveries(&records));
    let demand =
        Demand { accepted_min: plan.sends_min, delivered_min: plan.sends_min * 2, repeats_min: 1, ..Demand::default() };
    let verdict = judge(&records, demand);
    println!("{verdict}");
    ensure!(verdict.holds(), "{verdict}{}", cluster.logs());
    Ok(())
}

async fn rooms(seats: &[Seat]) -> anyhow::Result<Vec<Room>> {
    let users: Vec<UserId> = USERS.iter().map(|n| user(n)).collect();
    let mut rooms = Vec::new();
    for (i, a) in users.iter().enumerate() {
        for b in &users[i..] {
            if rooms.len() < DIRECT {
                rooms.push(Room { conv: ConvId::direct(a, b), members: [a.clone(), b.clone()].into() });
            }
        }
    }
    for g in 0..GROUPS {
        let creator = &seats[g % USERS.len()];
        let others: Vec<UserId> = users.iter().cycle().skip(g + 1).take(2 + g % 4).cloned().collect();
        let name = format!("group {g}");
        let conv = creator.handle.create_group(random_cid(), &name, &others, HistoryAccess::FromJoin).await?;
        let members = others.into_iter().chain([creator.handle.user().clone()]).collect();
        rooms.push(Room { conv, members });
    }
    Ok(rooms)
}

/// Sends into random rooms until told to stop, then waits for all answers; what was accepted.
async fn talk(
    seat: Arc<Seat>,
    rooms: Vec<Room>,
    rate: u64,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
) -> anyhow::Result<Vec<(ConvId, Seq)>> {
    let me = seat.handle.user().clone();
    let rooms: Vec<Room> = rooms.into_iter().filter(|r| r.members.contains(&me)).collect();
    let places = Arc::new(Semaphore::new(OUTSTANDING));
    let mut answers = Vec::new();
    let mut beat = tokio::time::interval(Duration::from_millis(1_000 / rate));
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut count = 0u64;
    while !stop.load(Ordering::Relaxed) {
        beat.tick().await;
        let place = places.clone().acquire_owned().await?;
        let room = &rooms[rand::rng().random_range(0..rooms.len())];
        let target = match room.conv.peer_of(&me) {
            Some(peer) if room.conv.kind() == ConvKind::Direct => Target::User(peer),
            _ => Target::Conv(room.conv.clone()),
        };
        count += 1;
        let ticket = seat.handle.submit(target, text(format!("{} {count}", seat.label))).await?;
        sent.fetch_add(1, Ordering::Relaxed);
        answers.push(tokio::spawn(async move {
            let outcome = ticket.answer().await;
            drop(place);
            outcome
        }));
    }
    let mut accepted = Vec::new();
    for answer in answers {
        match answer.await? {
            Outcome::Accepted(a) => accepted.push((a.conv, a.seq)),
            other => anyhow::bail!("{}: a plain message was not accepted: {other:?}", seat.label),
        }
    }
    Ok(accepted)
}

/// One fault and its end: a node killed, two, all, or one paused; between them some quiet.
async fn fault(cluster: &mut Cluster, scene: &Scene) -> anyhow::Result<()> {
    let (dice, first) = (rand::rng().random_range(0..100), rand::rng().random_range(0..3usize));
    let down = Duration::from_millis(rand::rng().random_range(300..3_000));
    let quiet = Duration::from_millis(rand::rng().random_range(1_500..5_000));
    let victims: Vec<usize> = match dice {
        0..55 => vec![first],
        55..70 => vec![first, (first + 1) % 3],
        70..78 => vec![0, 1, 2],
        _ => vec![],
    };
    if victims.is_empty() {
        scene.note(format!("pause {}", first + 1));
        cluster.nodes[first].pause()?;
        tokio::time::sleep(down * 2).await;
        cluster.nodes[first].resume()?;
        scene.note(format!("resume {}", first + 1));
    } else {
        for at in &victims {
            scene.note(format!("kill {}", at + 1));
            cluster.nodes[*at].kill()?;
        }
        tokio::time::sleep(down).await;
        for at in victims {
            scene.note(format!("start {}", at + 1));
            cluster.spawn(at)?;
        }
        // The next fault finds it at work, or not yet: both count.
        if dice % 2 == 0 {
            cluster.all_ready().await?;
        }
    }
    for node in &mut cluster.nodes {
        ensure!(node.exited()?.is_none(), "node {} ended by itself", node.number);
    }
    tokio::time::sleep(quiet).await;
    Ok(())
}

/// Kills, and how long accepted commands took from being given to being accepted, retries included: the longest is the
/// longest time that a conversation stood still for its sender.
fn recoveries(records: &[Record]) -> String {
    let mut given = BTreeMap::new();
    let mut times = Vec::new();
    let mut kills = 0;
    for record in records {
        match &record.op {
            Op::Note { text } if text.starts_with("kill") => kills += 1,
            Op::Invoked { cid, .. } => drop(given.insert(*cid, record.at_us)),
            Op::Accepted { cid, .. } => times.extend(given.remove(cid).map(|at| (record.at_us - at) / 1_000)),
            _ => {}
        }
    }
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100).or(times.last()).copied().unwrap_or(0);
    format!("nodes killed: {kills}; accepted after: median {} ms, p99 {} ms, longest {} ms", at(50), at(99), at(100))
}
