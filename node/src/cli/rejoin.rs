//! `flotilla cluster rejoin`: takes a node back whose data directory is lost.
//!
//! Its old replicas are retired for ever; the node comes back with new ones, which start empty and follow until they have
//! caught up. Nothing but the cluster itself can tell whether the old data were needed: a group with a majority of lost
//! replicas stays as it is.

use anyhow::{Context, bail};
use clap::Args;
use flotilla_proto::ids::NodeId;

use super::ask::{NodeAddr, ask};
use super::init::describe;
use crate::cluster::wire::AdminRequest;

#[derive(Debug, Clone, Args)]
pub struct RejoinArgs {
    /// Nodes of the cluster, the returning one included, with their peer addresses
    #[arg(long, required = true, value_delimiter = ',', value_name = "N=ADDR")]
    pub nodes: Vec<NodeAddr>,
    /// The node to take back: it runs, and its data directory is empty
    #[arg(long, value_name = "N")]
    pub node: u16,
    /// Speak plain TCP beyond loopback
    #[arg(long)]
    pub insecure_peers: bool,
}

pub async fn run(args: RejoinArgs) -> anyhow::Result<()> {
    let node = NodeId(args.node);
    let at = args.nodes.iter().find(|at| at.node == node).context("--nodes does not name the node of --node")?;
    if let Some(plan) = describe(at, args.insecure_peers).await?.plan {
        bail!("node {node} belongs to cluster {} and holds its data: there is nothing to take back", plan.cluster);
    }
    let mut refusals = Vec::new();
    for living in args.nodes.iter().filter(|at| at.node != node) {
        let request = AdminRequest::Readmit { node };
        match ask(&living.addr, Some(living.node), &request, args.insecure_peers).await {
            Ok(_) => {
                println!("node {node} is back with new replicas; `flotilla cluster status` shows how they catch up");
                return Ok(());
            }
            Err(error) => refusals.push(format!("{error:#}")),
        }
    }
    bail!("no node of the cluster took node {node} back:\n{}", refusals.join("\n"))
}
