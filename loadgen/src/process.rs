//! What Linux says about the nodes' processes.

use std::time::Duration;

use anyhow::Context;

/// Clock ticks a second in /proc/PID/stat; fixed by the kernel's interface on every Linux that Rust runs on.
const TICKS_PER_S: f64 = 100.0;

/// One process at one time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub cpu: Duration,
    pub rss_bytes: u64,
    /// Given to the disk.
    pub written_bytes: u64,
}

pub fn usage(pid: u32) -> anyhow::Result<Usage> {
    let read = |file: &str| {
        std::fs::read_to_string(format!("/proc/{pid}/{file}")).with_context(|| format!("process {pid} is not there"))
    };
    let stat = read("stat")?;
    // The name may hold spaces and brackets: fields are counted behind its end.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    let cpu = Duration::from_secs_f64((ticks(11) + ticks(12)) / TICKS_PER_S);
    let number = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let rss_bytes = number(&read("status")?, "VmRSS:").context("no VmRSS")? * 1024;
    // Not readable for every user: 0 then.
    let written_bytes = read("io").ok().and_then(|io| number(&io, "write_bytes:")).unwrap_or(0);
    Ok(Usage { cpu, rss_bytes, written_bytes })
}

/// Processor time that this machine has spent on anything since it started.
pub fn busy() -> Duration {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let all = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<f64> = all.filter_map(|field| field.parse().ok()).collect();
    // user, nice, system, (idle, iowait,) irq, softirq; what guests use is in user already.
    let busy = [0, 1, 2, 5, 6].iter().filter_map(|at| ticks.get(*at)).sum::<f64>();
    Duration::from_secs_f64(busy / TICKS_PER_S)
}

/// The highest resident memory since the start of the process or the last [`reset_peak`], in bytes.
pub fn peak(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
}

/// From now on the highest is counted anew; returns what is resident now.
pub fn reset_peak(pid: u32) -> anyhow::Result<u64> {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
    peak(pid)
}

pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}
