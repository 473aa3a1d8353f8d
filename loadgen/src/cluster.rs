//! The cluster under load: given by URLs, or three nodes started here.
//!
//! Invariant: only processes that were started here are signalled, by their ids, and all of them are gone at the end.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use flotilla_client::http::Http;
use flotilla_client::net::free_local_ports;
use flotilla_proto::ids::{ConvId, NodeId, ShardId};
use flotilla_proto::limits;
use flotilla_proto::slots::SlotTable;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::http::Method;

use crate::open_files;
use crate::process::{self, Usage};

const READY_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(20);

/// How many threads run a node's async work.
const THREADS: &str = "FLOTILLA_THREADS";

/// The share of one node in this machine's processors.
fn threads(nodes: u16) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (processors / usize::from(nodes)).max(1)
}

/// Where the nodes are.
#[derive(Debug, Clone, Args)]
pub struct Place {
    /// Nodes that run already; without it local nodes are started and stopped again
    #[arg(long, global = true, value_delimiter = ',', value_name = "URL")]
    pub urls: Vec<String>,
    /// The `flotilla` binary for local nodes [default: the one beside this program]
    #[arg(long, global = true, value_name = "FILE")]
    pub bin: Option<PathBuf>,
    /// Local nodes
    #[arg(long, global = true, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub nodes: u16,
    /// Shards of the local nodes
    #[arg(long, global = true, default_value_t = limits::SHARDS_DEFAULT, value_parser = clap::value_parser!(u16).range(1..=i64::from(limits::SHARDS_MAX)))]
    pub shards: u16,
    /// Where local nodes keep their data, in a new folder that is deleted at the end [default: the temporary folder]
    #[arg(long, global = true, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
    /// Keep that folder, logs included
    #[arg(long, global = true)]
    pub keep: bool,
}

impl Place {
    /// For so many connections at once.
    pub async fn cluster(&self, connections: usize) -> anyhow::Result<Cluster> {
        if self.urls.is_empty() {
            return self.local(connections, &[]).await;
        }
        open_files::make_room(connections, self)?;
        Ok(Cluster { urls: self.urls.clone(), local: None })
    }

    /// Nodes of this machine, ready, with `env` added to their environment.
    pub async fn local(&self, connections: usize, env: &[(&str, &str)]) -> anyhow::Result<Cluster> {
        ensure!(self.urls.is_empty(), "this works with local nodes only: leave --urls out");
        open_files::make_room(connections, self)?;
        let mut local = Local::bare(self, env)?;
        for at in 0..local.nodes.len() {
            local.spawn(at)?;
        }
        local.init().await?;
        for at in 0..local.nodes.len() {
            local.ready(at).await?;
        }
        local.spread().await?;
        let urls = local.nodes.iter().map(Node::url).collect();
        Ok(Cluster { urls, local: Some(local) })
    }
}

pub struct Cluster {
    pub urls: Vec<String>,
    pub local: Option<Local>,
}

impl Cluster {
    pub fn local(&mut self) -> anyhow::Result<&mut Local> {
        self.local.as_mut().context("this works with local nodes only: leave --urls out")
    }

    /// Nothing where the nodes are not here.
    pub fn pids(&self) -> Pids {
        self.local.as_ref().map(|local| local.pids.clone()).unwrap_or_default()
    }

    /// Empty where the nodes are not here.
    pub fn usage(&self) -> Vec<Usage> {
        let nodes = self.local.iter().flat_map(|local| &local.nodes);
        nodes.filter_map(Node::pid).filter_map(|pid| process::usage(pid).ok()).collect()
    }

    /// The sum of one metric over all nodes.
    pub async fn metric(&self, name: &str) -> f64 {
        let mut sum = 0.0;
        for url in &self.urls {
            let page = Http::new(url).request(Method::GET, "/metrics", None, None).await;
            let page = page.map(|page| page.text()).unwrap_or_default();
            let samples = page.lines().filter(|line| line.starts_with(name));
            sum += samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>();
        }
        sum
    }
}

pub struct Node {
    pub number: u16,
    pub client_addr: String,
    peer_addr: String,
    pub dir: PathBuf,
    pub log: PathBuf,
    child: Option<Child>,
}

/// The processes as they are now; a handle that outlives what it was taken from.
#[derive(Debug, Clone, Default)]
pub struct Pids(Arc<Mutex<Vec<u32>>>);

impl Pids {
    /// One a node, 0 where there is none.
    pub fn all(&self) -> Vec<u32> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub struct Local {
    pub nodes: Vec<Node>,
    pids: Pids,
    bin: PathBuf,
    env: Vec<(String, String)>,
    shards: u16,
    _dir: TempDir,
}

fn binary(place: &Place) -> anyhow::Result<PathBuf> {
    let beside = std::env::current_exe()?.with_file_name("flotilla");
    let path = place.bin.clone().unwrap_or(beside);
    ensure!(path.is_file(), "{} is not there: build it (cargo build --release) or give --bin", path.display());
    Ok(path)
}

impl Local {
    fn bare(place: &Place, env: &[(&str, &str)]) -> anyhow::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("flotilla-bench-").disable_cleanup(place.keep);
        let dir = match &place.scratch {
            Some(scratch) => builder.tempdir_in(scratch)?,
            None => builder.tempdir()?,
        };
        if place.keep {
            eprintln!("data and logs stay in {}", dir.path().display());
        }
        let mut nodes = Vec::new();
        let ports = free_local_ports(2 * usize::from(place.nodes))?;
        for (number, ports) in (1..=place.nodes).zip(ports.chunks_exact(2)) {
            nodes.push(Node {
                number,
                client_addr: format!("127.0.0.1:{}", ports[0]),
                peer_addr: format!("127.0.0.1:{}", ports[1]),
                dir: dir.path().join(format!("node{number}")),
                log: dir.path().join(format!("node{number}.log")),
                child: None,
            });
        }
        let mut env: Vec<_> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        // What the user has set counts.
        if std::env::var_os(THREADS).is_none() {
            env.push((THREADS.to_owned(), threads(place.nodes).to_string()));
        }
        Ok(Self { nodes, pids: Pids::default(), bin: binary(place)?, env, shards: place.shards, _dir: dir })
    }

    /// Starts the process of a node that has none.
    pub fn spawn(&mut self, at: usize) -> anyhow::Result<()> {
        let node = &mut self.nodes[at];
        ensure!(node.child.is_none(), "node {} runs already", node.number);
        let log = File::options().create(true).append(true).open(&node.log)?;
        let child = Command::new(&self.bin)
            .args(["start", "--auth", "dev", "--node", &node.number.to_string(), "--data-dir"])
            .arg(&node.dir)
            .args(["--client-addr", &node.client_addr, "--peer-addr", &node.peer_addr])
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.bin.display()))?;
        node.child = Some(child);
        self.note_pids();
        Ok(())
    }

    /// SIGKILL; returns once the process is gone.
    pub fn kill(&mut self, at: usize) -> anyhow::Result<()> {
        self.nodes[at].kill()?;
        self.note_pids();
        Ok(())
    }

    fn note_pids(&self) {
        let pids = self.nodes.iter().map(|node| node.pid().unwrap_or(0)).collect();
        *self.pids.0.lock().unwrap_or_else(PoisonError::into_inner) = pids;
    }

    fn peers(&self) -> String {
        let list: Vec<String> = self.nodes.iter().map(|n| format!("{}={}", n.number, n.peer_addr)).collect();
        list.join(",")
    }

    async fn flotilla(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.bin);
        command.args(args).stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "flotilla {}: {said}", args.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    async fn init(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        let (peers, shards) = (self.peers(), self.shards.to_string());
        loop {
            match self.flotilla(&["init", "--nodes", &peers, "--shards", &shards]).await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => tokio::time::sleep(POLL * 5).await,
            }
        }
    }

    /// Waits until the node says so on /readyz.
    pub async fn ready(&mut self, at: usize) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        let http = Http::new(self.nodes[at].url());
        while !http.is_ready().await {
            let node = &mut self.nodes[at];
            if let Some(status) = node.exited()? {
                bail!("node {} ended by itself ({status}): {}", node.number, node.log_tail());
            }
            ensure!(Instant::now() < deadline, "node {} is not ready in time: {}", node.number, node.log_tail());
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// `cluster status -o json`, one item a node.
    pub async fn status(&self) -> anyhow::Result<Vec<Value>> {
        let text = self.flotilla(&["cluster", "status", "-o", "json", "--nodes", &self.peers()]).await?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Which node leads each shard, as the nodes see it now.
    pub async fn leaders(&self) -> anyhow::Result<Vec<(ShardId, NodeId)>> {
        let mut leaders = Vec::new();
        for node in self.status().await? {
            for group in node["status"]["groups"].as_array().into_iter().flatten() {
                let (shard, replica, leader) = (&group["shard"], &group["replica"], &group["leader"]);
                if replica == leader
                    && let (Some(shard), Some(node)) = (shard.as_u64(), node["node"].as_u64())
                {
                    leaders.push((ShardId(shard as u16), NodeId(node as u16)));
                }
            }
        }
        Ok(leaders)
    }

    /// Waits until every node leads about as many shards as the others.
    pub async fn spread(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        let nodes = self.nodes.len();
        loop {
            let leaders = self.leaders().await.unwrap_or_default();
            let led = |node: &Node| leaders.iter().filter(|(_, leader)| leader.0 == node.number).count();
            let least = usize::from(self.shards) / nodes;
            if leaders.len() > usize::from(self.shards) && self.nodes.iter().all(|node| led(node) >= least) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "leaders are not spread in time: {leaders:?}");
            tokio::time::sleep(POLL * 10).await;
        }
    }
}

/// The shard of a conversation in a cluster as `init` makes it.
pub fn shard_of(conv: &ConvId) -> Option<ShardId> {
    SlotTable::even(limits::SHARDS_DEFAULT).shard_of_conversation(conv)
}

impl Node {
    pub fn url(&self) -> String {
        format!("http://{}", self.client_addr)
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    fn exited(&mut self) -> anyhow::Result<Option<std::process::ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Err(error) = node.kill() {
                eprintln!("node {} may still run: {error}", node.number);
            }
        }
    }
}
