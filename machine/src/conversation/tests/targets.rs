//! Edit, delete, react, reply, and what they leave in the log.

use flotilla_proto::entry::{Role, What, body_hash};
use flotilla_proto::ids::*;
use flotilla_proto::limits;

use super::kit::*;
use crate::reply::Rejection;
use crate::testing::arb::message;

fn edit(target: Seq, text: &str) -> What {
    What::Edit { target, body: Blob::from(text.as_bytes().to_vec()) }
}

fn delete(target: Seq) -> What {
    What::Delete { target }
}

fn react(target: Seq) -> What {
    What::React { target, emoji: "👍".into(), on: true }
}

fn conflict(rejection: Rejection) -> bool {
    matches!(rejection, Rejection::Conflict(_))
}

#[test]
fn an_edit_is_an_entry_with_the_new_body_and_leaves_the_target_as_it_was() {
    let mut room = Room::direct("alice", "bob");
    let first = room.says("alice", "helo");
    let second = room.does("alice", edit(first, "hello"));
    assert_eq!(room.entry(first).what, Some(message("helo")));
    assert_eq!(room.entry(second).what, Some(edit(first, "hello")));
    assert_eq!(room.entry(second).n, Count(1), "edits are not countable");
    assert!(matches!(room.refuses("bob", edit(first, "mine")), Rejection::Forbidden(_)));
}

#[test]
fn a_deletion_redacts_the_message_and_all_its_edits_and_keeps_every_hash() {
    let mut room = Room::direct("alice", "bob");
    let first = room.says("alice", "secret");
    let edited = room.does("alice", edit(first, "secret too"));
    let other = room.says("alice", "harmless");
    let kept = room.does("alice", edit(other, "harmless still"));
    let before: Vec<_> = [first, edited].map(|seq| room.entry(seq)).into_iter().collect();
    room.does("alice", delete(first));
    for old in before {
        let now = room.entry(old.seq);
        assert!(now.is_redacted());
        assert_eq!((now.body_hash, now.chain, now.kind.clone(), now.n), (old.body_hash, old.chain, old.kind, old.n));
    }
    assert!(!room.entry(other).is_redacted() && !room.entry(kept).is_redacted());
    let stored = room.machine.rows().into_values().any(|row| row.windows(6).any(|w| w == b"secret"));
    assert!(!stored, "no row holds the deleted words");
}

#[test]
fn after_a_deletion_edits_reactions_and_deletions_conflict() {
    let mut room = Room::direct("alice", "bob");
    let first = room.says("alice", "x");
    room.does("alice", delete(first));
    assert!(conflict(room.refuses("alice", edit(first, "y"))));
    assert!(conflict(room.refuses("bob", react(first))));
    assert!(conflict(room.refuses("alice", delete(first))));
}

#[test]
fn others_messages_are_deleted_by_admins_only() {
    let mut room = Room::group("alice", &["bob", "carol"]);
    let first = room.says("carol", "x");
    assert!(matches!(room.refuses("bob", delete(first)), Rejection::Forbidden(_)));
    room.does("alice", role("bob", Role::Admin));
    room.does("bob", delete(first));
    assert!(room.entry(first).is_redacted());
    let mut direct = Room::direct("alice", "bob");
    let first = direct.says("alice", "x");
    assert!(matches!(direct.refuses("bob", delete(first)), Rejection::Forbidden(_)));
}

#[test]
fn a_target_is_a_message_that_the_actor_may_read() {
    let mut room = Room::group("alice", &[]);
    let early = room.says("alice", "before bob");
    room.does("alice", add(&["bob"]));
    assert_eq!(room.refuses("bob", react(early)), Rejection::NotFound);
    assert_eq!(room.refuses("bob", react(Seq(99))), Rejection::NotFound);
    assert_eq!(room.refuses("bob", react(Seq(u64::MAX))), Rejection::NotFound);
    assert!(matches!(room.refuses("alice", delete(Seq(1))), Rejection::Validation(_)), "not a message");
    let reply = |to| What::Message {
        kind: "message".into(),
        body: Blob::from(b"re".to_vec()),
        reply_to: Some(to),
        mentions: vec![],
        media: None,
    };
    assert!(matches!(room.refuses("bob", reply(early)), Rejection::Validation(_)));
    assert!(matches!(room.refuses("alice", reply(Seq(99))), Rejection::Validation(_)));
    room.does("alice", reply(early));
    room.does("bob", react(Seq(4)));
}

#[test]
fn the_entry_being_appended_is_no_target_of_itself() {
    let mut room = Room::direct("alice", "bob");
    room.says("alice", "x");
    assert_eq!(room.refuses("alice", edit(Seq(2), "self")), Rejection::NotFound);
    assert_eq!(room.refuses("alice", delete(Seq(2))), Rejection::NotFound);
}

#[test]
fn an_edit_of_a_message_below_the_readers_stay_comes_without_its_body() {
    let mut room = Room::group("alice", &[]);
    let early = room.says("alice", "before bob");
    room.does("alice", add(&["bob"]));
    let edited = room.does("alice", edit(early, "still not for bob"));
    let seen = |who: &str| room.read(who, edited.0, edited.0).entries.remove(0);
    assert!(seen("bob").is_redacted());
    assert_eq!(seen("bob").chain, seen("alice").chain);
    assert!(!seen("alice").is_redacted());
}

#[test]
fn a_message_is_edited_a_bounded_number_of_times_and_still_deleted_whole() {
    let mut room = Room::direct("alice", "bob");
    let first = room.says("alice", "x");
    for n in 0..limits::EDITS_PER_MESSAGE_MAX {
        room.does("alice", edit(first, &format!("x{n}")));
    }
    assert!(conflict(room.refuses("alice", edit(first, "once more"))));
    room.does("alice", delete(first));
    let whole = (1..=first.0 + 100).filter(|seq| !room.entry(Seq(*seq)).is_redacted()).count();
    assert_eq!(whole, 0);
}

#[test]
fn the_body_hash_of_an_entry_is_that_of_what_the_client_sent() {
    let mut room = Room::group("alice", &["bob"]);
    room.does("alice", add(&["bob", "carol"]));
    room.does("alice", leave());
    for seq in 1..=3 {
        let entry = room.entry(Seq(seq));
        assert_eq!(entry.body_hash, body_hash(entry.cid, entry.what.as_ref().expect("not redacted")));
    }
}
