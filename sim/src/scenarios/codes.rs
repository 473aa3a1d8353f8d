//! One-time codes that outlive leaders, and nothing else.

use std::time::Duration;

use flotilla_client::http::HttpError;
use flotilla_proto::frame::ErrorCode;
use flotilla_proto::ids::ShardId;
use flotilla_proto::limits;
use serde_json::json;
use tokio::time::sleep;

use super::kit::{must, shown};
use super::person::Person;
use super::{Fail, Scenario, Stage, Told, story};
use crate::options::Disk;

pub const ALL: fn() -> Vec<Scenario> = || {
    vec![story(
        "wrong_tries_and_the_age_of_a_code_survive_every_leader",
        "a code that was guessed at five times lets nobody in, whoever led meanwhile, nor does one that is five minutes old",
        guessed_and_old,
    )]
};

/// The clock that a code lives by stands still while nobody leads.
const LOST: Duration = Duration::from_secs(30);

/// The code that is brought to an address.
async fn asks(stage: &Stage, person: &Person, node: usize, address: &str) -> Result<String, Fail> {
    let asked = person.web(node, "POST", "/v1/auth/otp", json!({ "address": address })).await;
    shown(asked.is_ok(), format!("no code is issued: {asked:?}"))?;
    let code = stage.trace.told("one-time code", "to", address, "code");
    code.ok_or_else(|| Fail::NotShown(format!("no code comes to {address}")))
}

/// Whether it lets somebody in.
async fn works(person: &Person, node: usize, address: &str, code: &str) -> Result<bool, Fail> {
    let body = json!({ "address": address, "code": code, "install": "theirs" });
    match person.web(node, "POST", "/v1/auth/otp/verify", body).await {
        Ok(_) => Ok(true),
        Err(HttpError::Refused { body, .. }) if body.code == ErrorCode::Unauthenticated => Ok(false),
        Err(error) => Err(Fail::NotShown(format!("a try has no clear answer: {error}"))),
    }
}

/// So many wrong tries.
async fn guesses(person: &Person, node: usize, address: &str, code: &str, times: u32) -> Result<(), Fail> {
    let number: u32 = code.parse().map_err(|_| Fail::NotShown(format!("{code} is no code")))?;
    for by in 1..=times {
        let guess = format!("{:06}", (number + by) % 1_000_000);
        must(!works(person, node, address, &guess).await?, format!("a wrong code lets somebody in: {guess}"))?;
    }
    Ok(())
}

impl Stage {
    /// The leader of each shard dies, and comes back when there is another one. Gives one that leads then.
    async fn every_leader_dies(&self) -> Result<usize, Fail> {
        let mut last = 0;
        for shard in (1..=self.cluster.shards).map(ShardId) {
            let leader = self.leader(shard).await?;
            self.kill(leader, Disk::Lost);
            last = self.leader(shard).await?;
            must(last != leader, "the dead node does not lead")?;
            self.restart(leader);
            self.until("liveness: the node is back", async || self.status(leader).await.is_some()).await?;
        }
        Ok(last)
    }
}

fn guessed_and_old(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob, _) = stage.talk_apart().await?;
        let [guessed, used, old] = ["guessed@example.com", "used@example.com", "old@example.com"];
        let (most, node) = (u32::from(limits::CODE_TRIES_MAX), stage.is_connected(&alice).await?);
        let code = asks(stage, &alice, node, guessed).await?;
        let good = asks(stage, &bob, node, used).await?;
        let kept = asks(stage, &bob, node, old).await?;
        guesses(&alice, node, guessed, &code, most - 2).await?;
        guesses(&bob, node, used, &good, most - 2).await?;

        let node = stage.every_leader_dies().await?;
        guesses(&alice, node, guessed, &code, 2).await?;
        guesses(&bob, node, used, &good, 1).await?;
        must(!works(&alice, node, guessed, &code).await?, "one-time codes: five wrong tries end a code")?;
        must(works(&bob, node, used, &good).await?, "liveness: a code lives for one try less")?;

        let node = stage.every_leader_dies().await?;
        must(!works(&alice, node, guessed, &code).await?, "one-time codes: five wrong tries end a code for good")?;
        must(!works(&bob, node, used, &good).await?, "one-time codes: a code works once")?;
        // That is what the story is about: nothing else ends this code.
        sleep(Duration::from_millis(limits::CODE_LIFE_MS) + LOST).await;
        must(!works(&bob, node, old, &kept).await?, "one-time codes: a code lives for five minutes")
    })
}
