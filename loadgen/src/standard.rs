//! The standard set: the rows of the performance targets, each on fresh nodes, against its floor and its goal.
//!
//! A row is a load and one or more lines: a figure of its report, a floor that must hold, a goal. Every row also becomes one
//! line of a table that is kept ([`record`]), so that a change is seen against all that were measured before it.

mod record;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::Outcome;
use crate::cluster::Place;
use crate::idle::{self, Idle};
use crate::open_files;
use crate::report::Report;
use crate::workload::{self, Shape, Workload, direct, group};

#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Only rows whose name begins with this, like W1 or "W1 64"
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// Seconds that are measured of each load
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Idle connections
    #[arg(long, default_value_t = 9_000)]
    pub connections: usize,
    /// Append a line for each row to this table
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// The commit for that table
    #[arg(long, default_value = "unknown")]
    pub commit: String,
}

/// What a line compares.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Better {
    Higher,
    Lower,
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
struct Line {
    row: &'static str,
    what: &'static str,
    measured: f64,
    floor: f64,
    goal: f64,
    better: Better,
}

impl Line {
    fn reaches(&self, target: f64) -> bool {
        match self.better {
            Better::Higher => self.measured >= target,
            Better::Lower => self.measured <= target,
        }
    }

    fn verdict(&self) -> &'static str {
        match (self.reaches(self.floor), self.reaches(self.goal)) {
            (_, true) => "goal",
            (true, false) => "floor",
            (false, false) => "BELOW",
        }
    }
}

enum Load {
    Direct(direct::Options),
    Group(group::Options),
}

impl Load {
    fn parts(&self) -> (std::sync::Arc<dyn Workload>, Shape) {
        match self {
            Load::Direct(options) => (options.workload(), options.shape.clone()),
            Load::Group(options) => (options.workload(), options.shape.clone()),
        }
    }
}

type Of = fn(&Report) -> f64;
/// What it is, where it stands in a report, floor, goal.
type Target = (&'static str, Of, f64, f64, Better);

struct Row {
    name: &'static str,
    load: Load,
    targets: Vec<Target>,
}

const CPU: &str = "server CPU us per delivered";
const WRITTEN: &str = "bytes written per accepted";

fn cpu(report: &Report) -> f64 {
    report.server.as_ref().map_or(f64::NAN, |server| server.cpu_us_per_delivered)
}

fn written(report: &Report) -> f64 {
    report.server.as_ref().map_or(f64::NAN, |server| server.disk_bytes_per_accepted)
}

fn rows() -> Vec<Row> {
    use Better::{Higher, Lower};
    let closed = |pairs, in_flight| Load::Direct(direct::Options::closed(pairs, in_flight));
    let open = |rate| Load::Direct(direct::Options::open(64, rate));
    let accepted: Of = |report| report.accepted_per_s;
    let accept_p99: Of = |report| report.accept_ms.p99;
    let deliver_p99: Of = |report| report.deliver_ms.p99;
    vec![
        Row {
            name: "W1 1,1",
            load: closed(1, 1),
            targets: vec![
                ("accept p50 ms", |report| report.accept_ms.p50, 1.2, 0.6, Lower),
                ("accept p99 ms", accept_p99, 2.5, 1.2, Lower),
            ],
        },
        Row { name: "W1 16,1", load: closed(16, 1), targets: vec![("accepted/s", accepted, 3_500.0, 8_000.0, Higher)] },
        Row {
            name: "W1 64,4",
            load: closed(64, 4),
            targets: vec![("accepted/s", accepted, 12_000.0, 20_000.0, Higher)],
        },
        Row {
            name: "W1 256,16",
            load: closed(256, 16),
            targets: vec![
                ("accepted/s", accepted, 22_500.0, 40_000.0, Higher),
                (CPU, cpu, 75.0, 40.0, Lower),
                ("accept p99 ms", accept_p99, 300.0, 150.0, Lower),
                (WRITTEN, written, 3_000.0, 2_000.0, Lower),
            ],
        },
        Row {
            name: "W2 1,000/s",
            load: open(1_000.0),
            targets: vec![
                ("accept p99 ms", accept_p99, 10.0, 4.0, Lower),
                ("deliver p99 ms", deliver_p99, 14.0, 5.0, Lower),
                (CPU, cpu, 700.0, 250.0, Lower),
                (WRITTEN, written, 12_000.0, 6_000.0, Lower),
            ],
        },
        Row {
            name: "W2 5,000/s",
            load: open(5_000.0),
            targets: vec![
                ("accept p99 ms", accept_p99, 60.0, 20.0, Lower),
                ("deliver p99 ms", deliver_p99, 80.0, 25.0, Lower),
            ],
        },
        Row {
            name: "W3 10x100",
            load: Load::Group(group::Options::closed(10, 100, 1)),
            targets: vec![
                ("deliveries/s", |report| report.delivered_per_s, 30_000.0, 80_000.0, Higher),
                ("deliver p99 ms", deliver_p99, 150.0, 60.0, Lower),
            ],
        },
    ]
}

const IDLE: &str = "W4 idle";

#[derive(Default, Serialize)]
struct Standard {
    lines: Vec<Line>,
    reports: Vec<Report>,
    idle: Option<Idle>,
}

pub async fn command(options: &Options, place: &Place) -> anyhow::Result<Outcome> {
    let wanted =
        |name: &str| options.only.is_empty() || options.only.iter().any(|only| name.starts_with(only.as_str()));
    let machine = record::Machine::of_this(place.scratch.as_deref())?;
    println!("machine: {machine}");
    if wanted(IDLE) {
        // It comes last, and its connections are the most.
        open_files::make_room(options.connections, place)?;
    }
    let mut standard = Standard::default();
    let mut clean = true;
    for row in rows().into_iter().filter(|row| wanted(row.name)) {
        let (workload, shape) = row.load.parts();
        let mut cluster = place.local(workload.devices(), &[]).await?;
        let seconds = options.seconds;
        let report = workload::run(workload, &shape.lasting(2.0, seconds), &mut cluster, None).await?;
        drop(cluster);
        print!("{}: ", row.name);
        report.print();
        clean &= report.ok();
        for (what, of, floor, goal, better) in row.targets {
            standard.lines.push(Line { row: row.name, what, measured: of(&report), floor, goal, better });
        }
        if let Some(table) = &options.record {
            record::append(table, &record::of_report(&options.commit, &machine, row.name, &report))?;
        }
        standard.reports.push(report);
    }
    if wanted(IDLE) {
        let cluster = place.local(options.connections, &[]).await?;
        let load = idle::Options { connections: options.connections, steps: 3, settle: 5.0, seconds: 10.0 };
        let idle = idle::run(&load, &cluster).await?;
        println!("{IDLE}: {}, {:.1} % of a core, {} closed", idle.says(), idle.cpu_percent, idle.closed);
        clean &= idle.closed == 0;
        let (measured, better) = (idle.kib_per_connection, Better::Lower);
        standard.lines.push(Line { row: IDLE, what: "KiB per connection", measured, floor: 14.0, goal: 8.0, better });
        if let Some(table) = &options.record {
            record::append(table, &record::of_idle(&options.commit, &machine, IDLE, &idle))?;
        }
        standard.idle = Some(idle);
    }
    print(&standard.lines);
    let held = standard.lines.iter().all(|line| line.reaches(line.floor));
    Outcome::new(clean && held, &standard)
}

fn print(lines: &[Line]) {
    println!("\n{:<11} {:<28} {:>10} {:>10} {:>10}", "", "", "measured", "floor", "goal");
    let mut before = "";
    for line in lines {
        let row = if line.row == before { "" } else { line.row };
        before = line.row;
        let number = |value: f64| if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") };
        let (measured, floor, goal) = (number(line.measured), number(line.floor), number(line.goal));
        println!("{row:<11} {:<28} {measured:>10} {floor:>10} {goal:>10}  {}", line.what, line.verdict());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_below_at_the_floor_or_at_the_goal() {
        let line = |measured, better| {
            let (floor, goal) = if better == Better::Higher { (10.0, 20.0) } else { (20.0, 10.0) };
            Line { row: "W", what: "x", measured, floor, goal, better }.verdict()
        };
        assert_eq!([9.0, 10.0, 20.0].map(|m| line(m, Better::Higher)), ["BELOW", "floor", "goal"]);
        assert_eq!([21.0, 20.0, 10.0].map(|m| line(m, Better::Lower)), ["BELOW", "floor", "goal"]);
        assert_eq!(line(f64::NAN, Better::Lower), "BELOW", "what was not measured has not held");
    }
}
