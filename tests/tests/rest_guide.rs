//! The guides for who writes a client, as they stand.
//!
//! docs/rest.md: every shell block runs, in one shell, against a real node, and what comes back has the shape (and,
//! where a text is not `…` nor a number a time, the values) of the block under it. docs/protocol.md: every dialogue is had over one
//! WebSocket, and a frame that it shows comes with the fields that it shows.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use flotilla_tests::cluster::Cluster;
use flotilla_tests::raw::Raw;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::Instant;

/// A command block, and what shall be the last line that it prints.
struct Step {
    line: usize,
    shell: String,
    wanted: Option<Value>,
}

fn steps(guide: &str) -> anyhow::Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    let mut block: Option<(&str, usize, String)> = None;
    for (at, text) in guide.lines().enumerate() {
        block = match (block, text.strip_prefix("```")) {
            (None, Some(kind)) => Some((kind, at + 1, String::new())),
            (None, None) => None,
            (Some((kind, line, content)), Some(_)) => {
                match kind {
                    "sh" => steps.push(Step { line, shell: content, wanted: None }),
                    "json" => {
                        let wanted = serde_json::from_str(&content).with_context(|| format!("line {line}"))?;
                        steps.last_mut().context("an answer without a command")?.wanted = Some(wanted);
                    }
                    other => anyhow::bail!("line {line}: a block of {other:?} is not run"),
                }
                None
            }
            (Some((kind, line, content)), None) => Some((kind, line, content + text + "\n")),
        };
    }
    Ok(steps)
}

/// Times and ids differ from run to run; everything else is as the guide says.
fn differs(wanted: &Value, got: &Value) -> Option<String> {
    const TIMES_FROM: u64 = 1_000_000_000_000;
    match (wanted, got) {
        (Value::Object(wanted), Value::Object(got)) => {
            let names = |map: &serde_json::Map<String, Value>| {
                let mut names: Vec<String> = map.keys().cloned().collect();
                names.sort();
                names
            };
            if names(wanted) != names(got) {
                return Some(format!("fields {:?}, not {:?}", names(got), names(wanted)));
            }
            wanted.iter().find_map(|(name, value)| differs(value, &got[name]).map(|why| format!("{name}: {why}")))
        }
        (Value::Array(wanted), Value::Array(got)) if wanted.len() == got.len() => {
            wanted.iter().zip(got).find_map(|(wanted, got)| differs(wanted, got))
        }
        (Value::String(wanted), Value::String(got)) if wanted == "…" && !got.is_empty() => None,
        (Value::Number(wanted), Value::Number(got))
            if wanted.as_u64().is_some_and(|n| n > TIMES_FROM) && got.as_u64().is_some_and(|n| n > TIMES_FROM) =>
        {
            None
        }
        _ if wanted == got => None,
        _ => Some(format!("{got}, not {wanted}")),
    }
}

/// One shell for all blocks, for they share variables.
struct Shell {
    shell: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Shell {
    /// Ends an answer.
    const MARK: &str = "--- end of block";
    /// An inbox and the list of conversations follow a message, they do not come with it.
    const FOLLOWS_WITHIN: Duration = Duration::from_secs(30);

    /// More than the longest wait in a block, on a busy machine.
    const BLOCK_MAX: Duration = Duration::from_secs(60);

    async fn start(node: &str) -> anyhow::Result<Self> {
        let mut command = Command::new("bash");
        command.arg("-e").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
        let mut shell = command.spawn()?;
        let (input, output) = (shell.stdin.take().context("a pipe")?, shell.stdout.take().context("a pipe")?);
        let mut shell = Self { shell, input, output: BufReader::new(output).lines() };
        shell.run("exec 2>&1\n").await?;
        shell.run(&format!("readonly ADDRESS={node}\n")).await?;
        Ok(shell)
    }

    /// The last line that it says.
    async fn run(&mut self, block: &str) -> anyhow::Result<String> {
        // The guide's own address is that of `flotilla dev`. What a block runs shall not read the next block.
        let text = format!("{{\n{block}\n}} </dev/null\nNODE=$ADDRESS\necho\necho '{}'\n", Self::MARK);
        self.input.write_all(text.as_bytes()).await?;
        let mut last = String::new();
        loop {
            match self.output.next_line().await? {
                Some(line) if line == Self::MARK => return Ok(last),
                Some(line) if line.trim().is_empty() => {}
                Some(line) => last = line,
                None => anyhow::bail!("the shell ended, {}, after: {last}", self.shell.wait().await?),
            }
        }
    }

    async fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        let until = Instant::now() + Self::FOLLOWS_WITHIN;
        // Of what only reads, another look does no harm and may find what had yet to follow.
        let reads = !step.shell.contains(" -d ") && !step.shell.contains(" -X ");
        loop {
            let answer = tokio::time::timeout(Self::BLOCK_MAX, self.run(&step.shell));
            let last = answer.await.context("the block does not end")??;
            let Some(wanted) = &step.wanted else { return Ok(()) };
            let got: Value = serde_json::from_str(&last).with_context(|| last.clone())?;
            match differs(wanted, &got) {
                None => return Ok(()),
                Some(_) if reads && Instant::now() < until => tokio::time::sleep(Duration::from_millis(100)).await,
                Some(why) => anyhow::bail!("{why}\nthe whole answer: {got}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guide_to_rest_does_what_it_says() -> anyhow::Result<()> {
    let guide = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rest.md"))?;
    let steps = steps(&guide)?;
    ensure!(steps.iter().filter(|step| step.wanted.is_some()).count() >= 15, "the guide was not understood");
    let cluster = Cluster::start(1).await?;
    let mut shell = Shell::start(&cluster.urls()[0]).await?;
    for step in &steps {
        shell.step(step).await.with_context(|| format!("docs/rest.md, line {}\n{}", step.line, cluster.logs()))?;
    }
    Ok(())
}

/// Lines to say (`>`) and to hear (`<`), with their place in the guide.
fn dialogue(guide: &str) -> anyhow::Result<Vec<(usize, bool, Value)>> {
    let mut lines = Vec::new();
    let mut inside = false;
    for (at, line) in guide.lines().enumerate() {
        match line.strip_prefix("```") {
            Some(kind) => inside = !inside && kind == "ws",
            None if inside => {
                let (says, frame) = line.split_once(' ').context("a line of a dialogue")?;
                let frame = serde_json::from_str(frame).with_context(|| format!("line {}", at + 1))?;
                lines.push((at + 1, says == ">", frame));
            }
            None => {}
        }
    }
    Ok(lines)
}

/// The part of an answer that the guide shows.
fn shown(wanted: &Value, got: &Value) -> Value {
    match (wanted, got) {
        (Value::Object(wanted), Value::Object(got)) => {
            let part = |name: &String| got.get(name).map(|value| (name.clone(), shown(&wanted[name], value)));
            wanted.keys().filter_map(part).collect()
        }
        (Value::Array(wanted), Value::Array(got)) if wanted.len() == got.len() => {
            wanted.iter().zip(got).map(|(wanted, got)| shown(wanted, got)).collect()
        }
        _ => got.clone(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guide_to_the_protocol_does_what_it_says() -> anyhow::Result<()> {
    let guide = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md"))?;
    let lines = dialogue(&guide)?;
    ensure!(lines.len() >= 15, "the guide was not understood");
    let cluster = Cluster::start(1).await?;
    // Bob is somebody once he has been here.
    drop(Raw::open(&cluster.urls()[0], "bob", "bob 1").await?);
    let mut socket = Raw::dial(&cluster.urls()[0], Some("flotilla.v1.json")).await?;
    let mut seen: Vec<Value> = Vec::new();
    let mut conv = String::new();
    for (line, says, frame) in lines {
        if says {
            socket.text(frame.to_string().replace("CONV", &conv)).await?;
            continue;
        }
        // What comes by itself may have come before an answer.
        let fits = |got: &Value| differs(&frame, &shown(&frame, got)).is_none();
        if let Some(at) = seen.iter().position(fits) {
            seen.remove(at);
            continue;
        }
        let answer = async {
            loop {
                let got = socket.until(|_| true).await?;
                if let Some(name) = got["d"]["conv"].as_str() {
                    conv = name.to_owned();
                }
                if fits(&got) {
                    return anyhow::Ok(());
                }
                seen.push(got);
            }
        };
        answer.await.with_context(|| format!("docs/protocol.md, line {line}"))?;
    }
    Ok(())
}
