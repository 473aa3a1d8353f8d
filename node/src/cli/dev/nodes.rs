//! The node processes of a local cluster: start, stop, kill, start again.
//!
//! Invariant: only processes that were started here are signalled, by process id, and all of them are gone in the end.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use super::DevArgs;

const STOP_LIMIT: Duration = Duration::from_secs(15);

pub struct Node {
    pub number: u16,
    /// None: it has ended, or was killed.
    child: Option<Child>,
}

impl Node {
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }
}

/// Stops the children however their owner ends.
pub struct Nodes {
    pub all: Vec<Node>,
    args: DevArgs,
    dir: PathBuf,
    /// What the children are told of this process: the text of a `DevControl`.
    control: String,
}

impl Nodes {
    pub fn new(args: &DevArgs, dir: &Path, control: String) -> Self {
        let all = (1..=args.nodes).map(|number| Node { number, child: None }).collect();
        Self { all, args: args.clone(), dir: dir.to_owned(), control }
    }

    pub fn url(&self, number: u16) -> String {
        format!("http://127.0.0.1:{}", self.args.client_port + number - 1)
    }

    /// The share of one node in this machine's processors: threads that take them from each other's nodes only cost switches.
    fn threads(&self) -> usize {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        (processors / usize::from(self.args.nodes)).max(1)
    }

    pub fn log(&self, number: u16) -> PathBuf {
        self.dir.join(format!("node{number}")).join("log")
    }

    pub fn start_all(&mut self) -> anyhow::Result<()> {
        (1..=self.args.nodes).try_for_each(|number| self.start(number).map(drop))
    }

    /// False: it runs already.
    pub fn start(&mut self, number: u16) -> anyhow::Result<bool> {
        let at = self.at(number)?;
        if self.all[at].child.is_some() {
            return Ok(false);
        }
        self.all[at].child = Some(self.spawn(number)?);
        Ok(true)
    }

    /// Like `kill -9`: nothing is handed over, nothing is written. False: it does not run.
    pub fn kill(&mut self, number: u16) -> anyhow::Result<bool> {
        let at = self.at(number)?;
        let Some(mut child) = self.all[at].child.take() else { return Ok(false) };
        child.kill()?;
        child.wait()?;
        Ok(true)
    }

    fn at(&self, number: u16) -> anyhow::Result<usize> {
        self.all.iter().position(|n| n.number == number).with_context(|| format!("there is no node {number}"))
    }

    fn spawn(&self, number: u16) -> anyhow::Result<Child> {
        let home = self.dir.join(format!("node{number}"));
        std::fs::create_dir_all(&home).with_context(|| format!("cannot create {}", home.display()))?;
        let log = std::fs::File::options().create(true).append(true).open(home.join("log"))?;
        let binary = std::env::current_exe().context("cannot find the own binary")?;
        // Pages are opened under this name too.
        let origins: Vec<_> =
            (1..=self.args.nodes).map(|n| format!("http://localhost:{}", self.args.client_port + n - 1)).collect();
        let mut command = Command::new(binary);
        command.args(["start", "--auth", "dev", "--node", &number.to_string(), "--data-dir"]).arg(&home);
        command.args(["--client-addr", &format!("127.0.0.1:{}", self.args.client_port + number - 1)]);
        command.args(["--peer-addr", &format!("127.0.0.1:{}", self.args.peer_port + number - 1)]);
        command.args(["--origins", &origins.join(",")]);
        // What the user has set for all of them counts.
        if std::env::var_os("FLOTILLA_THREADS").is_none() {
            command.args(["--threads", &self.threads().to_string()]);
        }
        // Not as a flag: everybody on this machine can read those.
        command.env("FLOTILLA_DEV_CONTROL", &self.control);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // Ctrl-C reaches the whole foreground group; the children wait for this process's word instead.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.spawn().context("cannot start a node")
    }

    /// Those that have ended by themselves since the last look, and how.
    pub fn ended(&mut self) -> anyhow::Result<Vec<(u16, std::process::ExitStatus)>> {
        let mut ended = Vec::new();
        for node in &mut self.all {
            let Some(child) = &mut node.child else { continue };
            if let Some(status) = child.try_wait()? {
                node.child = None;
                ended.push((node.number, status));
            }
        }
        Ok(ended)
    }

    /// An error if a child has ended, with the end of its log.
    pub fn check(&mut self) -> anyhow::Result<()> {
        let Some((number, status)) = self.ended()?.into_iter().next() else { return Ok(()) };
        let log = std::fs::read_to_string(self.log(number)).unwrap_or_default();
        let tail: Vec<_> = log.lines().rev().take(5).collect();
        bail!("node {number} ended with {status}:\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
    }

    /// Asks each child to stop, waits a bounded time, then kills it.
    pub fn stop(&mut self) {
        for child in self.all.iter().filter_map(|n| n.child.as_ref()) {
            terminate(child);
        }
        let deadline = std::time::Instant::now() + STOP_LIMIT;
        for node in &mut self.all {
            let Some(mut child) = node.child.take() else { continue };
            loop {
                match child.try_wait() {
                    Ok(None) if std::time::Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                    Ok(None) => {
                        eprintln!("node {} did not stop in time, killing it", node.number);
                        let _ = child.kill();
                        let _ = child.wait();
                        break;
                    }
                    _ => break,
                }
            }
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.stop();
    }
}

fn terminate(child: &Child) {
    // `kill` is in every base system; a signal needs `unsafe` or another library otherwise.
    let _ = Command::new("kill").arg("-TERM").arg(child.id().to_string()).stderr(Stdio::null()).status();
}
