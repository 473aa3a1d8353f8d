//! `flotilla init`: mints a cluster and has its nodes adopt it. May be repeated after a failure half-way: it then goes on
//! with the plan that some node has adopted already.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use flotilla_machine::command::KeyRow;
use flotilla_proto::ids::ClusterId;
use flotilla_proto::limits;
use tokio::time::Instant;

use super::ask::{NodeAddr, ask};
use crate::auth::{random_u128, wrap};
use crate::cluster::plan;
use crate::cluster::wire::{AdminReply, AdminRequest, Description, Plan};

#[derive(Debug, Clone, Args)]
pub struct InitArgs {
    /// All nodes of the first cluster with their peer addresses: 1=host:port,2=host:port,3=host:port
    #[arg(long, required = true, value_delimiter = ',', value_name = "N=ADDR")]
    pub nodes: Vec<NodeAddr>,
    /// Raft groups that hold conversations and users; cannot be changed later
    #[arg(long, default_value_t = limits::SHARDS_DEFAULT)]
    pub shards: u16,
    /// Speak plain TCP beyond loopback
    #[arg(long)]
    pub insecure_peers: bool,
    /// Return only when every node serves, at most this many seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub wait: u64,
}

pub async fn run(args: InitArgs) -> anyhow::Result<()> {
    let plan = init(&args).await?;
    println!("cluster {} has {} nodes and {} shards", plan.cluster, plan.nodes.len(), plan.placement.len() - 1);
    Ok(())
}

pub async fn init(args: &InitArgs) -> anyhow::Result<Plan> {
    let mut nodes = Vec::new();
    let mut adopted: Option<(Plan, [u8; 32])> = None;
    for at in &args.nodes {
        let description = describe(at, args.insecure_peers).await?;
        if let Some(plan) = description.plan {
            let same = adopted.as_ref().is_none_or(|(known, _)| known.cluster == plan.cluster);
            if !same {
                bail!(
                    "node {} belongs to cluster {}, another node to a different one; a node joins one cluster for ever: give it an empty --data-dir",
                    at.node,
                    plan.cluster
                );
            }
            let secret = description.secret.context("a node holds a plan without its secret")?;
            adopted = Some((plan, secret));
        }
        nodes.push(description.node);
    }
    let (plan, secret) = match adopted {
        Some(known) => known,
        None => mint(nodes, args.shards)?,
    };
    for at in &args.nodes {
        let request = AdminRequest::Adopt { plan: plan.clone(), secret };
        ask(&at.addr, Some(at.node), &request, args.insecure_peers).await?;
    }
    wait_until_ready(args).await?;
    Ok(plan)
}

fn mint(nodes: Vec<flotilla_machine::command::NodeInfo>, shards: u16) -> anyhow::Result<(Plan, [u8; 32])> {
    let mut secret = [0; 32];
    secret[..16].copy_from_slice(&random_u128().to_be_bytes());
    secret[16..].copy_from_slice(&random_u128().to_be_bytes());
    let key = wrap::generate(1);
    let private = key.private.context("a fresh key has its private half")?;
    let wrapped = wrap::wrap(&secret, key.id, &private)?;
    let row = KeyRow { id: key.id, public: key.public, wrapped: wrapped.into() };
    Ok((plan::make(ClusterId(random_u128()), nodes, shards, vec![row])?, secret))
}

async fn describe(at: &NodeAddr, insecure: bool) -> anyhow::Result<Description> {
    match ask(&at.addr, Some(at.node), &AdminRequest::Describe, insecure).await? {
        AdminReply::Description(description) => Ok(description),
        _ => bail!("the node at {} gave an answer of another kind; is it the same version?", at.addr),
    }
}

async fn wait_until_ready(args: &InitArgs) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(args.wait);
    for at in &args.nodes {
        while !describe(at, args.insecure_peers).await.is_ok_and(|d| d.ready) {
            if Instant::now() > deadline {
                bail!("node {} is not ready after {} s; its log says why", at.node, args.wait);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}
