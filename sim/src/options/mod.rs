//! What a run does, drawn from its seed. The same seed gives the same options for ever on one version of this file.
//!
//! Invariant: everything random about a run that is not the product's own comes from here or from the simulator's
//! generator; both start from the seed. Options can be written down as JSON and played again: a field that an old file
//! does not have means what it meant before the field existed.
//!
//! - `fault` one thing that breaks · `draw` from the seed to the options

mod draw;
mod fault;

use std::fmt;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

pub use fault::{Disk, Fault, KINDS, POINTS, Timed};

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

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
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

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 0,
            nodes: 3,
            shards: 1,
            users: 3,
            groups: 1,
            sends: 60,
            pause: Duration::from_millis(100),
            group_percent: 50,
            latency: Duration::from_micros(100)..Duration::from_millis(10),
            lanes: Vec::new(),
        }
    }
}

impl Options {
    /// Takes every fault of this kind out, see [`Fault::kind`].
    pub fn without(&mut self, kind: &str) {
        for lane in &mut self.lanes {
            lane.retain(|timed| timed.fault.kind() != kind);
        }
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

    #[test]
    fn options_survive_being_written_down_and_kinds_can_be_switched_off() {
        for seed in 0..32 {
            let options = Options::draw(&flags(seed));
            let text = serde_json::to_string(&options).expect("plain data");
            assert_eq!(serde_json::from_str::<Options>(&text).expect("what was written"), options);
            assert!(options.lanes.iter().flatten().all(|t| KINDS.contains(&t.fault.kind())));
            let mut less = options.clone();
            less.without("kill");
            assert!(less.lanes.iter().flatten().all(|t| t.fault.kind() != "kill"));
        }
        let old: Options = serde_json::from_str(r#"{"seed": 7}"#).expect("fields have defaults");
        assert_eq!((old.seed, old.nodes), (7, 3));
    }
}
