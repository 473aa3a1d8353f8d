//! A disk that fills up: client writes are refused before it is full, reads go on, and it recovers when there is room.
//! Needs root, for a small file system of its own; says so and passes otherwise.

use std::path::{Path, PathBuf};
use std::process::Command;

use flotilla_client::device::random_cid;
use flotilla_client::http::Http;
use flotilla_tests::cluster::Cluster;
use flotilla_tests::probe::{LIMIT, groups, status};
use flotilla_tests::raw::Raw;
use flotilla_tests::scene::eventually;
use serde_json::{Value, json};

/// A file system in memory, unmounted when dropped.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path, mib: u32) -> Option<Self> {
        std::fs::create_dir_all(at).ok()?;
        let size = format!("size={mib}m");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output().ok()?;
        mount.status.success().then(|| Self(at.to_owned()))
    }

    /// Leaves about this much room.
    fn fill(&self, leave_mib: u64) -> anyhow::Result<()> {
        let df = Command::new("df").args(["--output=avail", "-B1M"]).arg(&self.0).output()?;
        let text = String::from_utf8_lossy(&df.stdout).into_owned();
        let free: u64 = text.lines().nth(1).unwrap_or("0").trim().parse()?;
        std::fs::write(self.0.join("ballast"), vec![1u8; (free.saturating_sub(leave_mib) << 20) as usize])?;
        Ok(())
    }

    fn free(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.0.join("ballast"))?)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Its processes may still be ending: lazily.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn send(body: &str) -> Value {
    json!({"to": "alice", "cid": random_cid(), "kind": "message", "body": body})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_refuses_writes_keeps_serving_reads_and_recovers() -> anyhow::Result<()> {
    let mut cluster = Cluster::bare(1)?;
    let Some(small) = Small::mount(&cluster.nodes[0].dir, 320) else {
        println!("skipped: mounting a small file system needs root");
        return Ok(());
    };
    cluster.nodes[0].args = vec!["--disk-reserve-mib".into(), "96".into()];
    cluster.spawn(0)?;
    cluster.init().await?;
    cluster.all_ready().await?;
    let url = cluster.nodes[0].url();
    let mut alice = Raw::open(&url, "alice", "store").await?;
    let late = Raw::open(&url, "alice", "late").await?;
    let first = alice.ask(1, "send", send("AAAA")).await?;
    assert_eq!(first["t"], "accepted", "{first}");

    small.fill(64)?;
    let mut id = 1;
    let mut last = Value::Null;
    eventually("writes are refused", LIMIT, async || {
        id += 1;
        last = alice.ask(id, "send", send("AAAA")).await.unwrap_or_default();
        last["t"] == "error"
    })
    .await?;
    assert_eq!((&last["d"]["code"], &last["d"]["retryable"]), (&json!("overloaded"), &json!(true)), "{last}");
    // Reads, sessions and acks go on, for as long as the refusal lasts.
    let conv = first["d"]["conv"].clone();
    let page = alice.ask(10_001, "history", json!({"conv": conv, "limit": 5})).await?;
    assert!(page["d"]["entries"].as_array().is_some_and(|e| !e.is_empty()), "{page}");
    alice.say(&json!({"t": "ack", "d": [{"conv": conv, "seq": 1}]})).await?;
    // A device that is known comes back; a new one is refused like any other write.
    drop(late);
    let mut late = Raw::open(&url, "alice", "late").await?;
    let page = late.ask(1, "history", json!({"conv": conv, "limit": 5})).await?;
    assert!(page["d"]["entries"].as_array().is_some_and(|e| !e.is_empty()), "{page}");
    assert!(Http::new(url.clone()).is_ready().await, "the node stays ready");

    small.free()?;
    let retried = send("BBBB");
    let mut id = 20_000;
    eventually("writes are taken again", LIMIT, async || {
        id += 1;
        last = alice.ask(id, "send", retried.clone()).await.unwrap_or_default();
        last["t"] == "accepted"
    })
    .await?;
    assert_eq!(last["d"]["dup"], false, "the refused ones had no effect: {last}");

    // A node that dies while the disk is nearly full comes back to everything that was accepted.
    small.fill(64)?;
    eventually("writes are refused again", LIMIT, async || {
        id += 1;
        last = alice.ask(id, "send", send("CCCC")).await.unwrap_or_default();
        last["t"] == "error"
    })
    .await?;
    cluster.nodes[0].kill()?;
    cluster.spawn(0)?;
    cluster.ready(0).await?;
    let mut again = Raw::open(&url, "alice", "store").await?;
    let page = again.ask(1, "history", json!({"conv": conv, "limit": 200})).await?;
    let entries = page["d"]["entries"].as_array().cloned().unwrap_or_default();
    assert!(entries.iter().any(|e| e["body"] == "BBBB"), "{page}");
    drop(cluster);
    drop(small);
    Ok(())
}

/// Groups that a node leads, as it says itself.
async fn led(cluster: &Cluster, at: usize) -> Option<usize> {
    let all = status(cluster).await.ok()?;
    let groups = groups(all.get(at)?);
    (!groups.is_empty())
        .then(|| groups.iter().filter(|g| !g["leader"].is_null() && g["leader"] == g["replica"]).count())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_with_a_full_disk_hands_its_groups_to_others_until_it_has_room() -> anyhow::Result<()> {
    let mut cluster = Cluster::bare(3)?;
    let Some(small) = Small::mount(&cluster.nodes[0].dir, 320) else {
        println!("skipped: mounting a small file system needs root");
        return Ok(());
    };
    cluster.nodes[0].args = vec!["--disk-reserve-mib".into(), "96".into()];
    for at in 0..3 {
        cluster.spawn(at)?;
    }
    cluster.init().await?;
    cluster.all_ready().await?;
    let mut alice = Raw::open(&cluster.urls()[0], "alice", "store").await?;
    eventually("it leads some", LIMIT, async || led(&cluster, 0).await.is_some_and(|n| n > 0)).await?;
    small.fill(64)?;
    eventually("it leads none", LIMIT, async || led(&cluster, 0).await == Some(0)).await?;
    // Its own clients notice nothing: the leaders have room.
    let answer = alice.ask(1, "send", send("AAAA")).await?;
    assert_eq!(answer["t"], "accepted", "{answer}");
    small.free()?;
    eventually("it leads again", LIMIT, async || led(&cluster, 0).await.is_some_and(|n| n > 0)).await?;
    drop(cluster);
    drop(small);
    Ok(())
}
