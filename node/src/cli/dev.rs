//! `flotilla dev`: a whole local cluster as child processes of this one.
//!
//! Invariant: it stops only what it started, by process id, and leaves nothing behind unless `--data-dir` says so.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use flotilla_client::device::Event;
use flotilla_client::terminal::{Account, Login};
use flotilla_proto::ids::{NodeId, UserId};
use flotilla_proto::limits;
use tokio::time::Instant;

use super::ask::{NodeAddr, ask};
use super::init::{self, InitArgs};
use crate::cluster::wire::AdminRequest;

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

struct Node {
    number: u16,
    child: std::process::Child,
}

/// Stops the children however this function's caller ends.
struct Nodes(Vec<Node>);

impl Nodes {
    /// Asks each child to stop, waits a bounded time, then kills it.
    fn stop(&mut self) {
        for node in &mut self.0 {
            terminate(&node.child);
        }
        let deadline = std::time::Instant::now() + Duration::from_secs(15);
        for node in &mut self.0 {
            loop {
                match node.child.try_wait() {
                    Ok(None) if std::time::Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                    Ok(None) => {
                        eprintln!("node {} did not stop in time, killing it", node.number);
                        let _ = node.child.kill();
                        let _ = node.child.wait();
                        break;
                    }
                    _ => break,
                }
            }
        }
        self.0.clear();
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.stop();
    }
}

fn terminate(child: &std::process::Child) {
    // `kill` is in every base system; a signal needs `unsafe` or another library otherwise.
    let _ = std::process::Command::new("kill").arg("-TERM").arg(child.id().to_string()).stderr(Stdio::null()).status();
}

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
    let mut nodes = Nodes(Vec::new());
    for number in 1..=args.nodes {
        nodes.0.push(Node { number, child: spawn(args, dir, number)? });
    }
    let addrs: Vec<_> = (1..=args.nodes)
        .map(|n| NodeAddr { node: NodeId(n), addr: format!("127.0.0.1:{}", args.peer_port + n - 1) })
        .collect();
    wait_for_ports(&mut nodes, &addrs, dir).await?;
    let init = InitArgs { nodes: addrs.clone(), shards: args.shards, insecure_peers: false, wait: 60 };
    let plan = init::init(&init).await?;
    demo_users(args).await?;
    print_welcome(args, dir, kept, &plan.cluster.to_string(), &nodes, &addrs);
    watch(&mut nodes, dir).await
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

fn spawn(args: &DevArgs, dir: &Path, number: u16) -> anyhow::Result<std::process::Child> {
    let home = dir.join(format!("node{number}"));
    std::fs::create_dir_all(&home).with_context(|| format!("cannot create {}", home.display()))?;
    let log = std::fs::File::options().create(true).append(true).open(home.join("log"))?;
    let binary = std::env::current_exe().context("cannot find the own binary")?;
    let mut command = std::process::Command::new(binary);
    command.args(["start", "--auth", "dev", "--node", &number.to_string(), "--data-dir"]).arg(&home);
    command.args(["--client-addr", &format!("127.0.0.1:{}", args.client_port + number - 1)]);
    command.args(["--peer-addr", &format!("127.0.0.1:{}", args.peer_port + number - 1)]);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // Ctrl-C reaches the whole foreground group; the children wait for this process's word instead.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn().context("cannot start a node")
}

async fn wait_for_ports(nodes: &mut Nodes, addrs: &[NodeAddr], dir: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    for at in addrs {
        while ask(&at.addr, Some(at.node), &AdminRequest::Describe, false).await.is_err() {
            exited(nodes, dir)?;
            if Instant::now() > deadline {
                bail!("node {} does not answer; see {}/node{}/log", at.node, dir.display(), at.node);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

/// An error if a child has ended, with the end of its log.
fn exited(nodes: &mut Nodes, dir: &Path) -> anyhow::Result<()> {
    for node in &mut nodes.0 {
        if let Some(status) = node.child.try_wait()? {
            let log = std::fs::read_to_string(dir.join(format!("node{}", node.number)).join("log")).unwrap_or_default();
            let tail: Vec<_> = log.lines().rev().take(5).collect();
            bail!(
                "node {} ended with {status}:\n{}",
                node.number,
                tail.into_iter().rev().collect::<Vec<_>>().join("\n")
            );
        }
    }
    Ok(())
}

fn print_welcome(args: &DevArgs, dir: &Path, kept: bool, cluster: &str, nodes: &Nodes, addrs: &[NodeAddr]) {
    let urls: Vec<_> = (0..args.nodes).map(|n| format!("http://127.0.0.1:{}", args.client_port + n)).collect();
    let peers: Vec<_> = addrs.iter().map(|at| format!("{}={}", at.node, at.addr)).collect();
    println!("cluster {cluster}: {} nodes, {} shards", args.nodes, args.shards);
    for (node, url) in nodes.0.iter().zip(&urls) {
        println!("  node {}  {url}  pid {}", node.number, node.child.id());
    }
    println!(
        "data in {}{}",
        dir.display(),
        if kept { "" } else { " (deleted at the end; keep it with --data-dir DIR)" }
    );
    println!("\ndemo users (no password, loopback only): alice, bob");
    let binary = std::env::current_exe().map_or("flotilla".to_owned(), |path| path.display().to_string());
    let last = urls.last().cloned().unwrap_or_default();
    println!("chat in two terminals, through different nodes:");
    println!("  {binary} chat --user alice --to bob --url {}", urls[0]);
    println!("  {binary} chat --user bob --to alice --url {last}");
    println!("look at the cluster:\n  {binary} cluster status --nodes {}", peers.join(","));
    println!("kill a node with `kill -9 PID` and go on chatting. Ctrl-C here stops everything.");
}

/// Until Ctrl-C or a termination signal. A node that dies is reported and stays dead: killing one is what this is for.
async fn watch(nodes: &mut Nodes, dir: &Path) -> anyhow::Result<()> {
    let stop = flotilla_raft::seam::signal::stop();
    tokio::pin!(stop);
    let mut timer = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            biased;
            done = &mut stop => { done?; break }
            _ = timer.tick() => {}
        }
        let mut ended = Vec::new();
        for (at, node) in nodes.0.iter_mut().enumerate() {
            if let Some(status) = node.child.try_wait()? {
                println!(
                    "node {} ended with {status}; its log: {}/node{}/log",
                    node.number,
                    dir.display(),
                    node.number
                );
                ended.push(at);
            }
        }
        for at in ended.into_iter().rev() {
            nodes.0.remove(at);
        }
        if nodes.0.is_empty() {
            bail!("all nodes have ended");
        }
    }
    println!("stopping {} nodes", nodes.0.len());
    nodes.stop();
    Ok(())
}
