//! What a run says in the end: one structure for the summary that a person reads and for the line that the swarm reads.
//!
//! Invariant: nothing in it depends on the machine that ran it; real time is measured and told by whoever asked for the run.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::judge::Outcome;
use crate::options::Options;

/// Counts by name, in the order of the names.
pub type Counts = BTreeMap<String, u64>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Passed,
    Violated,
    /// The run did not show what it was made for.
    Unknown,
    /// The process ended without a result: out of real time, or killed.
    Broken,
}

impl Verdict {
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Violated => "violated",
            Self::Unknown => "unknown",
            Self::Broken => "broken",
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Summary {
    pub options: Options,
    pub verdict: Verdict,
    /// Violated promises with their evidence, or the one sentence why the verdict is unknown.
    pub why: Vec<String>,
    pub simulated_us: u64,
    /// What happened: accepted, delivered, elections, crashes, …
    pub counts: Counts,
    /// How often each kind of fault has begun.
    pub kinds: Counts,
    /// The same as the nemesis tells them apart.
    pub faults: Counts,
    /// How often each part of the load has happened.
    #[serde(default)]
    pub load: Counts,
    /// How often each named fault point was passed.
    pub points: Counts,
    /// How much each checker has checked.
    pub checks: Counts,
}

impl Summary {
    pub fn new(options: Options, outcome: Outcome) -> Self {
        let (verdict, why) = match outcome {
            Outcome::Passed => (Verdict::Passed, Vec::new()),
            Outcome::Violated(violations) => (Verdict::Violated, violations),
            Outcome::Unknown(why) => (Verdict::Unknown, vec![why]),
        };
        let (simulated_us, nothing) = (0, Counts::new);
        Self {
            options,
            verdict,
            why,
            simulated_us,
            counts: nothing(),
            kinds: nothing(),
            faults: nothing(),
            load: nothing(),
            points: nothing(),
            checks: nothing(),
        }
    }

    /// The name of the first violated promise: what a shrunk run must violate as well.
    pub fn promise(&self) -> Option<String> {
        (self.verdict == Verdict::Violated).then(|| self.why.first().map(|why| promise(why))).flatten()
    }

    /// As a person reads it; the verdict stands in the last line.
    pub fn text(&self) -> String {
        let mut text = format!("seed {}: {:.3} s simulated\n", self.options.seed, self.simulated_us as f64 / 1e6);
        for (title, counts) in [
            ("happened", &self.counts),
            ("beside", &self.load),
            ("faults", &self.faults),
            ("points passed", &self.points),
            ("checked", &self.checks),
        ] {
            if !counts.is_empty() {
                let listed: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
                // Writing to a String cannot fail.
                let _ = writeln!(text, "  {title}: {}", listed.join(", "));
            }
        }
        for why in &self.why {
            let title = if self.verdict == Verdict::Violated { "VIOLATION " } else { "" };
            let _ = writeln!(text, "{title}{}", why.trim_end());
        }
        let _ = writeln!(text, "verdict: {}", self.verdict.name());
        text
    }
}

/// The promise that a violation's sentence begins with.
pub fn promise(violation: &str) -> String {
    let text = violation.strip_prefix("violated: ").unwrap_or(violation);
    // A family's name has a colon of its own.
    let family = if text.starts_with("raft: ") { "raft: ".len() } else { 0 };
    let end = text[family..].find([':', ';', '\n']).map_or(text.len(), |end| family + end);
    text[..end].trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_what_stands_before_the_colon() {
        assert_eq!(promise("I3 no-loss: user1 has x up to 3"), "I3 no-loss");
        assert_eq!(promise("violated: I4 order: 3 after 5\n  {}"), "I4 order");
        assert_eq!(promise("raft: one log: node 1 has 3"), "raft: one log");
        assert_eq!(promise("a panic ended the run"), "a panic ended the run");
    }
}
