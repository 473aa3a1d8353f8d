//! `flotilla init`: mints a cluster and has its nodes adopt it. May be repeated after a failure half-way: it then goes on
//! with the plan that some node has adopted already.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use flotilla_machine::command::{KeyRow, NodeInfo, Settings};
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
    /// Rules of an older version, so that nodes of it can be part of the cluster; `cluster feature-level` raises them
    #[arg(long, default_value_t = limits::FEATURE_LEVEL, hide = true, value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::FEATURE_LEVEL)))]
    pub feature_level: u32,
}

pub async fn run(args: InitArgs) -> anyhow::Result<()> {
    let plan = init(&args).await?;
    println!("cluster {} has {} nodes and {} shards", plan.cluster, plan.nodes.len(), plan.placement.len() - 1);
    Ok(())
}

pub async fn init(args: &InitArgs) -> anyhow::Result<Plan> {
    let mut nodes = Vec::new();
    for at in &args.nodes {
        nodes.push((at, describe(at, args.insecure_peers).await?));
    }
    let plan = match one_plan(&nodes)? {
        Some(plan) => go_on(args, &nodes, plan).await?,
        None => {
            let infos = nodes.iter().map(|(_, d)| d.node.clone()).collect();
            let (plan, secret) = mint(infos, args.shards, Settings::at_level(args.feature_level))?;
            adopt(args, &plan, secret).await?;
            plan
        }
    };
    wait_until_ready(args).await?;
    Ok(plan)
}

async fn adopt(args: &InitArgs, plan: &Plan, secret: [u8; 32]) -> anyhow::Result<()> {
    for at in &args.nodes {
        let request = AdminRequest::Adopt { plan: plan.clone(), secret, returning: None };
        ask(&at.addr, Some(at.node), &request, args.insecure_peers).await?;
    }
    Ok(())
}

/// The plan that some of these nodes have adopted.
fn one_plan(nodes: &[(&NodeAddr, Description)]) -> anyhow::Result<Option<Plan>> {
    let mut known: Option<(&NodeAddr, &Plan)> = None;
    for (at, description) in nodes {
        let Some(plan) = &description.plan else { continue };
        match known {
            Some((first, mine)) if mine.cluster != plan.cluster => bail!(
                "node {} belongs to cluster {}, node {} to cluster {}; a node joins one cluster for ever: give it an empty --data-dir",
                first.node,
                mine.cluster,
                at.node,
                plan.cluster
            ),
            _ => known = Some((at, plan)),
        }
    }
    Ok(known.map(|(_, plan)| plan.clone()))
}

/// An earlier `init` went half-way, or all the way.
async fn go_on(args: &InitArgs, nodes: &[(&NodeAddr, Description)], plan: Plan) -> anyhow::Result<Plan> {
    let cluster = plan.cluster;
    // A node that is not asked might be the one that knows that the cluster lives.
    let unnamed = plan.nodes.iter().find(|n| args.nodes.iter().all(|at| at.node != n.node));
    if let Some(node) = unnamed {
        bail!(
            "cluster {cluster} exists and has node {} too: name all of its nodes, or start others with empty directories",
            node.node
        );
    }
    if let Some((at, _)) = nodes.iter().find(|(at, _)| plan.nodes.iter().all(|n| n.node != at.node)) {
        bail!("cluster {cluster} exists, and node {} is not in it; adding nodes comes in a later version", at.node);
    }
    let living = nodes.iter().find(|(_, d)| d.plan.is_some() && d.lives);
    let Some((living, knows)) = living else {
        let secret = nodes.iter().find_map(|(_, d)| d.secret).context("a node holds a plan without its secret")?;
        adopt(args, &plan, secret).await?;
        return Ok(plan);
    };
    let empty: Vec<_> = nodes.iter().filter(|(_, d)| d.plan.is_none()).map(|(at, _)| *at).collect();
    if empty.is_empty() {
        bail!(
            "these nodes are cluster {cluster} already, nothing was changed; look at it with `flotilla cluster status`"
        );
    }
    for at in empty {
        if knows.boots.iter().any(|(node, boot)| *node == at.node && *boot > 0) {
            bail!(
                "cluster {cluster} lives and has seen node {}, whose data directory is empty now. If its data are lost for good, take it back with `flotilla cluster rejoin --node {}`",
                at.node,
                at.node
            );
        }
        let request = AdminRequest::Readmit { node: at.node };
        ask(&living.addr, Some(living.node), &request, args.insecure_peers).await?;
    }
    Ok(plan)
}

fn mint(nodes: Vec<NodeInfo>, shards: u16, settings: Settings) -> anyhow::Result<(Plan, [u8; 32])> {
    let mut secret = [0; 32];
    secret[..16].copy_from_slice(&random_u128().to_be_bytes());
    secret[16..].copy_from_slice(&random_u128().to_be_bytes());
    let key = wrap::generate(1);
    let private = key.private.context("a fresh key has its private half")?;
    let wrapped = wrap::wrap(&secret, key.id, &private)?;
    let row = KeyRow { id: key.id, public: key.public, wrapped: wrapped.into() };
    Ok((plan::make(ClusterId(random_u128()), nodes, shards, settings, vec![row])?, secret))
}

pub(super) async fn describe(at: &NodeAddr, insecure: bool) -> anyhow::Result<Description> {
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
