//! What breaks, and when: the lanes of faults that the seed drew, each healed before its lane goes on.
//!
//! Invariant: when [`run`] returns, everything is healed: all nodes run, all links carry, all clocks and disks are right.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use flotilla_raft::seam::{clock, fault};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::cluster::{Cluster, place};
use crate::options::{Disk, Fault, Options, Timed};
use crate::trace::now;

/// How often each kind of fault has begun.
pub type Coverage = BTreeMap<String, u32>;

thread_local! {
    // The simulator runs everything on one thread.
    static CLOCKS: RefCell<BTreeMap<String, i64>> = const { RefCell::new(BTreeMap::new()) };
}

pub async fn run(options: &Options, cluster: &Cluster) -> Coverage {
    clock::skew(|ms| {
        let off = CLOCKS.with(|clocks| clocks.borrow().get(&place()).copied().unwrap_or(0));
        ms.saturating_add_signed(off)
    });
    let covered = RefCell::new(Coverage::new());
    let lanes = options.lanes.iter().map(|lane| run_lane(lane, cluster, &covered));
    futures::future::join_all(lanes).await;
    covered.into_inner()
}

async fn run_lane(lane: &[Timed], cluster: &Cluster, covered: &RefCell<Coverage>) {
    for timed in lane {
        sleep(timed.after).await;
        let from = now();
        let name = one(timed, cluster).await;
        cluster.trace.fault(from, &timed.fault);
        *covered.borrow_mut().entry(name).or_default() += 1;
    }
}

/// Breaks, waits, heals; the name for the coverage table.
async fn one(timed: &Timed, cluster: &Cluster) -> String {
    match &timed.fault {
        Fault::Kill { nodes, disk, keep_permille } => {
            nodes.iter().for_each(|node| cluster.kill(*node, *disk, *keep_permille));
            sleep(timed.lasts).await;
            nodes.iter().for_each(|node| cluster.restart(*node));
            let disk = if *disk == Disk::Kept { "disk kept" } else { "power loss" };
            format!("kill {} {disk}", nodes.len())
        }
        Fault::CrashAt { node, point, passes, keep_permille } => {
            if !crash_at(timed, cluster, *node, point, *passes).await {
                return format!("never passed {point}");
            }
            cluster.kill(*node, Disk::Lost, *keep_permille);
            sleep(timed.lasts).await;
            cluster.restart(*node);
            format!("crash at {point}")
        }
        Fault::Isolate { node, inward, outward } => {
            cluster.isolate(*node, *inward, *outward);
            sleep(timed.lasts).await;
            cluster.rejoin(*node);
            format!("isolate{}{}", if *inward { " in" } else { "" }, if *outward { " out" } else { "" })
        }
        Fault::Cut { from, to } => {
            cluster.cut(*from, *to);
            sleep(timed.lasts).await;
            cluster.mend(*from, *to);
            "cut one way".into()
        }
        Fault::Slow { node, by } => {
            let disk = &cluster.seats[*node].disk;
            disk.inject(|faults| faults.stall = *by);
            sleep(timed.lasts).await;
            disk.inject(|faults| faults.stall = std::time::Duration::ZERO);
            "slow sync".into()
        }
        Fault::Loss { permille } => {
            cluster.loss(f64::from(*permille) / 1_000.0);
            sleep(timed.lasts).await;
            cluster.loss(0.0);
            "packet loss".into()
        }
        Fault::Clock { node, off_ms } => {
            let name = format!("node{}", cluster.seats[*node].number);
            cluster.say(format!("sets the clock of {name} off by {off_ms} ms"));
            CLOCKS.with(|clocks| clocks.borrow_mut().insert(name.clone(), *off_ms));
            sleep(timed.lasts).await;
            CLOCKS.with(|clocks| clocks.borrow_mut().remove(&name));
            "clock jump".into()
        }
    }
}

/// Waits until the node has passed the point so many times; false if it does not within the fault's time.
async fn crash_at(timed: &Timed, cluster: &Cluster, node: usize, point: &str, passes: u32) -> bool {
    let (tell, mut passed) = mpsc::channel(1);
    let (name, left) = (format!("node{}", cluster.seats[node].number), Rc::new(Cell::new(passes)));
    let wanted = point.to_owned();
    fault::hook(move |at| {
        if at == wanted && left.get() > 0 && place() == name {
            left.set(left.get() - 1);
            if left.get() == 0 {
                // One listener, one word.
                let _ = tell.try_send(());
            }
        }
    });
    let passed = matches!(timeout(timed.lasts, passed.recv()).await, Ok(Some(())));
    fault::clear();
    if passed {
        cluster.say(format!("node{} has passed {point}", cluster.seats[node].number));
    }
    passed
}
