//! docs/rest.md as it stands: every shell block runs, in one shell, against a real node, and what comes back has the shape (and,
//! where a text is not `…` nor a number a time, the values) of the block under it.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use flotilla_tests::cluster::Cluster;
use serde_json::Value;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guide_to_rest_does_what_it_says() -> anyhow::Result<()> {
    let guide = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rest.md"))?;
    let steps = steps(&guide)?;
    ensure!(steps.iter().filter(|step| step.wanted.is_some()).count() >= 15, "the guide was not understood");
    let cluster = Cluster::start(1).await?;
    // One shell for all blocks, for they share variables; a mark after each tells their answers apart.
    const MARK: &str = "--- end of block";
    let mut script = String::from("set -e\n");
    for step in &steps {
        script += &step.shell;
        // The guide's own address is that of `flotilla dev`.
        script += &format!("NODE={}\necho\necho '{MARK}'\n", cluster.urls()[0]);
    }
    let mut command = Command::new("bash");
    command.arg("-c").arg(&script).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{said}\n{}{}", String::from_utf8_lossy(&output.stderr), cluster.logs());
    for (step, answer) in steps.iter().zip(said.split(MARK)) {
        let Some(wanted) = &step.wanted else { continue };
        let last = answer.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        let got: Value = serde_json::from_str(last).with_context(|| format!("line {}: {last}", step.line))?;
        if let Some(why) = differs(wanted, &got) {
            anyhow::bail!("docs/rest.md, line {}: {why}\nthe whole answer: {got}", step.line);
        }
    }
    Ok(())
}
