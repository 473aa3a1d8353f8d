//! Conversations in pull mode: what no row tells of.

use std::time::Duration;

use flotilla_client::history::Op;
use flotilla_proto::ids::Seq;
use tokio::time::sleep;

use super::kit::{must, shown};
use super::{Scenario, Stage, Told, story};
use crate::options::Disk;

pub const ALL: fn() -> Vec<Scenario> = || {
    vec![
        pulled(
            "threshold_crossed_while_a_user_shard_is_down",
            "a member whose shard hears nothing of the switch to pull mode gets what was said before it, and after it",
            threshold,
        ),
        pulled(
            "event_of_a_channel_is_lost_with_its_leader",
            "an entry of a channel whose push was lost with its leader arrives although nobody writes again",
            lost_event,
        ),
        pulled(
            "new_device_in_a_channel",
            "a new device is connected only once it has its place in a channel, and gets everything from there on",
            new_device,
        ),
        pulled(
            "kick_from_a_channel_while_its_gateway_hears_nothing",
            "who is put out of a channel gets the kick and nothing above it, whatever its gateway missed",
            kicked,
        ),
    ]
};

/// Longer than a push takes.
const A_WHILE: Duration = Duration::from_millis(1_000);

const fn pulled(name: &'static str, tells: &'static str, play: for<'a> fn(&'a Stage) -> Told<'a>) -> Scenario {
    Scenario { pull: true, ..story(name, tells, play) }
}

fn threshold(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob, cyd) = (stage.person("alice").await?, stage.person("bob").await?, stage.person("cyd").await?);
        let group = stage.group_apart(&alice, &bob).await?;
        let hello = alice.sends(&group, "hello").await?;
        stage.gets(&bob, &group, hello.seq).await?;

        let (log, inbox) = stage.cut_between(&group, &alice, &bob).await?;
        let before = alice.sends(&group, "the last in push mode").await?;
        // The third member takes the group over the threshold.
        alice.takes_in(&group, &cyd).await?;
        let after = alice.sends(&group, "the first in pull mode").await?;
        must(after.seq == before.seq.next().next(), "I2 gapless: the switch is one entry")?;
        sleep(A_WHILE).await;
        shown(bob.has(&group).await < before.seq, "bob has heard of it in spite of the cut")?;
        stage.kill(log, Disk::Lost);
        stage.mend_both(log, inbox);

        stage.gets(&bob, &group, after.seq).await?;
        alice.sees_all();
        stage.restart(log);
        stage.is_connected(&alice).await?;
        let last = alice.sends(&group, "everybody here?").await?;
        for person in [&alice, &bob, &cyd] {
            stage.gets(person, &group, last.seq).await?;
        }
        // Back over the other threshold: two leave, one stays.
        cyd.leaves(&group).await?;
        bob.leaves(&group).await?;
        let alone = alice.sends(&group, "alone").await?;
        stage.gets(&alice, &group, alone.seq).await
    })
}

fn lost_event(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob) = (stage.person("alice").await?, stage.person("bob").await?);
        let channel = alice.makes_channel(&[&bob]).await?;
        let hello = alice.sends(&channel, "hello").await?;
        stage.gets(&bob, &channel, hello.seq).await?;

        let log = stage.leader_of(&channel).await?;
        let gateway = stage.other(&[log]);
        stage.moves(&bob, gateway).await?;
        stage.moves(&alice, stage.other(&[log, gateway])).await?;
        let known = alice.sends(&channel, "before it").await?;
        stage.gets(&bob, &channel, known.seq).await?;
        // What the leader says does not reach bob's gateway; the third node makes its majority.
        stage.cluster.cut(log, gateway);
        let lost = alice.sends(&channel, "who hears this?").await?;
        sleep(A_WHILE).await;
        shown(bob.has(&channel).await < lost.seq, "the push arrived in spite of the cut")?;
        stage.kill(log, Disk::Lost);
        stage.cluster.mend(log, gateway);

        stage.gets(&bob, &channel, lost.seq).await?;
        must(stage.leader_of(&channel).await? != log, "the dead node does not lead")?;
        stage.restart(log);
        alice.sees_all();
        bob.sees_all();
        Ok(())
    })
}

fn new_device(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob) = (stage.person("alice").await?, stage.person("bob").await?);
        let channel = stage.elsewhere(&bob, async || alice.makes_channel(&[&bob]).await).await?;
        let mut head = Seq::ZERO;
        for _ in 0..5 {
            head = alice.sends(&channel, "news").await?.seq;
        }
        stage.gets(&bob, &channel, head).await?;

        // Nobody answers for the channel while the new device says hello.
        let (log, inbox) = stage.two_leaders(&channel, &bob).await?;
        stage.moves(&alice, stage.other(&[log])).await?;
        // Both of his devices are on one machine.
        stage.moves(&bob, inbox).await?;
        // A mark of his that brings the head to his row while the new device waits gives that one the place of before, which
        // shows it more than it needs. Here it shall have nothing but what the channel's leader says.
        let marked = async || {
            stage.cluster.watch.with_world(|world| {
                let device = world.sessions.get("bob").map(|(device, _)| *device);
                let cursors = device.and_then(|device| world.cursors.get(&device));
                cursors.and_then(|cursors| cursors.get(&channel)).is_some_and(|cursor| *cursor >= head)
            })
        };
        stage.until("liveness: his acknowledgement is durable", marked).await?;
        let second = stage.second(&bob).await?;
        stage.stop(log);
        second.opens().await?;
        stage.is_connected(&second).await?;
        let placed = stage.cluster.watch.with_world(|world| {
            let device = world.sessions.get("bob2").map(|(device, _)| *device);
            world.first_cursors.iter().any(|(of, conv, _)| Some(*of) == device && *conv == channel)
        });
        must(placed, "a new device is connected once it has its place in the channel")?;
        stage.go_on(log);
        let next = alice.sends(&channel, "for both").await?;
        for person in [&bob, &second] {
            stage.gets(person, &channel, next.seq).await?;
        }
        let old = stage.records().into_iter().filter(|record| record.device == "bob2");
        let old: Vec<Seq> = old
            .filter_map(|record| match record.op {
                Op::Entry { entry } if entry.conv == channel && entry.seq <= head => Some(entry.seq),
                _ => None,
            })
            .collect();
        must(old.is_empty(), format!("a new device begins at the head: it got {old:?}"))?;
        second.sees_all();
        alice.sees_all();
        Ok(())
    })
}

fn kicked(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob, cyd) = (stage.person("alice").await?, stage.person("bob").await?, stage.person("cyd").await?);
        let channel = stage.elsewhere(&bob, async || alice.makes_channel(&[&bob, &cyd]).await).await?;
        let hello = alice.sends(&channel, "hello").await?;
        let (log, inbox) = (stage.leader_of(&channel).await?, stage.inbox_leader_of(&bob).await?);
        let gateway = stage.other(&[log, inbox]);
        for person in [&bob, &cyd] {
            stage.moves(person, gateway).await?;
            stage.gets(person, &channel, hello.seq).await?;
        }
        stage.moves(&alice, log).await?;
        stage.cluster.cut(log, gateway);
        alice.puts_out(&channel, &bob).await?;
        let after = alice.sends(&channel, "he is gone").await?;
        sleep(A_WHILE).await;
        shown(cyd.has(&channel).await < after.seq, "the push arrived in spite of the cut")?;
        stage.cluster.mend(log, gateway);

        stage.gets(&cyd, &channel, after.seq).await?;
        stage.gets(&bob, &channel, hello.seq.next()).await?;
        let last = alice.sends(&channel, "still gone").await?;
        stage.gets(&cyd, &channel, last.seq).await?;
        let above = stage.seen(&bob, |record| match &record.op {
            Op::Entry { entry } if entry.conv == channel && entry.seq >= after.seq => Some(entry.seq),
            Op::Gap { gap } if gap.conv == channel && gap.to >= after.seq => Some(gap.to),
            _ => None,
        });
        must(above.is_empty(), format!("authorised: bob gets {above:?} after he was put out"))?;
        for person in [&alice, &bob, &cyd] {
            person.sees_all();
        }
        Ok(())
    })
}
