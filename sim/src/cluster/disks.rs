//! Disks that are slow, full, or fail.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Cluster, Hold};

/// So long a process may take to end after a sync has failed under it.
const FAILED_GOES_ON_MAX: Duration = Duration::from_secs(2);

impl Cluster {
    /// Syncs take this much longer, until they are let go.
    pub fn slow(&self, node: usize, by: Duration) {
        self.hold(Hold::Slow(node));
        let stall = self.sync + by;
        self.seats[node].disk.inject(|faults| faults.stall = stall);
    }

    pub fn unslow(&self, node: usize) {
        if self.release(Hold::Slow(node)) {
            self.seats[node].disk.inject(|faults| faults.stall = self.sync);
        }
    }

    /// First the reserve is used up, which a node can tell, then everything.
    pub async fn fill(&self, node: usize, lasts: Duration) {
        let seat = &self.seats[node];
        self.say(format!("fills the disk of node{}", seat.number));
        self.hold(Hold::Full(node));
        seat.disk_low.store(true, Ordering::Relaxed);
        tokio::time::sleep(lasts / 2).await;
        seat.excuse();
        seat.disk.inject(|faults| faults.full = true);
        tokio::time::sleep(lasts / 2).await;
        if self.release(Hold::Full(node)) {
            seat.disk.inject(|faults| faults.full = false);
            seat.disk_low.store(false, Ordering::Relaxed);
            self.revive(node);
        }
        seat.unexcuse();
    }

    /// Syncs of a node fail. A process that had one fail is over: nothing that it says can be trusted (RELIABILITY.md
    /// section 1). It is started again when the disk is well; what others start before that fails as well. How many did.
    pub async fn fail_syncs(&self, node: usize, lasts: Duration) -> u32 {
        let seat = &self.seats[node];
        let before = seat.vain_starts();
        seat.excuse();
        seat.disk.inject(|faults| faults.fail_syncs = true);
        tokio::time::sleep(lasts).await;
        seat.disk.inject(|faults| faults.fail_syncs = false);
        let end = tokio::time::Instant::now() + FAILED_GOES_ON_MAX;
        while self.goes_on_failed(node) && tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if self.goes_on_failed(node) {
            seat.blame("it goes on after a failed sync".into());
        }
        self.revive(node);
        seat.unexcuse();
        seat.vain_starts() - before
    }

    /// A process runs whose disk has failed under it. One that stands still cannot help it.
    fn goes_on_failed(&self, node: usize) -> bool {
        let seat = &self.seats[node];
        let still = self.is_held(Hold::Paused(node));
        seat.disk.has_failed() && seat.running().is_some() && !self.is_down(node) && !still
    }
}
