//! Conversations whose heads are written to nobody's row: a channel of 150 members, a group that grows past the threshold, and
//! a cluster that knows neither until an operator raises its level.

use anyhow::ensure;
use flotilla_client::device::random_cid;
use flotilla_client::oracle::Demand;
use flotilla_client::store::MemStore;
use flotilla_proto::entry::HistoryAccess;
use flotilla_proto::frame::Target;
use flotilla_proto::ids::{ConvId, Seq, UserId};
use flotilla_proto::limits;
use flotilla_proto::slots::SlotTable;
use flotilla_tests::cluster::Cluster;
use flotilla_tests::replicas;
use flotilla_tests::scene::{LIMIT, Scene, Seat, eventually, user};
use futures::future::try_join_all;

const MEMBERS: usize = 150;
/// Every third is away while the channel is written to.
const AWAY: usize = 3;
/// Fewer than the threshold, and more than it with those who join later.
const FEW: usize = limits::PUSH_MEMBERS_MAX as usize - 5;
const MORE: usize = 10;
const AT_ONCE: usize = 25;

struct Member {
    name: String,
    store: MemStore,
    seat: Option<Seat>,
}

impl Member {
    async fn opens(&mut self, scene: &Scene, at: usize) -> anyhow::Result<()> {
        // Spread over the nodes, and free to go to another one.
        let mut urls = scene.urls.clone();
        urls.rotate_left(at % scene.urls.len());
        self.seat = Some(scene.open_at(&self.name, 1, urls, self.store.clone()).await?);
        Ok(())
    }

    async fn closes(&mut self) {
        if let Some(seat) = self.seat.take() {
            seat.handle.close().await;
        }
    }

    fn seat(&self) -> anyhow::Result<&Seat> {
        self.seat.as_ref().ok_or_else(|| anyhow::anyhow!("{} is away", self.name))
    }
}

async fn all_open(scene: &Scene, members: &mut [Member]) -> anyhow::Result<()> {
    let mut closed: Vec<(usize, &mut Member)> =
        members.iter_mut().enumerate().filter(|(_, member)| member.seat.is_none()).collect();
    for part in closed.chunks_mut(AT_ONCE) {
        try_join_all(part.iter_mut().map(|(at, member)| member.opens(scene, *at))).await?;
    }
    Ok(())
}

/// The node that leads the conversation's shard.
async fn leads(cluster: &Cluster, conv: &ConvId) -> anyhow::Result<usize> {
    let shard = SlotTable::even(limits::SHARDS_DEFAULT).shard_of_conversation(conv);
    let shard = shard.ok_or_else(|| anyhow::anyhow!("a whole table"))?;
    let mut led = None;
    eventually("the shard has a leader", LIMIT, async || {
        led = replicas::leader(cluster, u64::from(shard.0)).await.ok();
        led.is_some()
    })
    .await?;
    led.ok_or_else(|| anyhow::anyhow!("just seen"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_of_150_loses_nothing_while_members_come_and_go_and_its_leader_dies() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let scene = Scene::new(cluster.urls());
    let mut members: Vec<Member> =
        (0..MEMBERS).map(|n| Member { name: format!("m{n:03}"), store: MemStore::new(), seat: None }).collect();
    all_open(&scene, &mut members).await?;

    let names: Vec<UserId> = members.iter().map(|member| user(&member.name)).collect();
    let owner = members[0].seat()?;
    let channel = owner.handle.create_channel(random_cid(), "news", &names[1..], HistoryAccess::FromJoin).await?;
    let group = owner.handle.create_group(random_cid(), "crowd", &names[1..FEW], HistoryAccess::FromJoin).await?;
    let (to_channel, to_group) = (Target::Conv(channel.clone()), Target::Conv(group.clone()));
    owner.say(to_channel.clone(), "welcome").await?;
    owner.say(to_group.clone(), "still few").await?;
    for member in &members {
        member.seat()?.holds(&channel, Seq(2)).await?;
    }

    for member in members.iter_mut().skip(1).step_by(AWAY) {
        member.closes().await;
    }
    let owner = members[0].seat()?;
    let mut last = (Seq::ZERO, Seq::ZERO);
    let mut down = None;
    for number in 0..30 {
        match number {
            5 => {
                // The group goes over to pull mode.
                owner.handle.add_members(random_cid(), &group, &names[FEW..FEW + MORE]).await?;
            }
            10 => {
                let at = leads(&cluster, &channel).await?;
                scene.note(format!("kill node {}", at + 1));
                cluster.nodes[at].kill()?;
                down = Some(at);
            }
            20 => {
                if let Some(at) = down.take() {
                    cluster.spawn(at)?;
                    cluster.ready(at).await?;
                }
            }
            _ => {}
        }
        let news = owner.say(to_channel.clone(), &format!("news {number}")).await?;
        // Somebody who is there says something too.
        let said = members[3].seat()?.say(to_group.clone(), &format!("talk {number}")).await?;
        ensure!(news.seq > last.0 && said.seq > last.1, "seqs go up: {last:?}, then {} and {}", news.seq, said.seq);
        last = (news.seq, said.seq);
    }
    ensure!(last.0 == Seq(32), "create, welcome and thirty news: {}", last.0);

    all_open(&scene, &mut members).await?;
    for (at, member) in members.iter().enumerate() {
        let seat = member.seat()?;
        seat.holds(&channel, last.0).await?;
        if at < FEW + MORE {
            seat.holds(&group, last.1).await?;
        }
    }
    // Nobody writes in a channel but its owner and admins.
    ensure!(members[4].seat()?.say(to_channel, "me too").await.is_err(), "a member writes in a channel");
    replicas::agree(&cluster, LIMIT).await?;
    for member in &mut members {
        member.closes().await;
    }
    scene.verdict(Demand { accepted_min: 60, delivered_min: 30 * MEMBERS as u64, ..Demand::default() })?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_an_older_level_has_no_channels_until_it_is_raised_with_all_nodes_there() -> anyhow::Result<()> {
    let mut cluster = Cluster::bare(3)?;
    for at in 0..3 {
        cluster.spawn(at)?;
    }
    cluster.init_with(&["--feature-level", "2"]).await?;
    cluster.all_ready().await?;
    let scene = Scene::new(cluster.urls());
    let (ann, bob) = (scene.open("ann", 1).await?, scene.open("bob", 1).await?);
    let members = [user("bob")];
    let make = async || ann.handle.create_channel(random_cid(), "news", &members, HistoryAccess::FromJoin).await;
    ensure!(make().await.is_err(), "level 2 knows no channels");

    let raise = ["cluster", "feature-level", "3"];
    cluster.nodes[2].kill()?;
    let refused = cluster.tool(&raise).await?;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && why.contains("every node must say that it knows the level"), "{why}");
    cluster.spawn(2)?;
    cluster.ready(2).await?;
    let done = cluster.tool(&raise).await?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    ensure!(done.status.success() && said.contains("the cluster is at level 3"), "{said}{:?}", done.stderr);

    // The shards take it one after the other.
    let mut made = None;
    eventually("a channel can be made", LIMIT, async || {
        made = make().await.ok();
        made.is_some()
    })
    .await?;
    let channel = made.ok_or_else(|| anyhow::anyhow!("just made"))?;
    let news = ann.say(Target::Conv(channel.clone()), "hello").await?;
    bob.holds(&channel, news.seq).await?;

    // And on to the newest, where read marks can be hidden.
    let hide = async || ann.handle.call("PATCH me/privacy", None, serde_json::json!({"hide_read": true})).await;
    let why = hide().await.err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(why.contains("`flotilla cluster feature-level`"), "who asks is told what to do: {why}");
    let newest = cluster.tool(&["cluster", "feature-level", "5"]).await?;
    ensure!(newest.status.success(), "{}", String::from_utf8_lossy(&newest.stderr));
    eventually("read marks can be hidden", LIMIT, async || hide().await.is_ok()).await?;
    scene.verdict(Demand::default())?;
    Ok(())
}
