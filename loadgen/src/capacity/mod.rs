//! How many nodes a load needs: formulae with constants that were measured, from users and messages a day to nodes, disks and
//! network.
//!
//! - [`measured`] the constants, where each comes from · [`load`] what people do · this file: the formulae and the page
//!
//! Invariant: pure arithmetic; every figure of the answer can be checked by hand with the formulae in CAPACITY.md. It says which
//! part of an answer is beyond what was measured.

mod load;
mod measured;

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;

use crate::Outcome;
pub use load::Load;
pub use measured::Measured;

/// The replicas of everything.
const REPLICAS: f64 = 3.0;
/// Nodes of one cluster that was ever measured.
const MEASURED_NODES: u64 = 5;
/// One shard has at least one slot, and the table of nodes goes to every node and client: above this, several clusters.
const CLUSTER_NODES_MAX: u64 = 64;
const SECONDS_A_DAY: f64 = 86_400.0;
const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    machine: Machine,
    /// The three loads of CAPACITY.md (10 M, 500 M and 1 B users a day) in place of one
    #[arg(long)]
    worked: bool,
}

/// What one node has.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Args)]
pub struct Machine {
    /// Cores of a node
    #[arg(long, default_value_t = 32.0, value_parser = load::positive)]
    cores: f64,
    /// Memory of a node, GiB
    #[arg(long, default_value_t = 128.0, value_parser = load::positive)]
    memory_gib: f64,
    /// Disk of a node, GiB
    #[arg(long, default_value_t = 7_500.0, value_parser = load::positive)]
    disk_gib: f64,
    /// Network of a node in each direction, Gbit/s
    #[arg(long, default_value_t = 25.0, value_parser = load::positive)]
    network_gbit: f64,
    /// The part of a machine that may be in use at the peak
    #[arg(long, default_value_t = 0.5, value_parser = load::share)]
    utilisation: f64,
}

/// All nodes together, at the peak.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Need {
    pub sends_per_s: f64,
    pub entries_to_devices_per_s: f64,
    pub connections: f64,
    pub cores: f64,
    pub memory_gib: f64,
    pub disk_gib: f64,
    pub disk_written_mib_per_s: f64,
    pub network_gbit: f64,
}

/// Nodes by what asks for most, and one that may be dead.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    pub need: Need,
    pub nodes: u64,
    pub because_of: &'static str,
    /// Clusters of at most `CLUSTER_NODES_MAX` nodes.
    pub clusters: u64,
    pub beyond_what_was_measured: bool,
}

pub fn need(load: &Load, m: &Measured) -> Need {
    let sends = load.users * load.messages_a_day * load.peak / SECONDS_A_DAY;
    let devices = load.recipients * load.devices * load.online + (load.devices - 1.0) * load.online;
    let entries = sends * devices;
    let connections = load.users * load.devices * load.online;
    let cpu_us = sends * (m.cpu_us_per_send + m.cpu_us_per_member * load.recipients) + entries * m.cpu_us_per_entry;
    let kept_entries = load.users * load.messages_a_day * load.retention_days;
    let written = sends * (m.written_per_send + m.written_per_member * load.recipients + REPLICAS * load.body_bytes);
    let network = sends * (m.network_per_send + (REPLICAS - 1.0) * load.body_bytes)
        + entries * (m.network_per_entry + load.body_bytes);
    Need {
        sends_per_s: sends,
        entries_to_devices_per_s: entries,
        connections,
        cores: cpu_us / 1e6,
        memory_gib: connections * m.memory_per_connection / GIB,
        disk_gib: REPLICAS * kept_entries * (m.kept_per_entry + load.body_bytes) / GIB
            + REPLICAS * load.users * (m.kept_per_user + load.messages_a_day * m.kept_for_a_day) / GIB,
        disk_written_mib_per_s: written / (1024.0 * 1024.0),
        network_gbit: network * 8.0 / 1e9,
    }
}

pub fn plan(load: &Load, machine: &Machine, m: &Measured) -> Plan {
    let need = need(load, m);
    let part = machine.utilisation;
    let memory = machine.memory_gib * part - m.memory_per_node / GIB;
    let by = [
        ("processor", need.cores / (machine.cores * part)),
        ("memory", need.memory_gib / memory.max(f64::MIN_POSITIVE)),
        ("disk", need.disk_gib / (machine.disk_gib * part)),
        ("network", need.network_gbit / (machine.network_gbit * part)),
    ];
    let (because_of, most) =
        by.into_iter().fold(("replicas", 0.0), |most, next| if next.1 > most.1 { next } else { most });
    let for_the_load = most.ceil() as u64;
    // With one node dead the others must carry everything, and everything has three replicas.
    let (nodes, because_of) = if for_the_load < REPLICAS as u64 {
        (REPLICAS as u64, "replicas")
    } else {
        (for_the_load.saturating_add(1), because_of)
    };
    Plan {
        need,
        nodes,
        because_of,
        clusters: nodes.div_ceil(CLUSTER_NODES_MAX),
        beyond_what_was_measured: nodes > MEASURED_NODES || machine.cores > m.cores,
    }
}

/// Loads as a table in Markdown, a column each.
fn table(loads: &[(String, Plan)]) -> String {
    let mut text = String::from("| |");
    let mut rule = String::from("|---|");
    for (name, _) in loads {
        let _ = write!(text, " {name} |");
        rule.push_str("---:|");
    }
    let mut rows = format!("{text}\n{rule}\n");
    let mut row = |name: &str, cell: &dyn Fn(&Plan) -> String| {
        let _ = write!(rows, "| {name} |");
        for (_, plan) in loads {
            let _ = write!(rows, " {} |", cell(plan));
        }
        rows.push('\n');
    };
    row("sends/s at the peak", &|p| short(p.need.sends_per_s));
    row("entries to devices/s at the peak", &|p| short(p.need.entries_to_devices_per_s));
    row("connections", &|p| short(p.need.connections));
    row("cores busy", &|p| short(p.need.cores));
    row("memory of connections, GiB", &|p| short(p.need.memory_gib));
    row("disk kept, three replicas, GiB", &|p| short(p.need.disk_gib));
    row("written, MiB/s", &|p| short(p.need.disk_written_mib_per_s));
    row("network, Gbit/s", &|p| format!("{:.1}", p.need.network_gbit));
    row("**nodes**, one of them spare", &|p| format!("**{}**", p.nodes));
    row("because of", &|p| p.because_of.into());
    row("clusters of at most 64 nodes", &|p| p.clusters.to_string());
    row("extrapolated", &|p| if p.beyond_what_was_measured { "yes" } else { "no" }.into());
    rows
}

/// Three digits and a unit: people compare orders of magnitude here.
fn short(value: f64) -> String {
    let (value, unit) = match value {
        v if v >= 1e9 => (v / 1e9, " G"),
        v if v >= 1e6 => (v / 1e6, " M"),
        v if v >= 1e3 => (v / 1e3, " k"),
        v => (v, ""),
    };
    let digits = if value >= 100.0 { 0 } else { 1 };
    format!("{value:.digits$}{unit}")
}

pub fn command(options: &Options) -> anyhow::Result<Outcome> {
    let measured = Measured::default();
    let own = measured.memory_per_node / GIB;
    anyhow::ensure!(
        options.machine.memory_gib * options.machine.utilisation > own,
        "a node needs {own:.1} GiB for itself: give it more than {:.1} GiB (--memory-gib) at this --utilisation",
        own / options.machine.utilisation
    );
    let loads: Vec<(String, Plan)> = if options.worked {
        [10e6, 500e6, 1e9]
            .map(|users| {
                let load = Load { users, ..options.load.clone() };
                (format!("{} users", short(users)), plan(&load, &options.machine, &measured))
            })
            .into()
    } else {
        vec![(format!("{} users", short(options.load.users)), plan(&options.load, &options.machine, &measured))]
    };
    print!("{}", table(&loads));
    if loads.iter().any(|(_, plan)| plan.beyond_what_was_measured) {
        println!(
            "\nExtrapolated: measured on nodes of {} cores, up to {MEASURED_NODES} nodes. Measure one node of yours (`flotilla-loadgen standard`) before you buy.",
            measured.cores
        );
    }
    if loads.iter().any(|(_, plan)| plan.clusters > 1) {
        println!("Several clusters: a conversation lives in one of them; this version joins no two clusters.");
    }
    let plans: Vec<&Plan> = loads.iter().map(|(_, plan)| plan).collect();
    Outcome::new(true, &serde_json::json!({ "measured": measured, "plans": plans }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine =
        Machine { cores: 2.0, memory_gib: 8.0, disk_gib: 100.0, network_gbit: 1.0, utilisation: 0.5 };

    fn unit() -> Measured {
        Measured {
            cores: 2.0,
            cpu_us_per_send: 100.0,
            cpu_us_per_member: 10.0,
            cpu_us_per_entry: 1.0,
            memory_per_connection: 10_240.0,
            memory_per_node: 0.0,
            written_per_send: 1_000.0,
            written_per_member: 100.0,
            kept_per_entry: 500.0,
            kept_for_a_day: 0.0,
            kept_per_user: 0.0,
            network_per_send: 1_000.0,
            network_per_entry: 100.0,
        }
    }

    fn load() -> Load {
        Load {
            users: 864_000.0,
            messages_a_day: 100.0,
            peak: 2.0,
            recipients: 3.0,
            devices: 2.0,
            online: 0.5,
            body_bytes: 100.0,
            retention_days: 10.0,
        }
    }

    #[test]
    fn a_load_by_hand() {
        let need = need(&load(), &unit());
        assert_eq!(need.sends_per_s, 2_000.0, "864,000 x 100 / 86,400 x 2");
        assert_eq!(
            need.entries_to_devices_per_s, 7_000.0,
            "three recipients and the own other device, half of all are online"
        );
        assert_eq!(need.connections, 864_000.0);
        assert!((need.cores - (2_000.0 * 130.0 + 7_000.0) / 1e6).abs() < 1e-9);
        assert!((need.disk_gib * GIB - 3.0 * 864e6 * 600.0).abs() < 1.0);
        assert!((need.network_gbit - (2_000.0 * 1_200.0 + 7_000.0 * 200.0) * 8.0 / 1e9).abs() < 1e-9);
    }

    #[test]
    fn nodes_follow_what_asks_for_most_and_one_may_be_dead() {
        let plan = plan(&load(), &MACHINE, &unit());
        assert_eq!((plan.because_of, plan.nodes), ("disk", 30), "1,448 GiB in halves of 100, and one");
        assert!(plan.beyond_what_was_measured);
        let small = Load { users: 1_000.0, ..load() };
        let plan = super::plan(&small, &MACHINE, &unit());
        assert_eq!((plan.nodes, plan.because_of, plan.clusters), (3, "replicas", 1));
        assert!(!plan.beyond_what_was_measured);
    }

    #[test]
    fn no_load_can_make_it_panic_or_lie_about_infinity() {
        let huge = Load { users: 1e15, ..load() };
        assert_eq!(plan(&huge, &MACHINE, &unit()).clusters, plan(&huge, &MACHINE, &unit()).nodes.div_ceil(64));
        let tight = Machine { memory_gib: 0.001, ..MACHINE };
        let heavy = Measured { memory_per_node: 1e9, ..unit() };
        assert_eq!(plan(&load(), &tight, &heavy).because_of, "memory", "a node that has no room for itself");
    }

    #[test]
    fn a_table_has_a_column_for_each_load() {
        let plan = plan(&load(), &MACHINE, &unit());
        let text = table(&[("a".into(), plan.clone()), ("b".into(), plan)]);
        assert!(text.starts_with("| | a | b |\n|---|---:|---:|\n"));
        assert!(text.contains("| sends/s at the peak | 2.0 k | 2.0 k |"), "{text}");
    }
}
