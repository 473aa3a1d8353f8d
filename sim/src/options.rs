//! What a run does, drawn from its seed. The same seed gives the same options for ever on one version of this file.
//!
//! Invariant: everything random about a run that is not the product's own comes from here or from the simulator's
//! generator; both start from the seed.

use std::fmt;
use std::time::Duration;

use clap::{Args, ValueEnum};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What a killed node finds on its disk when it comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Disk {
    /// The process died, the machine did not: everything written is there.
    Kept,
    /// Power loss: of the batches that were not synced a suffix is gone, cut anywhere.
    Lost,
}

/// Flags over what the seed draws.
#[derive(Debug, Clone, Args)]
pub struct Overrides {
    /// The run's seed; everything else follows from it
    #[arg(long)]
    pub seed: u64,
    /// What a killed node's disk looks like afterwards [default: drawn]
    #[arg(long, value_enum)]
    pub disk: Option<Disk>,
    /// Break nothing
    #[arg(long)]
    pub no_faults: bool,
    /// Messages of all devices together [default: drawn, 60 to 400]
    #[arg(long)]
    pub sends: Option<usize>,
    /// Raft groups that hold conversations and users [default: drawn, 1 to 3]
    #[arg(long)]
    pub shards: Option<u16>,
}

impl Overrides {
    /// The flags as they must be given again.
    pub fn command(&self) -> String {
        let mut text = format!("--seed {}", self.seed);
        if let Some(disk) = self.disk {
            let name = if disk == Disk::Kept { "kept" } else { "lost" };
            text += &format!(" --disk {name}");
        }
        if self.no_faults {
            text += " --no-faults";
        }
        if let Some(sends) = self.sends {
            text += &format!(" --sends {sends}");
        }
        if let Some(shards) = self.shards {
            text += &format!(" --shards {shards}");
        }
        text
    }
}

/// One thing that breaks, for a while, and heals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nodes die at one instant and come back.
    Kill { nodes: Vec<usize>, disk: Disk, keep_permille: u32 },
    /// A node dies just after it has passed this point so many times; it comes back.
    CrashAt { node: usize, point: &'static str, passes: u32, keep_permille: u32 },
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
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// Faults on the disk or the process of a node.
fn deaths(rng: &mut StdRng, nodes: usize, kinds: [bool; 3]) -> Vec<Timed> {
    let mut lane = Vec::new();
    for _ in 0..rng.random_range(1..=4) {
        let node = rng.random_range(0..nodes);
        let keep_permille = rng.random_range(0..=1_000);
        let disk = if rng.random_bool(0.5) { Disk::Kept } else { Disk::Lost };
        let point = POINTS[rng.random_range(0..POINTS.len())];
        let passes = rng.random_range(1..=40);
        let many = rng.random_range(2..=nodes);
        let fault = match rng.random_range(0..4) {
            0 if kinds[0] => Fault::CrashAt { node, point, passes, keep_permille },
            1 if kinds[1] => {
                Fault::Kill { nodes: (0..many).map(|i| (node + i) % nodes).collect(), disk, keep_permille }
            }
            2 if kinds[2] => Fault::Slow { node, by: Duration::from_millis(rng.random_range(5..=400)) },
            _ => Fault::Kill { nodes: vec![node], disk, keep_permille },
        };
        lane.push(timed(rng, fault));
    }
    lane
}

/// Faults between nodes.
fn disturbances(rng: &mut StdRng, nodes: usize, kinds: [bool; 4]) -> Vec<Timed> {
    let mut lane = Vec::new();
    for _ in 0..rng.random_range(1..=4) {
        let node = rng.random_range(0..nodes);
        let other = (node + rng.random_range(1..nodes.max(2))) % nodes;
        let (inward, outward) = [(true, true), (true, false), (false, true)][rng.random_range(0..3)];
        let permille = rng.random_range(1..=200);
        let off_ms = [3_600_000, -3_600_000, 86_400_000, -86_400_000, 9_000, -9_000][rng.random_range(0..6)];
        let drawn = match rng.random_range(0..4) {
            0 if kinds[0] => Some(Fault::Isolate { node, inward, outward }),
            1 if kinds[1] => Some(Fault::Cut { from: node, to: other }),
            2 if kinds[2] => Some(Fault::Loss { permille }),
            3 if kinds[3] => Some(Fault::Clock { node, off_ms }),
            _ => None,
        };
        if let Some(fault) = drawn {
            lane.push(timed(rng, fault));
        }
    }
    lane
}

fn timed(rng: &mut StdRng, fault: Fault) -> Timed {
    Timed {
        after: Duration::from_millis(rng.random_range(100..=5_000)),
        lasts: Duration::from_millis(rng.random_range(200..=12_000)),
        fault,
    }
}

#[derive(Debug, Clone)]
pub struct Options {
    pub seed: u64,
    pub nodes: usize,
    pub shards: u16,
    pub users: usize,
    pub groups: usize,
    pub sends: usize,
    /// Mean pause of one device between two sends.
    pub pause: Duration,
    /// Of all sends, those to a group, in hundredths.
    pub group_percent: u32,
    pub latency: std::ops::Range<Duration>,
    /// Lanes run beside each other; the faults of one lane follow each other.
    pub lanes: Vec<Vec<Timed>>,
}

impl Options {
    /// Draws everything in a fixed order, then applies the flags: a flag never changes what else is drawn.
    pub fn draw(flags: &Overrides) -> Self {
        let mut rng = StdRng::seed_from_u64(flags.seed);
        let nodes = 3;
        let mut options = Self {
            seed: flags.seed,
            nodes,
            shards: rng.random_range(1..=3),
            users: rng.random_range(3..=5),
            groups: rng.random_range(1..=2),
            sends: rng.random_range(60..=400),
            pause: Duration::from_millis(rng.random_range(20..=400)),
            group_percent: rng.random_range(20..=70),
            latency: Duration::from_micros(rng.random_range(100..=500))
                ..Duration::from_millis(rng.random_range(1..=20)),
            lanes: Vec::new(),
        };
        // Swarm: each kind is switched off in half of the seeds, so that rare mixtures happen.
        let mut switch = || rng.random_bool(0.5);
        let death_kinds = [switch(), switch(), switch()];
        let net_kinds = [switch(), switch(), switch(), switch()];
        options.lanes.push(deaths(&mut rng, nodes, death_kinds));
        options.lanes.push(disturbances(&mut rng, nodes, net_kinds));
        options.sends = flags.sends.unwrap_or(options.sends);
        options.shards = flags.shards.unwrap_or(options.shards).max(1);
        if let Some(forced) = flags.disk {
            for timed in options.lanes.iter_mut().flatten() {
                if let Fault::Kill { disk, .. } = &mut timed.fault {
                    *disk = forced;
                }
            }
        }
        if flags.no_faults {
            options.lanes.clear();
        }
        options
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {} nodes, {} shards, {} users, {} groups",
            self.seed, self.nodes, self.shards, self.users, self.groups
        )?;
        writeln!(
            f,
            "  {} sends, {} % to groups, one per device every {:?} on average",
            self.sends, self.group_percent, self.pause
        )?;
        write!(f, "  network latency {:?} to {:?}", self.latency.start, self.latency.end)?;
        for (lane, faults) in self.lanes.iter().enumerate() {
            for Timed { after, lasts, fault } in faults {
                write!(f, "\n  lane {lane}: after {after:?} for {lasts:?}: {fault:?}")?;
            }
        }
        if self.lanes.iter().all(Vec::is_empty) {
            write!(f, "\n  no fault")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(seed: u64) -> Overrides {
        Overrides { seed, disk: None, no_faults: false, sends: None, shards: None }
    }

    #[test]
    fn a_flag_changes_nothing_but_what_it_names() {
        let plain = Options::draw(&flags(7));
        let forced = Options::draw(&Overrides { disk: Some(Disk::Lost), sends: Some(5), ..flags(7) });
        assert_eq!(forced.sends, 5);
        assert_eq!((plain.users, plain.pause, plain.latency), (forced.users, forced.pause, forced.latency));
        assert_eq!(plain.lanes.len(), forced.lanes.len());
        let kills = forced.lanes.iter().flatten().filter_map(|t| match &t.fault {
            Fault::Kill { disk, .. } => Some(*disk),
            _ => None,
        });
        assert!(kills.into_iter().all(|disk| disk == Disk::Lost));
    }

    #[test]
    fn seeds_draw_different_runs_and_both_kinds_of_disk() {
        let runs: Vec<_> = (0..32).map(|seed| Options::draw(&flags(seed))).collect();
        let faults: Vec<&Fault> = runs.iter().flat_map(|o| o.lanes.iter().flatten()).map(|t| &t.fault).collect();
        let some = |is: &dyn Fn(&Fault) -> bool| faults.iter().any(|f| is(f));
        assert!(some(&|f| matches!(f, Fault::Kill { disk: Disk::Lost, .. })));
        assert!(some(&|f| matches!(f, Fault::Kill { nodes, .. } if nodes.len() == 3)));
        assert!(some(&|f| matches!(f, Fault::CrashAt { .. })) && some(&|f| matches!(f, Fault::Clock { .. })));
        assert!(some(&|f| matches!(f, Fault::Cut { .. })) && some(&|f| matches!(f, Fault::Loss { .. })));
        assert!(runs.windows(2).any(|pair| pair[0].pause != pair[1].pause));
    }
}
