//! What takes a copy away: an empty machine, flipped bits, a disk that has lost or gone back behind what it had promised.
//!
//! Invariant: the checkers hear of each before the node can act on it: what such a replica had promised is known to them, and
//! that it must not promise anything again.

use std::time::Duration;

use flotilla_proto::ids::ShardId;
use flotilla_storage::watermark::WatermarkStore as _;
use tokio::time::{Instant, sleep};

use super::damage::{self, Rows};
use crate::cluster::{Cluster, Seat};
use crate::options::Disk;

/// A node that starts serves by then, if it can.
const SERVES: Duration = Duration::from_secs(5);
/// So long a fault waits until it is the only one.
const QUIET: Duration = Duration::from_secs(15);
/// A directory that was rolled back has been refused by then, if anybody can be asked.
const REFUSED: Duration = Duration::from_secs(12);
const LOOK: Duration = Duration::from_millis(50);

/// A node's machine is replaced by an empty one; so many admins have it taken back.
pub async fn wipe(cluster: &Cluster, node: usize, admins: usize, lasts: Duration) {
    cluster.kill(node, Disk::Lost, 0);
    cluster.wipe(node);
    sleep(lasts).await;
    cluster.restart(node);
    cluster.take_back(node, admins).await;
}

/// A bit of one of these rows, while the node is down, so that it is found at the start or when it is read.
pub async fn corrupt(cluster: &Cluster, node: usize, rows: Rows, pick: u32, lasts: Duration) -> String {
    cluster.kill(node, Disk::Kept, 0);
    let flipped = flip(cluster, node, rows, pick).is_some();
    cluster.restart(node);
    sleep(lasts).await;
    // It may have ended when it read the row; the next start rebuilds what is damaged.
    cluster.revive(node);
    if flipped { "corrupt" } else { "nothing to corrupt" }.into()
}

/// The shard that it hit.
fn flip(cluster: &Cluster, node: usize, rows: Rows, pick: u32) -> Option<ShardId> {
    let seat = &cluster.seats[node];
    cluster.watch.before_damage(seat.number);
    let flipped = damage::flip(&seat.disk, rows, pick)?;
    cluster.say(format!("flips a bit of {} on node{}", flipped.what, seat.number));
    let bytes = (flipped.now.clone(), flipped.written.clone());
    cluster.watch.damaged(seat.number, flipped.shard, &flipped.key, bytes);
    seat.has_damage();
    Some(flipped.shard)
}

/// One node is away, the state of another one is damaged, and this one leads when the first comes back and needs a snapshot.
pub async fn spread(cluster: &Cluster, (node, other): (usize, usize), pick: u32, lasts: Duration) -> String {
    cluster.kill(other, Disk::Kept, 0);
    cluster.kill(node, Disk::Kept, 0);
    let flipped = flip(cluster, node, Rows::Entries, pick);
    cluster.restart(node);
    sleep(lasts.max(SERVES)).await;
    let end = Instant::now() + SERVES;
    while let Some(shard) = flipped
        && Instant::now() < end
        && cluster.leader_of(shard) != Some(node)
    {
        cluster.transfer(shard, node).await;
        sleep(LOOK).await;
    }
    cluster.restart(other);
    sleep(SERVES).await;
    cluster.revive(node);
    if flipped.is_some() { "spread" } else { "nothing to spread" }.into()
}

/// What was synced since some time before is gone, and the watermark tells.
pub async fn lost_tail(cluster: &Cluster, node: usize, lasts: Duration) -> String {
    let seat = &cluster.seats[node];
    // Of a node that is down the next life would write its boot number behind the image: that is a directory that goes back.
    let runs = seat.running().is_some();
    let image = seat.disk.copy_durable();
    let died = seat.disk.counters().crashes;
    sleep(lasts.max(Duration::from_secs(1))).await;
    let watermark = seat.disk.watermark().read().ok().flatten();
    // Where nothing was told to be synced since, nothing can be lost that was; and the boot number tells of another life.
    let told = watermark.is_some_and(|watermark| watermark.0 > image.last());
    if !runs || !told || seat.disk.counters().crashes != died || cluster.is_down(node) {
        return "no tail to lose".into();
    }
    cluster.kill(node, Disk::Lost, 0);
    cluster.say(format!("takes from node{} what its disk has synced for {lasts:?}", seat.number));
    cluster.watch.forgets(seat.number, true);
    seat.disk.forget_since(&image);
    cluster.restart(node);
    "lost-tail".into()
}

/// A copy from an earlier boot.
pub async fn roll_back(cluster: &Cluster, node: usize, lasts: Duration) -> String {
    let seat = &cluster.seats[node];
    if seat.running().is_none() {
        return "nothing to roll back".into();
    }
    cluster.kill(node, Disk::Kept, 0);
    let image = seat.disk.copy_durable();
    cluster.restart(node);
    sleep(lasts).await;
    let serves = |seat: &&Seat| seat.running().is_some_and(|life| life.is_ready());
    // Without a majority beside it nobody could take it back.
    let is_in = || serves(&seat) && cluster.seats.iter().filter(serves).count() > cluster.seats.len() / 2 + 1;
    // Where nobody can be asked the control group's replica goes on with what it has, which is outside of what is promised.
    let is_quiet = || cluster.watch.with_world(|world| world.broken.keys().all(|kind| *kind == "roll-back"));
    let end = Instant::now() + QUIET;
    while !(is_in() && is_quiet()) && Instant::now() < end {
        sleep(LOOK).await;
    }
    if !is_quiet() {
        return "no quiet moment to roll back".into();
    }
    if !is_in() || cluster.is_down(node) {
        // The cluster has not seen this boot, so nobody can tell.
        return "not taken in, not rolled back".into();
    }
    cluster.kill(node, Disk::Lost, 0);
    cluster.say(format!("puts an older copy of its directory under node{}", seat.number));
    seat.excuse();
    cluster.watch.forgets(seat.number, false);
    seat.disk.roll_back_to(&image);
    cluster.restart(node);
    let end = Instant::now() + REFUSED;
    while !seat.is_over() && Instant::now() < end {
        sleep(LOOK).await;
    }
    let refused = seat.is_over();
    wipe(cluster, node, 1, LOOK).await;
    seat.unexcuse();
    if refused { "roll-back" } else { "roll-back, nobody to ask" }.into()
}
