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
    /// What the killed node's disk looks like afterwards [default: drawn]
    #[arg(long, value_enum)]
    pub disk: Option<Disk>,
    /// Kill nothing
    #[arg(long)]
    pub no_kill: bool,
    /// Messages of all devices together [default: drawn, 60 to 160]
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
        if self.no_kill {
            text += " --no-kill";
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

/// One node dies once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    /// From 0.
    pub node: usize,
    /// After the first send.
    pub after: Duration,
    pub down: Duration,
    pub disk: Disk,
    /// Where the unsynced tail is cut: this part of it survives, in thousandths.
    pub keep_permille: u32,
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
    pub kill: Option<Kill>,
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
            sends: rng.random_range(60..=160),
            pause: Duration::from_millis(rng.random_range(20..=400)),
            group_percent: rng.random_range(20..=70),
            latency: Duration::from_micros(rng.random_range(100..=500))
                ..Duration::from_millis(rng.random_range(1..=20)),
            kill: Some(Kill {
                node: rng.random_range(0..nodes),
                after: Duration::from_millis(rng.random_range(500..=6_000)),
                down: Duration::from_millis(rng.random_range(200..=12_000)),
                disk: if rng.random_bool(0.5) { Disk::Kept } else { Disk::Lost },
                keep_permille: rng.random_range(0..=1_000),
            }),
        };
        options.sends = flags.sends.unwrap_or(options.sends);
        options.shards = flags.shards.unwrap_or(options.shards).max(1);
        if let (Some(kill), Some(disk)) = (&mut options.kill, flags.disk) {
            kill.disk = disk;
        }
        if flags.no_kill {
            options.kill = None;
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
        writeln!(f, "  network latency {:?} to {:?}", self.latency.start, self.latency.end)?;
        match &self.kill {
            None => write!(f, "  no kill"),
            Some(kill) => {
                let disk = match kill.disk {
                    Disk::Kept => "disk kept".to_owned(),
                    Disk::Lost => format!("unsynced tail cut at {} of 1000", kill.keep_permille),
                };
                write!(
                    f,
                    "  node {} killed {:?} after the first send, down for {:?}, {disk}",
                    kill.node + 1,
                    kill.after,
                    kill.down
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(seed: u64) -> Overrides {
        Overrides { seed, disk: None, no_kill: false, sends: None, shards: None }
    }

    #[test]
    fn a_flag_changes_nothing_but_what_it_names() {
        let plain = Options::draw(&flags(7));
        let forced = Options::draw(&Overrides { disk: Some(Disk::Lost), sends: Some(5), ..flags(7) });
        assert_eq!(forced.sends, 5);
        assert_eq!((plain.users, plain.pause, plain.latency), (forced.users, forced.pause, forced.latency));
        let (plain, forced) = (plain.kill.expect("drawn"), forced.kill.expect("drawn"));
        assert_eq!((plain.node, plain.after, plain.down), (forced.node, forced.after, forced.down));
        assert_eq!(forced.disk, Disk::Lost);
    }

    #[test]
    fn seeds_draw_different_runs_and_both_kinds_of_disk() {
        let runs: Vec<_> = (0..32).map(|seed| Options::draw(&flags(seed))).collect();
        let lost = runs.iter().filter(|o| o.kill.as_ref().is_some_and(|k| k.disk == Disk::Lost)).count();
        assert!((4..=28).contains(&lost), "{lost} of 32");
        assert!(runs.windows(2).any(|pair| pair[0].pause != pair[1].pause));
    }
}
