//! `flotilla dev`: a whole local cluster as child processes of this one.
//!
//! Invariant: it stops only what it started, by process id, and leaves nothing behind unless `--data-dir` says so.

pub mod control;
pub mod nodes;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use flotilla_client::device::Event;
use flotilla_client::terminal::{Account, Login};
use flotilla_proto::ids::{NodeId, UserId};
use flotilla_proto::limits;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::ask::{NodeAddr, ask};
use super::init::{self, InitArgs};
use crate::cluster::wire::AdminRequest;
use crate::gateway::shared::DevControl;
use control::{Control, Order};
use nodes::Nodes;

#[derive(Debug, Clone, Args)]
pub struct DevArgs {
    /// How many nodes, 1 to 9
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub nodes: u16,
    /// Keep the data here; without it the data is deleted at the end
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// First port for clients; node N takes this + N - 1
    #[arg(long, default_value_t = 4001)]
    pub client_port: u16,
    /// First port between nodes
    #[arg(long, default_value_t = 5001)]
    pub peer_port: u16,
    /// Raft groups that hold conversations and users
    #[arg(long, default_value_t = limits::SHARDS_DEFAULT)]
    pub shards: u16,
}

const DEMO_USERS: [&str; 2] = ["alice", "bob"];

pub async fn run(args: DevArgs) -> anyhow::Result<()> {
    let kept = args.data_dir.is_some();
    let dir = match &args.data_dir {
        Some(dir) => dir.clone(),
        None => std::env::temp_dir().join(format!("flotilla-dev-{}", std::process::id())),
    };
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let result = serve(&args, &dir, kept).await;
    if !kept && let Err(error) = std::fs::remove_dir_all(&dir) {
        eprintln!("cannot delete {}: {error}", dir.display());
    }
    result
}

async fn serve(args: &DevArgs, dir: &Path, kept: bool) -> anyhow::Result<()> {
    let listener = flotilla_raft::seam::net::bind("127.0.0.1:0").await?;
    let own = DevControl {
        url: format!("http://{}", listener.local_addr()?),
        key: format!("{:032x}", crate::auth::random_u128()),
    };
    let mut nodes = Nodes::new(args, dir, format!("{} {}", own.url, own.key));
    nodes.start_all()?;
    let addrs: Vec<_> = (1..=args.nodes)
        .map(|n| NodeAddr { node: NodeId(n), addr: format!("127.0.0.1:{}", args.peer_port + n - 1) })
        .collect();
    wait_for_ports(&mut nodes, &addrs).await?;
    let init = InitArgs {
        nodes: addrs.clone(),
        shards: args.shards,
        insecure_peers: false,
        wait: 60,
        feature_level: limits::FEATURE_LEVEL,
    };
    let plan = init::init(&init).await?;
    demo_users(args).await?;
    print_welcome(args, dir, kept, &plan.cluster.to_string(), &nodes, &addrs);
    let (orders, waiting) = mpsc::channel(control::ORDERS_MAX);
    let control = Control {
        key: own.key,
        origins: origins(args),
        urls: (1..=args.nodes).map(|n| nodes.url(n)).collect(),
        peers: addrs,
        slots: plan.slots,
        orders,
    };
    let server = tokio::spawn(control::serve(listener, Arc::new(control)));
    let result = watch(&mut nodes, waiting).await;
    server.abort();
    result
}

/// Where pages of this cluster come from.
fn origins(args: &DevArgs) -> Vec<String> {
    let ports = (0..args.nodes).map(|n| args.client_port + n);
    ports.flat_map(|port| ["127.0.0.1", "localhost"].map(|host| format!("http://{host}:{port}"))).collect()
}

/// Two users that exist before anyone writes to them: a demo user is made by the first session that it opens.
async fn demo_users(args: &DevArgs) -> anyhow::Result<()> {
    for name in DEMO_USERS {
        let urls = vec![format!("http://127.0.0.1:{}", args.client_port)];
        let account = Account { urls, user: UserId::parse(name)?, login: Login::Demo, dir: None };
        let (handle, mut events) = account.open().await?;
        let caught_up = async {
            while let Some(event) = events.recv().await {
                if matches!(event, Event::CaughtUp { .. }) {
                    return true;
                }
            }
            false
        };
        let made = tokio::time::timeout(Duration::from_secs(10), caught_up).await;
        handle.close().await;
        if !matches!(made, Ok(true)) {
            bail!("cannot make the demo user {name}: the cluster took no session in time");
        }
    }
    Ok(())
}

async fn wait_for_ports(nodes: &mut Nodes, addrs: &[NodeAddr]) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    for at in addrs {
        while ask(&at.addr, Some(at.node), &AdminRequest::Describe, false).await.is_err() {
            nodes.check()?;
            if Instant::now() > deadline {
                bail!("node {} does not answer; see {}", at.node, nodes.log(at.node.0).display());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

fn print_welcome(args: &DevArgs, dir: &Path, kept: bool, cluster: &str, nodes: &Nodes, addrs: &[NodeAddr]) {
    let urls: Vec<_> = (0..args.nodes).map(|n| format!("http://127.0.0.1:{}", args.client_port + n)).collect();
    let peers: Vec<_> = addrs.iter().map(|at| format!("{}={}", at.node, at.addr)).collect();
    println!("cluster {cluster}: {} nodes, {} shards", args.nodes, args.shards);
    for (node, url) in nodes.all.iter().zip(&urls) {
        println!("  node {}  {url}  pid {}", node.number, node.pid().unwrap_or_default());
    }
    println!(
        "data in {}{}",
        dir.display(),
        if kept { "" } else { " (deleted at the end; keep it with --data-dir DIR)" }
    );
    println!("\nchat with yourself in two browser windows; the strip at the bottom kills and restarts nodes:");
    println!("  {}/?as=alice", urls[0]);
    println!("  {}/?as=bob", urls.last().unwrap_or(&urls[0]));
    println!("demo users (no password, loopback only): alice, bob");
    let binary = std::env::current_exe().map_or("flotilla".to_owned(), |path| path.display().to_string());
    let last = urls.last().cloned().unwrap_or_default();
    println!("or chat in two terminals, through different nodes:");
    println!("  {binary} chat --user alice --to bob --url {}", urls[0]);
    println!("  {binary} chat --user bob --to alice --url {last}");
    println!("look at the cluster:\n  {binary} cluster status --nodes {}", peers.join(","));
    println!("kill a node with `kill -9 PID` and go on chatting. Ctrl-C here stops everything.");
}

/// Until Ctrl-C or a termination signal. A node that dies is reported and stays dead: killing one is what this is for. The page
/// may order to kill one and to start it again.
async fn watch(nodes: &mut Nodes, mut orders: mpsc::Receiver<Order>) -> anyhow::Result<()> {
    let stop = flotilla_raft::seam::signal::stop();
    tokio::pin!(stop);
    let mut timer = tokio::time::interval(Duration::from_millis(500));
    let mut killed_by_page = false;
    loop {
        tokio::select! {
            biased;
            done = &mut stop => { done?; break }
            Some(order) = orders.recv() => killed_by_page |= follow(nodes, order),
            _ = timer.tick() => {}
        }
        for (number, status) in nodes.ended()? {
            println!("node {number} ended with {status}; its log: {}", nodes.log(number).display());
        }
        // One that was killed from the page can be started from there.
        if nodes.all.iter().all(|n| n.pid().is_none()) && !killed_by_page {
            bail!("all nodes have ended");
        }
    }
    println!("stopping the nodes");
    nodes.stop();
    Ok(())
}

/// True: a node was killed. Whoever asked may be gone.
fn follow(nodes: &mut Nodes, order: Order) -> bool {
    match order {
        Order::List(tx) => {
            let _ = tx.send(nodes.all.iter().map(|n| (n.number, n.pid())).collect());
            false
        }
        Order::Kill(number, tx) => {
            let result = nodes.kill(number).map_err(|e| format!("{e:#}"));
            let killed = result.as_ref().is_ok_and(|changed| *changed);
            if killed {
                println!("node {number} was killed from the page");
            }
            let _ = tx.send(result);
            killed
        }
        Order::Start(number, tx) => {
            let result = nodes.start(number).map_err(|e| format!("{e:#}"));
            if result.as_ref().is_ok_and(|changed| *changed) {
                println!("node {number} was started from the page");
            }
            let _ = tx.send(result);
            false
        }
    }
}
