//! Who is in a group while its messages are under way.

use flotilla_client::device::random_cid;
use flotilla_client::history::Op;
use flotilla_proto::ids::{ConvId, Seq};

use super::kit::{must, shown};
use super::person::Person;
use super::{Fail, Scenario, Stage, Told, story};
use crate::options::Disk;

pub const ALL: fn() -> Vec<Scenario> = || {
    vec![
        story(
            "member_removed_while_a_message_to_the_group_is_in_flight",
            "a member gets what was said up to its removal, and nothing behind it",
            removed_in_flight,
        ),
        story(
            "leave_and_rejoin_with_late_notifications",
            "who leaves and comes back while its shard is not reached gets both stays and nothing between them",
            leave_and_rejoin,
        ),
        story(
            "a_retry_after_a_kick",
            "a send that was accepted and is retried after its sender was put out gets its first answer",
            retry_after_kick,
        ),
    ]
};

/// A group whose log and whose member's inbox are led by different nodes; gives these two.
async fn group_apart(stage: &Stage, alice: &Person, bob: &Person) -> Result<(ConvId, usize, usize), Fail> {
    let group = stage.group_apart(alice, bob).await?;
    let hello = alice.sends(&group, "hello").await?;
    stage.gets(bob, &group, hello.seq).await?;
    let (log, inbox) = stage.two_leaders(&group, bob).await?;
    Ok((group, log, inbox))
}

fn entries_of(stage: &Stage, person: &Person, conv: &ConvId) -> Vec<Seq> {
    stage.seen(person, |record| match &record.op {
        Op::Entry { entry } if entry.conv == *conv => Some(entry.seq),
        _ => None,
    })
}

fn removed_in_flight(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob) = (stage.person("alice").await?, stage.person("bob").await?);
        let carol = stage.person("carol").await?;
        let (group, log, inbox) = group_apart(stage, &alice, &bob).await?;
        alice.takes_in(&group, &carol).await?;
        stage.moves(&alice, log).await?;
        stage.cut_both(log, inbox);
        let mut flight = Vec::new();
        for number in 0..5 {
            flight.push(alice.sends(&group, &format!("in flight {number}")).await?.seq);
        }
        alice.puts_out(&group, &bob).await?;
        let kick = flight[4].next();
        let after = alice.sends(&group, "bob does not read this").await?;
        shown(bob.has(&group).await < flight[0], "nothing was in flight")?;
        stage.mend_both(log, inbox);
        alice.sees_all();

        stage.gets(&bob, &group, kick).await?;
        stage.gets(&carol, &group, after.seq).await?;
        let got = entries_of(stage, &bob, &group);
        must(flight.iter().all(|seq| got.contains(seq)), format!("I3 no-loss: bob has {got:?} of {flight:?}"))?;
        must(got.iter().all(|seq| *seq <= kick), format!("authorised: bob has {got:?}, put out at {kick}"))
    })
}

fn leave_and_rejoin(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob) = (stage.person("alice").await?, stage.person("bob").await?);
        let (group, log, inbox) = group_apart(stage, &alice, &bob).await?;
        let away = stage.other(&[log, inbox]);
        stage.moves(&bob, away).await?;
        // From here both leaders can be reached: a join asks the user's shard first.
        stage.moves(&alice, away).await?;
        stage.cut_both(log, inbox);
        let stay = alice.sends(&group, "of the first stay").await?;
        bob.leaves(&group).await?;
        let between = alice.sends(&group, "between the stays").await?;
        alice.takes_in(&group, &bob).await?;
        let back = alice.sends(&group, "of the second stay").await?;
        shown(bob.has(&group).await < stay.seq, "the notifications were not late")?;
        bob.app_dies();
        stage.mend_both(log, inbox);
        bob.sees_all();
        alice.sees_all();
        bob.opens().await?;

        stage.gets(&bob, &group, back.seq).await?;
        let got = entries_of(stage, &bob, &group);
        must(got.contains(&stay.seq), format!("I3 no-loss: {} of the first stay is not in {got:?}", stay.seq))?;
        must(!got.contains(&between.seq), format!("authorised: {} lies between the stays: {got:?}", between.seq))
    })
}

/// The answer to the first attempt is lost with the node that gave it.
fn retry_after_kick(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob) = (stage.person("alice").await?, stage.person("bob").await?);
        let (group, log, _) = group_apart(stage, &alice, &bob).await?;
        let gateway = stage.other(&[log]);
        stage.moves(&bob, gateway).await?;
        stage.moves(&alice, stage.other(&[gateway])).await?;

        // Answers of that gateway do not reach bob any more; what he says still gets through.
        let node = super::person::node_of(gateway).ok_or_else(|| Fail::NotShown("no such node".into()))?;
        madsim::net::NetSim::current().clog_link(node.id(), bob.machine.id());
        let cid = random_cid();
        bob.says_as(cid, &group, "said before the kick").await?;
        let head = || async { alice.has(&group).await };
        stage.until("liveness: alice gets bob's message", async || head().await >= Seq(3)).await?;
        alice.puts_out(&group, &bob).await?;
        let answered = |op: &Op| match op {
            Op::Accepted { cid: of, accepted } if *of == cid => Some(Ok(accepted.clone())),
            Op::Rejected { cid: of, error } if *of == cid => Some(Err(error.clone())),
            _ => None,
        };
        shown(stage.seen(&bob, |record| answered(&record.op)).is_empty(), "bob had his answer before the kick")?;
        stage.kill(gateway, Disk::Kept);
        // The app comes back on what its store holds: the send, without an answer.
        bob.app_dies();
        madsim::net::NetSim::current().unclog_link(node.id(), bob.machine.id());
        bob.sees_all();
        bob.opens().await?;
        stage
            .until("liveness: bob gets an answer", async || !stage.seen(&bob, |record| answered(&record.op)).is_empty())
            .await?;
        stage.restart(gateway);
        alice.sees_all();
        let answer = stage.seen(&bob, |record| answered(&record.op)).remove(0);
        let accepted =
            answer.map_err(|error| Fail::Broken(format!("I1 accepted-stays: the retry is rejected: {error:?}")))?;
        must(accepted.dup && accepted.seq == Seq(3), format!("I2 gapless: the retry got {accepted:?}"))
    })
}
