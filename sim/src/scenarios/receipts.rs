//! Live receipts: what is told and kept nowhere.

use std::time::Duration;

use flotilla_client::history::Op;
use flotilla_proto::fate::Fate;
use flotilla_proto::ids::{ConvId, Seq, UserId};
use tokio::time::{Instant, sleep};

use super::kit::{must, shown};
use super::person::Person;
use super::{Scenario, Stage, Told, story};
use crate::options::Disk;

pub const ALL: fn() -> Vec<Scenario> = || {
    vec![
        story(
            "receipts_watched_across_the_death_of_a_leader",
            "a watcher whose gateway missed signals, and whose leader died with all that it knew of watchers, is right within the bound",
            leader_dies,
        ),
        story(
            "a_lost_signal_about_receipts_and_nobody_reads_again",
            "a signal that was lost between a leader and a gateway is made up for, though nothing moves any more",
            lost_signal,
        ),
        story(
            "receipts_of_a_group_are_not_for_who_was_put_out",
            "who is put out while it watches hears of nothing that is read later, and all of it once it is in again",
            put_out,
        ),
    ]
};

/// Longer than a signal takes.
const A_WHILE: Duration = Duration::from_millis(3_000);
/// As documented: from when the shard has a leader that can be reached.
const BOUND: Duration = Duration::from_secs(15);

/// The highest that this person was told of another one: delivered, read.
fn heard(stage: &Stage, by: &Person, conv: &ConvId, of: &UserId) -> (Seq, Seq) {
    let told = stage.seen(by, |record| match &record.op {
        Op::Receipts { conv: about, members } if about == conv => {
            members.iter().find(|m| m.user == *of).map(|m| (m.delivered, m.read.unwrap_or_default()))
        }
        _ => None,
    });
    told.into_iter().fold((Seq::ZERO, Seq::ZERO), |most, told| (most.0.max(told.0), most.1.max(told.1)))
}

/// Says something, and has read it once it has it.
async fn reads_own(stage: &Stage, bob: &Person, group: &ConvId, text: &str) -> Result<Seq, super::Fail> {
    let seq = bob.sends(group, text).await?.seq;
    stage.gets(bob, group, seq).await?;
    bob.reads(group, seq).await?;
    Ok(seq)
}

fn connects(stage: &Stage, person: &Person) -> usize {
    stage.seen(person, |record| matches!(record.op, Op::Connected { .. }).then_some(())).len()
}

/// A watcher on a node that does not lead the group, a reader on the third, and that all of it works. The node that leads, and that
/// of the watcher.
async fn watched(stage: &Stage, alice: &Person, bob: &Person, group: &ConvId) -> Result<(usize, usize), super::Fail> {
    let log = stage.leader_of(group).await?;
    // What the reader gets and marks goes another way.
    let gateway = stage.other(&[log, stage.inbox_leader_of(bob).await?]);
    stage.moves(alice, gateway).await?;
    stage.moves(bob, stage.other(&[log, gateway])).await?;
    alice.watches(group).await?;
    let hello = reads_own(stage, bob, group, "hello").await?;
    let promise = "live receipts: a watcher is told of a read";
    stage.until(promise, async || heard(stage, alice, group, &bob.user).1 >= hello).await?;
    Ok((log, gateway))
}

async fn is_told(stage: &Stage, by: &Person, group: &ConvId, of: &Person, read: Seq) -> Result<(), super::Fail> {
    let end = Instant::now() + BOUND;
    while heard(stage, by, group, &of.user).1 < read {
        must(
            Instant::now() < end,
            format!("live receipts: {} is not told within {BOUND:?} what {} has read", by.user, of.user),
        )?;
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

fn leader_dies(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob) = (stage.person("alice").await?, stage.person("bob").await?);
        // Her session shall not depend on who leads the group.
        let group = stage.elsewhere(&alice, async || alice.makes_group(&[&bob]).await).await?;
        let (log, gateway) = watched(stage, &alice, &bob, &group).await?;
        let before = connects(stage, &alice);
        stage.cluster.cut(log, gateway);
        let second = reads_own(stage, &bob, &group, "who hears that I have read this?").await?;
        sleep(A_WHILE).await;
        shown(heard(stage, &alice, &group, &bob.user).1 < second, "the signal arrived in spite of the cut")?;
        stage.kill(log, Disk::Lost);
        stage.cluster.mend(log, gateway);
        alice.sees_all();
        bob.sees_all();
        must(stage.leader_of(&group).await? != log, "the dead node does not lead")?;
        stage.is_connected(&alice).await?;
        // The leader of her inbox may have died with it: then she is on another connection, which watches nothing yet.
        if connects(stage, &alice) > before {
            alice.watches(&group).await?;
        }
        is_told(stage, &alice, &group, &bob, second).await?;
        // And the new leader knows of her.
        let third = reads_own(stage, &bob, &group, "and this?").await?;
        is_told(stage, &alice, &group, &bob, third).await?;
        stage.restart(log);
        Ok(())
    })
}

fn lost_signal(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob) = (stage.person("alice").await?, stage.person("bob").await?);
        // Her session shall not depend on who leads the group.
        let group = stage.elsewhere(&alice, async || alice.makes_group(&[&bob]).await).await?;
        let (log, gateway) = watched(stage, &alice, &bob, &group).await?;
        stage.cluster.cut(log, gateway);
        let last = reads_own(stage, &bob, &group, "the last word").await?;
        sleep(A_WHILE).await;
        shown(heard(stage, &alice, &group, &bob.user).1 < last, "the signal arrived in spite of the cut")?;
        // What waits in the connection is gone with it.
        stage.cluster.peer_connections(log, Fate::Reset);
        stage.cluster.mend(log, gateway);
        is_told(stage, &alice, &group, &bob, last).await?;
        alice.sees_all();
        bob.sees_all();
        Ok(())
    })
}

fn put_out(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob, cyd) = (stage.person("alice").await?, stage.person("bob").await?, stage.person("cyd").await?);
        let group = cyd.makes_group(&[&alice, &bob]).await?;
        watched(stage, &alice, &bob, &group).await?;
        cyd.puts_out(&group, &alice).await?;
        let later = reads_own(stage, &bob, &group, "is she gone?").await?;
        sleep(A_WHILE).await;
        must(
            heard(stage, &alice, &group, &bob.user).1 < later,
            "live receipts: who was put out is not told what is read later",
        )?;
        cyd.takes_in(&group, &alice).await?;
        is_told(stage, &alice, &group, &bob, later).await?;
        alice.sees_all();
        bob.sees_all();
        Ok(())
    })
}
