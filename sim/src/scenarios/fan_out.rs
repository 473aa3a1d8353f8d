//! Between the log of a conversation and the inboxes of its members.

use std::collections::BTreeMap;
use std::time::Duration;

use flotilla_client::history::Op;
use flotilla_proto::ids::{ConvId, Seq};
use madsim::runtime::Handle as Machines;
use tokio::time::sleep;

use super::kit::{Fail, must, shown};
use super::person::Person;
use super::{Scenario, Stage, Told, story};
use crate::options::Disk;

pub const ALL: fn() -> Vec<Scenario> = || {
    vec![
        story(
            "leader_dies_between_accept_and_fan_out",
            "an accepted message is fanned out by the next leader: the obligation is a row, not a task",
            dies_before_fan_out,
        ),
        story(
            "inbox_leader_dies_after_push_before_the_head_is_durable",
            "an entry that was pushed, stored and acked stays in place when the leader that pushed it forgets its head",
            dies_after_push,
        ),
        story(
            "kick_while_fan_out_is_owed",
            "who is put out while a message is owed gets the message and the news of the kick, from the next leader",
            kick_while_owed,
        ),
        story(
            "a_stalled_device_delays_nobody",
            "while one device of a group neither reads nor acks, the others get its messages as soon as before",
            one_is_stalled,
        ),
    ]
};

/// Longer than a pump gathers clears: a row that is cleared too early is gone by then.
const AFTER_CLEARS: Duration = Duration::from_millis(500);

/// The two leaders are kept on different nodes that cannot hear each other: so the message is accepted and not fanned out.
fn dies_before_fan_out(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob, conv) = stage.talk_apart().await?;
        stage.gets(&bob, &conv, Seq(1)).await?;

        let (log, inbox) = stage.cut_between(&conv, &alice, &bob).await?;
        let accepted = alice.sends(&conv, "are you there?").await?;
        sleep(AFTER_CLEARS).await;
        shown(bob.has(&conv).await < accepted.seq, "the message was fanned out in spite of the cut")?;
        stage.kill(log, Disk::Lost);
        stage.mend_both(log, inbox);

        stage.gets(&bob, &conv, accepted.seq).await?;
        must(stage.leader_of(&conv).await? != log, "the dead node does not lead")?;
        alice.sees_all();
        stage.restart(log);
        Ok(())
    })
}

fn dies_after_push(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob, conv) = stage.talk_apart().await?;
        stage.gets(&bob, &conv, Seq(1)).await?;

        let inbox = stage.inbox_leader_of(&bob).await?;
        let away = stage.other(&[inbox]);
        stage.moves(&bob, away).await?;
        // Bob's new connection knows where he stands in the conversation.
        let known = alice.sends(&conv, "before it").await?;
        stage.gets(&bob, &conv, known.seq).await?;
        // From the push on nothing becomes durable anywhere, so the head cannot.
        let disks: Vec<_> = stage.cluster.seats.iter().map(|seat| seat.disk.clone()).collect();
        let stalled = disks.clone();
        let pushed = stage.at(inbox, "notify.pushed", move || {
            stalled.iter().for_each(|disk| disk.inject(|faults| faults.stall = Duration::from_secs(30)));
            true
        });
        let accepted = alice.sends(&conv, "pushed").await?;
        pushed.happens().await?;
        stage.until("the pushed entry arrives", async || bob.has(&conv).await >= accepted.seq).await?;
        stage.kill(inbox, Disk::Lost);
        disks.iter().for_each(|disk| disk.inject(|faults| faults.stall = Duration::ZERO));
        stage.restart(inbox);

        bob.sees_all();
        bob.app_dies();
        bob.opens().await?;
        stage.is_connected(&bob).await?;
        let again = alice.sends(&conv, "after it").await?;
        stage.gets(&bob, &conv, again.seq).await?;
        must(again.seq == accepted.seq.next(), "I2 gapless: the next message has the next seq")
    })
}

fn kick_while_owed(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob) = (stage.person("alice").await?, stage.person("bob").await?);
        let group = stage.group_apart(&alice, &bob).await?;
        let hello = alice.sends(&group, "hello").await?;
        stage.gets(&bob, &group, hello.seq).await?;

        let (log, inbox) = stage.cut_between(&group, &alice, &bob).await?;
        let owed = alice.sends(&group, "you will get this one").await?;
        alice.puts_out(&group, &bob).await?;
        let after = alice.sends(&group, "but not this one").await?;
        sleep(AFTER_CLEARS).await;
        shown(bob.has(&group).await < owed.seq, "the message was fanned out in spite of the cut")?;
        stage.kill(log, Disk::Lost);
        stage.mend_both(log, inbox);

        let kick = owed.seq.next();
        stage.gets(&bob, &group, kick).await?;
        alice.sees_all();
        stage.restart(log);
        stage.is_connected(&alice).await?;
        let last = alice.sends(&group, "he is gone").await?;
        stage.gets(&alice, &group, last.seq).await?;
        let above = stage.seen(&bob, |record| match &record.op {
            Op::Entry { entry } if entry.conv == group && entry.seq >= after.seq => Some(entry.seq),
            _ => None,
        });
        must(above.is_empty(), format!("authorised: bob gets entries {above:?} after he was put out at {kick}"))
    })
}

/// More than the window of one conversation holds, so that the gateway of the stalled device has to keep it back.
const MANY: usize = 300;
/// RELIABILITY section 3.
const DELAY_MAX_US: u64 = 50_000;

fn one_is_stalled(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob) = (stage.person("alice").await?, stage.person("bob").await?);
        let carol = stage.person("carol").await?;
        let group = alice.makes_group(&[&bob, &carol]).await?;
        // On one gateway, where they share whatever there is to be shared.
        let gateway = stage.is_connected(&carol).await?;
        stage.moves(&bob, gateway).await?;
        let before = delays(stage, &alice, &bob, &group).await?;
        Machines::current().pause(carol.machine.id());
        let beside = delays(stage, &alice, &bob, &group).await?;
        Machines::current().resume(carol.machine.id());
        let (p99, late) = (percentile_99(before), percentile_99(beside));
        stage.say(&format!("99 of 100 messages take {p99} us, and {late} us beside a stalled device"));
        must(late < p99 + DELAY_MAX_US, format!("a stalled device delays others: {late} us after {p99} us"))?;
        let head = alice.sends(&group, "carol?").await?.seq;
        stage.gets(&carol, &group, head).await
    })
}

/// From the answer that a message is accepted to its arrival, in microseconds.
async fn delays(stage: &Stage, from: &Person, to: &Person, conv: &ConvId) -> Result<Vec<u64>, Fail> {
    let mut last = Seq(0);
    let first = from.sends(conv, "first").await?.seq;
    for number in 0..MANY {
        last = from.sends(conv, &format!("message {number}")).await?.seq;
    }
    stage.gets(to, conv, last).await?;
    let accepted: BTreeMap<Seq, u64> = stage
        .seen(from, |record| match &record.op {
            Op::Accepted { accepted, .. } if accepted.conv == *conv => Some((accepted.seq, record.at_us)),
            _ => None,
        })
        .into_iter()
        .collect();
    let arrived = stage.seen(to, |record| match &record.op {
        Op::Entry { entry } if entry.conv == *conv && entry.seq > first => Some((entry.seq, record.at_us)),
        _ => None,
    });
    let took = arrived.into_iter().filter_map(|(seq, at)| Some(at.saturating_sub(*accepted.get(&seq)?)));
    let took: Vec<u64> = took.collect();
    shown(took.len() >= MANY, "too few messages came")?;
    Ok(took)
}

fn percentile_99(mut of: Vec<u64>) -> u64 {
    of.sort_unstable();
    of.get(of.len() * 99 / 100).copied().unwrap_or(0)
}
