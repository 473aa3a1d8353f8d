//! What a node is started with: address, disk, and what is known of the life that runs on them.
//!
//! Invariant: a life that ends by itself is a violation, unless what was done to its disk excuses it.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use flotilla_node::cluster::Cluster as Node;
use flotilla_raft::Timings;
use flotilla_storage::MemDisk;
use tokio::sync::Notify;

use super::{CLIENT_PORT, PEER_PORT};
use crate::checkers::Watch;
use crate::trace::Trace;

/// What a node is started with, every time.
#[derive(Clone)]
pub struct Seat {
    pub number: u16,
    pub ip: Ipv4Addr,
    pub disk: MemDisk,
    pub trace: Trace,
    pub watch: Watch,
    /// Why a node ended by itself.
    pub fatal: Arc<Mutex<Vec<String>>>,
    /// The running process.
    pub(super) life: Arc<Mutex<Option<Weak<Node>>>>,
    /// Asks the running process to end in good order.
    pub stop: Arc<Notify>,
    /// What the watch over the disk's reserve says.
    pub disk_low: Arc<AtomicBool>,
    /// Faults that make its disk fail at this moment: it must end by itself, and that is no violation, as often as it is
    /// started meanwhile.
    pub(super) excused: Arc<AtomicU32>,
    /// Starts that such a fault has made fail.
    pub(super) vain_starts: Arc<AtomicU32>,
    /// The same for good: some of what it has stored is damaged.
    pub(super) damaged: Arc<AtomicBool>,
    /// Its last life has ended by itself.
    pub(super) over: Arc<AtomicBool>,
    /// It stands still: what it says of itself is old.
    pub(super) paused: Arc<AtomicBool>,
    pub timings: Timings,
}

impl Seat {
    pub fn client_url(&self) -> String {
        format!("http://{}:{CLIENT_PORT}", self.ip)
    }

    pub fn peer_addr(&self) -> String {
        format!("{}:{PEER_PORT}", self.ip)
    }

    /// Told by each life of the node.
    pub fn lives(&self, node: Option<Weak<Node>>) {
        self.over.store(false, Ordering::Relaxed);
        *self.life.lock().unwrap_or_else(PoisonError::into_inner) = node;
    }

    /// None while it does not run.
    pub fn running(&self) -> Option<Arc<Node>> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.upgrade()
    }

    /// What it ends for from now on was done to it.
    pub fn excuse(&self) {
        self.excused.fetch_add(1, Ordering::Relaxed);
    }

    /// A life has ended because it was asked to.
    pub fn stopped(&self) {
        self.lives(None);
        self.over.store(true, Ordering::Relaxed);
        self.trace.say(format!("node{:<6} has stopped", self.number));
    }

    /// It may end whenever it reads something that is damaged.
    pub fn has_damage(&self) {
        self.damaged.store(true, Ordering::Relaxed);
    }

    /// Once for each [`Seat::excuse`].
    pub fn unexcuse(&self) {
        self.excused.fetch_sub(1, Ordering::Relaxed);
    }

    /// Its last life has ended by itself.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn is_excused(&self) -> bool {
        self.excused.load(Ordering::Relaxed) > 0
    }

    /// A life was over before it served.
    pub fn not_started(&self, reason: String) {
        if self.is_excused() {
            self.vain_starts.fetch_add(1, Ordering::Relaxed);
        }
        self.ended(reason);
    }

    /// How often it was started in vain, because of what was done to its disk.
    pub fn vain_starts(&self) -> u32 {
        self.vain_starts.load(Ordering::Relaxed)
    }

    /// A life has ended by itself.
    pub fn ended(&self, reason: String) {
        self.trace.say(format!("node{:<6} ends: {reason}", self.number));
        self.lives(None);
        self.over.store(true, Ordering::Relaxed);
        if self.is_excused() || self.damaged.load(Ordering::Relaxed) {
            return;
        }
        self.blame(reason);
    }

    pub(super) fn blame(&self, what: String) {
        self.fatal.lock().unwrap_or_else(PoisonError::into_inner).push(format!("node {}: {what}", self.number));
    }
}
