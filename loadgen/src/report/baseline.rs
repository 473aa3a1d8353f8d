//! `--baseline old.json`: what changed against a run that was kept.

use std::path::Path;

use anyhow::{Context, ensure};

use super::figures::{self, Better, number};
use super::{Report, VERSION};

/// Differences below this many per cent are not called better or worse: runs on one machine differ so much by themselves.
const NOISE_PERCENT: f64 = 5.0;

#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    pub name: &'static str,
    pub unit: &'static str,
    pub old: f64,
    pub new: f64,
    /// None where the old figure is zero.
    pub percent: Option<f64>,
    /// Empty within the noise.
    pub verdict: &'static str,
}

/// The reports in a file written by `--json`: of one run, or of several.
pub fn read(path: &Path) -> anyhow::Result<Vec<Report>> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("{} is no result of this program", path.display()))
}

fn parse(text: &[u8]) -> anyhow::Result<Vec<Report>> {
    let value: serde_json::Value = serde_json::from_slice(text)?;
    let result = value.get("result").unwrap_or(&value);
    let list = match result.get("reports") {
        Some(reports) => reports.as_array().cloned().context("`reports` is no list")?,
        None => vec![result.clone()],
    };
    let mut reports = Vec::new();
    for value in list {
        let version = value.get("version").and_then(serde_json::Value::as_u64).context("it has no version")?;
        ensure!(version == u64::from(VERSION), "it has version {version}, this program reads {VERSION}");
        reports.push(serde_json::from_value(value)?);
    }
    Ok(reports)
}

pub fn compare(old: &Report, new: &Report) -> Vec<Difference> {
    let differences = figures::kinds().filter_map(|kind| {
        let (old, new) = (kind.value(old)?, kind.value(new)?);
        let percent = (old != 0.0).then(|| 100.0 * (new - old) / old);
        let changed = percent.map_or(new != 0.0, |percent| percent.abs() >= NOISE_PERCENT);
        let verdict = match (kind.better, changed, new > old) {
            (Better::Neither, ..) | (_, false, _) => "",
            (Better::Higher, true, true) | (Better::Lower, true, false) => "better",
            _ => "worse",
        };
        Some(Difference { name: kind.name, unit: kind.unit.name(), old, new, percent, verdict })
    });
    // Zero before and now says nothing.
    differences.filter(|d| d.old != 0.0 || d.new != 0.0).collect()
}

pub fn print(old: &Report, new: &Report) {
    if old.workload != new.workload {
        println!("the baseline is of another load: {:?}, this is {:?}", old.workload, new.workload);
    }
    println!("{:<28}{:>12}{:>12}{:>9}", "against the baseline", "old", "new", "");
    for d in compare(old, new) {
        let percent = d.percent.map_or_else(|| "new".into(), |percent| format!("{percent:+.0} %"));
        let name = if d.unit.is_empty() { d.name.to_owned() } else { format!("{} {}", d.name, d.unit) };
        println!("{name:<28}{:>12}{:>12}{percent:>9}  {}", number(d.old), number(d.new), d.verdict);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Latency;
    use super::*;

    fn report(accepted_per_s: f64, p99: f64, lost: u64) -> Report {
        let mut report = Report { version: VERSION, accepted_per_s, ..Report::default() };
        report.accept_ms = Latency { count: 1, p99, ..Latency::default() };
        report.faults.lost = lost;
        report
    }

    fn verdict(old: &Report, new: &Report, name: &str) -> Option<(&'static str, Option<f64>)> {
        compare(old, new).into_iter().find(|d| d.name == name).map(|d| (d.verdict, d.percent))
    }

    #[test]
    fn a_difference_is_better_or_worse_by_what_the_figure_is() {
        let old = report(1_000.0, 20.0, 0);
        assert_eq!(verdict(&old, &report(1_100.0, 20.0, 0), "accepted_per_s"), Some(("better", Some(10.0))));
        assert_eq!(verdict(&old, &report(1_000.0, 30.0, 0), "accept.p99"), Some(("worse", Some(50.0))));
        assert_eq!(verdict(&old, &report(1_040.0, 20.0, 0), "accepted_per_s"), Some(("", Some(4.0))), "noise");
        assert_eq!(verdict(&old, &report(1_000.0, 20.0, 3), "lost"), Some(("worse", None)), "from nothing");
        assert_eq!(verdict(&old, &old, "lost"), None, "zero twice is not shown");
        assert_eq!(verdict(&old, &old, "deliver.p99"), None, "what was not measured is not compared");
    }

    #[test]
    fn a_kept_file_comes_back_and_others_are_refused_with_a_reason() {
        let kept = serde_json::json!({"ok": true, "result": report(5.0, 1.0, 0)}).to_string();
        assert_eq!(parse(kept.as_bytes()).expect("a report")[0].accepted_per_s, 5.0);
        let set = serde_json::json!({"ok": true, "result": {"reports": [report(5.0, 1.0, 0), report(6.0, 1.0, 0)]}});
        assert_eq!(parse(set.to_string().as_bytes()).expect("reports").len(), 2);
        for (bad, wanted) in [("{}", "no version"), (r#"{"result":{"version":99}}"#, "version 99"), ("x", "expected")] {
            let error = format!("{:#}", parse(bad.as_bytes()).expect_err(bad));
            assert!(error.contains(wanted), "{error}");
        }
    }
}
