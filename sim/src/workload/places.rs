//! The same device from two places at once: a second process on a copy of a person's store opens while the first one lives.
//!
//! Only one may hold the session: the first is closed with 4504 and comes back once as a new instance, which closes the
//! second, and so on until one of them stops for good. In the end the second is gone, and the person opens the first again.

use std::sync::Arc;
use std::time::Duration;

use flotilla_client::device::{Handle, message};
use flotilla_client::history::{Op, Record};
use flotilla_client::store::{Change, MemStore, Store};
use flotilla_proto::frame::CloseCode;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep, timeout};

use super::{Chat, Person, person, strange, target_of};
use crate::cluster::Cluster;

/// So long the second place waits to be served.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);

impl Chat {
    /// One takeover after the other, while people write and things break.
    pub async fn two_places(&self, rng: &mut StdRng, times: u32, cluster: &Cluster) {
        for _ in 0..times {
            sleep(Duration::from_millis(rng.random_range(200..=3_000))).await;
            let person = &self.people[rng.random_range(0..self.people.len())];
            cluster.say(format!("opens the device of {} in a second place", person.user));
            self.second_place(rng, person).await;
            cluster.say(format!("ends the second place of {}", person.user));
            person.comes_back().await;
        }
    }

    pub(super) async fn second_place(&self, rng: &mut StdRng, person: &Arc<Person>) {
        let mut store = MemStore::new();
        let saved = person.saved();
        let mut changes = vec![Change::Install(saved.install)];
        changes.extend(saved.device.map(|(user, device)| Change::Device { user, device }));
        if rng.random_bool(0.5) {
            changes.extend(saved.positions.into_iter().map(|(conv, seq)| Change::Position { conv, seq }));
        }
        // A store in memory takes everything.
        let _ = store.commit(changes).await;
        let Some(handle) = person.opens_elsewhere(store.clone()).await else { return };
        let end = Instant::now() + PATIENCE;
        while !is_served(&handle).await && Instant::now() < end {
            sleep(LOOK).await;
        }
        // It writes as well.
        let convs: Vec<_> = self.convs.iter().filter(|(conv, _)| conv.peer_of(&person.user).is_some()).collect();
        for number in 0..rng.random_range(0..=3) {
            let Some((conv, _)) = convs.get(rng.random_range(0..convs.len().max(1))) else { break };
            let body = format!("{} elsewhere {number}", person.user);
            // It may have been closed for good already.
            let _ = handle.submit(target_of(&person.user, conv), message(body)).await;
        }
        sleep(Duration::from_millis(rng.random_range(100..=3_000))).await;
        if rng.random_bool(0.5) {
            // Not in time: it dies below.
            let _ = timeout(Duration::from_secs(2), handle.close()).await;
        }
        person.ends_elsewhere(&store);
    }
}

/// A place learns that another one has taken the session. What strangers do to themselves is no such thing.
pub(super) fn is_takeover(record: &Record) -> bool {
    let stopped = CloseCode::SessionReplaced.number();
    matches!(record.op, Op::Closed { code, .. } if code == stopped) && !strange::is_one(&record.user)
}

async fn is_served(handle: &Handle) -> bool {
    let status = timeout(person::ANSWER, handle.status()).await.ok().flatten();
    status.is_some_and(|status| status.caught_up || status.stopped.is_some())
}
