//! Groups: who may what, stays, heirs.

use flotilla_proto::entry::{HistoryAccess, Role, What};
use flotilla_proto::ids::*;
use flotilla_proto::limits;

use super::kit::*;
use crate::command::*;
use crate::query::{Answer, Query};
use crate::reply::{Rejection, Reply};
use crate::testing::arb::{message, named};
use crate::testing::{Machine, scene};

fn forbidden(rejection: Rejection) -> bool {
    matches!(rejection, Rejection::Forbidden(_))
}

fn conflict(rejection: Rejection) -> bool {
    matches!(rejection, Rejection::Conflict(_))
}

#[test]
fn creation_is_entry_one_and_its_id_derives_from_creator_and_key() {
    let mut room = Room::group("alice", &["bob", "alice"]);
    assert_eq!(room.part("alice").role, Some(Role::Owner));
    assert_eq!(room.part("bob").role, Some(Role::Member));
    assert_eq!((room.row().head, room.row().members()), (Seq(1), 2));
    assert!(conflict(room.refuses("alice", creation(&[]))));
    let mut stolen = Room::at(ConvId::group(&named("alice"), Cid(1)));
    let other_key = stolen.command("alice", creation(&[]));
    assert!(matches!(stolen.rejected(other_key), Rejection::Validation(_)));
    let other_creator = Append { cid: Cid(1), ..stolen.command("bob", creation(&[])) };
    assert!(matches!(stolen.rejected(other_creator), Rejection::Validation(_)));
    assert_eq!(stolen.refuses("alice", message("x")), Rejection::NotFound);
}

#[test]
fn members_that_nobody_checked_are_asked_for_by_name() {
    let mut room = Room::at(ConvId::group(&named("alice"), Cid(1)));
    let what = creation(&["bob", "carol", "dave"]);
    let create = Append { cid: Cid(1), checked: vec![named("carol")], ..room.command("alice", what) };
    assert_eq!(room.rejected(create), Rejection::NeedPeers(vec![named("bob"), named("dave")]));
    let mut room = Room::group("alice", &["bob"]);
    let adding = Append { checked: vec![], ..room.command("alice", add(&["bob", "erin"])) };
    assert_eq!(room.rejected(adding), Rejection::NeedPeers(vec![named("erin")]));
}

#[test]
fn adding_skips_members_and_adding_nobody_is_a_conflict() {
    let mut room = Room::group("alice", &["bob"]);
    let bobs = room.part("bob");
    assert_eq!(room.does("alice", add(&["bob", "carol", "carol"])), Seq(2));
    assert_eq!(room.part("bob"), bobs, "a member that is added again is not touched");
    assert_eq!((room.part("carol").mseq, room.row().members()), (Seq(2), 3));
    assert!(conflict(room.refuses("alice", add(&["bob", "carol"]))));
    assert!(forbidden(room.refuses("bob", add(&["dave"]))));
}

#[test]
fn a_group_takes_no_more_members_than_the_setting_says() {
    let mut room = Room::group("alice", &["bob"]);
    let settings = Settings { version: 2, group_members_max: 3, ..Settings::default() };
    room.machine.one(Command::SetSettings(settings));
    assert_eq!(room.refuses("alice", add(&["carol", "dave"])), Rejection::ConversationFull);
    room.does("alice", add(&["carol"]));
    assert_eq!(room.refuses("alice", add(&["dave"])), Rejection::ConversationFull);
    room.conv = ConvId::group(&named("bob"), Cid(5));
    let create = Append { cid: Cid(5), ..room.command("bob", creation(&["alice", "carol", "dave"])) };
    assert_eq!(room.rejected(create), Rejection::ConversationFull);
}

#[test]
fn a_member_gets_its_own_join_and_its_own_kick_and_nothing_after() {
    let mut room = Room::group("alice", &[]);
    room.says("alice", "before");
    room.does("alice", add(&["bob"]));
    room.says("alice", "within");
    room.does("alice", remove("bob"));
    room.says("alice", "after");
    assert_eq!(room.seqs("bob"), [3, 4, 5]);
    let page = room.read("bob", 1, u64::MAX);
    assert_eq!((page.head, page.n_head), (Seq(5), Count(2)), "a leaver does not see the head go on");
    assert_eq!(room.refuses("bob", message("x")), Rejection::NotMember);
    let query = Query::Members { conv: room.conv.clone(), user: named("bob"), after: None, limit: 9 };
    assert_eq!(room.machine.query(&query), Answer::NotMember);
}

#[test]
fn a_rejoin_adds_a_stay_and_opens_nothing_between() {
    let mut room = Room::group("alice", &["bob"]);
    room.does("alice", remove("bob"));
    room.says("alice", "secret");
    room.does("alice", add(&["bob"]));
    assert_eq!(room.seqs("bob"), [1, 2, 4]);
    let stays = room.part("bob").intervals;
    assert_eq!((stays.len(), stays[1].n_before, stays[0].n_until), (2, Count(1), Count(0)));
}

#[test]
fn full_history_is_for_joins_after_it_was_set() {
    let mut room = Room::group("alice", &[]);
    room.does("alice", add(&["bob"]));
    room.does("alice", What::SetHistory { history: HistoryAccess::Full });
    room.does("alice", add(&["carol"]));
    assert_eq!(room.seqs("bob"), [2, 3, 4]);
    assert_eq!(room.seqs("carol"), [1, 2, 3, 4]);
    assert!(!room.part("carol").receives(Seq(1)), "older entries are paged, not delivered");
}

#[test]
fn removal_needs_a_higher_rank_and_the_owner_cannot_be_removed() {
    let mut room = Room::group("alice", &["bob", "carol", "dave"]);
    room.does("alice", role("bob", Role::Admin));
    room.does("alice", role("carol", Role::Admin));
    assert!(forbidden(room.refuses("dave", remove("bob"))));
    assert!(forbidden(room.refuses("bob", remove("carol"))));
    assert!(forbidden(room.refuses("bob", remove("alice"))));
    assert!(conflict(room.refuses("bob", remove("bob"))));
    assert_eq!(room.refuses("bob", remove("erin")), Rejection::NotFound);
    room.does("bob", remove("dave"));
    room.does("alice", remove("bob"));
    assert_eq!(room.row().members(), 2);
}

#[test]
fn only_the_owner_gives_roles_and_giving_ownership_hands_it_over() {
    let mut room = Room::group("alice", &["bob", "carol"]);
    room.does("alice", role("bob", Role::Admin));
    assert!(forbidden(room.refuses("bob", role("carol", Role::Admin))));
    assert!(conflict(room.refuses("alice", role("bob", Role::Admin))));
    assert!(conflict(room.refuses("alice", role("alice", Role::Member))));
    let seq = room.does("alice", role("bob", Role::Owner));
    assert_eq!((room.part("bob").role, room.part("alice").role), (Some(Role::Owner), Some(Role::Admin)));
    assert_eq!((room.part("bob").mseq, room.part("alice").mseq), (seq, seq));
    assert!(forbidden(room.refuses("alice", role("carol", Role::Admin))));
}

#[test]
fn an_owner_that_leaves_is_followed_by_the_oldest_admin() {
    let mut room = Room::group("alice", &["bob"]);
    room.does("alice", add(&["dave"]));
    room.does("alice", add(&["carol"]));
    room.does("alice", role("carol", Role::Admin));
    room.does("alice", role("dave", Role::Admin));
    let seq = room.does("alice", leave());
    assert_eq!(room.entry(seq).what, Some(What::Leave { heir: Some(named("dave")) }));
    assert_eq!(room.part("dave").role, Some(Role::Owner));
    assert_eq!((room.part("dave").mseq, room.part("alice").mseq), (seq, seq));
    assert_eq!(flotilla_proto::entry::body_hash(room.entry(seq).cid, &leave()), room.entry(seq).body_hash);
}

#[test]
fn without_an_admin_the_oldest_member_follows_and_the_last_one_archives() {
    let mut room = Room::group("alice", &[]);
    room.does("alice", add(&["erin"]));
    room.does("alice", add(&["bob"]));
    let lied = What::Leave { heir: Some(named("bob")) };
    let seq = room.does("alice", lied);
    assert_eq!(room.entry(seq).what, Some(What::Leave { heir: Some(named("erin")) }), "apply names the heir");
    room.does("bob", leave());
    assert!(!room.row().archived);
    let last = room.does("erin", leave());
    assert_eq!(room.entry(last).what, Some(What::Leave { heir: None }));
    assert!(room.row().archived && room.row().members() == 0);
    assert_eq!(room.refuses("erin", message("hello?")), Rejection::NotMember);
}

#[test]
fn renaming_and_history_are_for_admins() {
    let mut room = Room::group("alice", &["bob"]);
    let rename = || What::Rename { name: "crew".into() };
    let open = || What::SetHistory { history: HistoryAccess::Full };
    assert!(forbidden(room.refuses("bob", rename())) && forbidden(room.refuses("bob", open())));
    room.does("alice", role("bob", Role::Admin));
    room.does("bob", rename());
    room.does("bob", open());
    assert_eq!((room.row().name.as_str(), room.row().history), ("crew", HistoryAccess::Full));
}

#[test]
fn a_member_that_came_and_went_too_often_is_not_added_again() {
    let mut room = Room::group("alice", &[]);
    for _ in 0..limits::INTERVALS_PER_MEMBER_MAX {
        room.does("alice", add(&["bob"]));
        room.does("alice", remove("bob"));
    }
    assert!(conflict(room.refuses("alice", add(&["bob"]))));
    room.does("alice", add(&["carol"]));
}

#[test]
fn making_and_filling_the_largest_group_stays_within_the_row_bound() {
    let slots = flotilla_proto::slots::SlotTable::even(16);
    let names: Vec<UserId> = (0..limits::GROUP_MEMBERS_MAX - 1).map(|n| named(&format!("user{n}"))).collect();
    let creator = named("alice");
    let conv = (0..).map(|n| (ConvId::group(&creator, Cid(n)), Cid(n)));
    let home = |conv: &ConvId| slots.shard_of_conversation(conv) == Some(scene::HOME);
    let (conv, cid) = conv.into_iter().find(|(conv, _)| home(conv)).expect("one in sixteen");
    let mut machine = Machine::with_slots(scene::HOME, &slots);
    let what = What::Create { name: String::new(), members: names.clone(), history: HistoryAccess::FromJoin };
    let sender = creator.clone();
    let create = Append { conv, sender, device: DeviceId(1), cid, age_ms: 0, after: None, checked: names, what };
    let rows = machine.rows_written(Command::Append(create.clone()));
    assert!(rows > limits::GROUP_MEMBERS_MAX && rows <= limits::ROWS_PER_COMMAND_MAX, "{rows} rows");
    assert!(matches!(machine.one(Command::Append(create.clone())), Reply::Accepted(_)));
    let say = Append { cid: Cid(u128::MAX), what: message("hi all"), ..create };
    let rows = machine.rows_written(Command::Append(say));
    assert!(rows <= 16 + 6, "a message touches one row per user shard, not per member: {rows} rows");
}

#[test]
fn members_are_listed_in_pages_and_conversations_shown_with_their_role() {
    let mut room = Room::group("alice", &["bob", "carol", "dave"]);
    room.does("alice", remove("bob"));
    let page = |after: Option<&str>, limit| {
        let query = Query::Members { conv: room.conv.clone(), user: named("dave"), after: after.map(named), limit };
        match room.machine.query(&query) {
            Answer::Members { members, more } => {
                (members.into_iter().map(|m| m.user.as_str().to_owned()).collect::<Vec<_>>(), more)
            }
            other => panic!("expected members, got {other:?}"),
        }
    };
    assert_eq!(page(None, 2), (vec!["alice".into(), "carol".into()], true));
    assert_eq!(page(Some("carol"), 2), (vec!["dave".into()], false));
    let seen = |who| room.machine.query(&Query::Conversation { conv: room.conv.clone(), user: named(who) });
    let Answer::Conversation(Some(for_alice)) = seen("alice") else { panic!("a conversation") };
    assert_eq!((for_alice.role, for_alice.members, for_alice.head), (Some(Role::Owner), 3, Seq(2)));
    let Answer::Conversation(Some(for_bob)) = seen("bob") else { panic!("a conversation") };
    assert_eq!((for_bob.role, for_bob.chain), (None, room.entry(Seq(2)).chain));
    assert_eq!(seen("erin"), Answer::NotMember);
}
