//! Gateways that die or stand still, and devices that move between them.

use std::time::Duration;

use flotilla_client::history::Op;
use flotilla_proto::fate::Door;
use flotilla_proto::ids::{ConvId, Seq};
use flotilla_proto::limits;
use madsim::runtime::Handle as World;
use tokio::time::{Instant, sleep};

use super::kit::{must, shown};
use super::person::Person;
use super::{Scenario, Stage, Told, story};
use crate::options::Disk;

pub const ALL: fn() -> Vec<Scenario> = || {
    vec![
        story(
            "device_moves_to_another_node_while_its_acks_are_in_flight",
            "acks of the session that was left behind have no effect; what was not acked comes again",
            acks_in_flight,
        ),
        story(
            "more_acks_than_a_window_holds_are_lost",
            "a device that has stored far more than its cursor says catches up: what comes again is acked as far as it has come",
            more_than_a_window,
        ),
        story(
            "gateway_dies_with_a_full_window",
            "what a dead gateway had sent and nobody had acked comes again from another one, in order",
            full_window,
        ),
        story(
            "a_gateway_stopped_past_its_lease_while_its_clients_stay_connected",
            "a gateway that was declared dead lets its clients go when it wakes up, and they miss nothing",
            stopped_past_lease,
        ),
        story(
            "a_device_goes_away_together_with_its_gateway",
            "the session of a device that does not come back ends with the life of its node",
            away_with_gateway,
        ),
        story(
            "a_session_is_taken_while_its_gateway_cannot_be_told",
            "a gateway that missed the end of a session learns of it when it presents its sessions, and lets the connection go",
            taken_unheard,
        ),
    ]
};

/// Entries of one conversation that may be unacked on a connection.
const WINDOW: usize = limits::WINDOW_ENTRIES_PER_CONV;

/// Every entry of a conversation that came to a person, repeats included.
fn sights(stage: &Stage, person: &Person, conv: &ConvId) -> Vec<Seq> {
    stage.seen(person, |record| match &record.op {
        Op::Entry { entry } if entry.conv == *conv => Some(entry.seq),
        _ => None,
    })
}

fn acks_in_flight(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob, conv) = stage.talk_apart().await?;
        let inbox = stage.inbox_leader_of(&bob).await?;
        let there = stage.leader_of(&conv).await?;
        let here = stage.other(&[inbox, there]);
        stage.moves(&bob, here).await?;
        let last = alice.sends(&conv, "the last that the old node delivers").await?;
        // Entries still come to bob's node; what it says to the leader of his inbox does not arrive.
        stage.gets(&bob, &conv, last.seq).await?;
        stage.cluster.cut(here, inbox);
        let mut unacked = last.seq;
        for number in 0..10 {
            unacked = alice.sends(&conv, &format!("unacked {number}")).await?.seq;
        }
        stage.gets(&bob, &conv, unacked).await?;
        let acked = |op: &Op| matches!(op, Op::Acked { conv: of, seq } if *of == conv && *seq >= unacked);
        let acks = || stage.seen(&bob, |record| acked(&record.op).then_some(())).len();
        stage.until("the device acks what it has stored", async || acks() > 0).await?;
        shown(stage.inbox_leader_of(&bob).await? == inbox, "the leader of bob's inbox has changed")?;
        let before = sights(stage, &bob, &conv).len();
        bob.app_dies();
        bob.sees_only(&[there]);
        bob.opens().await?;
        stage.is_connected(&bob).await?;
        stage
            .until("the device is told again what the leader knows nothing of", async || {
                sights(stage, &bob, &conv).len() > before
            })
            .await?;
        stage.cluster.mend(here, inbox);

        let next = alice.sends(&conv, "on the new node").await?;
        stage.gets(&bob, &conv, next.seq).await?;
        must(bob.node().await == Some(there), "I7 one-session: the late acks have taken the session away")?;
        bob.sees_all();
        Ok(())
    })
}

fn more_than_a_window(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob, conv) = stage.talk_apart().await?;
        let inbox = stage.inbox_leader_of(&bob).await?;
        let there = stage.leader_of(&conv).await?;
        let here = stage.other(&[inbox, there]);
        stage.moves(&bob, here).await?;
        stage.moves(&alice, there).await?;
        // Entries still come to bob's node; what it says to the leader of his inbox does not arrive.
        stage.cluster.cut(here, inbox);
        let mut tickets = Vec::new();
        for number in 0..3 * WINDOW / 2 {
            tickets.push(alice.says(&conv, &format!("unacked {number}")).await?);
        }
        let last = Seq(1 + tickets.len() as u64);
        stage.gets(&bob, &conv, last).await?;
        bob.app_dies();
        bob.sees_only(&[there]);
        let before = sights(stage, &bob, &conv).len();
        bob.opens().await?;
        stage.is_connected(&bob).await?;
        let again = sights(stage, &bob, &conv).len() - before;
        shown(again > WINDOW, format!("only {again} entries came again"))?;
        stage.cluster.mend(here, inbox);

        let next = alice.sends(&conv, "on the new node").await?;
        stage.gets(&bob, &conv, next.seq).await?;
        bob.sees_all();
        alice.sees_all();
        Ok(())
    })
}

fn full_window(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob) = (stage.person("alice").await?, stage.person("bob").await?);
        let conv = ConvId::direct(&alice.user, &bob.user);
        alice.sends(&conv, "hello").await?;
        let gateway = stage.other(&[stage.leader_of(&conv).await?]);
        stage.moves(&bob, gateway).await?;
        stage.moves(&alice, stage.other(&[gateway])).await?;
        stage.gets(&bob, &conv, Seq(1)).await?;

        World::current().pause(bob.machine.id());
        let mut last = Seq(0);
        for number in 0..300 {
            last = alice.sends(&conv, &format!("message {number}")).await?.seq;
        }
        stage.kill(gateway, Disk::Lost);
        let before = sights(stage, &bob, &conv);
        shown(before.iter().all(|seq| *seq == Seq(1)), format!("bob had {before:?} before his node died"))?;
        World::current().resume(bob.machine.id());
        bob.sees_all();
        stage.gets(&bob, &conv, last).await?;
        must(bob.node().await != Some(gateway), "bob is on the node that is dead")?;
        alice.sees_all();
        stage.restart(gateway);
        Ok(())
    })
}

fn stopped_past_lease(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob, conv) = stage.talk_apart().await?;
        let gateway = stage.part(&alice, &bob, &conv).await?;

        stage.stop(gateway);
        let lapsed = stage.trace.count("no renewal for a lease: the node has lapsed");
        stage
            .until("liveness: a silent node lapses", async || {
                stage.trace.count("no renewal for a lease: the node has lapsed") > lapsed
            })
            .await?;
        let mut last = Seq(0);
        for number in 0..20 {
            last = alice.sends(&conv, &format!("while bob's node stands still {number}")).await?.seq;
        }
        shown(bob.has(&conv).await < last, "bob has everything though his node stands still")?;
        stage.go_on(gateway);
        let dead = "this incarnation was declared dead, closing its sessions";
        stage
            .until("I7 one-session: the node learns that it was declared dead", async || stage.trace.count(dead) > 0)
            .await?;
        bob.sees_all();
        stage.gets(&bob, &conv, last).await?;
        stage
            .until("I7 one-session: bob's connection to a dead incarnation ends", async || {
                !stage.seen(&bob, |record| matches!(record.op, Op::Closed { .. }).then_some(())).is_empty()
            })
            .await?;
        alice.sees_all();
        Ok(())
    })
}

fn away_with_gateway(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob, conv) = stage.talk_apart().await?;
        let gateway = stage.part(&alice, &bob, &conv).await?;
        stage.kill(gateway, Disk::Kept);
        bob.app_dies();
        bob.sees_only(&[]);
        let before = stage.trace.count("registered");
        stage.restart(gateway);
        stage.until("liveness: the node registers again", async || stage.trace.count("registered") > before).await?;
        alice.sends(&conv, "bob is not here").await?;
        stage.sessions_point_at_the_living().await?;
        alice.sees_all();
        Ok(())
    })
}

/// A lease (4 s), the time in which its end is noticed, a keepalive (2 s), and a presentation.
const LEARNS: Duration = Duration::from_secs(8);

fn taken_unheard(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob, conv) = stage.talk_apart().await?;
        let here = stage.part(&alice, &bob, &conv).await?;
        let inbox = stage.inbox_leader_of(&bob).await?;
        let there = stage.leader_of(&conv).await?;
        stage.moves(&alice, there).await?;
        let sessions = || stage.cluster.seats[here].running().map_or(0, |node| node.sessions.len());
        shown(sessions() == 1, "somebody else is connected to that gateway")?;
        // The gateway hears nothing of bob any more, and the leader of his inbox cannot tell it.
        stage.cluster.clients_unheard(here);
        bob.sees_only(&[there]);
        stage.cluster.close_door_to(here, inbox, Door::Refused);
        bob.app_dies();
        bob.opens().await?;
        stage.is_connected(&bob).await?;
        shown(sessions() == 1, "the gateway has let the old connection go before")?;
        shown(stage.inbox_leader_of(&bob).await? == inbox, "the leader of bob's inbox has changed")?;
        stage.cluster.open_door(here, Door::Refused);

        let end = Instant::now() + LEARNS;
        while sessions() > 0 && Instant::now() < end {
            sleep(Duration::from_millis(50)).await;
        }
        must(sessions() == 0, "no dead route: the gateway keeps a session that was taken over")?;
        let next = alice.sends(&conv, "on the new node").await?;
        stage.gets(&bob, &conv, next.seq).await?;
        bob.sees_all();
        Ok(())
    })
}
