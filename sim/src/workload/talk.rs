//! What one person does: mostly messages, and as often as the options say an edit, a deletion, a reaction, a read mark, or a
//! change of a group's members. Whether it may is the server's to say: each outcome is in the history.

use std::sync::Arc;
use std::time::Duration;

use flotilla_client::device::{Handle, Outcome, Ticket, message, random_cid};
use flotilla_proto::entry::What;
use flotilla_proto::frame::ErrorCode;
use flotilla_proto::ids::{Blob, ConvId, Seq, UserId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::sleep;

use super::beside::Beside;
use super::names::naming;
use super::{Person, target_of};
use crate::options::{Options, stream};

pub struct Plan {
    pub index: usize,
    pub share: usize,
    pub groups: Vec<ConvId>,
    pub directs: Vec<ConvId>,
    /// A group that this person has made.
    pub own: Option<ConvId>,
    pub users: Vec<UserId>,
    pub options: Options,
}

/// A process that has died comes back; what was given to it meanwhile is lost, as if never typed.
const AWAY: Duration = Duration::from_millis(200);
const SAID_AGAIN_MAX: u32 = 3;

pub async fn run(person: Arc<Person>, plan: Plan) {
    // Another stream than the one that drew the options.
    let mut rng = StdRng::seed_from_u64(plan.options.seed.wrapping_mul(31).wrapping_add(1 + plan.index as u64));
    // It changes nothing that the other one draws.
    let mut names = stream(plan.options.seed, 80 + plan.index as u64);
    let mut beside = Beside::new(&person, &plan);
    for number in 0..plan.share {
        let pause = plan.options.pause.as_micros() as u64;
        sleep(Duration::from_micros(rng.random_range(0..=2 * pause))).await;
        let to_group = rng.random_range(0..100) < plan.options.group_percent;
        let among =
            if to_group && !plan.groups.is_empty() || plan.directs.is_empty() { &plan.groups } else { &plan.directs };
        let conv = &among[rng.random_range(0..among.len())];
        let changes = rng.random_range(0..100) < plan.options.change_percent;
        let handle = person.handle();
        let done = if changes {
            change(&mut rng, &handle, &plan, conv, number).await
        } else {
            let what = naming(&mut names, &plan, message(format!("{} {number}", person.user)));
            says(&person, conv, what).await
        };
        if !done {
            sleep(AWAY).await;
        }
        beside.turn(number).await;
    }
    beside.end().await;
}

/// False if the device is not there. The answer arrives in the history; the next message does not wait for it. What was kept from
/// the cluster until nobody can know whether it has arrived is said again, as a person would who was asked.
async fn says(person: &Arc<Person>, conv: &ConvId, what: What) -> bool {
    let Some(mut ticket) = say(person, conv, &what).await else { return false };
    let (person, conv) = (person.clone(), conv.clone());
    tokio::spawn(async move {
        for _ in 0..SAID_AGAIN_MAX {
            match ticket.answer().await {
                Outcome::Unknown(why) if why.contains(ErrorCode::TooOld.name()) => {}
                _ => return,
            }
            let Some(next) = say(&person, &conv, &what).await else { return };
            ticket = next;
        }
    });
    true
}

async fn say(person: &Person, conv: &ConvId, what: &What) -> Option<Ticket> {
    person.handle().submit(target_of(&person.user, conv), what.clone()).await.ok()
}

/// False if the device is not there.
async fn change(rng: &mut StdRng, handle: &Handle, plan: &Plan, conv: &ConvId, number: usize) -> bool {
    let Some(status) = handle.status().await else { return false };
    let seen = status.positions.get(conv).copied().unwrap_or_default();
    let target = Seq(rng.random_range(1..=seen.0.max(1)));
    let someone = plan.users[rng.random_range(0..plan.users.len())].clone();
    // More come than go, or groups would soon be empty and all that is said to them be refused.
    let what = match rng.random_range(0..if conv.peers().is_some() { 4 } else { 12 }) {
        0 => What::Edit { target, body: Blob::from(format!("edit {number}").into_bytes()) },
        1 => What::Delete { target },
        2 => What::React { target, emoji: "+1".into(), on: rng.random_bool(0.7) },
        3 => {
            handle.read(conv.clone(), target).await;
            return true;
        }
        kind => {
            let back = plan.own.as_ref() == Some(conv) && someone != *handle.user();
            let away = Duration::from_millis(rng.random_range(0..=2_000));
            let (handle, conv) = (handle.clone(), conv.clone());
            // It may take as long as the faults do, and nothing that follows depends on it.
            tokio::spawn(async move {
                // Every outcome is fine, and in the history.
                let _ = match kind {
                    // Out and in again: who makes a group is the one who may.
                    _ if back => {
                        let _ = handle.remove_member(random_cid(), &conv, &someone).await;
                        sleep(away).await;
                        handle.add_members(random_cid(), &conv, &[someone]).await
                    }
                    4 => handle.leave(random_cid(), &conv).await,
                    5 => handle.remove_member(random_cid(), &conv, &someone).await,
                    _ => handle.add_members(random_cid(), &conv, &[someone]).await,
                };
            });
            return true;
        }
    };
    handle.submit(target_of(handle.user(), conv), what).await.is_ok()
}
