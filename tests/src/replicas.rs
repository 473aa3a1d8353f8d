//! Do all replicas of every shard hold the same state? Asked through `flotilla cluster digest`, until all are at one index.

use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::time::Instant;

use crate::cluster::Cluster;

const POLL: Duration = Duration::from_millis(500);

/// Returns the number of shards of which every node holds an equal replica; differing digests at one index are an error at
/// once, replicas that do not come to one index within `limit` too.
pub async fn agree(cluster: &Cluster, limit: Duration) -> anyhow::Result<usize> {
    let deadline = Instant::now() + limit;
    loop {
        let output = cluster.tool(&["cluster", "digest", "-o", "json"]).await?;
        let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let shards: Vec<Value> = serde_json::from_str(&text).unwrap_or_default();
        if shards.iter().any(|s| s["verdict"] == "different") {
            bail!("replicas differ: {text}{error}");
        }
        let whole = |s: &&Value| s["replicas"].as_array().is_some_and(|r| r.len() == cluster.nodes.len());
        let equal = shards.iter().filter(|s| s["verdict"] == "equal").filter(whole).count();
        if output.status.success() && equal == shards.len() && equal > 0 {
            return Ok(equal);
        }
        if Instant::now() >= deadline {
            bail!("replicas are not at one index within {limit:?}: {text}{error}");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The node that leads a shard, by what a majority of the nodes that answer say.
pub async fn leader(cluster: &Cluster, shard: u64) -> anyhow::Result<usize> {
    let output = cluster.tool(&["cluster", "status", "-o", "json"]).await?;
    let nodes: Vec<Value> = serde_json::from_slice(&output.stdout).context("not a status")?;
    for (at, node) in nodes.iter().enumerate() {
        let groups = node["status"]["groups"].as_array();
        let here = groups.into_iter().flatten().find(|g| g["shard"].as_u64() == Some(shard));
        if here.is_some_and(|g| !g["leader"].is_null() && g["leader"] == g["replica"]) {
            return Ok(at);
        }
    }
    bail!("nobody leads shard {shard} now")
}
