//! What a run does, drawn from its seed. The same seed gives the same options for ever on one version of this file.
//!
//! Invariant: everything random about a run that is not the product's own comes from here or from the simulator's
//! generator; both start from the seed. Options can be written down as JSON and played again: a field that an old file
//! does not have means what it meant before the field existed.
//!
//! - `fault` one thing that breaks · `load` what clients do beside · `draw` from the seed to the options · `flags` what the command line says of a run

mod draw;
mod fault;
mod flags;
mod load;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use fault::{DEAF, Disk, Fault, KINDS, POINTS, Timed};
pub use flags::{Chosen, Overrides};
pub use load::{LOADS, Load, stream};

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
    /// The shorter bound of an election's time-out; the longer one is twice as long.
    pub election: Duration,
    /// A snapshot is built after so many entries.
    pub snapshot_entries: u64,
    /// So much of each group's log is kept in memory; what is older is read from the disk. Likewise, in proportion, of rows.
    pub log_cache_bytes: usize,
    /// What fills a table in a disk's memory; what is applied is durable when the next one is full, or with a snapshot.
    pub table_bytes: u64,
    /// What a sync takes at best.
    pub sync: Duration,
    /// Of all commands, those that are not plain messages: edits, reactions, members who come and go. In hundredths.
    pub change_percent: u32,
    /// How long what was sent is remembered; 0: as in production, so longer than any run.
    pub dedup_window: Duration,
    /// Users that have a second device.
    pub second_devices: usize,
    /// Nodes that stay dead when everything else heals: a minority.
    pub dead: Vec<usize>,
    /// Lanes run beside each other; the faults of one lane follow each other.
    pub lanes: Vec<Vec<Timed>>,
    /// What clients do beside.
    pub load: Load,
    /// Groups of more members than the first are in pull mode, until they have fewer than the second. None: as in production, far above
    /// what a run has.
    pub pull: Option<(u32, u32)>,
    /// Channels that everybody is in; the members of groups make them as well.
    pub channels: usize,
    /// The feature level that the cluster is made at; none: the newest.
    pub level: Option<u32>,
    /// A deliberate bug.
    pub plant: Option<String>,
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
            election: Duration::from_millis(500),
            snapshot_entries: 200,
            log_cache_bytes: 1024 * 1024,
            table_bytes: 256 * 1024,
            sync: Duration::ZERO,
            change_percent: 0,
            dedup_window: Duration::ZERO,
            second_devices: 0,
            dead: Vec::new(),
            lanes: Vec::new(),
            load: Load::default(),
            pull: None,
            channels: 0,
            level: None,
            plant: None,
        }
    }
}

impl Options {
    /// Every kill from now on leaves this kind of disk.
    pub fn force_disk(&mut self, forced: Disk) {
        for timed in self.lanes.iter_mut().flatten() {
            if let Fault::Kill { disk, .. } = &mut timed.fault {
                *disk = forced;
            }
        }
    }

    /// Takes every fault of this kind out, see [`Fault::kind`], or this part of the load.
    pub fn without(&mut self, kind: &str) {
        self.load.without(kind);
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
        writeln!(f, "  {} % of them edits, reactions, changes of members", self.change_percent)?;
        writeln!(
            f,
            "  elections from {:?}, a snapshot every {} entries, a sync takes {:?}",
            self.election, self.snapshot_entries, self.sync
        )?;
        writeln!(
            f,
            "  {} bytes of each log are kept in memory, {} fill a table",
            self.log_cache_bytes, self.table_bytes
        )?;
        writeln!(f, "  beside: {}", self.load)?;
        if !self.dedup_window.is_zero() {
            writeln!(f, "  what was sent is remembered for {:?}", self.dedup_window)?;
        }
        if let Some((above, below)) = self.pull {
            writeln!(f, "  groups of more than {above} are in pull mode, until they have fewer than {below}")?;
        }
        if self.channels > 0 {
            writeln!(f, "  {} channels", self.channels)?;
        }
        if self.second_devices > 0 {
            writeln!(f, "  {} users have a second device", self.second_devices)?;
        }
        write!(f, "  network latency {:?} to {:?}", self.latency.start, self.latency.end)?;
        for (lane, faults) in self.lanes.iter().enumerate() {
            for Timed { after, lasts, fault } in faults {
                write!(f, "\n  lane {lane}: after {after:?} for {lasts:?}: {fault:?}")?;
            }
        }
        if self.lanes.iter().all(Vec::is_empty) {
            write!(f, "\n  no fault")?;
        }
        if !self.dead.is_empty() {
            write!(f, "\n  dead in the end: {:?}", self.dead)?;
        }
        if let Some(level) = self.level {
            write!(f, "\n  made at feature level {level}")?;
        }
        if let Some(plant) = &self.plant {
            write!(f, "\n  planted: {plant}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_changes_nothing_but_what_it_names() {
        let plain = Options::draw(7);
        let over = Overrides { disk: Some(Disk::Lost), sends: Some(5), ..Overrides::default() };
        let forced = Chosen::of_seed(7, over).load().expect("no file");
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
        let runs: Vec<_> = (0..96).map(Options::draw).collect();
        let faults: Vec<&Fault> = runs.iter().flat_map(|o| o.lanes.iter().flatten()).map(|t| &t.fault).collect();
        let some = |is: &dyn Fn(&Fault) -> bool| faults.iter().any(|f| is(f));
        assert!(some(&|f| matches!(f, Fault::Kill { disk: Disk::Lost, .. })));
        assert!(some(&|f| matches!(f, Fault::Kill { nodes, .. } if nodes.len() >= 3)));
        assert!(some(&|f| matches!(f, Fault::CrashAt { .. })) && some(&|f| matches!(f, Fault::Clock { .. })));
        assert!(some(&|f| matches!(f, Fault::Cut { .. })) && some(&|f| matches!(f, Fault::Loss { .. })));
        assert!(KINDS.iter().all(|kind| faults.iter().any(|f| f.kind() == *kind)), "every kind is drawn");
        assert!(runs.iter().all(|run| 2 * run.dead.len() < run.nodes), "a majority lives");
        let lost = |run: &Options| run.lanes.iter().flatten().filter(|timed| timed.fault.is_loss()).count();
        assert!(runs.iter().all(|run| lost(run) + run.dead.len() <= 1), "a majority keeps its copies");
        assert!(runs.windows(2).any(|pair| pair[0].pause != pair[1].pause));
    }

    #[test]
    fn options_survive_being_written_down_and_kinds_can_be_switched_off() {
        for seed in 0..32 {
            let options = Options::draw(seed);
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
