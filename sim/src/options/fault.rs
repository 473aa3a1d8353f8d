//! One thing that breaks, for a while, and heals.

use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What a killed node finds on its disk when it comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Disk {
    /// The process died, the machine did not: everything written is there.
    Kept,
    /// Power loss: of the batches that were not synced a suffix is gone, cut anywhere.
    Lost,
}

/// One thing that breaks, for a while, and heals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// Nodes die at one instant and come back.
    Kill { nodes: Vec<usize>, disk: Disk, keep_permille: u32 },
    /// A node dies just after it has passed this point so many times; it comes back.
    CrashAt { node: usize, point: String, passes: u32, keep_permille: u32 },
    /// A node hears nobody, or nobody hears it, or both; clients included.
    Isolate { node: usize, inward: bool, outward: bool },
    /// One direction between two nodes.
    Cut { from: usize, to: usize },
    /// Every sync of a node takes this much longer.
    Slow { node: usize, by: Duration },
    /// Of all packets, in thousandths.
    Loss { permille: u32 },
    /// A node's wall clock is off.
    Clock { node: usize, off_ms: i64 },
}

/// A fault of one lane: it begins this long after the one before it has healed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timed {
    pub after: Duration,
    pub lasts: Duration,
    pub fault: Fault,
}

/// Named crash points, see `flotilla_raft::seam::fault` and its callers.
pub const POINTS: [&str; 10] = [
    "vote.saved",
    "log.before_sync",
    "log.after_sync_before_callback",
    "log.truncated",
    "state.applied_before_reply",
    "snapshot.chunk_written",
    "snapshot.before_flip",
    "snapshot.installed",
    "fanout.before_clear",
    "receipts.before_clear",
];

/// Every kind of fault, as [`Fault::kind`] names it.
pub const KINDS: [&str; 7] = ["kill", "crash-at", "isolate", "cut", "slow", "loss", "clock"];

impl Fault {
    /// The name by which a kind is switched off, counted and printed.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Kill { .. } => "kill",
            Self::CrashAt { .. } => "crash-at",
            Self::Isolate { .. } => "isolate",
            Self::Cut { .. } => "cut",
            Self::Slow { .. } => "slow",
            Self::Loss { .. } => "loss",
            Self::Clock { .. } => "clock",
        }
    }
}
