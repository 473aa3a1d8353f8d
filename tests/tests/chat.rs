//! Two users and a group on three real nodes, when nothing breaks.

use flotilla_client::Outcome;
use flotilla_client::device::random_cid;
use flotilla_client::oracle::Demand;
use flotilla_proto::entry::HistoryAccess;
use flotilla_proto::frame::{ErrorCode, History, Target};
use flotilla_proto::ids::{ConvId, Seq};
use flotilla_tests::cluster::Cluster;
use flotilla_tests::probe::{figure, fill};
use flotilla_tests::scene::{Scene, to, user};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_users_talk_through_different_nodes() -> anyhow::Result<()> {
    let cluster = Cluster::start(3).await?;
    let urls = cluster.urls();
    let scene = Scene::new(urls.clone());
    let store = flotilla_client::store::MemStore::new;
    let alice = scene.open_at("alice", 1, urls[..1].to_vec(), store()).await?;
    let phone = scene.open_at("alice", 2, urls[1..2].to_vec(), store()).await?;
    let bob = scene.open_at("bob", 1, urls[2..].to_vec(), store()).await?;
    let conv = ConvId::direct(&user("alice"), &user("bob"));
    for i in 1..=10u64 {
        let accepted = alice.say(to("bob"), &format!("{i}")).await?;
        assert_eq!((&accepted.conv, accepted.seq), (&conv, Seq(2 * i - 1)));
        assert_eq!(bob.say(to("alice"), &format!("re {i}")).await?.seq, Seq(2 * i));
    }
    for seat in [&alice, &phone, &bob] {
        seat.holds(&conv, Seq(20)).await?;
    }
    bob.sees("the body", |s| s.bodies.get(&(conv.clone(), Seq(19))).is_some_and(|b| b == b"10")).await?;

    bob.handle.read(conv.clone(), Seq(20)).await;
    alice.sees("bob's read mark", |s| s.peer_read.get(&conv) == Some(&Seq(20))).await?;

    let edited = alice.handle.edit(conv.clone(), Seq(1), "one, edited").await?;
    assert!(matches!(edited, Outcome::Accepted(_)), "{edited:?}");
    let reacted = bob.handle.react(conv.clone(), Seq(1), "👍", true).await?;
    assert!(matches!(reacted, Outcome::Accepted(_)), "{reacted:?}");
    let forbidden = bob.handle.delete(conv.clone(), Seq(1)).await?;
    assert!(matches!(&forbidden, Outcome::Rejected(e) if e.code == ErrorCode::Forbidden), "{forbidden:?}");
    let deleted = alice.handle.delete(conv.clone(), Seq(1)).await?;
    assert!(matches!(deleted, Outcome::Accepted(_)), "{deleted:?}");
    let late = alice.handle.edit(conv.clone(), Seq(1), "too late").await?;
    assert!(matches!(&late, Outcome::Rejected(e) if e.code == ErrorCode::Conflict), "{late:?}");
    for seat in [&alice, &phone, &bob] {
        seat.holds(&conv, Seq(23)).await?;
    }
    let page = History { conv: conv.clone(), before: Some(Seq(11)), after: None, around: None, limit: Some(5) };
    let page = bob.handle.history(page).await?;
    assert_eq!(page.entries.len(), 5);
    assert!(page.more);
    for seat in [alice, phone, bob] {
        seat.handle.close().await;
    }
    scene.verdict(Demand { accepted_min: 23, delivered_min: 69, ..Demand::default() })?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_lets_in_and_puts_out() -> anyhow::Result<()> {
    let cluster = Cluster::start(3).await?;
    let scene = Scene::new(cluster.urls());
    let alice = scene.open("alice", 1).await?;
    let bob = scene.open("bob", 1).await?;
    let carol = scene.open("carol", 1).await?;
    let dave = scene.open("dave", 1).await?;
    let members = [user("bob"), user("carol")];
    let group = alice.handle.create_group(random_cid(), "crew", &members, HistoryAccess::FromJoin).await?;
    let here = || Target::Conv(group.clone());
    assert_eq!(alice.say(here(), "welcome").await?.seq, Seq(2));
    carol.holds(&group, Seq(2)).await?;
    alice.handle.add_members(random_cid(), &group, &[user("dave")]).await?;
    assert_eq!(bob.say(here(), "hi dave").await?.seq, Seq(4));
    dave.holds(&group, Seq(4)).await?;
    alice.handle.remove_member(random_cid(), &group, &user("carol")).await?;
    assert_eq!(dave.say(here(), "bye carol").await?.seq, Seq(6));
    bob.handle.leave(random_cid(), &group).await?;
    assert_eq!(alice.say(here(), "two left").await?.seq, Seq(8));
    for (seat, last) in [(&alice, 8), (&dave, 8), (&bob, 7), (&carol, 5)] {
        seat.holds(&group, Seq(last)).await?;
    }
    let outside = carol.handle.send(here(), "let me in").await?;
    assert!(matches!(&outside, Outcome::Rejected(e) if e.code == ErrorCode::NotMember), "{outside:?}");
    assert_eq!(carol.position(&group).await, Seq(5), "nothing above the own removal");
    for seat in [alice, bob, carol, dave] {
        seat.handle.close().await;
    }
    scene.verdict(Demand { accepted_min: 8, delivered_min: 25, ..Demand::default() })?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_of_a_busy_conversation_are_written_as_one_and_every_device_has_all_of_it() -> anyhow::Result<()> {
    const SENT: u64 = 200;
    let cluster = Cluster::start(3).await?;
    let urls = cluster.urls();
    let scene = Scene::new(urls.clone());
    let store = flotilla_client::store::MemStore::new;
    let (alice, bob) = (scene.open("alice", 1).await?, scene.open("bob", 1).await?);
    let kept = store();
    let tablet = scene.open_at("bob", 2, urls[2..].to_vec(), kept.clone()).await?;
    tablet.handle.close().await;
    let conv = ConvId::direct(&user("alice"), &user("bob"));
    assert_eq!(fill(&alice, &to("bob"), SENT, 100).await?, Seq(SENT));
    for seat in [&alice, &bob] {
        seat.holds(&conv, Seq(SENT)).await?;
    }
    // It was away all the time: what it is given stands in rows.
    let tablet = scene.open_at("bob", 2, urls[1..2].to_vec(), kept).await?;
    tablet.holds(&conv, Seq(SENT)).await?;
    let mut joined = 0;
    for url in &urls {
        joined += figure(url, "flotilla_heads_joined_total ").await.unwrap_or_default();
    }
    println!("{joined} heads became one with later ones");
    anyhow::ensure!(joined > 0, "each head was written by itself");
    for seat in [alice, bob, tablet] {
        seat.handle.close().await;
    }
    scene.verdict(Demand { accepted_min: SENT, delivered_min: 3 * SENT, ..Demand::default() })?;
    Ok(())
}
