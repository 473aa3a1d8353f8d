//! Crashes that take what was not synced, and snapshots.

use std::time::Duration;

use flotilla_client::device::Outcome;
use flotilla_proto::ids::{ConvId, Seq};
use tokio::time::sleep;

use super::kit::{must, shown};
use super::{Scenario, Stage, Told, story};
use crate::options::Disk;

pub const ALL: fn() -> Vec<Scenario> = || {
    vec![
        story(
            "two_nodes_of_three_lose_their_unsynced_tail",
            "what was accepted survives a power loss of two nodes at one instant",
            two_lose_their_tail,
        ),
        story("whole_cluster_restarts", "after a power loss of all nodes everything accepted is there", all_restart),
        story(
            "snapshot_install_crashes_half_way",
            "a replica that dies between the chunks of a snapshot, at the flip, and behind it, comes back equal",
            snapshot_crashes,
        ),
        story(
            "disks_too_slow_for_what_is_sent",
            "while commands wait for too long sends are refused; in the end each is accepted once, in order",
            slow_disks,
        ),
    ]
};

const MANY: usize = 40;

fn two_lose_their_tail(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob) = (stage.person("alice").await?, stage.person("bob").await?);
        let conv = ConvId::direct(&alice.user, &bob.user);
        let mut last = alice.sends(&conv, "hello").await?;
        for number in 0..MANY {
            last = alice.sends(&conv, &format!("message {number}")).await?;
        }
        let log = stage.leader_of(&conv).await?;
        let lost = |node: usize| stage.cluster.seats[node].disk.counters().unsynced_bytes_lost;
        let other = stage.other(&[log]);
        let before = (lost(log), lost(other));
        // As soon as both have something that is not durable, just behind an apply and before its answer.
        let cluster = stage.cluster.clone();
        let dark = stage.at(log, "state.applied_before_reply", move || {
            let disks = [log, other].map(|node| &cluster.seats[node].disk);
            let both = disks.iter().all(|disk| disk.tail_batches() + disk.unlogged_batches() > 0);
            if both {
                [log, other].iter().for_each(|node| cluster.kill(*node, Disk::Lost, 0));
            }
            both
        });
        while !dark.has_happened() {
            let ticket = alice.says(&conv, "one more").await?;
            match tokio::time::timeout(Duration::from_secs(1), ticket.answer()).await {
                Ok(Outcome::Accepted(accepted)) => last = accepted,
                _ => break,
            }
        }
        dark.happens().await?;
        shown(lost(log) > before.0 && lost(other) > before.1, "nothing that is not durable was there to be lost")?;
        stage.restart(log);
        stage.restart(other);

        stage.gets(&bob, &conv, last.seq).await?;
        stage.is_connected(&alice).await?;
        let next = alice.sends(&conv, "light again").await?;
        // The one whose answer went out with the light stands between them.
        let expected = [last.seq.next(), last.seq.next().next()];
        must(expected.contains(&next.seq), format!("I1 accepted-stays: {} follows {}", next.seq, last.seq))
    })
}

fn all_restart(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob) = (stage.person("alice").await?, stage.person("bob").await?);
        let carol = stage.person("carol").await?;
        let conv = ConvId::direct(&alice.user, &bob.user);
        let group = alice.makes_group(&[&bob, &carol]).await?;
        carol.app_dies();
        let mut last = (Seq(0), Seq(0));
        for number in 0..MANY / 2 {
            last.0 = alice.sends(&conv, &format!("to bob {number}")).await?.seq;
            last.1 = bob.sends(&group, &format!("to all {number}")).await?.seq;
        }
        (0..3).for_each(|node| stage.kill(node, Disk::Lost));
        sleep(Duration::from_secs(2)).await;
        (0..3).for_each(|node| stage.restart(node));

        carol.opens().await?;
        for person in [&alice, &bob, &carol] {
            stage.is_connected(person).await?;
            stage.gets(person, &group, last.1).await?;
        }
        let next = (alice.sends(&conv, "again").await?.seq, carol.sends(&group, "again").await?.seq);
        must(next == (last.0.next(), last.1.next()), format!("I2 gapless: {last:?} is followed by {next:?}"))
    })
}

/// The replica was away for longer than the log is kept.
fn snapshot_crashes(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob) = (stage.person("alice").await?, stage.person("bob").await?);
        let conv = ConvId::direct(&alice.user, &bob.user);
        alice.sends(&conv, "hello").await?;
        let behind = stage.other(&[stage.leader_of(&conv).await?, stage.inbox_leader_of(&bob).await?]);
        stage.kill(behind, Disk::Lost);
        let mut last = Seq(0);
        for number in 0..500 {
            last = alice.sends(&conv, &format!("message {number}")).await?.seq;
        }
        for point in ["snapshot.chunk_written", "snapshot.before_flip", "snapshot.installed"] {
            let dies = stage.dies_at(behind, point, 1);
            stage.restart(behind);
            dies.happens().await?;
            sleep(Duration::from_millis(100)).await;
        }
        stage.restart(behind);
        stage.gets(&bob, &conv, last).await
    })
}

const SLOW_SENDS: usize = 16;
/// What a node logs then.
const REFUSES_SENDS: &str = "overloaded: commands wait for too long, sends are refused now and then";

fn slow_disks(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob, conv) = stage.talk_apart().await?;
        let first = alice.sends(&conv, "in time").await?;
        // Two proposals travel at a time: what is sent meanwhile waits for as long as they do.
        stage.stall_disks(Duration::from_millis(1_200));
        let mut asked = Vec::new();
        for number in 0..SLOW_SENDS {
            asked.push(alice.says(&conv, &format!("slowly {number}")).await?);
            sleep(Duration::from_millis(250)).await;
        }
        shown(stage.trace.count(REFUSES_SENDS) > 0, "no command waited for too long")?;
        stage.stall_disks(Duration::ZERO);
        let mut last = first.seq;
        for ticket in asked {
            let accepted = alice.is_accepted(ticket).await?;
            must(accepted.seq == last.next(), format!("I2 gapless: {} follows {last}", accepted.seq))?;
            last = accepted.seq;
        }
        stage.gets(&bob, &conv, last).await?;
        let next = alice.sends(&conv, "in time again").await?;
        must(next.seq == last.next(), "nothing was accepted twice")
    })
}
