//! A local cluster of real processes: everything that knows the binary's flags is in this file.
//!
//! Invariant: only processes that were started here are signalled, and all of them are gone when the cluster is dropped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use flotilla_client::http::Http;
use flotilla_client::net::free_local_ports;
use tempfile::TempDir;
use tokio::time::Instant;

/// From the start of the last process until every node serves.
const READY_LIMIT: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(50);

pub struct Node {
    pub number: u16,
    pub client_addr: String,
    pub peer_addr: String,
    pub dir: PathBuf,
    /// Flags beside the usual ones.
    pub args: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

pub struct Cluster {
    pub nodes: Vec<Node>,
    bin: PathBuf,
    /// Kept, with the logs, when `FLOTILLA_KEEP` is set.
    _dir: Option<TempDir>,
}

/// `FLOTILLA_BIN`, or `flotilla` beside (or one above) the test executable.
pub fn binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("FLOTILLA_BIN") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "FLOTILLA_BIN is {}, which is no file", path.display());
        return Ok(path);
    }
    let exe = std::env::current_exe()?;
    let near = exe.ancestors().skip(1).take(2).map(|dir| dir.join("flotilla")).find(|path| path.is_file());
    near.context("no `flotilla` beside the tests: build it first (cargo build -p flotilla-node) or set FLOTILLA_BIN")
}

impl Cluster {
    /// `size` processes, one cluster, ready.
    pub async fn start(size: u16) -> anyhow::Result<Self> {
        let mut cluster = Self::bare(size)?;
        for at in 0..cluster.nodes.len() {
            cluster.spawn(at)?;
        }
        cluster.init().await?;
        cluster.all_ready().await?;
        Ok(cluster)
    }

    /// Directories and ports; nothing runs yet.
    pub fn bare(size: u16) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("flotilla-test-").tempdir()?;
        let root = dir.path().to_owned();
        let mut nodes = Vec::new();
        let ports = free_local_ports(2 * usize::from(size))?;
        for (number, ports) in (1..=size).zip(ports.chunks_exact(2)) {
            nodes.push(Node {
                number,
                client_addr: format!("127.0.0.1:{}", ports[0]),
                peer_addr: format!("127.0.0.1:{}", ports[1]),
                dir: root.join(format!("node-{number}")),
                args: Vec::new(),
                log: root.join(format!("node-{number}.log")),
                child: None,
            });
        }
        let keep = std::env::var_os("FLOTILLA_KEEP").is_some();
        let _dir = if keep {
            eprintln!("data and logs stay in {}", dir.keep().display());
            None
        } else {
            Some(dir)
        };
        Ok(Self { nodes, bin: binary()?, _dir })
    }

    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Node::url).collect()
    }

    /// Starts the process of a node that has none.
    pub fn spawn(&mut self, at: usize) -> anyhow::Result<()> {
        let bin = self.bin.clone();
        let node = &mut self.nodes[at];
        ensure!(node.child.is_none(), "node {} runs already", node.number);
        let log = File::options().create(true).append(true).open(&node.log)?;
        let child = Command::new(&bin)
            .arg("start")
            .args(["--node", &node.number.to_string()])
            .arg("--data-dir")
            .arg(&node.dir)
            .args(["--client-addr", &node.client_addr, "--peer-addr", &node.peer_addr, "--auth", "dev"])
            .args(&node.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", bin.display()))?;
        node.child = Some(child);
        Ok(())
    }

    /// Makes one cluster of the running nodes; tried again while they come up.
    pub async fn init(&mut self) -> anyhow::Result<()> {
        self.init_with(&[]).await
    }

    pub async fn init_with(&mut self, args: &[&str]) -> anyhow::Result<()> {
        let list: Vec<String> = self.nodes.iter().map(|n| format!("{}={}", n.number, n.peer_addr)).collect();
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            let mut command = Command::new(&self.bin);
            command.args(["init", "--nodes", &list.join(",")]).args(args).stdin(Stdio::null());
            let output = tokio::task::spawn_blocking(move || command.output()).await??;
            if output.status.success() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("init: {}{}", String::from_utf8_lossy(&output.stderr), self.logs());
            }
            tokio::time::sleep(POLL * 4).await;
        }
    }

    /// What a tool of the binary says about all nodes, whatever its verdict.
    pub async fn tool(&self, args: &[&str]) -> anyhow::Result<std::process::Output> {
        let list: Vec<String> = self.nodes.iter().map(|n| format!("{}={}", n.number, n.peer_addr)).collect();
        let mut command = Command::new(&self.bin);
        command.args(args).args(["--nodes", &list.join(",")]).stdin(Stdio::null());
        Ok(tokio::task::spawn_blocking(move || command.output()).await??)
    }

    pub async fn all_ready(&mut self) -> anyhow::Result<()> {
        for at in 0..self.nodes.len() {
            self.ready(at).await?;
        }
        Ok(())
    }

    /// Waits until the node says so on /readyz.
    pub async fn ready(&mut self, at: usize) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        let http = Http::new(self.nodes[at].url());
        while !http.is_ready().await {
            let node = &mut self.nodes[at];
            if let Some(status) = node.exited()? {
                bail!("node {} ended by itself: {status}\n{}", node.number, node.log_tail());
            }
            if Instant::now() >= deadline {
                bail!("node {} is not ready in time\n{}", node.number, node.log_tail());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// The end of every node's log, for the message of a failed test.
    pub fn logs(&self) -> String {
        self.nodes.iter().map(|n| format!("\n--- node {}\n{}", n.number, n.log_tail())).collect()
    }
}

impl Node {
    pub fn url(&self) -> String {
        format!("http://{}", self.client_addr)
    }

    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// SIGKILL; returns once the process is gone.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGTERM, then waits for the exit; its status.
    pub async fn stop(&mut self, limit: Duration) -> anyhow::Result<std::process::ExitStatus> {
        self.signal("TERM")?;
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.exited()? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "node {} did not stop in time\n{}", self.number, self.log_tail());
            tokio::time::sleep(POLL).await;
        }
    }

    /// SIGSTOP: alive and silent.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal("STOP")
    }

    /// SIGCONT.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal("CONT")
    }

    fn signal(&self, name: &str) -> anyhow::Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        let status = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status()?;
        ensure!(status.success(), "cannot signal node {}", self.number);
        Ok(())
    }

    /// Its exit status if it ended by itself.
    pub fn exited(&mut self) -> anyhow::Result<Option<std::process::ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // SIGKILL ends a paused process too.
            if let Err(error) = node.kill() {
                eprintln!("node {} may still run: {error}", node.number);
            }
        }
    }
}
