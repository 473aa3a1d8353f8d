//! Who is named in what is unread.

use std::collections::BTreeSet;

use flotilla_proto::entry::What;
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use proptest::prelude::*;

use super::kit::Room;
use crate::command::*;
use crate::conversation::plan::row_of;
use crate::query::{Answer, MentionsView, Query};
use crate::reply::Reply;
use crate::testing::arb::named;
use crate::testing::{Machine, log, scene};

fn raised(machine: &mut Machine) {
    let settings = Settings { version: 9, feature_level: limits::MENTIONS_LEVEL, ..Settings::default() };
    assert_eq!(machine.one(Command::SetSettings(settings)), Reply::Done);
}

fn naming(users: &[&str]) -> What {
    naming_as("message", users)
}

fn naming_as(kind: &str, users: &[&str]) -> What {
    let mentions = users.iter().map(|user| named(user)).collect();
    What::Message { kind: kind.into(), body: Blob::from(vec![1]), reply_to: None, mentions, media: None }
}

fn asked(machine: &Machine, conv: &ConvId, user: &UserId, past: u64, to: u64) -> Answer {
    machine.query(&Query::Mentions { conv: conv.clone(), user: user.clone(), past: Count(past), to: Count(to) })
}

fn count(room: &Room, who: &str, past: u64) -> MentionsView {
    match asked(&room.machine, &room.conv, &named(who), past, u64::MAX) {
        Answer::Mentions(view) => view,
        other => panic!("{other:?}"),
    }
}

#[test]
fn members_are_counted_where_others_name_them_in_what_counts() {
    let mut room = Room::group("alice", &["bob", "carol"]);
    raised(&mut room.machine);
    let first = room.does("alice", naming(&["bob", "bob", "alice", "erin"]));
    room.does("alice", naming_as("note", &["bob"]));
    room.says("alice", "nobody");
    let third = room.does("carol", naming(&["bob", "alice"]));
    assert_eq!(count(&room, "bob", 0), MentionsView { count: 2, first: Some(first), more: false });
    assert_eq!(count(&room, "bob", 1), MentionsView { count: 1, first: Some(third), more: false }, "one is read");
    assert_eq!(count(&room, "bob", 3), MentionsView::default());
    assert_eq!(count(&room, "alice", 0), MentionsView { count: 1, first: Some(third), more: false }, "not by oneself");
    assert_eq!(asked(&room.machine, &room.conv, &named("erin"), 0, 9), Answer::NotMember, "and no stranger");
    room.does("alice", What::Delete { target: first });
    assert_eq!(count(&room, "bob", 0).count, 2, "a deleted message counts until it is read");
}

#[test]
fn the_first_message_of_a_direct_conversation_may_name_the_peer() {
    let mut room = Room::direct("alice", "bob");
    raised(&mut room.machine);
    let first = room.does("alice", naming(&["bob"]));
    assert_eq!(count(&room, "bob", 0), MentionsView { count: 1, first: Some(first), more: false });
}

#[test]
fn nothing_is_kept_below_the_level_and_that_is_said() {
    let mut room = Room::group("alice", &["bob"]);
    room.machine.one(Command::SetSettings(Settings { version: 8, ..Settings::at_level(2) }));
    room.does("alice", naming(&["bob"]));
    assert_eq!(asked(&room.machine, &room.conv, &named("bob"), 0, 9), Answer::NotFound);
    raised(&mut room.machine);
    assert_eq!(count(&room, "bob", 0), MentionsView::default());
}

#[test]
fn of_very_many_it_is_said_that_there_are_more() {
    let mut room = Room::group("alice", &["bob"]);
    raised(&mut room.machine);
    for _ in 0..=limits::MENTIONS_COUNTED_MAX {
        room.does("alice", naming(&["bob"]));
    }
    let view = count(&room, "bob", 0);
    assert_eq!((view.count as usize, view.more), (limits::MENTIONS_COUNTED_MAX, true));
    assert!(!count(&room, "bob", 1).more);
}

/// A message that counts, as it was accepted: a deletion takes its content away later.
struct Said {
    conv: ConvId,
    seq: Seq,
    n: Count,
    from: UserId,
    named: BTreeSet<UserId>,
}

proptest! {
    #![proptest_config(log::few_cases())]

    /// Whatever is said, deleted, joined and left: for every mark, the count is what the log says.
    #[test]
    fn for_every_mark_mentions_are_counted_as_the_log_says(log in log::conversation_log(40), past in 0u64..9, span in 0u64..9) {
        let mut machine = Machine::with_slots(scene::HOME, &scene::slots());
        raised(&mut machine);
        let mut said = Vec::new();
        for (stamp, commands) in &log {
            let replies = machine.apply(stamp, commands).replies;
            for (command, reply) in commands.iter().zip(replies) {
                let (Command::Append(append), Reply::Accepted(accepted)) = (command, reply) else { continue };
                let What::Message { mentions, .. } = &append.what else { continue };
                if append.what.is_countable() && !accepted.dup {
                    let named = mentions.iter().cloned().collect();
                    let (seq, n) = (accepted.seq, accepted.n);
                    said.push(Said { conv: append.conv.clone(), seq, n, from: append.sender.clone(), named });
                }
            }
        }
        let convs: BTreeSet<&ConvId> = said.iter().map(|s| &s.conv).collect();
        for conv in convs {
            for user in scene::users() {
                let Some(member) = row_of(&machine.view(), conv, &user).expect("reads") else { continue };
                let to = past + span;
                let of_user = said.iter().filter(|s| {
                    &s.conv == conv && s.from != user && s.named.contains(&user) && member.part.receives(s.seq)
                });
                let wanted: Vec<Seq> = of_user.filter(|s| s.n.0 > past && s.n.0 <= to).map(|s| s.seq).collect();
                let view = MentionsView { count: wanted.len() as u32, first: wanted.first().copied(), more: false };
                prop_assert_eq!(asked(&machine, conv, &user, past, to), Answer::Mentions(view));
            }
        }
    }
}
