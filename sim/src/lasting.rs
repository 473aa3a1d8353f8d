//! What people settle beside messages, and what must be left of it: settings, profiles, contacts, blocks, privacy, names of
//! devices. An [`Act`] writes one value into one place; the history says when it began and how it ended.
//!
//! Invariant: an act is one request, sent once. So *done* means that it had its effect between its two records, *refused* that it
//! had none, and *unknown* that it may have it at any time after its beginning, also after later ones.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_client::history::{Op, Record};
use flotilla_proto::ids::{Cid, ConvId, DeviceId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// Of a conversation, for oneself: `pinned`, `muted_until`, `archived`, `unread`, `hide_read`.
    Setting {
        conv: ConvId,
        field: String,
        value: u64,
    },
    /// `name`, `avatar` or `about`.
    Profile {
        field: String,
        text: String,
    },
    /// None: no contact any more.
    Contact {
        user: UserId,
        name: Option<String>,
    },
    Block {
        user: UserId,
        on: bool,
    },
    /// Who may see one's presence: `everyone`, `contacts` or `nobody`.
    Privacy {
        audience: String,
    },
    /// One's read marks, in all conversations.
    HideRead {
        on: bool,
    },
    Device {
        device: DeviceId,
        name: String,
    },
    /// Leaves nothing behind.
    Report {
        user: UserId,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    Done,
    Refused,
    Unknown,
}

impl Act {
    /// As the load counts it.
    pub fn part(&self) -> &'static str {
        match self {
            Self::Setting { .. } => "settings",
            Self::Profile { .. } => "profile",
            Self::Contact { .. } => "contact",
            Self::Block { .. } => "block",
            Self::Privacy { .. } | Self::HideRead { .. } => "privacy",
            Self::Device { .. } => "device",
            Self::Report { .. } => "report",
        }
    }

    /// Method, path, body.
    pub fn request(&self) -> (&'static str, String, Value) {
        match self {
            Self::Setting { conv, field, value } => {
                let value = if field == "muted_until" { json!(value) } else { json!(*value > 0) };
                ("PATCH", format!("/v1/conversations/{conv}/settings"), json!({ field: value }))
            }
            Self::Profile { field, text } => ("PATCH", "/v1/me".into(), json!({ field: text })),
            Self::Contact { user, name: Some(name) } => {
                ("PUT", format!("/v1/contacts/{user}"), json!({ "name": name }))
            }
            Self::Contact { user, name: None } => ("DELETE", format!("/v1/contacts/{user}"), json!({})),
            Self::Block { user, on } => (if *on { "PUT" } else { "DELETE" }, format!("/v1/blocks/{user}"), json!({})),
            Self::Privacy { audience } => ("PATCH", "/v1/me/privacy".into(), json!({ "presence": audience })),
            Self::HideRead { on } => ("PATCH", "/v1/me/privacy".into(), json!({ "hide_read": on })),
            Self::Device { device, name } => ("PATCH", format!("/v1/devices/{device}"), json!({ "name": name })),
            Self::Report { user } => {
                ("POST", "/v1/reports".into(), json!({ "reason": "spam", "user": user, "text": "simulated" }))
            }
        }
    }

    /// Where it writes, and what. A report writes nothing.
    pub fn writes(&self) -> Option<(String, String)> {
        Some(match self {
            Self::Setting { conv, field, value } => (setting(conv, field), value.to_string()),
            Self::Profile { field, text } => (format!("profile {field}"), text.clone()),
            Self::Contact { user, name } => (format!("contact {user}"), name.clone().unwrap_or_default()),
            Self::Block { user, on } => (format!("block {user}"), u64::from(*on).to_string()),
            Self::Privacy { audience } => ("privacy".into(), audience.clone()),
            Self::HideRead { on } => ("hide_read".into(), u64::from(*on).to_string()),
            Self::Device { device, name } => (format!("device {device}"), name.clone()),
            Self::Report { .. } => return None,
        })
    }

    /// As it stands in the history when it begins.
    pub fn begins(&self, id: Cid) -> String {
        format!("act {id} begins {}", serde_json::to_string(self).unwrap_or_default())
    }
}

pub fn setting(conv: &ConvId, field: &str) -> String {
    format!("setting {conv} {field}")
}

/// As it stands in the history when it ends.
pub fn ends(id: Cid, how: Ended, why: &str) -> String {
    let how = match how {
        Ended::Done => "done",
        Ended::Refused => "refused",
        Ended::Unknown => "unknown",
    };
    format!("act {id} {how} {why}").trim_end().to_owned()
}

/// An act of the history. Times are places in the history.
#[derive(Debug, Clone)]
pub struct Did {
    pub user: UserId,
    pub act: Act,
    pub begins: usize,
    pub ends: Option<usize>,
    /// Unknown as long as it has not ended.
    pub how: Ended,
}

impl Did {
    /// It had its effect, all of it before this place of the history.
    pub fn is_over(&self, at: usize) -> bool {
        self.how == Ended::Done && self.ends.is_some_and(|end| end < at)
    }

    /// It may have its effect at this place or later.
    pub fn may_come(&self, at: usize) -> bool {
        self.how != Ended::Refused && !self.is_over(at)
    }
}

/// All acts, in the order in which they began.
pub fn acts(records: &[Record]) -> Vec<Did> {
    let (mut acts, mut open): (Vec<Did>, BTreeMap<String, usize>) = (Vec::new(), BTreeMap::new());
    for (at, record) in records.iter().enumerate() {
        let Op::Note { text } = &record.op else { continue };
        let mut words = text.splitn(4, ' ');
        let (Some("act"), Some(id), Some(word)) = (words.next(), words.next(), words.next()) else { continue };
        if word == "begins" {
            let Ok(act) = serde_json::from_str(words.next().unwrap_or_default()) else { continue };
            open.insert(id.to_owned(), acts.len());
            let (user, how) = (record.user.clone(), Ended::Unknown);
            acts.push(Did { user, act, begins: at, ends: None, how });
        } else if let Some(did) = open.get(id).and_then(|index| acts.get_mut(*index)) {
            did.ends = Some(at);
            did.how = match word {
                "done" => Ended::Done,
                "refused" => Ended::Refused,
                _ => Ended::Unknown,
            };
        }
    }
    acts
}

/// What may stand in each place of each user in the end: what no other act was done after, for sure, and what nobody can say of.
/// A place that was never written is not there.
pub fn last_words(acts: &[Did]) -> BTreeMap<(UserId, String), BTreeSet<String>> {
    let mut places: BTreeMap<(UserId, String), Vec<(&Did, String)>> = BTreeMap::new();
    for did in acts.iter().filter(|did| did.how != Ended::Refused) {
        if let Some((place, value)) = did.act.writes() {
            places.entry((did.user.clone(), place)).or_default().push((did, value));
        }
    }
    let words = places.into_iter().map(|((user, place), written)| {
        let replaced = |did: &Did| written.iter().any(|(next, _)| next.how == Ended::Done && did.is_over(next.begins));
        let mut left: BTreeSet<String> =
            written.iter().filter(|(did, _)| !replaced(did)).map(|(_, value)| value.clone()).collect();
        if written.iter().all(|(did, _)| did.how == Ended::Unknown) {
            left.insert(untouched(&place).to_owned());
        }
        ((user, place), left)
    });
    words.collect()
}

/// What stands in a place that nobody has written.
pub fn untouched(place: &str) -> &'static str {
    match place.split(' ').next() {
        Some("setting" | "block" | "hide_read") => "0",
        Some("privacy") => "everyone",
        // What a device is called before somebody names it is the login's to say.
        Some("device") => "?",
        _ => "",
    }
}

#[cfg(test)]
pub mod testing {
    use super::*;

    /// A history of acts: (who, act, how), one after another; the last ones of `beside` begin before the first ends.
    pub fn history(acts: &[(&str, Act, Ended)], beside: usize) -> Vec<Record> {
        let user = |name: &str| UserId::parse(name).expect("valid");
        let note = |name: &str, text: String| Record {
            at_us: 0,
            device: name.to_owned(),
            user: user(name),
            op: Op::Note { text },
        };
        let ids = |n: usize| Cid(n as u128 + 1);
        let (mut records, split) = (Vec::new(), acts.len() - beside);
        for (n, (name, act, how)) in acts.iter().enumerate().take(split) {
            records.push(note(name, act.begins(ids(n))));
            records.push(note(name, ends(ids(n), *how, "")));
        }
        for (n, (name, act, _)) in acts.iter().enumerate().skip(split) {
            records.push(note(name, act.begins(ids(n))));
        }
        for (n, (name, _, how)) in acts.iter().enumerate().skip(split) {
            records.push(note(name, ends(ids(n), *how, "")));
        }
        records
    }

    pub fn named(text: &str) -> Act {
        Act::Profile { field: "name".into(), text: text.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::*;
    use super::*;

    fn left(acts: &[(&str, Act, Ended)], beside: usize) -> Vec<String> {
        let words = last_words(&super::acts(&history(acts, beside)));
        words.into_values().next().unwrap_or_default().into_iter().collect()
    }

    #[test]
    fn the_last_word_is_the_last_that_was_done_or_any_that_nobody_knows_of() {
        use Ended::*;
        let by = |text: &str, how| ("ann", named(text), how);
        assert_eq!(left(&[by("a", Done), by("b", Done)], 0), ["b"]);
        assert_eq!(left(&[by("a", Done), by("b", Refused)], 0), ["a"]);
        assert_eq!(left(&[by("a", Unknown), by("b", Done)], 0), ["a", "b"], "it may arrive late");
        assert_eq!(left(&[by("a", Unknown)], 0), ["", "a"]);
        assert_eq!(left(&[by("a", Done), by("b", Done), by("c", Done)], 2), ["b", "c"], "side by side");
    }
}
