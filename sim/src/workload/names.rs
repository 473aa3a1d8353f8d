//! Messages that name people, and people who look for that in their list of conversations and read it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_client::device::message;
use flotilla_proto::entry::What;
use flotilla_proto::ids::{ConvId, Seq};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use super::talk::Plan;
use super::{Chat, Person, target_of};
use crate::checkers::mentions::{Named, note, shown};

/// As an app asks for it that shows who is named.
const LIST: &str = "/v1/conversations?order=activity&previews=true&limit=50";
/// So long a mention is waited for when nothing is broken.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(200);

/// Now and then a message names people: members and others, oneself, somebody twice.
pub(super) fn naming(rng: &mut StdRng, plan: &Plan, mut what: What) -> What {
    if let What::Message { mentions, .. } = &mut what
        && rng.random_range(0..100) < plan.options.load.mentions
    {
        let count = rng.random_range(1..=3);
        mentions.extend((0..count).map(|_| plan.users[rng.random_range(0..plan.users.len())].clone()));
    }
    what
}

impl Person {
    /// What a node lists.
    pub async fn mentions(&self, url: &str) -> Result<BTreeMap<ConvId, Named>, String> {
        let answer = self.asks(url, LIST).await?;
        let convs = answer["convs"].as_array().ok_or_else(|| format!("{url} lists nothing: {answer}"))?;
        let list = shown(convs);
        self.web.recorder.record(&self.web.label, &self.user, note(&list));
        if list.values().any(|(count, _)| *count > 0) {
            self.web.shown.add("mentions");
        }
        Ok(list)
    }

    /// Looks who names this person. `reads`: the first such message of each conversation, where the device has it.
    pub(super) async fn looks(&self, url: &str, reads: bool) {
        let Ok(list) = self.mentions(url).await else { return };
        let handle = self.handle();
        let Some(status) = handle.status().await else { return };
        for (conv, (_, first)) in list.into_iter().filter(|_| reads) {
            let stored = status.positions.get(&conv).copied().unwrap_or_default();
            if let Some(first) = first.filter(|first| stored >= *first) {
                handle.read(conv, first).await;
            }
        }
    }
}

impl Chat {
    /// Everything is healed: somebody names another one, who sees it and reads it.
    pub(super) async fn names_somebody(&self, person: &Arc<Person>, conv: &ConvId) {
        let Some(other) = conv.peer_of(&person.user) else { return };
        let Some(named) = self.people.iter().find(|one| one.user == other) else { return };
        let mut what = message("you there");
        if let What::Message { mentions, .. } = &mut what {
            mentions.push(other);
        }
        if person.handle().submit(target_of(&person.user, conv), what).await.is_err() {
            return;
        }
        let end = Instant::now() + PATIENCE;
        for url in named.web.urls.iter().cycle() {
            let list = named.mentions(url).await.unwrap_or_default();
            let first = list.get(conv).and_then(|(_, first)| *first);
            if let Some(first) = first.filter(|first| *first > Seq::ZERO) {
                named.handle().read(conv.clone(), first).await;
                return;
            }
            if Instant::now() > end {
                return;
            }
            sleep(LOOK).await;
        }
    }
}
