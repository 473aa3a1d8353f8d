//! What tests ask of nodes beside chatting: status, digests, memory, the reason why one ended. And load that fills logs.

use std::path::Path;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use flotilla_client::Outcome;
use flotilla_proto::frame::Target;
use flotilla_proto::ids::Seq;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::cluster::{Cluster, binary};
use crate::scene::{Seat, eventually, text};

pub const LIMIT: Duration = Duration::from_secs(60);

/// Whether an environment variable asks for the long form of a test.
pub fn number(variable: &str, short: u64) -> u64 {
    std::env::var(variable).ok().and_then(|n| n.parse().ok()).unwrap_or(short)
}

/// A figure of a node's metrics page, by the beginning of its line. None: it is not there, or the node does not answer in time.
pub async fn figure(url: &str, name: &str) -> Option<u64> {
    let mut page = Vec::new();
    let read = async {
        let mut stream = TcpStream::connect(flotilla_client::net::authority(url).ok()?).await.ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.ok()?;
        stream.read_to_end(&mut page).await.ok()
    };
    tokio::time::timeout(LIMIT, read).await.ok()??;
    String::from_utf8(page).ok()?.lines().find_map(|line| line.strip_prefix(name))?.parse().ok()
}

/// Runs the binary to its end.
pub async fn tool(args: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(binary()?);
    command.args(args).stdin(Stdio::null());
    Ok(tokio::task::spawn_blocking(move || command.output()).await??)
}

/// What it said when it was expected to refuse.
pub async fn refusal(args: &[&str]) -> anyhow::Result<String> {
    let output = tool(args).await?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(!output.status.success(), "`flotilla {}` was expected to fail: {said}", args.join(" "));
    Ok(said)
}

/// All nodes as `--nodes` wants them.
pub fn list(cluster: &Cluster) -> String {
    let all: Vec<_> = cluster.nodes.iter().map(|n| format!("{}={}", n.number, n.peer_addr)).collect();
    all.join(",")
}

/// `cluster status -o json`, one item a node.
pub async fn status(cluster: &Cluster) -> anyhow::Result<Vec<Value>> {
    let output = tool(&["cluster", "status", "-o", "json", "--nodes", &list(cluster)]).await?;
    serde_json::from_slice(&output.stdout).with_context(|| format!("not a status: {output:?}"))
}

/// The groups of one node, from its status.
pub fn groups(status: &Value) -> &[Value] {
    status["status"]["groups"].as_array().map_or(&[], Vec::as_slice)
}

/// Waits until every replica of every shard is at one index with one digest; the number of shards. A difference at one
/// index is an error at once.
pub async fn agree(cluster: &Cluster, limit: Duration) -> anyhow::Result<usize> {
    let deadline = Instant::now() + limit;
    loop {
        let output = tool(&["cluster", "digest", "-o", "json", "--nodes", &list(cluster)]).await?;
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let shards: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
        ensure!(shards.iter().all(|s| s["verdict"] != "different"), "replicas differ: {said}");
        let whole = |s: &&Value| {
            s["verdict"] == "equal" && s["replicas"].as_array().is_some_and(|r| r.len() == cluster.nodes.len())
        };
        if output.status.success() && !shards.is_empty() && shards.iter().all(|s| whole(&s)) {
            return Ok(shards.len());
        }
        ensure!(Instant::now() < deadline, "not all replicas at one index within {limit:?}: {said}{}", cluster.logs());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until the node has ended by itself.
pub async fn ended(cluster: &mut Cluster, at: usize, limit: Duration) -> anyhow::Result<ExitStatus> {
    let mut found = None;
    let waited = eventually("the node ends by itself", limit, async || {
        found = cluster.nodes[at].exited().ok().flatten();
        found.is_some()
    });
    waited.await.with_context(|| cluster.nodes[at].log_tail())?;
    found.context("just seen")
}

/// The highest resident memory of a process since its start or the last [`reset_memory`], in KiB.
pub fn memory_kib(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// From now on the highest is counted anew; returns what is resident now.
pub fn reset_memory(pid: u32) -> anyhow::Result<u64> {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
    memory_kib(pid)
}

/// Copies a directory of a stopped node.
pub fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(status.success(), "cannot copy {}", from.display());
    Ok(())
}

/// Sends `count` messages with some on their way at once, and returns the highest seq accepted.
pub async fn fill(seat: &Seat, to: &Target, count: u64, bytes: usize) -> anyhow::Result<Seq> {
    const AT_ONCE: usize = 24;
    let mut waiting = std::collections::VecDeque::new();
    let mut highest = Seq(0);
    for i in 0..count {
        let body = format!("{i:0bytes$}");
        waiting.push_back(seat.handle.submit(to.clone(), text(body)).await?);
        if waiting.len() >= AT_ONCE {
            highest = highest.max(accepted(waiting.pop_front()).await?);
        }
    }
    while !waiting.is_empty() {
        highest = highest.max(accepted(waiting.pop_front()).await?);
    }
    Ok(highest)
}

async fn accepted(ticket: Option<flotilla_client::device::Ticket>) -> anyhow::Result<Seq> {
    let ticket = ticket.context("nothing waits")?;
    match tokio::time::timeout(LIMIT, ticket.answer()).await.context("no answer in time")? {
        Outcome::Accepted(accepted) => Ok(accepted.seq),
        other => bail!("not accepted: {other:?}"),
    }
}

/// Lets this process, and so the nodes that it starts, have as many open files as the system allows; how many.
pub fn raise_open_files() -> anyhow::Result<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find(|l| l.starts_with("Max open files")).context("no limit of open files")?;
    let hard: u64 = line.split_whitespace().nth(4).context("no hard limit")?.parse().unwrap_or(1 << 20);
    let pid = std::process::id().to_string();
    let status = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={hard}:{hard}")]).status()?;
    ensure!(status.success(), "cannot raise the limit of open files to {hard}");
    Ok(hard)
}
