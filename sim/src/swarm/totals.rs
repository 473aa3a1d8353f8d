//! What a swarm has shown in all: verdicts, what happened, which faults and fault points fired, and which never did.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::child::Ended;
use crate::options::{KINDS, LOADS, POINTS};
use crate::report::{Counts, Verdict};

#[derive(Debug, Serialize)]
struct Row {
    seed: u64,
    verdict: Verdict,
    promise: Option<String>,
    why: Vec<String>,
    real_ms: u64,
    simulated_us: u64,
    counts: Counts,
}

#[derive(Debug, Default, Serialize)]
struct Never {
    /// Kinds of faults that no run had.
    kinds: Vec<&'static str>,
    /// Parts of the load.
    load: Vec<&'static str>,
    /// Fault points that no node passed.
    points: Vec<&'static str>,
}

#[derive(Debug, Default, Serialize)]
pub struct Totals {
    verdicts: BTreeMap<&'static str, u64>,
    promises: Counts,
    real_s: f64,
    /// Of all runs together, as if one core had played them one after the other.
    processes_s: f64,
    simulated_s: f64,
    counts: Counts,
    kinds: Counts,
    faults: Counts,
    load: Counts,
    points: Counts,
    checks: Counts,
    never: Never,
    runs: Vec<Row>,
}

fn gather(into: &mut Counts, from: &Counts) {
    for (name, count) in from {
        *into.entry(name.clone()).or_default() += count;
    }
}

impl Totals {
    pub fn add(&mut self, seed: u64, ended: Ended) {
        let verdict = ended.verdict();
        *self.verdicts.entry(verdict.name()).or_default() += 1;
        let promise = ended.promise();
        if let Some(promise) = &promise {
            *self.promises.entry(promise.clone()).or_default() += 1;
        }
        self.processes_s += ended.real.as_secs_f64();
        let real_ms = u64::try_from(ended.real.as_millis()).unwrap_or(u64::MAX);
        let row = match ended.summary {
            Ok(summary) => {
                self.simulated_s += summary.simulated_us as f64 / 1e6;
                gather(&mut self.counts, &summary.counts);
                gather(&mut self.kinds, &summary.kinds);
                gather(&mut self.faults, &summary.faults);
                gather(&mut self.load, &summary.load);
                gather(&mut self.points, &summary.points);
                gather(&mut self.checks, &summary.checks);
                let (why, simulated_us, counts) = (summary.why, summary.simulated_us, summary.counts);
                Row { seed, verdict, promise, why, real_ms, simulated_us, counts }
            }
            Err(why) => Row { seed, verdict, promise, why: vec![why], real_ms, simulated_us: 0, counts: Counts::new() },
        };
        self.runs.push(row);
    }

    pub fn close(&mut self, real: Duration) {
        self.real_s = real.as_secs_f64();
        self.runs.sort_by_key(|row| row.seed);
        let missing = |all: &[&'static str], seen: &Counts| -> Vec<&'static str> {
            all.iter().filter(|name| seen.get(**name).copied().unwrap_or(0) == 0).copied().collect()
        };
        self.never = Never {
            kinds: missing(&KINDS, &self.kinds),
            load: missing(&LOADS, &self.load),
            points: missing(&POINTS, &self.points),
        };
    }

    fn of(&self, verdict: Verdict) -> u64 {
        self.verdicts.get(verdict.name()).copied().unwrap_or(0)
    }

    /// No failure, and of a hundred runs at most so many unknown.
    pub fn good(&self, unknown_percent: f64) -> bool {
        let shown = self.of(Verdict::Unknown) as f64 <= self.runs.len() as f64 * unknown_percent / 100.0;
        !self.runs.is_empty() && self.of(Verdict::Violated) + self.of(Verdict::Broken) == 0 && shown
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        table(&mut text, "what happened", &self.counts, &[]);
        table(&mut text, "faults begun, by kind", &self.kinds, &self.never.kinds);
        table(&mut text, "faults as they went", &self.faults, &[]);
        table(&mut text, "load beside messages", &self.load, &self.never.load);
        table(&mut text, "fault points passed", &self.points, &self.never.points);
        table(&mut text, "checked", &self.checks, &[]);
        table(&mut text, "promises violated", &self.promises, &[]);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{} runs in {:.1} minutes: {:.2} simulated hours, {:.0} simulated seconds for each second of a core",
            self.runs.len(),
            self.real_s / 60.0,
            self.simulated_s / 3_600.0,
            self.simulated_s / self.processes_s.max(0.001)
        );
        let verdicts: Vec<String> = self.verdicts.iter().map(|(name, count)| format!("{count} {name}")).collect();
        let _ = writeln!(text, "verdicts: {}", verdicts.join(", "));
        let firsts = self.runs.iter().filter(|row| matches!(row.verdict, Verdict::Violated | Verdict::Broken));
        if let Some(row) = firsts.min_by_key(|row| row.seed) {
            let tried: Vec<&Row> = self.runs.iter().filter(|other| other.seed <= row.seed).collect();
            let spent: u64 = tried.iter().map(|row| row.real_ms).sum();
            let promise = row.promise.as_deref().unwrap_or("?");
            let _ = writeln!(
                text,
                "first failure: seed {}, after {} runs and {:.1} s of a core: {promise}",
                row.seed,
                tried.len(),
                spent as f64 / 1e3
            );
        }
        text
    }
}

fn table(text: &mut String, title: &str, counts: &Counts, never: &[&str]) {
    if counts.is_empty() && never.is_empty() {
        return;
    }
    let _ = writeln!(text, "{title}");
    for (name, count) in counts {
        let _ = writeln!(text, "  {count:>12}  {name}");
    }
    for name in never {
        let _ = writeln!(text, "  {:>12}  {name}", "NEVER");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::Outcome;
    use crate::options::Options;
    use crate::report::Summary;

    fn ended(outcome: Outcome) -> Ended {
        let mut summary = Summary::new(Options::default(), outcome);
        summary.kinds.insert(KINDS[0].into(), 2);
        Ended { real: Duration::from_millis(10), summary: Ok(summary) }
    }

    #[test]
    fn a_swarm_is_good_only_if_nothing_failed_and_enough_was_shown() {
        assert!(!Totals::default().good(100.0), "nothing ran");
        let mut totals = Totals::default();
        totals.add(1, ended(Outcome::Passed));
        totals.add(2, ended(Outcome::Unknown("too little".into())));
        assert!(totals.good(50.0) && !totals.good(49.0));
        totals.add(3, ended(Outcome::Violated(vec!["I4 order: 3 after 5".into()])));
        assert!(!totals.good(100.0));
        let mut totals = Totals::default();
        totals.add(1, Ended { real: Duration::ZERO, summary: Err("no end".into()) });
        assert!(!totals.good(100.0), "a run that does not end is a failure");
    }

    #[test]
    fn what_never_fired_is_named() {
        let mut totals = Totals::default();
        totals.add(1, ended(Outcome::Passed));
        totals.add(2, ended(Outcome::Passed));
        totals.close(Duration::from_secs(1));
        assert!(!totals.never.kinds.contains(&KINDS[0]) && totals.never.kinds.len() == KINDS.len() - 1);
        assert_eq!((totals.never.points.len(), totals.never.load.len()), (POINTS.len(), LOADS.len()));
        assert_eq!(totals.kinds[KINDS[0]], 4);
        assert!(totals.text().contains("NEVER"), "{}", totals.text());
    }
}
