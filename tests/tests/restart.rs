//! Nodes die and come back: one, two, all three. What was accepted is there, and all replicas hold the same.

use flotilla_client::oracle::Demand;
use flotilla_proto::frame::Target;
use flotilla_proto::ids::{ConvId, Seq};
use flotilla_tests::cluster::Cluster;
use flotilla_tests::probe::{LIMIT, agree, fill};
use flotilla_tests::scene::{Scene, Seat, to, user};

async fn exchange(alice: &Seat, bob: &Seat, conv: &ConvId) -> anyhow::Result<Seq> {
    fill(alice, &to("bob"), 40, 20).await?;
    let head = fill(bob, &Target::Conv(conv.clone()), 20, 20).await?;
    alice.holds(conv, head).await?;
    bob.holds(conv, head).await?;
    Ok(head)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_two_and_all_nodes_restart_and_nothing_is_missing() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let scene = Scene::new(cluster.urls());
    let alice = scene.open("alice", 1).await?;
    let bob = scene.open("bob", 2).await?;
    let conv = ConvId::direct(&user("alice"), &user("bob"));
    let mut sent = 60;
    assert_eq!(exchange(&alice, &bob, &conv).await?, Seq(sent));
    for victims in [vec![0], vec![1, 2], vec![0, 1, 2]] {
        scene.note(format!("kill {victims:?}"));
        for at in &victims {
            cluster.nodes[*at].kill()?;
        }
        if victims.len() == 1 {
            sent += 60;
            assert_eq!(exchange(&alice, &bob, &conv).await?, Seq(sent), "two of three go on");
        }
        for at in &victims {
            cluster.spawn(*at)?;
        }
        cluster.all_ready().await?;
        sent += 60;
        assert_eq!(exchange(&alice, &bob, &conv).await?, Seq(sent), "after the restart of {victims:?}");
        assert_eq!(agree(&cluster, LIMIT).await?, 17);
    }
    // A device that was never there finds the conversation through each node.
    for at in 0..3 {
        let store = flotilla_client::store::MemStore::new();
        let url = vec![cluster.nodes[at].url()];
        let late = scene.open_at("alice", 10 + at as u32, url, store).await?;
        let page = flotilla_proto::frame::History {
            conv: conv.clone(),
            before: Some(Seq(11)),
            after: None,
            around: None,
            limit: Some(10),
        };
        assert_eq!(late.handle.history(page).await?.entries.len(), 10);
        late.handle.close().await;
    }
    alice.handle.close().await;
    bob.handle.close().await;
    scene.verdict(Demand { accepted_min: sent, delivered_min: 2 * sent, ..Demand::default() })?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_stop_in_turn_hand_over_and_lose_nothing() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let scene = Scene::new(cluster.urls());
    let alice = scene.open("alice", 1).await?;
    let bob = scene.open("bob", 2).await?;
    let conv = ConvId::direct(&user("alice"), &user("bob"));
    for at in 0..3 {
        exchange(&alice, &bob, &conv).await?;
        let status = cluster.nodes[at].stop(LIMIT).await?;
        assert!(status.success(), "{status}: {}", cluster.nodes[at].log_tail());
        exchange(&alice, &bob, &conv).await?;
        cluster.spawn(at)?;
        cluster.ready(at).await?;
    }
    assert_eq!(agree(&cluster, LIMIT).await?, 17);
    alice.handle.close().await;
    bob.handle.close().await;
    scene.verdict(Demand { accepted_min: 360, delivered_min: 720, ..Demand::default() })?;
    Ok(())
}
