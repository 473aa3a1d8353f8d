//! What nodes answer in the end of what people have settled, asked one node after the other, and of who is there.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_client::history::Record;
use flotilla_proto::ids::UserId;
use serde_json::Value;

use crate::checkers::last_words::{Answer, forgotten, reads};
use crate::checkers::mentions;
use crate::checkers::presence::{Veil, wrong};
use crate::cluster::Cluster;
use crate::lasting::{acts, last_words, setting};
use crate::workload::{Chat, Person};

/// The first answer that is not what was settled last.
pub async fn differ(cluster: &Cluster, chat: &Chat, records: &[Record]) -> Option<String> {
    let (words, reads) = (last_words(&acts(records)), reads(records));
    if words.is_empty() {
        return None;
    }
    for person in users(chat) {
        for url in urls(cluster, person) {
            let answer = match answer(person, url).await {
                Ok(answer) => answer,
                Err(why) => return Some(why),
            };
            if let Some(what) = forgotten(&words, &reads, &person.user, &answer) {
                return Some(format!("{what}; asked at {url}"));
            }
        }
    }
    None
}

/// The first list of conversations, of any device at any node, that does not count whom the log names.
pub async fn misnamed(cluster: &Cluster, chat: &Chat) -> Option<String> {
    for person in &chat.people {
        for url in urls(cluster, person) {
            let list = match person.mentions(url).await {
                Ok(list) => list,
                Err(why) => return Some(why),
            };
            let wrong = cluster.watch.with_world(|world| mentions::differs(world, &person.user, &list));
            if let Some(what) = wrong {
                return Some(format!("{}: {what}; asked at {url}", person.label()));
            }
        }
    }
    None
}

/// The first state that is not true. `gone`: who has closed the last session.
pub async fn untrue(cluster: &Cluster, chat: &Chat, gone: Option<&UserId>) -> Option<String> {
    untrue_at(cluster, chat, gone).await.unwrap_or_else(Some)
}

async fn untrue_at(cluster: &Cluster, chat: &Chat, gone: Option<&UserId>) -> Result<Option<String>, String> {
    let mut veils = BTreeMap::new();
    for person in users(chat) {
        let url = urls(cluster, person)[0];
        veils.insert(&person.user, veil(person, url).await?);
    }
    let names: Vec<&str> = veils.keys().map(|user| user.as_str()).collect();
    for by in users(chat).filter(|by| Some(&by.user) != gone) {
        for url in urls(cluster, by) {
            let answer = by.asks(url, &format!("/v1/presence?users={}", names.join(","))).await?;
            let told = list(&answer, "presence");
            for (user, veil) in &veils {
                let entry = told.iter().find(|entry| entry["user"] == user.as_str());
                let entry = entry.ok_or_else(|| format!("{url} tells {} nothing of {user}", by.user))?;
                let seen = (entry["state"].as_str().unwrap_or_default(), !entry["last_seen"].is_null());
                if let Some(what) = wrong(&by.user, user, veil, gone != Some(*user), seen) {
                    return Ok(Some(format!("{what}; asked at {url}")));
                }
            }
        }
    }
    Ok(None)
}

/// The first device of each user.
fn users(chat: &Chat) -> impl Iterator<Item = &Person> {
    let mut known = BTreeSet::new();
    chat.people.iter().map(|person| &**person).filter(move |person| known.insert(person.user.clone()))
}

/// Of the nodes that live.
fn urls<'a>(cluster: &Cluster, person: &'a Person) -> Vec<&'a str> {
    let core = cluster.core();
    let seats = cluster.seats.iter().zip(&person.web.urls);
    seats.filter(|(seat, _)| core.contains(&seat.number)).map(|(_, url)| url.as_str()).collect()
}

fn list(answer: &Value, name: &str) -> Vec<Value> {
    answer[name].as_array().cloned().unwrap_or_default()
}

async fn answer(person: &Person, url: &str) -> Result<Answer, String> {
    let mut answer = Answer::new();
    let mut say = |place: String, value: String| drop(answer.insert(place, value));
    let profile = person.asks(url, &format!("/v1/users/{}", person.user)).await?;
    for field in ["name", "avatar", "about"] {
        say(format!("profile {field}"), profile[field].as_str().unwrap_or_default().to_owned());
    }
    for contact in list(&person.asks(url, "/v1/contacts").await?, "contacts") {
        say(format!("contact {}", text(&contact["user"])), text(&contact["name"]));
    }
    for block in list(&person.asks(url, "/v1/blocks").await?, "blocks") {
        say(format!("block {}", text(&block["user"])), u64::from(block["on"] == true).to_string());
    }
    let privacy = person.asks(url, "/v1/me/privacy").await?;
    say("privacy".into(), text(&privacy["presence"]));
    say("hide_read".into(), u64::from(privacy["hide_read"] == true).to_string());
    for device in list(&person.asks(url, "/v1/devices").await?, "devices") {
        say(format!("device {}", text(&device["device"])), text(&device["name"]));
    }
    for conv in list(&person.asks(url, "/v1/conversations?limit=50").await?, "convs") {
        let id = conv["conv"].as_str().and_then(|id| flotilla_proto::ids::ConvId::parse(id).ok());
        let id = id.ok_or_else(|| format!("{conv} is no conversation"))?;
        let settings = &conv["settings"];
        for (field, value) in [
            ("pinned", u64::from(!settings["pinned"].is_null())),
            ("muted_until", settings["muted_until"].as_u64().unwrap_or_default()),
            ("archived", u64::from(settings["archived"] == true)),
            ("unread", u64::from(settings["unread"] == true)),
            ("hide_read", u64::from(settings["hide_read"] == true)),
        ] {
            say(setting(&id, field), value.to_string());
        }
    }
    Ok(answer)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

async fn veil(person: &Person, url: &str) -> Result<Veil, String> {
    let users = |all: Vec<Value>| all.iter().filter_map(|one| UserId::parse(one["user"].as_str()?).ok()).collect();
    Ok(Veil {
        audience: text(&person.asks(url, "/v1/me/privacy").await?["presence"]),
        contacts: users(list(&person.asks(url, "/v1/contacts").await?, "contacts")),
        blocked: users(list(&person.asks(url, "/v1/blocks").await?, "blocks")),
    })
}
