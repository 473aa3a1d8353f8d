//! What workloads share before anything is measured: everybody online, conversations made and known to all members.

use std::time::Duration;

use anyhow::{bail, ensure};
use flotilla_proto::ids::{Cid, ConvId};
use flotilla_proto::limits::GROUP_MEMBERS_MAX;
use serde_json::json;

use crate::engine::Engine;

const LIMIT: Duration = Duration::from_secs(120);

/// All of them, however often a node that has just started says "not ready".
pub fn online(engine: &mut Engine, devices: impl IntoIterator<Item = usize>) -> anyhow::Result<()> {
    let devices: Vec<usize> = devices.into_iter().collect();
    let wanted = engine.online + devices.len();
    engine.invite(devices);
    let limit = engine.clock.now().after(LIMIT + Duration::from_millis(20) * wanted as u32);
    if !engine.turn_until(limit, |engine| engine.online >= wanted)? {
        bail!("{} of {wanted} devices are online after {LIMIT:?}; errors: {:?}", engine.online, engine.tally.errors);
    }
    Ok(())
}

/// One send of each sender, so that every conversation exists and everybody has it; a few at a time.
pub fn introduce(engine: &mut Engine) -> anyhow::Result<()> {
    const AT_ONCE: usize = 64;
    for first in (0..engine.conversations.len()).step_by(AT_ONCE) {
        let part = first..(first + AT_ONCE).min(engine.conversations.len());
        for conv in part.clone() {
            for sender in 0..engine.conversations[conv].senders.len() {
                let now = engine.clock.now();
                engine.send(conv as u32, sender as u16, now, now);
            }
        }
        let limit = engine.clock.now().after(LIMIT);
        let settled = engine
            .turn_until(limit, |engine| engine.conversations[part.clone()].iter().all(|c| c.ledger.is_settled()))?;
        ensure!(settled, "the first messages did not arrive in {LIMIT:?}; errors: {:?}", engine.tally.errors);
    }
    Ok(())
}

/// A group of these devices, made by the first of `senders`.
pub fn groups(engine: &mut Engine, groups: &[(Vec<usize>, Vec<usize>)]) -> anyhow::Result<()> {
    let mut made = Vec::new();
    for (members, senders) in groups {
        let owner = senders[0];
        let key = Cid(rand::random());
        let id = ConvId::group(&engine.devices[owner].user, key);
        engine.group(id, members, senders);
        let others = members.iter().filter(|at| **at != owner).map(|at| engine.devices[*at].user.to_string());
        made.push((owner, key, json!({"name": "load", "members": others.collect::<Vec<_>>()})));
    }
    for (owner, key, params) in made {
        call(engine, owner, "POST groups", key, &params)?;
    }
    Ok(())
}

/// A channel of these devices, made by the first of `senders`, who takes the others in by parts.
pub fn channels(engine: &mut Engine, channels: &[(Vec<usize>, Vec<usize>)]) -> anyhow::Result<()> {
    for (members, senders) in channels {
        let owner = senders[0];
        let key = Cid(rand::random());
        let id = ConvId::channel(&engine.devices[owner].user, key);
        engine.group(id.clone(), members, senders);
        call(engine, owner, "POST groups", key, &json!({"name": "load", "kind": "channel", "members": []}))?;
        let others: Vec<usize> = members.iter().copied().filter(|at| *at != owner).collect();
        for part in others.chunks(GROUP_MEMBERS_MAX) {
            let users: Vec<String> = part.iter().map(|at| engine.devices[*at].user.to_string()).collect();
            let method = format!("POST conversations/{id}/members");
            call(engine, owner, &method, Cid(rand::random()), &json!({ "users": users }))?;
        }
    }
    Ok(())
}

fn call(engine: &mut Engine, owner: usize, method: &str, key: Cid, params: &serde_json::Value) -> anyhow::Result<()> {
    let limit = engine.clock.now().after(LIMIT);
    loop {
        let id = engine.call(owner, method, Some(key), params.clone());
        let mut answer = None;
        while answer.is_none() {
            ensure!(engine.clock.now() < limit, "a group was not made in {LIMIT:?}; errors: {:?}", engine.tally.errors);
            engine.turn(limit)?;
            answer = engine.answer(id);
        }
        match answer {
            Some(Err(error)) if error.retryable => {
                let later = engine.clock.now().after(Duration::from_millis(100));
                engine.turn_until(later, |_| false)?;
            }
            Some(Err(error)) => bail!("a group cannot be made: {error}"),
            _ => return Ok(()),
        }
    }
}
