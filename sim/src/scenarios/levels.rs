//! A cluster of an older version whose operator raises the feature level.

use flotilla_client::device::message;
use flotilla_machine::control::tables::ControlSettingsTable;
use flotilla_machine::meta::SettingsTable;
use flotilla_machine::table::{self, View};
use flotilla_node::cli::ask::ask;
use flotilla_node::cluster::wire::AdminRequest;
use flotilla_proto::entry::What;
use flotilla_proto::ids::{NodeId, ShardId};
use flotilla_proto::limits;
use flotilla_raft::keys;
use serde_json::{Value, json};

use super::kit::{must, shown};
use super::{Fail, Scenario, Stage, Told, story};
use crate::checkers::World;
use crate::options::Disk;

pub const ALL: fn() -> Vec<Scenario> = || {
    vec![Scenario {
        level: Some(OLD),
        ..story(
            "level_raised_while_a_node_is_away_and_the_leader_changes",
            "a level is raised only when every node knows it, and then everywhere, whoever dies: what it brings works, also for who comes back",
            raised,
        )
    }]
};

/// Without what the story uses after the raise, whatever level is the newest.
const OLD: u32 = limits::PULL_LEVEL - 1;
const ADDRESS: &str = "ann@example.com";

/// The level that a node's state of a shard is at.
fn level(world: &World, node: u16, shard: ShardId) -> Option<u32> {
    let read = world.disk(node)?.written();
    let prefix = keys::state(shard, world.held.get(&(node, shard))?.pointer.generation);
    let view = View { read: &*read, prefix: &prefix };
    let settings = match shard {
        ShardId::CONTROL => table::get::<ControlSettingsTable>(&view, &()),
        _ => table::get::<SettingsTable>(&view, &()),
    };
    settings.ok().flatten().map(|settings| settings.feature_level)
}

impl Stage {
    /// On these nodes, all shards but the control group: whether each is at the newest level.
    fn is_raised(&self, nodes: &[usize]) -> bool {
        let shards: Vec<ShardId> = (1..=self.cluster.shards).map(ShardId).collect();
        let of = |world: &World, node: usize, shard| level(world, self.cluster.seats[node].number, shard);
        self.cluster.watch.with_world(|world| {
            nodes.iter().all(|node| shards.iter().all(|shard| of(world, *node, *shard) == Some(limits::FEATURE_LEVEL)))
        })
    }

    /// As `flotilla cluster feature-level` asks a node.
    async fn raises_level(&self, node: usize) -> anyhow::Result<()> {
        let (addr, id) = (self.cluster.seats[node].peer_addr(), NodeId(self.cluster.seats[node].number));
        let request = AdminRequest::RaiseLevel { level: limits::FEATURE_LEVEL };
        self.on_probe(async move { ask(&addr, Some(id), &request, true).await }).await.map(|_| ())
    }
}

fn raised(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob) = (stage.person("alice").await?, stage.person("bob").await?);
        let group = alice.makes_group(&[&bob]).await?;
        let control = stage.leader(ShardId::CONTROL).await?;
        let others: Vec<usize> = (0..stage.cluster.seats.len()).filter(|node| *node != control).collect();
        for person in [&alice, &bob] {
            stage.moves(person, others[0]).await?;
        }
        // Nothing of the new level before it.
        must(alice.makes_channel(&[&bob]).await.is_err(), "a channel is made below the level of channels")?;
        let asked = alice.web(others[0], "POST", "/v1/auth/otp", json!({ "address": ADDRESS })).await;
        must(asked.is_err(), format!("a code is issued below the level of codes: {asked:?}"))?;
        let early = alice.sends_what(&group, naming(&bob.user)).await?;
        stage.gets(&bob, &group, early.seq).await?;

        // A node that is down, and one that nobody hears, cannot say what they know.
        stage.kill(others[1], Disk::Kept);
        must(stage.raises_level(control).await.is_err(), "the level is raised while a node is down")?;
        stage.restart(others[1]);
        stage.until("liveness: the node is back", async || stage.status(others[1]).await.is_some()).await?;
        stage.cut_off(others[1]);
        must(stage.raises_level(control).await.is_err(), "the level is raised while a node is cut off")?;
        stage.heal(others[1]);
        must(!stage.is_raised(&[others[0]]), "a level that was refused is raised")?;

        // Its leader dies at the instant at which it has applied it, and others have to spread it.
        let control = stage.leader(ShardId::CONTROL).await?;
        let others: Vec<usize> = (0..stage.cluster.seats.len()).filter(|node| *node != control).collect();
        for person in [&alice, &bob] {
            stage.moves(person, others[0]).await?;
        }
        let (cluster, number) = (stage.cluster.clone(), stage.cluster.seats[control].number);
        let dies = stage.at(control, "state.replied_before_effects", move || {
            let applied = cluster.watch.with_world(|world| level(world, number, ShardId::CONTROL));
            let is_raised = applied == Some(limits::FEATURE_LEVEL);
            if is_raised {
                cluster.kill(control, Disk::Lost, 0);
            }
            is_raised
        });
        // Links have to be there again first; what the last attempt is answered nobody hears.
        stage
            .until("liveness: the level can be raised", async || {
                dies.has_happened() || stage.raises_level(control).await.is_ok() || dies.has_happened()
            })
            .await?;
        dies.happens().await?;
        shown(!stage.is_raised(&others), "every shard had heard of it before its leader died")?;
        // The cluster is at the level from here on, whoever has not heard of it: what was refused before waits now, and is not
        // refused for good.
        let channel = alice.makes_channel(&[&bob]).await?;
        stage.until("liveness: the next leader spreads the level", async || stage.is_raised(&others)).await?;

        // What it brings, while the old leader is still away.
        let news = alice.sends(&channel, "news").await?;
        stage.gets(&bob, &channel, news.seq).await?;
        let named = alice.sends_what(&group, naming(&bob.user)).await?;
        stage.gets(&bob, &group, named.seq).await?;
        let path = "/v1/conversations?order=activity&previews=true";
        let counted = async |node: usize| {
            let list = bob.web(node, "GET", path, Value::Null).await.unwrap_or_default();
            let convs = list["convs"].as_array().cloned().unwrap_or_default();
            let found = convs.into_iter().find(|conv| conv["conv"] == group.as_str());
            found.is_some_and(|conv| conv["mentions"] == json!({ "count": 1, "first": named.seq }))
        };
        stage.until("who is named is told so, from the level on", async || counted(others[0]).await).await?;
        let asked = alice.web(others[0], "POST", "/v1/auth/otp", json!({ "address": ADDRESS })).await;
        must(asked.is_ok(), format!("liveness: a code is asked for at its level: {asked:?}"))?;
        let code = stage.trace.told("one-time code", "to", ADDRESS, "code");
        let code = code.ok_or_else(|| Fail::Broken("liveness: no code is brought".into()))?;
        let body = json!({ "address": ADDRESS, "code": code, "install": "hers" });
        let entered = alice.web(others[0], "POST", "/v1/auth/otp/verify", body).await;
        must(entered.is_ok(), format!("liveness: a code lets nobody in at its level: {entered:?}"))?;

        stage.restart(control);
        let all: Vec<usize> = (0..stage.cluster.seats.len()).collect();
        stage.until("liveness: who was away is raised too", async || stage.is_raised(&all)).await?;
        stage.moves(&bob, control).await?;
        let last = alice.sends(&channel, "everybody here?").await?;
        stage.gets(&bob, &channel, last.seq).await?;
        stage.until("the one that was away counts as the others do", async || counted(control).await).await?;
        alice.sees_all();
        bob.sees_all();
        Ok(())
    })
}

fn naming(user: &flotilla_proto::ids::UserId) -> What {
    let mut what = message("you there");
    if let What::Message { mentions, .. } = &mut what {
        mentions.push(user.clone());
    }
    what
}
