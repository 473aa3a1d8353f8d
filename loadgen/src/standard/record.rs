//! The table that is kept: one line for each workload of each run, newest last.

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;

use crate::engine::tally::histogram;
use crate::idle::Idle;
use crate::report::Report;

const HEAD: &str = "\
| date | commit | machine | workload | accepted/s | delivered/s | accept ms p50 / p99 | deliver ms p50 / p99 | server us per delivered | bytes per accepted | syncs per accepted | server MiB | generator | others | faults |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
";
const SYNCS: usize = 200;

/// What decides figures: processors, memory, what a sync costs.
pub struct Machine {
    processors: usize,
    model: String,
    memory_gib: f64,
    /// Median of 4 KiB appended and synced.
    sync_ms: f64,
}

impl Machine {
    pub fn of_this(scratch: Option<&Path>) -> anyhow::Result<Self> {
        let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model =
            cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib =
            memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
        Ok(Self {
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            model: model.unwrap_or("unknown").trim().to_owned(),
            memory_gib: kib.unwrap_or(0.0) / (1024.0 * 1024.0),
            sync_ms: sync_ms(scratch.unwrap_or(&std::env::temp_dir()))?,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processors, model, memory_gib, sync_ms } = self;
        write!(f, "{processors} x {model}, {memory_gib:.0} GiB, sync {sync_ms:.2} ms")
    }
}

fn sync_ms(dir: &Path) -> anyhow::Result<f64> {
    let mut file = tempfile::tempfile_in(dir).with_context(|| format!("no file can be made in {}", dir.display()))?;
    let mut took = histogram();
    for _ in 0..SYNCS {
        let begin = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        took.saturating_record(begin.elapsed().as_micros() as u64);
    }
    Ok(took.value_at_quantile(0.5) as f64 / 1_000.0)
}

pub fn append(table: &Path, line: &str) -> anyhow::Result<()> {
    let is_new = !table.exists();
    let mut file = std::fs::File::options().create(true).append(true).open(table)?;
    if is_new {
        file.write_all(HEAD.as_bytes())?;
    }
    file.write_all(line.as_bytes()).with_context(|| format!("cannot append to {}", table.display()))
}

/// `2026-01-31` of Unix seconds (the civil calendar, by Howard Hinnant's `civil_from_days`).
fn date(unix: u64) -> String {
    let days = (unix / 86_400) as i64 + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

fn now() -> String {
    date(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

pub fn of_report(commit: &str, machine: &Machine, row: &str, report: &Report) -> String {
    let latency = |l: crate::report::Latency| format!("{:.1} / {:.1}", l.p50, l.p99);
    let server = report.server.clone().unwrap_or_default();
    let faults = if report.ok() { "none".to_owned() } else { format!("{:?}", report.faults) };
    format!(
        "| {} | {commit} | {machine} | {row} | {:.0} | {:.0} | {} | {} | {:.0} | {:.0} | {:.2} | {:.0} | {:.0} % | {:.0} % | {faults} |\n",
        date(report.at),
        report.accepted_per_s,
        report.delivered_per_s,
        latency(report.accept_ms),
        latency(report.deliver_ms),
        server.cpu_us_per_delivered,
        server.disk_bytes_per_accepted,
        server.syncs_per_accepted,
        server.rss_mib.iter().sum::<f64>(),
        report.generator_cpu_percent,
        report.others_cpu_percent,
    )
}

pub fn of_idle(commit: &str, machine: &Machine, row: &str, idle: &Idle) -> String {
    let faults = if idle.closed == 0 { "none".to_owned() } else { format!("{} closed", idle.closed) };
    format!(
        "| {} | {commit} | {machine} | {row}: {} connections, {:.1} KiB each, {:.1} % of a core | | | | | | | | {:.0} | | | {faults} |\n",
        now(),
        idle.connections,
        idle.kib_per_connection,
        idle.cpu_percent,
        idle.steps.last().map_or(0.0, |step| step.rss_mib.iter().sum()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (unix, wanted) in [(0, "1970-01-01"), (951_782_400, "2000-02-29"), (1_763_800_000, "2025-11-22")] {
            assert_eq!(date(unix), wanted);
        }
    }

    #[test]
    fn the_table_gets_its_head_once_and_every_line_has_its_columns() {
        let dir = tempfile::tempdir().expect("a folder");
        let table = dir.path().join("t.md");
        let machine = Machine { processors: 2, model: "x".into(), memory_gib: 24.0, sync_ms: 0.2 };
        for _ in 0..2 {
            append(&table, &of_report("abc", &machine, "W1", &Report::default())).expect("written");
        }
        let text = std::fs::read_to_string(table).expect("there");
        let columns: Vec<_> = text.lines().map(|line| line.matches('|').count()).collect();
        assert_eq!(columns, [columns[0]; 4], "{text}");
    }
}
