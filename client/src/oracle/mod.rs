//! The oracle: judges a history of many devices against the promises. One judge for simulator, tests and load generator.
//!
//! - [`world`] one pass over the records: who sent what, who is owed what, the log as it was seen
//! - one checker a file, its promise at the top: [`no_loss`], [`order`], [`one_seq`], [`one_history`], [`no_phantom`],
//!   [`real_time`], [`pipelined`], [`authorised`], [`rejected`], [`pages`]
//!
//! Invariant: a history in which nothing happened is unknown, never good. Each checker has a test that makes it fire.

mod authorised;
mod no_loss;
mod no_phantom;
mod one_history;
mod one_seq;
mod order;
mod pages;
mod pipelined;
mod real_time;
mod rejected;
#[cfg(test)]
mod testkit;
mod world;

use std::collections::BTreeMap;
use std::fmt;

pub use world::World;

use crate::history::Record;

/// What must have happened for a verdict to count.
#[derive(Debug, Clone, Copy)]
pub struct Demand {
    /// All faults were healed and every device had time to catch up: entries that are owed and missing are lost.
    pub healed: bool,
    pub accepted_min: u64,
    pub delivered_min: u64,
    /// Entries that came again after a reconnect: without any, resume was not tested.
    pub repeats_min: u64,
}

impl Default for Demand {
    fn default() -> Self {
        Self { healed: true, accepted_min: 1, delivered_min: 1, repeats_min: 0 }
    }
}

/// The first violated promise with its evidence.
#[derive(Debug, Clone)]
pub struct Violation {
    pub promise: &'static str,
    pub what: String,
    pub evidence: Vec<Record>,
}

impl Violation {
    fn new<'a>(promise: &'static str, what: String, evidence: impl IntoIterator<Item = &'a Record>) -> Self {
        Self { promise, what, evidence: evidence.into_iter().cloned().collect() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "violated: {}: {}", self.promise, self.what)?;
        for record in &self.evidence {
            let line = serde_json::to_string(record).unwrap_or_else(|e| e.to_string());
            writeln!(f, "  {line}")?;
        }
        Ok(())
    }
}

/// How much was checked, by name.
pub type Stats = BTreeMap<&'static str, u64>;

#[derive(Debug, Clone)]
pub enum Verdict {
    Holds(Stats),
    Violated(Box<Violation>, Stats),
    /// Not passed: what had to happen did not.
    Unknown(String, Stats),
}

impl Verdict {
    pub fn holds(&self) -> bool {
        matches!(self, Verdict::Holds(_))
    }

    pub fn stats(&self) -> &Stats {
        match self {
            Verdict::Holds(stats) | Verdict::Violated(_, stats) | Verdict::Unknown(_, stats) => stats,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Holds(_) => writeln!(f, "all promises hold")?,
            Verdict::Violated(violation, _) => write!(f, "{violation}")?,
            Verdict::Unknown(why, _) => writeln!(f, "unknown: {why}")?,
        }
        for (name, count) in self.stats() {
            writeln!(f, "  {name}: {count}")?;
        }
        Ok(())
    }
}

type Check = fn(&World<'_>, &mut Stats) -> Result<(), Violation>;

/// In the order in which a violation explains most.
const CHECKS: [Check; 9] = [
    one_history::check,
    one_seq::check,
    no_phantom::check,
    rejected::check,
    authorised::check,
    order::check,
    real_time::check,
    pipelined::check,
    pages::check,
];

pub fn judge(records: &[Record], demand: Demand) -> Verdict {
    let world = World::of(records);
    let mut stats = world.stats();
    let mut checks: Vec<Check> = CHECKS.to_vec();
    if demand.healed {
        checks.push(no_loss::check);
    }
    for check in checks {
        if let Err(violation) = check(&world, &mut stats) {
            return Verdict::Violated(Box::new(violation), stats);
        }
    }
    let short = |name: &str, min: u64| {
        let count = stats.get(name).copied().unwrap_or(0);
        (count < min).then(|| format!("{name}: {count}, demanded {min}"))
    };
    let missing = short("accepted", demand.accepted_min)
        .or_else(|| short("delivered", demand.delivered_min))
        .or_else(|| short("repeats", demand.repeats_min));
    match missing {
        Some(why) => Verdict::Unknown(why, stats),
        None => Verdict::Holds(stats),
    }
}

#[cfg(test)]
mod tests {
    use super::testkit::History;
    use super::*;

    #[test]
    fn a_good_history_holds_and_an_empty_one_is_unknown() {
        let verdict = judge(&History::good().records, Demand::default());
        assert!(verdict.holds(), "{verdict}");
        assert_eq!(verdict.stats()["accepted"], 6, "{verdict}");
        assert!(matches!(judge(&[], Demand::default()), Verdict::Unknown(..)));
        let demand = Demand { repeats_min: 1, ..Demand::default() };
        assert!(matches!(judge(&History::good().records, demand), Verdict::Unknown(..)));
    }
}
