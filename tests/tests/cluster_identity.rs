//! Who belongs to which cluster: every mix-up gets a sentence that says what is wrong, why and what to do, and the cluster
//! goes on.

use std::time::Duration;

use anyhow::Context;
use flotilla_client::http::Http;
use flotilla_tests::cluster::Cluster;
use flotilla_tests::probe::{LIMIT, agree, copy, ended, list, refusal, tool};
use flotilla_tests::raw::Raw;
use flotilla_tests::scene::eventually;
use flotilla_tests::surgery;

const SOON: Duration = Duration::from_secs(30);

async fn serves(cluster: &Cluster, at: usize, name: &str) -> anyhow::Result<()> {
    let url = cluster.nodes[at].url();
    let http = Http::new(url.clone());
    eventually("the node is ready", LIMIT, async || http.is_ready().await).await?;
    Raw::open(&url, name, name).await.map(|_| ())
}

/// Starts a node that must refuse, and gives the end of its log.
async fn refuses(cluster: &mut Cluster, at: usize) -> anyhow::Result<String> {
    cluster.spawn(at)?;
    let status = ended(cluster, at, SOON).await?;
    let log = cluster.nodes[at].log_tail();
    assert!(!status.success(), "{log}");
    Ok(log)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_of_another_cluster_is_refused_by_name() -> anyhow::Result<()> {
    let mut ours = Cluster::start(3).await?;
    let mut theirs = Cluster::bare(1)?;
    theirs.nodes[0].number = 3;
    theirs.spawn(0)?;
    theirs.init().await?;
    theirs.all_ready().await?;
    // Nodes 1 and 3 are two clusters: no init may mix them.
    let mixed = format!("1={},3={}", ours.nodes[0].peer_addr, theirs.nodes[0].peer_addr);
    let said = refusal(&["init", "--nodes", &mixed]).await?;
    assert!(said.contains("belongs to cluster") && said.contains("empty --data-dir"), "{said}");
    // The wrong node behind a right address.
    let wrong = format!("2={}", ours.nodes[0].peer_addr);
    let said = refusal(&["cluster", "status", "--nodes", &wrong]).await?;
    assert!(said.contains("this is node 1, you asked for node 2"), "{said}");

    // Their directory under our node 3.
    theirs.nodes[0].kill()?;
    ours.nodes[2].kill()?;
    let own = ours.nodes[2].dir.clone();
    ours.nodes[2].dir = theirs.nodes[0].dir.clone();
    ours.nodes[2].args = vec!["--client-url".into(), ours.nodes[2].url()];
    ours.spawn(2)?;
    eventually("our nodes refuse it and say why", SOON, async || {
        ours.nodes[0].log().contains("another cluster") || ours.nodes[2].log().contains("belongs to cluster")
    })
    .await
    .with_context(|| ours.logs())?;
    serves(&ours, 0, "alice").await?;
    ours.nodes[2].kill()?;
    ours.nodes[2].dir = own;
    ours.nodes[2].args.clear();
    ours.spawn(2)?;
    ours.ready(2).await?;
    serves(&ours, 2, "bob").await
}

/// The addresses are the same, the cluster is another: the directory is from before it was made anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directory_of_another_cluster_ends_the_node_with_a_reason() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(3).await?;
    for node in &mut cluster.nodes {
        node.kill()?;
        std::fs::rename(&node.dir, node.dir.with_extension("before"))?;
    }
    for at in 0..3 {
        cluster.spawn(at)?;
    }
    cluster.init().await?;
    cluster.all_ready().await?;
    cluster.nodes[2].kill()?;
    let own = cluster.nodes[2].dir.clone();
    cluster.nodes[2].dir = own.with_extension("before");
    let log = refuses(&mut cluster, 2).await?;
    assert!(log.contains("belongs to cluster") && log.contains("belong to another one"), "{log}");
    cluster.nodes[2].dir = own;
    cluster.spawn(2)?;
    cluster.ready(2).await?;
    serves(&cluster, 2, "bob").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_init_is_refused_and_changes_nothing() -> anyhow::Result<()> {
    let cluster = Cluster::start(2).await?;
    let said = refusal(&["init", "--nodes", &list(&cluster)]).await?;
    assert!(said.contains("already, nothing was changed") && said.contains("cluster status"), "{said}");
    let one = format!("1={}", cluster.nodes[0].peer_addr);
    let said = refusal(&["init", "--nodes", &one]).await?;
    assert!(said.contains("has node 2 too"), "{said}");
    let twice = format!("{one},{one}");
    let fresh = Cluster::bare(1)?;
    drop(fresh);
    let said = refusal(&["init", "--nodes", &twice]).await?;
    assert!(said.contains("node"), "{said}");
    let nobody = refusal(&["init", "--nodes", "1=127.0.0.1:1"]).await?;
    assert!(nobody.contains("cannot reach") && nobody.contains("is it running"), "{nobody}");
    serves(&cluster, 0, "alice").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn init_that_went_half_way_is_finished_by_the_next() -> anyhow::Result<()> {
    let mut cluster = Cluster::bare(3)?;
    cluster.spawn(0)?;
    cluster.spawn(1)?;
    let nodes = list(&cluster);
    eventually("node 1 runs and node 3 does not", SOON, async || {
        refusal(&["init", "--nodes", &nodes]).await.is_ok_and(|said| said.contains(&cluster.nodes[2].peer_addr))
    })
    .await?;
    // A node that gets its plan late, when the others live already: as if its share of the init had been lost.
    let two = nodes.rsplit_once(',').context("three nodes")?.0.to_owned();
    let status = tool(&["init", "--nodes", &two]).await?;
    assert!(status.status.success(), "{status:?}");
    cluster.spawn(2)?;
    let mut said = String::new();
    eventually("a third one cannot be added by init", SOON, async || {
        said = refusal(&["init", "--nodes", &nodes]).await.unwrap_or_default();
        said.contains("node 3 is not in it")
    })
    .await
    .with_context(|| said.clone())?;
    serves(&cluster, 0, "alice").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_in_use_newer_or_foreign_are_refused_with_a_reason() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let dir = cluster.nodes[0].dir.clone();
    let shown = dir.display().to_string();
    let used = refusal(&["inspect", &shown]).await?;
    assert!(used.contains("is in use") && used.contains("cluster status"), "{used}");
    // A second process on one directory, and on one port.
    let other = cluster.nodes[1].dir.clone();
    cluster.nodes[1].kill()?;
    cluster.nodes[1].dir = dir.clone();
    let log = refuses(&mut cluster, 1).await?;
    assert!(log.contains("is already open") && log.contains("stop the other process"), "{log}");
    cluster.nodes[1].dir = other.clone();
    let taken = cluster.nodes[0].peer_addr.clone();
    let own = std::mem::replace(&mut cluster.nodes[1].peer_addr, taken);
    let log = refuses(&mut cluster, 1).await?;
    assert!(log.contains("cannot listen") && log.contains("choose another"), "{log}");
    cluster.nodes[1].peer_addr = own;
    // Another node's.
    cluster.nodes[2].kill()?;
    let third = std::mem::replace(&mut cluster.nodes[2].dir, other.clone());
    let log = refuses(&mut cluster, 2).await?;
    assert!(log.contains("belongs to node 2, not to node 3") && log.contains("its own --data-dir"), "{log}");
    cluster.nodes[2].dir = third;
    // A later version's.
    copy(&other, &other.with_extension("kept"))?;
    surgery::set_layout(&other, "boot", 9)?;
    let log = refuses(&mut cluster, 1).await?;
    assert!(log.contains("layout 9") && log.contains("start the version that wrote it"), "{log}");
    let said = refusal(&["inspect", &other.display().to_string()]).await?;
    assert!(said.contains("layout 9"), "{said}");
    std::fs::remove_dir_all(&other)?;
    std::fs::rename(other.with_extension("kept"), &other)?;
    // No directory at all, and one of something else.
    let nothing = refusal(&["inspect", "/nonexistent"]).await?;
    assert!(nothing.contains("no data directory of flotilla"), "{nothing}");
    let file = cluster.nodes[1].dir.with_extension("file");
    std::fs::write(&file, "x")?;
    let own = std::mem::replace(&mut cluster.nodes[1].dir, file);
    let log = refuses(&mut cluster, 1).await?;
    assert!(log.contains("cannot create the data directory"), "{log}");
    cluster.nodes[1].dir = own;
    for at in [1, 2] {
        cluster.spawn(at)?;
        cluster.ready(at).await?;
    }
    serves(&cluster, 1, "alice").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_of_a_running_node_is_not_let_in() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(3).await?;
    // A copy of node 3 while it stood still, started beside it on ports of its own.
    cluster.nodes[2].pause()?;
    let mut twin = Cluster::bare(1)?;
    copy(&cluster.nodes[2].dir, &twin.nodes[0].dir)?;
    cluster.nodes[2].resume()?;
    twin.nodes[0].number = 3;
    twin.spawn(0)?;
    let status = ended(&mut twin, 0, SOON).await?;
    let log = twin.nodes[0].log_tail();
    assert!(!status.success() && log.contains("runs already, at") && log.contains("Stop one of them"), "{log}");
    assert!(cluster.nodes[2].exited()?.is_none(), "the real one goes on");
    serves(&cluster, 2, "carol").await?;
    assert_eq!(agree(&cluster, LIMIT).await?, 17);
    serves(&cluster, 0, "alice").await?;
    serves(&cluster, 1, "bob").await
}
