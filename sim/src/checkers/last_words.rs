//! What somebody has settled last stays: settings, profile, contacts, blocks, privacy, names of devices are in the end what was
//! last answered as done (or any that nobody knows the end of), and the same through whichever node they are asked for.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_client::history::{Op, Record};
use flotilla_proto::ids::{ConvId, UserId};

use crate::lasting::{setting, untouched};

/// What one node answers of a user, by place.
pub type Answer = BTreeMap<String, String>;

/// Conversations in which a user has read something: that takes away the mark "unread".
pub fn reads(records: &[Record]) -> BTreeSet<(UserId, ConvId)> {
    let reads = records.iter().filter_map(|record| match &record.op {
        Op::Read { conv, .. } => Some((record.user.clone(), conv.clone())),
        _ => None,
    });
    reads.collect()
}

/// The first place in which something else stands.
pub fn forgotten(
    words: &BTreeMap<(UserId, String), BTreeSet<String>>,
    reads: &BTreeSet<(UserId, ConvId)>,
    user: &UserId,
    answer: &Answer,
) -> Option<String> {
    let read: BTreeSet<String> =
        reads.iter().filter(|(by, _)| by == user).map(|(_, conv)| setting(conv, "unread")).collect();
    for ((_, place), left) in words.iter().filter(|((by, _), _)| by == user) {
        // Of a conversation that its user has left nothing is listed.
        if place.starts_with("setting") && !answer.contains_key(place) {
            continue;
        }
        let shown = answer.get(place).map_or(untouched(place), String::as_str);
        let taken_away = shown == "0" && read.contains(place);
        let nameless = left.contains("?");
        if !left.contains(shown) && !taken_away && !nameless {
            return Some(format!("{user}'s {place} is {shown:?}, last was {left:?}"));
        }
    }
    let unsaid =
        |place: &&String| !place.starts_with("device") && !words.contains_key(&(user.clone(), (*place).clone()));
    let invented = answer.iter().find(|(place, shown)| unsaid(place) && **shown != untouched(place));
    invented.map(|(place, shown)| format!("{user}'s {place} is {shown:?}, which nobody has said"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lasting::testing::{history, named};
    use crate::lasting::{Act, Ended, acts, last_words};

    #[test]
    fn a_word_that_was_lost_one_that_came_back_and_one_that_nobody_said_are_seen() {
        let ann = UserId::parse("ann").expect("valid");
        let conv = ConvId::direct(&ann, &UserId::parse("bob").expect("valid"));
        let unread = Act::Setting { conv: conv.clone(), field: "unread".into(), value: 1 };
        let said = [("ann", named("a"), Ended::Done), ("ann", named("b"), Ended::Done), ("ann", unread, Ended::Done)];
        let words = last_words(&acts(&history(&said, 0)));
        let place = setting(&conv, "unread");
        let answer = |name: &str, unread: &str| {
            Answer::from([("profile name".to_owned(), name.to_owned()), (place.clone(), unread.to_owned())])
        };
        let none = BTreeSet::new();
        assert_eq!(forgotten(&words, &none, &ann, &answer("b", "1")), None);
        assert!(forgotten(&words, &none, &ann, &answer("a", "1")).is_some());
        assert!(forgotten(&words, &none, &ann, &answer("", "1")).is_some());
        assert!(forgotten(&words, &none, &ann, &answer("b", "0")).is_some());
        let read = BTreeSet::from([(ann.clone(), conv)]);
        assert_eq!(forgotten(&words, &read, &ann, &answer("b", "0")), None, "it was read");
        let mut more = answer("b", "1");
        more.insert("privacy".into(), "nobody".into());
        assert!(forgotten(&words, &none, &ann, &more).is_some());
    }
}
