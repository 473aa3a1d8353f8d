//! Leaders that are not leaders any more.

use std::time::Duration;

use flotilla_client::history::Op;
use flotilla_proto::fate::Door;
use flotilla_proto::frame::CloseCode;
use flotilla_proto::ids::ConvId;
use tokio::time::{Instant, sleep};

use super::kit::{must, shown};
use super::{Scenario, Stage, Told, story};
use crate::options::Disk;

pub const ALL: fn() -> Vec<Scenario> = || {
    vec![
        // One shard: the log and both inboxes have the same leader.
        Scenario {
            shards: 1,
            ..story(
                "old_leader_answers_after_a_partition",
                "what a deposed leader was asked meanwhile is not accepted by it, and happens once in the end",
                old_leader,
            )
        },
        story(
            "minority_leader_cut_off_together_with_a_gateway",
            "a gateway whose shard is led by nobody with a quorum closes its users within a lease",
            minority_leader,
        ),
        story(
            "process_of_a_leader_ends",
            "when the port of a dead leader refuses connections, another accepts before any lease could have run out",
            ended_leader,
        ),
        // One shard, so that the leader needs nobody who cannot reach it.
        Scenario {
            shards: 1,
            ..story(
                "a_follower_is_refused_by_a_leader_that_lives",
                "who cannot connect to a leader that reaches everybody neither unseats it nor holds anybody up",
                refused_follower,
            )
        },
    ]
};

/// As `boot` starts the nodes.
const LEASE: Duration = Duration::from_secs(4);

fn old_leader(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob) = (stage.person("alice").await?, stage.person("bob").await?);
        let conv = ConvId::direct(&alice.user, &bob.user);
        let first = alice.sends(&conv, "hello").await?;
        let old = stage.leader_of(&conv).await?;
        stage.moves(&alice, old).await?;
        stage.moves(&bob, stage.other(&[old])).await?;

        stage.cut_off(old);
        let asked = alice.says(&conv, "to the old leader").await?;
        let answered = bob.sends(&conv, "to the new leader").await?;
        must(answered.seq == first.seq.next(), "I2 gapless: the majority goes on where it was")?;
        let head = alice.reads_head(&conv).await;
        must(head.is_none_or(|head| head >= answered.seq), format!("a deposed leader says that the head is {head:?}"))?;
        let accepted = |cid| {
            let is = move |record: &_| is_accepted(record, cid);
            !stage.seen(&alice, is).is_empty()
        };
        must(!accepted(asked.cid), "I1 accepted-stays: a leader without a quorum accepts nothing")?;
        stage.heal(old);
        alice.sees_all();
        bob.sees_all();

        let cid = asked.cid;
        stage.until("liveness: the send is answered in the end", async || accepted(cid)).await?;
        let seq = stage.seen(&alice, |record| match &record.op {
            Op::Accepted { cid: of, accepted } if *of == cid => Some(accepted.seq),
            _ => None,
        });
        must(seq == [answered.seq.next()], format!("I2 gapless: the late send has seq {seq:?}"))
    })
}

fn is_accepted(record: &flotilla_client::history::Record, cid: flotilla_proto::ids::Cid) -> Option<()> {
    matches!(&record.op, Op::Accepted { cid: of, .. } if *of == cid).then_some(())
}

fn minority_leader(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob, conv) = stage.talk_apart().await?;
        let inbox = stage.inbox_leader_of(&bob).await?;
        stage.moves(&bob, inbox).await?;
        stage.moves(&alice, stage.other(&[inbox])).await?;

        stage.cut_off(inbox);
        let cut = Instant::now();
        let accepted = alice.sends(&conv, "bob's node does not hear of this").await?;
        bob.sees_all();
        let closed = || {
            let codes = stage.seen(&bob, |record| match &record.op {
                Op::Closed { code, .. } => Some(*code),
                _ => None,
            });
            codes.contains(&CloseCode::NotReady.number())
        };
        let bound = LEASE + Duration::from_secs(4);
        while !closed() && cut.elapsed() < bound {
            sleep(Duration::from_millis(100)).await;
        }
        must(
            closed(),
            format!("last hop: the gateway keeps bob for longer than {bound:?} though nobody leads his shard"),
        )?;
        stage.gets(&bob, &conv, accepted.seq).await?;
        shown(bob.node().await != Some(inbox), "bob is on the node that was cut off")?;
        alice.sees_all();
        stage.heal(inbox);
        Ok(())
    })
}

/// While one follower is refused: long enough for its lease and time-out to run out too, were the leader silent.
const REFUSED_SENDS: u32 = 12;
/// What the follower says then.
const REFUSES: &str = "the leader of these shards refuses connections";
/// The least that a follower waits for a leader that only falls silent: its lease and the shorter time-out, less one heartbeat.
const SILENCE: Duration = Duration::from_millis(1_000 + 500 - 100);

fn ended_leader(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob, conv) = stage.talk_apart().await?;
        let leader = stage.leader_of(&conv).await?;
        stage.moves(&alice, stage.other(&[leader])).await?;
        stage.moves(&bob, stage.other(&[leader])).await?;
        alice.sends(&conv, "while it leads").await?;

        stage.kill(leader, Disk::Kept);
        let died = Instant::now();
        let accepted = alice.sends(&conv, "after it").await?;
        let took = died.elapsed();
        must(took < SILENCE, format!("availability: {took:?} until the next send was accepted"))?;
        stage.gets(&bob, &conv, accepted.seq).await?;
        alice.sees_all();
        bob.sees_all();
        stage.restart(leader);
        Ok(())
    })
}

fn refused_follower(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob, conv) = stage.talk_apart().await?;
        let leader = stage.leader_of(&conv).await?;
        stage.moves(&alice, leader).await?;
        let term = stage.term_at(leader, &conv).await?;
        for follower in (0..stage.cluster.seats.len()).filter(|node| *node != leader) {
            stage.moves(&bob, stage.other(&[leader, follower])).await?;
            let heard = stage.trace.count(REFUSES);
            stage.cluster.close_door_to(leader, follower, Door::Refused);
            for _ in 0..REFUSED_SENDS {
                sleep(SILENCE / 4).await;
                let asked = Instant::now();
                let accepted = alice.sends(&conv, "all the same").await?;
                must(asked.elapsed() < SILENCE, format!("availability: {:?} for a send", asked.elapsed()))?;
                stage.gets(&bob, &conv, accepted.seq).await?;
            }
            shown(stage.trace.count(REFUSES) > heard, "the follower was not refused")?;
            must(stage.leader_of(&conv).await? == leader, "stable: a leader that a quorum answers stays")?;
            must(stage.term_at(leader, &conv).await? == term, "stable: nobody makes a term of refusals alone")?;
            stage.cluster.open_door(leader, Door::Refused);
        }
        alice.sees_all();
        bob.sees_all();
        Ok(())
    })
}
