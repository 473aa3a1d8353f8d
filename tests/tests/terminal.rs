//! `flotilla chat` in a pipe: two processes exchange lines across a killed node, nothing is lost or doubled.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};

use anyhow::{Context, ensure};
use flotilla_client::device::random_cid;
use flotilla_tests::cluster::{Cluster, binary};
use flotilla_tests::raw::Raw;
use flotilla_tests::scene::{LIMIT, eventually};
use serde_json::json;

struct Plain {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Arc<Mutex<Vec<String>>>,
    /// What a process before it on the same store has printed. The last of it may come again, with the same seq.
    before: BTreeMap<u64, (String, String)>,
}

impl Plain {
    fn start(urls: &str, user: &str, to: &str, store: &Path, more: &[&str]) -> anyhow::Result<Self> {
        let mut child = Command::new(binary()?)
            .args(["chat", "--user", user, "--to", to, "--url", urls, "--store"])
            .arg(store)
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().context("piped")?);
        let kept = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                kept.lock().expect("no reader panics").push(line);
            }
        });
        Ok(Self { child, stdin, lines, before: BTreeMap::new() })
    }

    fn say(&mut self, line: &str) -> anyhow::Result<()> {
        Ok(writeln!(self.stdin.as_mut().context("open")?, "{line}")?)
    }

    /// seq to (from, text), each once by one process.
    fn seen(&self) -> anyhow::Result<BTreeMap<u64, (String, String)>> {
        let mut seen = BTreeMap::new();
        for line in self.lines.lock().expect("no reader panics").iter() {
            let fields: Vec<&str> = line.split('\t').collect();
            ensure!(fields.len() == 7, "seven fields: {line:?}");
            let known = seen.insert(fields[0].parse()?, (fields[3].to_owned(), fields[5].to_owned()));
            ensure!(known.is_none(), "seq {} was printed twice", fields[0]);
        }
        for (seq, line) in &self.before {
            let again = seen.insert(*seq, line.clone());
            ensure!(again.is_none_or(|again| again == *line), "seq {seq} has changed");
        }
        Ok(seen)
    }

    async fn sees(&self, wanted: usize) -> anyhow::Result<()> {
        self.until(&format!("{wanted} lines"), |seen| seen.len() >= wanted).await
    }

    async fn said(&self, wanted: &str) -> anyhow::Result<()> {
        self.until(wanted, |seen| seen.values().any(|(_, text)| text == wanted)).await
    }

    /// What it printed wrongly ends the wait.
    async fn until(&self, what: &str, is: impl Fn(&BTreeMap<u64, (String, String)>) -> bool) -> anyhow::Result<()> {
        let mut seen = Ok(BTreeMap::new());
        eventually(what, LIMIT, async || {
            seen = self.seen();
            seen.as_ref().map_or(true, &is)
        })
        .await?;
        seen.map(drop)
    }

    /// The exit code after the end of its input.
    async fn end(mut self) -> anyhow::Result<Option<i32>> {
        self.stdin.take();
        self.exit().await
    }

    async fn exit(&mut self) -> anyhow::Result<Option<i32>> {
        let mut ended = Ok(None);
        eventually("it ends", LIMIT, async || {
            ended = self.child.try_wait();
            !matches!(ended, Ok(None))
        })
        .await?;
        Ok(ended?.and_then(|status| status.code()))
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pipes_exchange_lines_across_killed_nodes_and_restarts() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let dir = tempfile::tempdir()?;
    let urls = cluster.urls().join(",");
    let mut alice = Plain::start(&urls, "alice", "bob", &dir.path().join("alice"), &[])?;
    let mut bob = Plain::start(&urls, "bob", "alice", &dir.path().join("bob"), &[])?;
    for n in 0..60 {
        alice.say(&format!("a {n}\tand a tab"))?;
        bob.say(&format!("b {n}"))?;
        if n == 20 {
            alice.sees(10).await?;
            cluster.nodes[0].kill()?;
        }
        if n == 40 {
            // The receiving process dies without warning and comes back on its store. What it was given to type has gone out.
            bob.said("b 40").await?;
            bob.child.kill()?;
            bob.exit().await?;
            let before = bob.seen()?;
            bob = Plain::start(&urls, "bob", "alice", &dir.path().join("bob"), &["--follow"])?;
            bob.before = before;
            cluster.spawn(0)?;
        }
    }
    alice.sees(120).await?;
    bob.sees(120).await?;
    let seen = alice.seen()?;
    assert_eq!(seen, bob.seen()?, "both see the same");
    assert!(seen.keys().copied().eq(1..=120), "no hole, nothing doubled");
    for (who, mark) in [("alice", "a"), ("bob", "b")] {
        let texts: Vec<&str> = seen.values().filter(|(from, _)| from == who).map(|(_, text)| text.as_str()).collect();
        let tail = if who == "alice" { "\\tand a tab" } else { "" };
        let wanted: Vec<String> = (0..60).map(|n| format!("{mark} {n}{tail}")).collect();
        assert_eq!(texts, wanted, "in the order in which they were typed");
    }
    assert_eq!(alice.end().await?, Some(0), "all was accepted");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exit_code_tells_a_refused_line_and_one_without_an_answer() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let dir = tempfile::tempdir()?;
    let urls = cluster.urls().join(",");
    let mut nobody = Plain::start(&urls, "alice", "not-there", &dir.path().join("a"), &[])?;
    nobody.say("hello?")?;
    assert_eq!(nobody.end().await?, Some(3), "there is no such user");
    // Two users, then no quorum.
    for user in ["alice", "bob"] {
        let mut one = Plain::start(&urls, user, user, &dir.path().join(user), &[])?;
        one.say("a note to myself")?;
        assert_eq!(one.end().await?, Some(0));
    }
    for at in [0, 1] {
        cluster.nodes[at].kill()?;
    }
    let store = dir.path().join("alice");
    let mut waits = Plain::start(&urls, "alice", "bob", &store, &["--wait", "2"])?;
    waits.say("kept")?;
    assert_eq!(waits.end().await?, Some(4), "not known");
    for at in [0, 1] {
        cluster.spawn(at)?;
    }
    cluster.all_ready().await?;
    // The same store sends it, once.
    let later = Plain::start(&urls, "alice", "bob", &store, &["--follow"])?;
    later.sees(1).await?;
    let texts: Vec<String> = later.seen()?.into_values().map(|(_, text)| text).collect();
    assert_eq!(texts, ["kept"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_names_people_reads_a_channel_and_is_told_that_it_may_not_write_there() -> anyhow::Result<()> {
    let cluster = Cluster::start(3).await?;
    let dir = tempfile::tempdir()?;
    let urls = cluster.urls();
    // Somebody has an account once it has been here.
    drop(Raw::open(&urls[0], "bob", "raw bob").await?);
    let mut ann = Raw::open(&urls[0], "ann", "raw ann").await?;
    let make = json!({"method": "POST groups", "key": random_cid(), "params": {"name": "news", "members": ["bob"], "kind": "channel"}});
    let made = ann.ask(1, "call", make).await?;
    let channel = made["d"]["conv"].as_str().with_context(|| format!("{made}"))?.to_owned();
    let urls = urls.join(",");
    let mut editor = Plain::start(&urls, "ann", &channel, &dir.path().join("ann"), &["--follow"])?;
    let mut reader = Plain::start(&urls, "bob", &channel, &dir.path().join("bob"), &[])?;
    editor.say("hello @bob, and @Bob. again; ann@example.com is nobody")?;
    reader.said("hello @bob, and @Bob. again; ann@example.com is nobody").await?;
    let lines = reader.lines.lock().expect("no reader panics").clone();
    let named: Vec<&str> = lines.iter().filter_map(|line| line.split('\t').nth(6)).collect();
    assert_eq!(named.last(), Some(&"bob"), "the seventh field: {lines:?}");
    assert!(named[..named.len() - 1].iter().all(|names| names.is_empty()), "{lines:?}");
    let list = json!({"method": "GET conversations", "params": {"order": "activity", "previews": true}});
    let mut bob = Raw::open(&cluster.urls()[1], "bob", "raw bob 2").await?;
    let page = bob.ask(2, "call", list).await?;
    assert_eq!(page["d"]["convs"][0]["mentions"]["count"], 1, "{page}");
    reader.say("may I?")?;
    assert_eq!(reader.end().await?, Some(3), "readers do not write");
    Ok(())
}
