//! `flotilla cluster digest`: do all replicas of every shard hold the same state? Asks every node for the digest of each
//! of its replicas and compares those that were taken at the same log index.
//!
//! Invariant: different digests at one index are told as such and make the command fail; replicas at different indexes are
//! no answer (writes go on): ask again.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use clap::Args;
use flotilla_proto::ids::{Hash32, ShardId};
use serde::Serialize;

use super::ask::{NodeAddr, ask};
use super::status::Output;
use crate::cluster::wire::{AdminReply, AdminRequest};

#[derive(Debug, Clone, Args)]
pub struct DigestArgs {
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

/// One replica's applied state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Held {
    node: u16,
    index: u64,
    digest: Hash32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Equal,
    /// At different indexes: nothing can be said now.
    Apart,
    Different,
}

#[derive(Debug, Serialize)]
struct Shard {
    shard: ShardId,
    verdict: Verdict,
    replicas: Vec<Held>,
}

pub async fn run(args: DigestArgs) -> anyhow::Result<()> {
    let mut by_shard: BTreeMap<ShardId, Vec<Held>> = BTreeMap::new();
    for at in &args.nodes {
        let request = async |request: AdminRequest| ask(&at.addr, Some(at.node), &request, args.insecure_peers).await;
        let AdminReply::Status(status) = request(AdminRequest::Status).await? else {
            bail!("node {} gave an answer of another kind; is it the same version?", at.node);
        };
        for group in status.groups {
            let shard = group.shard;
            let AdminReply::Digest { index, digest } = request(AdminRequest::Digest { shard })
                .await
                .with_context(|| format!("node {}, shard {shard}", at.node))?
            else {
                bail!("node {} gave an answer of another kind; is it the same version?", at.node);
            };
            by_shard.entry(shard).or_default().push(Held { node: at.node.0, index, digest });
        }
    }
    let shards: Vec<Shard> =
        by_shard.into_iter().map(|(shard, replicas)| Shard { shard, verdict: verdict(&replicas), replicas }).collect();
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&shards)?),
        Output::Table => table(&shards),
    }
    let wrong: Vec<String> =
        shards.iter().filter(|s| s.verdict == Verdict::Different).map(|s| s.shard.to_string()).collect();
    ensure!(wrong.is_empty(), "replicas of these shards hold different state at one index: {}", wrong.join(", "));
    Ok(())
}

fn verdict(replicas: &[Held]) -> Verdict {
    let mut at_index: BTreeMap<u64, Hash32> = BTreeMap::new();
    for held in replicas {
        if *at_index.entry(held.index).or_insert(held.digest) != held.digest {
            return Verdict::Different;
        }
    }
    if at_index.len() <= 1 { Verdict::Equal } else { Verdict::Apart }
}

fn table(shards: &[Shard]) {
    println!("{:<7}{:<11}REPLICAS (NODE:INDEX DIGEST)", "SHARD", "VERDICT");
    for s in shards {
        let verdict = match s.verdict {
            Verdict::Equal => "equal",
            Verdict::Apart => "apart",
            Verdict::Different => "DIFFERENT",
        };
        let replicas: Vec<String> =
            s.replicas.iter().map(|r| format!("{}:{} {:?}", r.node, r.index, r.digest)).collect();
        println!("{:<7}{verdict:<11}{}", s.shard.to_string(), replicas.join("  "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(replicas: &[(u64, u8)], expected: Verdict) {
        let held = |(node, (index, fill)): (usize, &(u64, u8))| Held {
            node: node as u16 + 1,
            index: *index,
            digest: Hash32([*fill; 32]),
        };
        let replicas: Vec<Held> = replicas.iter().enumerate().map(held).collect();
        assert_eq!(verdict(&replicas), expected, "{replicas:?}");
    }

    #[test]
    fn only_digests_of_one_index_are_compared() {
        check(&[(7, 1), (7, 1), (7, 1)], Verdict::Equal);
        check(&[(7, 1), (8, 2), (7, 1)], Verdict::Apart);
        check(&[(7, 1), (8, 2), (7, 3)], Verdict::Different);
        check(&[(7, 1), (7, 2), (7, 1)], Verdict::Different);
    }
}
