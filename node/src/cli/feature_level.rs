//! `flotilla cluster feature-level`: shows the level of rules that the cluster keeps to, or raises it once all nodes know it.

use anyhow::bail;
use clap::Args;

use super::ask::{NodeAddr, ask};
use crate::cluster::wire::{AdminReply, AdminRequest};

#[derive(Debug, Clone, Args)]
pub struct FeatureLevelArgs {
    /// Nodes to ask, with their peer addresses; the first that answers is enough
    #[arg(long, required = true, value_delimiter = ',', value_name = "N=ADDR")]
    pub nodes: Vec<NodeAddr>,
    /// The level to raise the cluster to, for good: every node must run a version that knows it
    #[arg(value_name = "LEVEL")]
    pub level: Option<u32>,
    /// Speak plain TCP beyond loopback
    #[arg(long)]
    pub insecure_peers: bool,
}

pub async fn run(args: FeatureLevelArgs) -> anyhow::Result<()> {
    let request = args.level.map_or(AdminRequest::Level, |level| AdminRequest::RaiseLevel { level });
    let mut refused = None;
    for at in &args.nodes {
        match ask(&at.addr, Some(at.node), &request, args.insecure_peers).await {
            Ok(AdminReply::Level { known, cluster }) => {
                println!("the cluster is at level {cluster}, node {} knows {known}", at.node);
                return Ok(());
            }
            Ok(_) => bail!("an answer of another kind; is it the same version?"),
            // The first says why; that a later one is not there explains nothing.
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    match refused {
        Some(error) => Err(error),
        None => bail!("no node to ask"),
    }
}
