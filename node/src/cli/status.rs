//! `flotilla cluster status`: asks every node, prints a table or JSON.

use anyhow::bail;
use clap::{Args, ValueEnum};
use flotilla_machine::control::boot::Shown;
use flotilla_proto::ids::ReplicaId;
use serde::Serialize;

use super::ask::{NodeAddr, ask};
use crate::cluster::wire::{AdminReply, AdminRequest, GroupStatus, NodeStatus};

#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// Nodes to ask, with their peer addresses
    #[arg(long, required = true, value_delimiter = ',', value_name = "N=ADDR")]
    pub nodes: Vec<NodeAddr>,
    /// Output form
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
    /// Speak plain TCP beyond loopback
    #[arg(long)]
    pub insecure_peers: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
}

#[derive(Serialize)]
struct Seen {
    node: u16,
    addr: String,
    /// None: it did not answer.
    status: Option<NodeStatus>,
    error: Option<String>,
}

pub async fn run(args: StatusArgs) -> anyhow::Result<()> {
    let mut seen = Vec::new();
    for at in &args.nodes {
        let answer = ask(&at.addr, Some(at.node), &AdminRequest::Status, args.insecure_peers).await;
        let (status, error) = match answer {
            Ok(AdminReply::Status(status)) => (Some(*status), None),
            Ok(_) => (None, Some("an answer of another kind; is it the same version?".to_owned())),
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        seen.push(Seen { node: at.node.0, addr: at.addr.clone(), status, error });
    }
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&seen)?),
        Output::Table => table(&seen),
    }
    if seen.iter().all(|s| s.status.is_none()) {
        bail!("no node answered");
    }
    Ok(())
}

fn table(seen: &[Seen]) {
    println!(
        "{:<6}{:<24}{:<8}{:>6}{:>12}{:>10}{:>8}",
        "NODE", "CLIENTS", "READY", "BOOT", "INCARNATION", "SESSIONS", "LEADS"
    );
    for s in seen {
        match (&s.status, &s.error) {
            (Some(n), _) => {
                let leads = n.groups.iter().filter(|g| g.leader == Some(g.replica)).count();
                let ready = if n.ready { "yes" } else { "no" };
                println!(
                    "{:<6}{:<24}{:<8}{:>6}{:>12}{:>10}{:>8}",
                    s.node,
                    n.node.client_url,
                    ready,
                    Shown(n.boot),
                    n.incarnation,
                    n.sessions,
                    leads
                );
            }
            (None, error) => println!("{:<6}{:<24}{}", s.node, s.addr, error.as_deref().unwrap_or("no answer")),
        }
    }
    println!("\n{:<7}{:<8}{:>6}{:>12}{:>12}  LAG BY REPLICA", "SHARD", "LEADER", "TERM", "COMMITTED", "SNAPSHOT");
    let mut groups: Vec<&GroupStatus> = seen.iter().filter_map(|s| s.status.as_ref()).flat_map(|n| &n.groups).collect();
    groups.sort_by_key(|g| (g.shard, g.replica));
    for shard in groups.chunk_by(|a, b| a.shard == b.shard) {
        let top = shard.iter().map(|g| g.committed).max().unwrap_or(0);
        let newest = shard.iter().max_by_key(|g| g.term);
        let leader = newest.and_then(|g| g.leader).map_or("none".to_owned(), |r: ReplicaId| r.node.to_string());
        let lag: Vec<_> =
            shard.iter().map(|g| format!("{}:{}", g.replica.node, top.saturating_sub(g.applied))).collect();
        let snapshot = shard.iter().map(|g| g.snapshot).max().unwrap_or(0);
        let term = newest.map_or(0, |g| g.term);
        println!("{:<7}{:<8}{:>6}{:>12}{:>12}  {}", shard[0].shard, leader, term, top, snapshot, lag.join(" "));
    }
}
