//! Who is here, who may see it, and whom a user keeps.

use flotilla_proto::ids::*;
use flotilla_proto::limits;
use proptest::prelude::*;

use super::kit::*;
use crate::command::*;
use crate::query::{Answer, PresenceView, Query};
use crate::reply::{Rejection, Reply};
use crate::testing::user_log::user_side;

fn seen(shard: &Shard, by: &str, name: &str) -> PresenceView {
    match shard.ask(Query::Presence { pairs: vec![(user(by), user(name))] }) {
        Answer::Presence(views) if views.len() == 1 => views[0],
        other => panic!("expected one view, got {other:?}"),
    }
}

fn keep(user: &UserId, contact: &UserId, name: Option<&str>) -> Command {
    Command::SetContact { user: user.clone(), contact: contact.clone(), name: name.map(str::to_owned) }
}

fn announced(shard: &Shard, of: &UserId) -> bool {
    shard.presence.contains(of)
}

#[test]
fn a_user_is_here_from_its_first_session_to_its_last() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let (one, two) = (shard.device(&ann, 1), shard.device(&ann, 2));
    assert_eq!(seen(&shard, "bob", "ann"), PresenceView::Offline { last_seen: None });
    let first = shard.open(&ann, one);
    assert!(announced(&shard, &ann));
    let second = shard.open(&ann, two);
    assert!(!announced(&shard, &ann), "she was here already");
    shard.done(Command::CloseSession { user: ann.clone(), device: one, number: first });
    assert!(!announced(&shard, &ann), "she still is");
    assert_eq!(seen(&shard, "bob", "ann"), PresenceView::Online);
    shard.done(Command::CloseSession { user: ann.clone(), device: two, number: second });
    assert!(announced(&shard, &ann));
    assert!(matches!(seen(&shard, "bob", "ann"), PresenceView::Offline { last_seen: Some(_) }));
}

#[test]
fn a_takeover_is_no_coming_and_going() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let device = shard.device(&ann, 1);
    shard.open(&ann, device);
    shard.run(Command::OpenSession(OpenSession { attempt: 9, ..open(&ann, device) }));
    assert!(!announced(&shard, &ann));
}

#[test]
fn a_dead_nodes_users_are_gone_once_it_is_fenced() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let device = shard.device(&ann, 1);
    shard.open(&ann, device);
    let node = open(&ann, device).node;
    shard.run(Command::Fence { node, lowest: Incarnation(u64::MAX), limit: 100 });
    assert!(announced(&shard, &ann));
    assert!(matches!(seen(&shard, "bob", "ann"), PresenceView::Offline { last_seen: Some(_) }));
}

#[test]
fn privacy_hides_a_user_like_one_that_does_not_exist() {
    let mut shard = Shard::new();
    let (ann, bob) = (shard.user("ann"), shard.user("bob"));
    let device = shard.device(&ann, 1);
    shard.open(&ann, device);
    let privacy = |presence| Command::SetPrivacy { user: user("ann"), presence };
    shard.done(privacy(Audience::Contacts));
    assert!(announced(&shard, &ann));
    assert_eq!(seen(&shard, "bob", "ann"), PresenceView::Hidden);
    assert_eq!(seen(&shard, "bob", "nobody"), PresenceView::Hidden);
    shard.done(keep(&ann, &bob, Some("Bob")));
    assert_eq!(seen(&shard, "bob", "ann"), PresenceView::Online);
    shard.done(privacy(Audience::Nobody));
    assert_eq!(seen(&shard, "bob", "ann"), PresenceView::Hidden);
    assert_eq!(seen(&shard, "ann", "ann"), PresenceView::Online, "she sees herself");
    shard.done(privacy(Audience::Everyone));
    assert_eq!(seen(&shard, "carol", "ann"), PresenceView::Online);
}

#[test]
fn contacts_are_listed_renamed_removed_and_bounded() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    for name in ["bob", "carol", "dave"] {
        shard.done(keep(&ann, &user(name), Some(name)));
    }
    shard.done(keep(&ann, &user("bob"), Some("Bobby")));
    shard.done(keep(&ann, &user("dave"), None));
    shard.done(keep(&ann, &user("dave"), None));
    let page = |after: Option<&str>, limit| match shard.ask(Query::Contacts {
        user: user("ann"),
        after: after.map(user),
        limit,
    }) {
        Answer::Contacts { contacts, more } => (contacts.into_iter().map(|c| c.name).collect::<Vec<_>>(), more),
        other => panic!("expected contacts, got {other:?}"),
    };
    assert_eq!(page(None, 1), (vec!["Bobby".into()], true));
    assert_eq!(page(Some("bob"), 10), (vec!["carol".into()], false));
    assert!(matches!(shard.rejected(keep(&ann, &ann, Some("me"))), Rejection::Validation(_)));
    assert!(matches!(shard.rejected(keep(&ann, &user("eve"), Some("\u{7}"))), Rejection::Validation(_)));
    assert_eq!(shard.rejected(keep(&user("nobody"), &ann, Some("x"))), Rejection::NotFound);
    for n in 2..limits::CONTACTS_MAX {
        shard.run(keep(&ann, &user(&format!("u{n}")), Some("")));
    }
    assert!(matches!(shard.rejected(keep(&ann, &user("eve"), Some("x"))), Rejection::Quota(_)));
    shard.done(keep(&ann, &user("bob"), Some("Robert")));
}

#[test]
fn rules_of_an_older_cluster_stay_as_they_were() {
    let mut shard = Shard::new();
    shard.run(Command::SetSettings(Settings { version: 5, ..Settings::at_level(1) }));
    let ann = shard.user("ann");
    let device = shard.device(&ann, 1);
    let number = shard.open(&ann, device);
    shard.done(Command::CloseSession { user: ann.clone(), device, number });
    assert_eq!(seen(&shard, "bob", "ann"), PresenceView::Offline { last_seen: None });
    assert_eq!(shard.table_rows(crate::table::kind::PRESENCE), 0);
}

fn block(user: &UserId, peer: &UserId, on: bool, request: u128) -> Command {
    Command::SetBlock { user: user.clone(), peer: peer.clone(), on, request: Cid(request) }
}

fn settled(user: &UserId, peer: &UserId, request: u128) -> Command {
    Command::BlockSettled { user: user.clone(), peer: peer.clone(), request: Cid(request) }
}

#[test]
fn a_block_is_settled_by_its_newest_request_only() {
    let mut shard = Shard::new();
    let (ann, bob) = (shard.user("ann"), user("bob"));
    shard.done(block(&ann, &bob, true, 1));
    shard.done(block(&ann, &bob, true, 2));
    assert!(
        matches!(shard.rejected(settled(&ann, &bob, 2)), Rejection::Conflict(_)),
        "a repeat keeps the first request"
    );
    shard.done(block(&ann, &bob, false, 3));
    assert!(matches!(shard.rejected(settled(&ann, &bob, 1)), Rejection::Conflict(_)));
    assert_eq!(shard.table_rows(crate::table::kind::BLOCK), 1, "not settled yet");
    shard.done(settled(&ann, &bob, 3));
    assert_eq!(shard.table_rows(crate::table::kind::BLOCK), 0);
    shard.done(settled(&ann, &bob, 3));
    assert!(matches!(shard.rejected(block(&ann, &ann, true, 4)), Rejection::Validation(_)));
}

#[test]
fn who_is_blocked_sees_nobody() {
    let mut shard = Shard::new();
    let (ann, bob) = (shard.user("ann"), user("bob"));
    let device = shard.device(&ann, 1);
    shard.open(&ann, device);
    shard.done(keep(&ann, &bob, Some("Bob")));
    shard.done(block(&ann, &bob, true, 1));
    assert!(announced(&shard, &ann));
    assert_eq!(seen(&shard, "bob", "ann"), PresenceView::Hidden);
    assert_eq!(seen(&shard, "carol", "ann"), PresenceView::Online);
    shard.done(block(&ann, &bob, false, 2));
    assert_eq!(seen(&shard, "bob", "ann"), PresenceView::Online);
}

#[test]
fn users_are_found_by_the_beginning_of_their_ids_in_order() {
    let mut shard = Shard::new();
    for name in ["anna", "ann", "bob", "an", "anne.2"] {
        shard.user(name);
    }
    let find = |prefix: &str, limit| match shard.ask(Query::FindUsers { prefix: prefix.into(), limit }) {
        Answer::Users(users) => users.iter().map(ToString::to_string).collect::<Vec<_>>(),
        other => panic!("expected users, got {other:?}"),
    };
    assert_eq!(find("ann", 10), ["ann", "anna", "anne.2"]);
    assert_eq!(find("an", 2), ["an", "ann"]);
    assert!(find("carol", 10).is_empty() && find(&"x".repeat(99), 10).is_empty() && find("a\0", 10).is_empty());
}

#[test]
fn a_profile_changes_in_parts_and_counts_nothing_by_itself() {
    let mut shard = Shard::new();
    let ann = shard.user("ann");
    let set = |name: Option<&str>, about: Option<&str>| Command::SetProfile {
        user: user("ann"),
        name: name.map(str::to_owned),
        avatar: None,
        about: about.map(str::to_owned),
    };
    shard.done(set(Some("Ann"), None));
    shard.done(set(None, Some("hello")));
    shard.done(keep(&ann, &user("bob"), Some("")));
    let Answer::Profile(Some(profile)) = shard.ask(Query::Profile { user: ann }) else { panic!("no profile") };
    assert_eq!((profile.name.as_str(), profile.about.as_str()), ("Ann", "hello"));
    assert!(matches!(shard.rejected(set(Some(&"x".repeat(300)), None)), Rejection::Validation(_)));
    assert_eq!(shard.ask(Query::Profile { user: user("nobody") }), Answer::Profile(None));
}

fn online(shard: &Shard, name: &str) -> bool {
    let Answer::LiveSessions(live) = shard.ask(Query::LiveSessions { users: vec![user(name)] }) else {
        panic!("expected sessions")
    };
    !live.is_empty()
}

proptest! {
    /// Whoever looks again at each announcement, and only then, knows who is here.
    #[test]
    fn every_coming_and_going_is_announced(log in prop::collection::vec(user_side(), 1..60)) {
        let mut shard = Shard::new();
        let names = ["ann", "bob"];
        for name in names {
            let user = shard.user(name);
            shard.device(&user, 1);
        }
        let mut views = names.map(|name| seen(&shard, "nobody", name));
        let mut last_seen = [None; 2];
        for command in log {
            let reply = shard.run(command.clone());
            for (i, name) in names.into_iter().enumerate() {
                let view = seen(&shard, "nobody", name);
                if announced(&shard, &user(name)) {
                    views[i] = view;
                }
                prop_assert_eq!(views[i], view, "{} after {:?}: {:?}", name, command, reply);
                match view {
                    PresenceView::Online => prop_assert!(online(&shard, name)),
                    PresenceView::Offline { last_seen: at } => {
                        prop_assert!(!online(&shard, name) && at >= last_seen[i], "last seen goes back");
                        last_seen[i] = at;
                    }
                    PresenceView::Hidden => {}
                }
            }
            prop_assert!(!matches!(reply, Reply::Rejected(Rejection::Moved)));
        }
    }
}
