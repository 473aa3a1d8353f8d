//! One thing that breaks, for a while, and heals.

use std::time::Duration;

use clap::ValueEnum;
use flotilla_proto::fate::Door;
use serde::{Deserialize, Serialize};

/// What a killed node finds on its disk when it comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Disk {
    /// The process died, the machine did not: everything written is there.
    Kept,
    /// Power loss: of the batches that were not synced a suffix is gone, cut anywhere.
    Lost,
}

/// One thing that breaks, for a while, and heals. Nodes are counted from 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// Nodes die at one instant and come back.
    Kill { nodes: Vec<usize>, disk: Disk, keep_permille: u32 },
    /// A node dies just after it has passed this point so many times; it comes back. `any`: whichever node passes it first,
    /// for what happens to one node only and nobody can say to which.
    CrashAt {
        node: usize,
        point: String,
        passes: u32,
        keep_permille: u32,
        #[serde(default)]
        any: bool,
    },
    /// A node dies again and again while it starts, so many times, each time after so long.
    CrashLoop { node: usize, times: u32, after: Duration },
    /// A node stands still, its connections stay open, its lease may end.
    Pause { node: usize },
    /// A node is asked to stop, and starts again when it has. `kill_after`: it dies on the way.
    Stop { node: usize, kill_after: Option<Duration> },
    /// All nodes stop and start in good order, one after another.
    Rolling,
    /// A node's machine is replaced: its directory is empty, and the cluster takes it back.
    Wipe { node: usize },
    /// Two admins at once have a node taken back, which has lost everything, or nothing.
    Rejoin { node: usize, lost: bool },
    /// A node's replica of a shard is replaced by one with a new id, as so many admins ask at once.
    Replace { node: usize, shard: u16, admins: usize },
    /// A group gets one more replica, on the first node from this one on that has none.
    Grow { from: usize, shard: u16 },

    /// A node hears nobody, or nobody hears it, or both; clients included.
    Isolate { node: usize, inward: bool, outward: bool },
    /// The leader of a shard, whoever that is by then, is cut off with its clients.
    IsolateLeader { shard: u16 },
    /// One direction between two nodes.
    Cut { from: usize, to: usize },
    /// A node is cut off from all other nodes, and its clients still reach it.
    Minority { node: usize },
    /// The leader of a shard, whoever that is by then, is cut off from all other nodes, and clients still reach it: its log grows
    /// and is cut back later, and whoever asks it must not be told what is over.
    Deposed { shard: u16 },
    /// Whoever connects to a node is refused, or hears nothing, or is accepted and then hears nothing; those who were connected are
    /// not any more. The node itself reaches everybody.
    Refuse { node: usize, door: Door },
    /// Both directions between two nodes; others see both.
    Partial { a: usize, b: usize },
    /// One direction between two nodes, cut and mended again and again.
    Flap { from: usize, to: usize, period: Duration },
    /// All nodes are cut off one by one, and come back in this order.
    Swizzle { order: Vec<usize> },
    /// Of all packets, in thousandths.
    Loss { permille: u32 },
    /// Every packet takes up to this much longer.
    Delay { up_to: Duration },
    /// All connections of a node are reset after so many more bytes, in the middle of a frame.
    Reset { node: usize, bytes: usize },
    /// All connections of a node go dead without a word, and are reset in the end.
    HalfOpen { node: usize },
    /// What arrives at a node over its present connections arrives only when this is over.
    Late { node: usize },
    /// All clients lose their connections at once.
    Storm,

    /// Every sync of a node takes this much longer.
    Slow { node: usize, by: Duration },
    /// A sync of a node fails: it must end at once.
    SyncError { node: usize },
    /// A node's disk gets low, then full, until there is room again.
    Full { node: usize },
    /// A bit of something that a node has stored is flipped while it is down.
    Corrupt { node: usize, pick: u32 },
    /// The same in the log or the vote of a replica.
    Rot { node: usize, pick: u32 },
    /// A bit of a shard's state is flipped, and the node that has it becomes the shard's leader, while another one, which was
    /// away, needs a snapshot.
    Spread { node: usize, other: usize, pick: u32 },
    /// A node's disk comes back without something that it had said was synced; the watermark beside it is as it was.
    LostTail { node: usize },
    /// A node's directory is replaced by a copy of it from an earlier boot. It must be refused; then the node comes back with an
    /// empty one.
    RollBack { node: usize },

    /// A node's wall clock is off.
    Clock { node: usize, off_ms: i64 },
    /// A node's wall clock goes wrong by so many parts in a thousand.
    Drift { node: usize, permille: i64 },

    /// The leader of a shard hands over to another node, which may be anywhere.
    Transfer { shard: u16, to: usize },
    /// A client's machine stands still: it neither reads nor acks.
    Silent { user: usize },
    /// A client's process dies and starts again on its store, outbox and all.
    ClientCrash { user: usize },
    /// A client's connections are reset at its end after so many more bytes, in the middle of a frame, again and again.
    ClientReset { user: usize, bytes: usize },
}

/// A fault of one lane: it begins this long after the one before it has healed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timed {
    pub after: Duration,
    pub lasts: Duration,
    pub fault: Fault,
}

/// Named crash points, see `flotilla_raft::seam::fault` and its callers.
pub const POINTS: [&str; 19] = [
    "vote.saved",
    "log.before_sync",
    "log.after_sync_before_callback",
    "log.truncated",
    "state.applied_before_reply",
    "state.replied_before_effects",
    "snapshot.chunk_written",
    "snapshot.before_flip",
    "snapshot.installed",
    "fanout.before_clear",
    "receipts.before_clear",
    "marks.committed",
    "notify.pushed",
    "block.flag_taken",
    "session.opened_before_ready",
    "membership.before_change",
    "membership.changed",
    "shutdown.before_hand_over",
    "shutdown.handed_over",
];

/// Kinds of faults that happen to processes.
const PROCESS: [&str; 6] = ["kill", "crash-at", "pause", "stop", "rolling", "wipe"];
/// To the network.
pub const NETWORK: [&str; 12] = [
    "isolate",
    "isolate-leader",
    "cut",
    "partial",
    "flap",
    "swizzle",
    "loss",
    "delay",
    "reset",
    "half-open",
    "late",
    "storm",
];
/// To disks, clocks, leaders, clients.
const OTHER: [&str; 9] =
    ["slow", "sync-error", "full", "corrupt", "clock", "drift", "transfer", "silent", "client-crash"];
/// Drawn from a stream of their own: see `draw`.
pub const LATER: [&str; 4] = ["client-reset", "rejoin", "replace", "grow"];
/// Drawn by itself, because it must outlast a lease.
const LONG: [&str; 1] = ["minority"];

/// Drawn from a third stream.
pub const NEWER: [&str; 3] = ["refuse", "deposed", "crash-loop"];
/// The same; each takes a copy away.
pub const NEWER_LOSSES: [&str; 4] = ["spread", "rot", "lost-tail", "roll-back"];

/// What may keep a client from hearing that it was closed, or the gateway from closing it. And where a node is asked to stop, its
/// clients are told to go, and do so without a word in the history.
pub const DEAF: [&str; 12] = [
    "isolate",
    "isolate-leader",
    "swizzle",
    "half-open",
    "late",
    "loss",
    "delay",
    "silent",
    "pause",
    "client-crash",
    "stop",
    "rolling",
];

/// Every kind of fault, as [`Fault::kind`] names it.
pub const KINDS: [&str;
    PROCESS.len() + NETWORK.len() + OTHER.len() + LATER.len() + LONG.len() + NEWER.len() + NEWER_LOSSES.len()] =
    joined([&PROCESS, &NETWORK, &OTHER, &LATER, &LONG, &NEWER, &NEWER_LOSSES]);

const fn joined<const N: usize>(parts: [&[&'static str]; 7]) -> [&'static str; N] {
    let (mut all, mut at, mut part) = ([""; N], 0, 0);
    while part < parts.len() {
        let mut from = 0;
        while from < parts[part].len() {
            all[at] = parts[part][from];
            (at, from) = (at + 1, from + 1);
        }
        part += 1;
    }
    all
}

impl Fault {
    /// It takes a copy away: at most one such fault in a run, and none where a node stays dead.
    pub fn is_loss(&self) -> bool {
        let lost = matches!(self, Self::Rejoin { lost: true, .. });
        lost || matches!(self, Self::Wipe { .. } | Self::Corrupt { .. } | Self::Replace { .. }) || self.is_newer_loss()
    }

    fn is_newer_loss(&self) -> bool {
        matches!(self, Self::Rot { .. } | Self::Spread { .. } | Self::LostTail { .. } | Self::RollBack { .. })
    }

    /// The name by which a kind is switched off, counted and printed.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Kill { .. } => "kill",
            Self::CrashAt { .. } => "crash-at",
            Self::Pause { .. } => "pause",
            Self::Stop { .. } => "stop",
            Self::Rolling => "rolling",
            Self::Wipe { .. } => "wipe",
            Self::Isolate { .. } => "isolate",
            Self::IsolateLeader { .. } => "isolate-leader",
            Self::Cut { .. } => "cut",
            Self::Minority { .. } => "minority",
            Self::Partial { .. } => "partial",
            Self::Flap { .. } => "flap",
            Self::Swizzle { .. } => "swizzle",
            Self::Loss { .. } => "loss",
            Self::Delay { .. } => "delay",
            Self::Reset { .. } => "reset",
            Self::HalfOpen { .. } => "half-open",
            Self::Late { .. } => "late",
            Self::Storm => "storm",
            Self::Slow { .. } => "slow",
            Self::SyncError { .. } => "sync-error",
            Self::Full { .. } => "full",
            Self::Corrupt { .. } => "corrupt",
            Self::Clock { .. } => "clock",
            Self::Drift { .. } => "drift",
            Self::Transfer { .. } => "transfer",
            Self::Silent { .. } => "silent",
            Self::ClientCrash { .. } => "client-crash",
            Self::ClientReset { .. } => "client-reset",
            Self::Rejoin { .. } => "rejoin",
            Self::Replace { .. } => "replace",
            Self::Grow { .. } => "grow",
            Self::Rot { .. } => "rot",
            Self::Spread { .. } => "spread",
            Self::LostTail { .. } => "lost-tail",
            Self::RollBack { .. } => "roll-back",
            Self::CrashLoop { .. } => "crash-loop",
            Self::Deposed { .. } => "deposed",
            Self::Refuse { .. } => "refuse",
        }
    }
}
