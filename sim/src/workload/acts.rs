//! What a person settles, see [`crate::lasting`]: requests without the device, each sent once, one after the other.

use std::time::Duration;

use flotilla_client::device::random_cid;
use flotilla_client::history::Op;
use flotilla_client::http::{Http, HttpError};
use flotilla_proto::frame::{ErrorBody, ErrorCode};
use flotilla_proto::ids::{ConvId, UserId};
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::talk::Plan;
use super::web::Web;
use super::{Chat, Person};
use crate::lasting::{Act, Ended, ends};
use crate::options::Options;

const PATIENCE: Duration = Duration::from_secs(8);
const PAUSE: Duration = Duration::from_secs(1);
/// So often something is asked for that must be possible.
const TRIES: usize = 20;
/// A request that was given up may have its effect so much later: one deadline of the server's, and some.
const LATE: Duration = Duration::from_secs(10);
/// Far in the future.
const LONG_MUTED_MS: u64 = 4_102_444_800_000;

const FIELDS: [&str; 5] = ["pinned", "muted_until", "archived", "unread", "hide_read"];
const AUDIENCES: [&str; 4] = ["everyone", "everyone", "contacts", "nobody"];

/// Any of a part of the load; none if there is nobody for it.
pub(super) async fn draw(rng: &mut StdRng, part: &str, person: &Person, plan: &Plan, number: usize) -> Option<Act> {
    let others: Vec<_> = plan.users.iter().filter(|user| **user != person.user).collect();
    let user = (*others.get(rng.random_range(0..others.len().max(1)))?).clone();
    Some(match part {
        "settings" => {
            let convs: Vec<_> = plan.groups.iter().chain(&plan.directs).collect();
            let conv = (*convs.get(rng.random_range(0..convs.len().max(1)))?).clone();
            let (field, on) = (FIELDS[rng.random_range(0..FIELDS.len())].to_owned(), rng.random_bool(0.6));
            let value = if on && field == "muted_until" { LONG_MUTED_MS + number as u64 } else { u64::from(on) };
            Act::Setting { conv, field, value: if on { value } else { 0 } }
        }
        "profile" => {
            let field = if rng.random_bool(0.5) { "name" } else { "about" }.to_owned();
            Act::Profile { field, text: format!("{} {number}", person.user) }
        }
        "contact" => Act::Contact { name: rng.random_bool(0.7).then(|| format!("{user} {number}")), user },
        "block" => Act::Block { user, on: rng.random_bool(0.6) },
        // One of both; what is drawn is drawn for both.
        "privacy" if number % 2 == 1 => {
            let _ = rng.random_range(0..AUDIENCES.len());
            Act::HideRead { on: number % 4 == 1 }
        }
        "privacy" => Act::Privacy { audience: AUDIENCES[rng.random_range(0..AUDIENCES.len())].to_owned() },
        "device" => {
            let device = person.handle().status().await.and_then(|status| status.device)?;
            Act::Device { device, name: format!("named after {number}") }
        }
        "report" => Act::Report { user },
        _ => return None,
    })
}

impl Web {
    /// True if it was done.
    pub async fn does(&self, url: &str, act: &Act) -> bool {
        let _one = self.acting.lock().await;
        let id = random_cid();
        let note = |text| self.recorder.record(&self.label, &self.user, Op::Note { text });
        note(act.begins(id));
        let (method, path, body) = act.request();
        let http = Http::new(url).with_token(self.token.clone());
        let method = method.parse().expect("a verb of ours");
        let answer = timeout(PATIENCE, http.json(method, &path, Some(id), Some(&body))).await;
        let (how, why) = match answer {
            Ok(Ok(_)) => (Ended::Done, String::new()),
            Ok(Err(HttpError::Refused { body, .. })) if is_final(&body) => {
                (Ended::Refused, body.code.name().to_owned())
            }
            Ok(Err(error)) => (Ended::Unknown, error.to_string()),
            Err(_) => (Ended::Unknown, "no answer in time".to_owned()),
        };
        note(ends(id, how, &why));
        if how == Ended::Done {
            self.shown.add(act.part());
        }
        how == Ended::Done
    }

    /// Again through one node after the other, until it is done.
    pub async fn insists(&self, act: &Act) -> bool {
        for url in self.urls.iter().cycle().take(TRIES) {
            if self.does(url, act).await {
                return true;
            }
            sleep(PAUSE).await;
        }
        false
    }

    pub async fn asks(&self, url: &str, path: &str) -> Result<Value, String> {
        let http = Http::new(url).with_token(self.token.clone());
        match timeout(PATIENCE, http.get(path)).await {
            Ok(answer) => answer.map_err(|error| format!("{path} at {url}: {error}")),
            Err(_) => Err(format!("{path} at {url}: no answer in time")),
        }
    }
}

/// It had no effect.
fn is_final(error: &ErrorBody) -> bool {
    !error.retryable && !matches!(error.code, ErrorCode::Internal | ErrorCode::OutcomeUnknown)
}

/// The same on the person's other machine: nobody else has an address.
impl Person {
    pub async fn asks(&self, url: &str, path: &str) -> Result<Value, String> {
        let (web, url, path) = (self.web.clone(), url.to_owned(), path.to_owned());
        let asked = self.browse(async move { web.asks(&url, &path).await });
        asked.await.unwrap_or_else(|_| Err("the browser is gone".into()))
    }

    pub(super) async fn insists(&self, act: Act) {
        let web = self.web.clone();
        // A browser is not killed.
        let _ = self.browse(async move { web.insists(&act).await }).await;
    }

    /// `again`: what was accepted comes once more, see [`Web::again`].
    pub(super) async fn sends(&self, conv: &ConvId, body: &str, again: bool) {
        let (web, conv, body, cid) = (self.web.clone(), conv.clone(), body.to_owned(), random_cid());
        let sent = self.browse(async move {
            if web.send(cid, &conv, &body).await && again {
                web.again(cid, &conv, &body).await;
            }
        });
        let _ = sent.await;
    }
}

impl Chat {
    /// Everything is healed: who is still blocked tries once more to say something, then everybody makes peace.
    pub(super) async fn makes_peace(&self, options: &Options) {
        if options.load.block == 0 {
            return;
        }
        sleep(LATE).await;
        let people = &self.people[..options.users.min(self.people.len())];
        for person in people {
            for other in people.iter().filter(|other| other.user != person.user) {
                if !is_blocked(person, &other.user).await {
                    continue;
                }
                let conv = ConvId::direct(&person.user, &other.user);
                other.sends(&conv, "are you there?", false).await;
                person.insists(Act::Block { user: other.user.clone(), on: false }).await;
            }
        }
    }
}

/// As the first node says that answers.
async fn is_blocked(person: &Person, user: &UserId) -> bool {
    for url in person.web.urls.iter().cycle().take(TRIES) {
        if let Ok(answer) = person.asks(url, "/v1/blocks").await {
            let blocks = answer["blocks"].as_array().cloned().unwrap_or_default();
            return blocks.iter().any(|block| block["user"] == user.as_str());
        }
        sleep(PAUSE).await;
    }
    false
}
