//! What breaks, and when: the lanes of faults that the seed drew, each healed before its lane goes on.
//!
//! - `points` crash points · `clocks` wall clocks · `damage` flipped bits · `losses` what takes a copy away
//!
//! Invariant: when [`run`] returns, everything is healed: all nodes run, but for those that the options leave dead, all links
//! carry, all clocks and disks are right. Lanes do not know of each other: what two of them hold heals with the second.

mod clocks;
mod damage;
mod losses;
mod points;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use flotilla_proto::fate::Fate;
use flotilla_proto::ids::ShardId;
use tokio::time::{Instant, sleep};

use crate::cluster::Cluster;
use crate::options::{Disk, Fault, Options, Timed};
use crate::trace::now;
use crate::workload::Chat;
use damage::Rows;
use losses::{corrupt, lost_tail, roll_back, spread, wipe};

/// How often each kind of fault has begun.
pub type Coverage = BTreeMap<String, u32>;

/// A node that was asked to stop has done so by then: the drain of its clients included.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// So long a crash waits for its point, and for one that few runs pass.
const POINT_PATIENCE: Duration = Duration::from_secs(5);
const RARE_PATIENCE: Duration = Duration::from_secs(12);
/// Between two steps of a fault that has several.
const STEP: Duration = Duration::from_millis(300);

pub async fn run(options: &Options, cluster: &Cluster, chat: &Chat) -> Coverage {
    clocks::install();
    points::listen();
    let covered = RefCell::new(Coverage::new());
    let lanes = options.lanes.iter().map(|lane| run_lane(lane, cluster, chat, &covered));
    futures::future::join_all(lanes).await;
    options.dead.iter().for_each(|node| cluster.kill(*node, Disk::Lost, 0));
    covered.into_inner()
}

async fn run_lane(lane: &[Timed], cluster: &Cluster, chat: &Chat, covered: &RefCell<Coverage>) {
    for timed in lane {
        sleep(timed.after).await;
        let from = now();
        cluster.watch.broken(timed.fault.kind(), true);
        let name = one(timed, cluster, chat).await;
        cluster.watch.broken(timed.fault.kind(), false);
        cluster.trace.fault(from, &timed.fault);
        *covered.borrow_mut().entry(name).or_default() += 1;
    }
}

/// Breaks, waits, heals; the name for the coverage table.
async fn one(Timed { lasts, fault, .. }: &Timed, cluster: &Cluster, chat: &Chat) -> String {
    let lasts = *lasts;
    match fault {
        Fault::Kill { nodes, disk, keep_permille } => {
            nodes.iter().for_each(|node| cluster.kill(*node, *disk, *keep_permille));
            sleep(lasts).await;
            nodes.iter().for_each(|node| cluster.restart(*node));
            let disk = if *disk == Disk::Kept { "disk kept" } else { "power loss" };
            return format!("kill {} {disk}", nodes.len());
        }
        Fault::CrashAt { node, point, passes, keep_permille, any } => {
            let name = |node: usize| format!("node{}", cluster.seats[node].number);
            // A node that is not asked to stop never passes some of them.
            let asked = point.starts_with("shutdown.") && cluster.seats[*node].running().is_some();
            if asked {
                cluster.say(format!("asks node{} to stop", cluster.seats[*node].number));
                cluster.seats[*node].stop.notify_one();
            }
            let began = Instant::now();
            let places = if *any { (0..cluster.seats.len()).map(name).collect() } else { vec![name(*node)] };
            let patience = lasts.max(if *any { RARE_PATIENCE } else { POINT_PATIENCE });
            let passed = points::passed(places, point, *passes, patience).await;
            let at = passed.and_then(|at| (0..cluster.seats.len()).find(|node| name(*node) == at));
            if asked && at != Some(*node) {
                // It may still be on its way to its end, and nobody else would start it again.
                again(cluster, *node, STEP).await;
            }
            let Some(at) = at else {
                cluster.revive(*node);
                return format!("never passed {point}");
            };
            cluster.say(format!("{} has passed {point}", name(at)));
            cluster.kill(at, Disk::Lost, *keep_permille);
            sleep(lasts.saturating_sub(began.elapsed()).max(STEP)).await;
            cluster.restart(at);
            return format!("crash at {point}");
        }
        Fault::Pause { node } => {
            cluster.pause(*node);
            sleep(lasts).await;
            cluster.resume(*node);
        }
        Fault::Stop { node, kill_after } => {
            cluster.stop(*node, kill_after.unwrap_or(STOP_PATIENCE)).await;
            cluster.kill(*node, Disk::Lost, 0);
            sleep(lasts).await;
            cluster.restart(*node);
            return if kill_after.is_some() { "stop, killed on the way" } else { "stop" }.into();
        }
        Fault::Rolling => {
            for node in 0..cluster.seats.len() {
                if !cluster.is_down(node) {
                    cluster.stop(node, STOP_PATIENCE).await;
                    cluster.kill(node, Disk::Kept, 0);
                    cluster.restart(node);
                }
                sleep(STEP).await;
            }
        }
        Fault::Wipe { node } => wipe(cluster, *node, 1, lasts).await,
        Fault::Rejoin { node, lost: true } => {
            wipe(cluster, *node, 2, lasts).await;
            return "rejoin, two admins".into();
        }
        Fault::Rejoin { node, lost: false } => {
            futures::future::join(cluster.readmit(*node, 1), cluster.readmit(*node, 2)).await;
            return "rejoin of a node that has lost nothing".into();
        }
        Fault::Replace { node, shard, admins } => {
            let answered = cluster.replace(*node, ShardId(*shard), *admins).await;
            // The others may begin before it is there. And what nobody has answered may have been taken: the node looks for a
            // new replica only when it starts.
            sleep(lasts / 2).await;
            again(cluster, *node, lasts / 2).await;
            return if answered { format!("replace, {admins} admins") } else { "replace, nobody answered".into() };
        }
        Fault::Grow { from, shard } => {
            let Some(node) = cluster.grow(*from, ShardId(*shard)).await else {
                return "grow, nobody to give it to".into();
            };
            again(cluster, node, lasts).await;
        }
        Fault::Isolate { node, inward, outward } => {
            isolate(cluster, *node, *inward, *outward, lasts).await;
            return format!("isolate{}{}", if *inward { " in" } else { "" }, if *outward { " out" } else { "" });
        }
        Fault::IsolateLeader { shard } => {
            let Some(node) = cluster.leader_of(ShardId(*shard)) else { return "no leader to isolate".into() };
            isolate(cluster, node, true, true, lasts).await;
        }
        Fault::Cut { from, to } => {
            cluster.cut(*from, *to);
            sleep(lasts).await;
            cluster.mend(*from, *to);
        }
        Fault::Minority { node } => {
            let others = || (0..cluster.seats.len()).filter(|other| other != node);
            others().for_each(|other| (cluster.cut(*node, other), cluster.cut(other, *node)).1);
            cluster.watch.alone(cluster.seats[*node].number, true);
            sleep(lasts).await;
            cluster.watch.alone(cluster.seats[*node].number, false);
            others().for_each(|other| (cluster.mend(*node, other), cluster.mend(other, *node)).1);
        }
        Fault::Deposed { shard } => {
            let Some(node) = leads(cluster, ShardId(*shard)).await else { return "no leader to depose".into() };
            let others = || (0..cluster.seats.len()).filter(|other| *other != node);
            others().for_each(|other| (cluster.cut(node, other), cluster.cut(other, node)).1);
            chat.ask_meanwhile(cluster, node, lasts).await;
            others().for_each(|other| (cluster.mend(node, other), cluster.mend(other, node)).1);
        }
        Fault::Refuse { node, door } => {
            cluster.close_door(*node, *door);
            sleep(lasts).await;
            cluster.open_door(*node, *door);
            return format!("refuse {door:?}").to_lowercase();
        }
        Fault::Partial { a, b } => {
            cluster.cut(*a, *b);
            cluster.cut(*b, *a);
            sleep(lasts).await;
            cluster.mend(*a, *b);
            cluster.mend(*b, *a);
        }
        Fault::Flap { from, to, period } => {
            let end = Instant::now() + lasts;
            while Instant::now() < end {
                cluster.cut(*from, *to);
                sleep(*period / 2).await;
                cluster.mend(*from, *to);
                sleep(*period / 2).await;
            }
        }
        Fault::Swizzle { order } => swizzle(cluster, order, lasts).await,
        Fault::Loss { permille } => {
            cluster.loss(f64::from(*permille) / 1_000.0);
            sleep(lasts).await;
            cluster.loss(0.0);
        }
        Fault::Delay { up_to } => {
            cluster.delay(*up_to);
            sleep(lasts).await;
            cluster.delay(Duration::ZERO);
        }
        Fault::Reset { node, bytes } => {
            cluster.say(format!("resets the connections of node{} after {bytes} bytes", cluster.seats[*node].number));
            cluster.connections(Some(*node), Fate::Cut(*bytes));
        }
        Fault::HalfOpen { node } => {
            cluster.say(format!("lets the connections of node{} go dead", cluster.seats[*node].number));
            cluster.connections(Some(*node), Fate::Dead);
            sleep(lasts).await;
            cluster.end_dead(*node);
        }
        Fault::Late { node } => {
            cluster.say(format!("holds back what arrives at node{}", cluster.seats[*node].number));
            cluster.connections(Some(*node), Fate::Late);
            sleep(lasts).await;
            cluster.end_late(*node);
        }
        Fault::Storm => {
            cluster.say("resets all clients".into());
            cluster.connections(None, Fate::Reset);
        }
        Fault::Slow { node, by } => {
            cluster.slow(*node, *by);
            sleep(lasts).await;
            cluster.unslow(*node);
        }
        Fault::SyncError { node } => {
            if cluster.fail_syncs(*node, lasts).await > 0 {
                return "sync-error, started in vain".into();
            }
        }
        Fault::Full { node } => cluster.fill(*node, lasts).await,
        Fault::Corrupt { node, pick } => return corrupt(cluster, *node, Rows::Any, *pick, lasts).await,
        Fault::Rot { node, pick } => return corrupt(cluster, *node, Rows::Logs, *pick, lasts).await,
        Fault::Spread { node, other, pick } => return spread(cluster, (*node, *other), *pick, lasts).await,
        Fault::LostTail { node } => return lost_tail(cluster, *node, lasts).await,
        Fault::RollBack { node } => return roll_back(cluster, *node, lasts).await,
        Fault::CrashLoop { node, times, after } => {
            for _ in 0..*times {
                cluster.kill(*node, Disk::Lost, 0);
                sleep(STEP).await;
                cluster.restart(*node);
                sleep(*after).await;
            }
        }
        Fault::Clock { node, off_ms } => {
            let name = format!("node{}", cluster.seats[*node].number);
            cluster.say(format!("sets the clock of {name} off by {off_ms} ms"));
            clocks::jump(&name, *off_ms);
            sleep(lasts).await;
            clocks::jump(&name, 0);
        }
        Fault::Drift { node, permille } => {
            let name = format!("node{}", cluster.seats[*node].number);
            cluster.say(format!("lets the clock of {name} drift by {permille} in a thousand"));
            clocks::drift(&name, *permille);
            sleep(lasts).await;
            clocks::drift(&name, 0);
        }
        Fault::Transfer { shard, to } => cluster.transfer(ShardId(*shard), *to).await,
        Fault::Silent { user } => chat.silence(cluster, *user, lasts).await,
        Fault::ClientCrash { user } => chat.crash(cluster, *user, lasts).await,
        Fault::ClientReset { user, bytes } => {
            let end = Instant::now() + lasts;
            while Instant::now() < end
                && let Some(person) = chat.people.get(*user)
            {
                cluster.say(format!("resets {} at its end after {bytes} bytes", person.user));
                cluster.connections_of_client(person.ip(), Fate::Cut(*bytes));
                sleep(STEP).await;
            }
        }
    }
    fault.kind().to_owned()
}

/// Waits for a leader: there may be none for an instant.
async fn leads(cluster: &Cluster, shard: ShardId) -> Option<usize> {
    let end = Instant::now() + RARE_PATIENCE / 4;
    while cluster.leader_of(shard).is_none() && Instant::now() < end {
        sleep(STEP).await;
    }
    cluster.leader_of(shard)
}

/// The node starts again: it opens replicas that were given to it meanwhile.
async fn again(cluster: &Cluster, node: usize, lasts: Duration) {
    cluster.kill(node, Disk::Kept, 0);
    sleep(lasts).await;
    cluster.restart(node);
}

async fn isolate(cluster: &Cluster, node: usize, inward: bool, outward: bool, lasts: Duration) {
    cluster.isolate(node, inward, outward);
    sleep(lasts).await;
    cluster.rejoin(node, inward, outward);
}

/// One by one out, in the given order one by one in.
async fn swizzle(cluster: &Cluster, order: &[usize], lasts: Duration) {
    for node in 0..cluster.seats.len() {
        cluster.isolate(node, true, true);
        sleep(STEP).await;
    }
    sleep(lasts / 2).await;
    for node in order {
        cluster.rejoin(*node, true, true);
        sleep(STEP).await;
    }
}
