//! Wall clocks that jump.

use flotilla_client::device::random_cid;
use flotilla_client::history::Op;
use flotilla_proto::ids::ConvId;

use super::kit::{must, shown};
use super::{Scenario, Stage, Told, story};

pub const ALL: fn() -> Vec<Scenario> = || {
    vec![
        story(
            "clock_jumps_back_one_hour_on_the_leader",
            "message ids rise and timestamps do not go back, whatever the leader's clock does",
            back_one_hour,
        ),
        story(
            "a_jump_of_one_day_forward_and_back",
            "a clock that jumps forgets no answer: the same cid gets the same seq as before",
            one_day,
        ),
    ]
};

const SECOND: i64 = 1_000;
const HOUR: i64 = 3_600 * SECOND;

fn back_one_hour(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob) = (stage.person("alice").await?, stage.person("bob").await?);
        let conv = ConvId::direct(&alice.user, &bob.user);
        let mut accepted = Vec::new();
        // The last jump is one that the median of all clocks does not hide.
        for off in [0, -HOUR, 8 * SECOND, -SECOND] {
            let leader = stage.leader_of(&conv).await?;
            stage.set_clock(leader, off);
            for number in 0..5 {
                accepted.push(alice.sends(&conv, &format!("{number} at {off}")).await?);
            }
            must(stage.leader_of(&conv).await? == leader, "liveness: a clock deposes no leader")?;
            stage.set_clock(leader, 0);
        }
        shown(accepted.len() == 20, "not everything was sent")?;
        for pair in accepted.windows(2) {
            let (a, b) = (&pair[0], &pair[1]);
            must(a.msg_id < b.msg_id, format!("I9 monotone: id {} of seq {} after {}", b.msg_id.0, b.seq, a.msg_id.0))?;
            must(a.ts <= b.ts, format!("I9 monotone: ts {} of seq {} after {}", b.ts.0, b.seq, a.ts.0))?;
        }
        let (first, last) = (accepted[0].ts.0, accepted[19].ts.0);
        must(
            last - first < 60_000,
            format!("the clock's jumps come through: {} ms between first and last", last - first),
        )
    })
}

fn one_day(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob) = (stage.person("alice").await?, stage.person("bob").await?);
        let conv = ConvId::direct(&alice.user, &bob.user);
        let cid = random_cid();
        let first = alice.sends_as(cid, &conv, "once").await?;
        for (off, text) in [(24 * HOUR, "tomorrow"), (-24 * HOUR, "yesterday"), (0, "today")] {
            let leader = stage.leader_of(&conv).await?;
            stage.moves(&alice, stage.other(&[leader])).await?;
            stage.set_clock(leader, off);
            alice.sends(&conv, text).await?;
            // A retry by the same device, as after a lost answer.
            let again = alice.sends_as(cid, &conv, "once").await?;
            must(
                again.dup && again.seq == first.seq,
                format!("I2 gapless: cid {cid} has seq {} and {}", first.seq, again.seq),
            )?;
            stage.set_clock(leader, 0);
            alice.sees_all();
        }
        let sights = stage.seen(&bob, |record| match &record.op {
            Op::Entry { entry } if entry.conv == conv => Some(entry.seq),
            _ => None,
        });
        shown(!sights.is_empty(), "bob has received nothing")
    })
}
