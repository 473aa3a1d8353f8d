//! Two instances of one device: who holds the session, and who gives up.

use flotilla_client::store::{MemStore, install_of};
use flotilla_tests::cluster::Cluster;
use flotilla_tests::raw::Raw;
use flotilla_tests::scene::{LIMIT, Scene, to};

/// A client that died while its hello waited for a leader can take the session from the one that was started after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_comes_back_from_its_predecessor_once_and_yields_to_a_living_copy() -> anyhow::Result<()> {
    let cluster = Cluster::start(3).await?;
    let scene = Scene::new(cluster.urls());
    let mut store = MemStore::new();
    let install = install_of(&mut store).await?;
    let alice = scene.open_at("alice", 1, cluster.urls(), store).await?;

    let mut predecessor = Raw::open(&cluster.urls()[0], "alice", &install).await?;
    assert_eq!(predecessor.closed().await?, 4504, "the device is back");
    alice.say(to("alice"), "still me").await?;

    let mut copy = Raw::open(&cluster.urls()[1], "alice", &install).await?;
    alice.until("gives up", LIMIT, |s| s.stopped.is_some()).await?;
    copy.say(&serde_json::json!({"t": "sync", "id": 7, "d": {}})).await?;
    assert_eq!(copy.answer(7).await?["t"], "reply", "the copy keeps the session");
    Ok(())
}
