//! Messages as they stand now, and dates.

use flotilla_proto::entry::What;
use flotilla_proto::ids::*;
use proptest::prelude::*;

use super::kit::*;
use crate::query::{Answer, FoldedPage, Query};
use crate::testing::arb::named;

fn folded(room: &Room, who: &str, newest_first: bool, limit: u32, from: u64, to: u64) -> FoldedPage {
    let (conv, user) = (room.conv.clone(), named(who));
    let query = Query::Folded { conv, user, from: Seq(from), to: Seq(to), newest_first, limit, bytes_max: 1 << 20 };
    match room.machine.query(&query) {
        Answer::Folded(page) => page,
        other => panic!("expected a page, got {other:?}"),
    }
}

fn texts(page: &FoldedPage) -> Vec<String> {
    let text = |what: &Option<What>| match what {
        Some(What::Message { body, .. }) => String::from_utf8_lossy(&body.0).into_owned(),
        Some(_) => "-".into(),
        None => "gone".into(),
    };
    page.entries.iter().map(|(entry, _)| text(&entry.what)).collect()
}

fn edit(target: Seq, body: &str) -> What {
    What::Edit { target, body: Blob::from(body.as_bytes().to_vec()) }
}

#[test]
fn the_newest_edit_counts_and_what_was_deleted_is_gone() {
    let mut room = Room::direct("alice", "bob");
    let (one, two) = (room.says("alice", "one"), room.says("alice", "two"));
    room.does("alice", edit(one, "uno"));
    room.does("alice", edit(one, "eins"));
    room.does("alice", What::Delete { target: two });
    room.does("bob", What::React { target: one, emoji: "+".into(), on: true });
    room.says("bob", "three");
    let page = folded(&room, "bob", false, 100, 1, u64::MAX);
    assert_eq!(texts(&page), ["eins", "gone", "three"]);
    assert_eq!(page.entries.iter().map(|(_, edit)| edit.map(|s| s.0)).collect::<Vec<_>>(), [Some(4), None, None]);
    let page = folded(&room, "bob", true, 2, 1, u64::MAX);
    assert_eq!((texts(&page), page.looked_to, page.more), (vec!["three".into()], Some(Seq(6)), true));
}

#[test]
fn an_edit_beyond_the_end_of_a_stay_is_not_seen() {
    let mut room = Room::group("alice", &["bob"]);
    let said = room.says("alice", "before");
    room.does("alice", remove("bob"));
    room.does("alice", edit(said, "after"));
    assert_eq!(texts(&folded(&room, "bob", false, 100, said.0, said.0)), ["before"]);
    assert_eq!(texts(&folded(&room, "alice", false, 100, said.0, said.0)), ["after"]);
}

fn seq_at(room: &Room, who: &str, ts: u64) -> Option<u64> {
    match room.machine.query(&Query::SeqAt { conv: room.conv.clone(), user: named(who), ts: TsMs(ts) }) {
        Answer::SeqAt(seq) => seq.map(|s| s.0),
        other => panic!("expected a seq, got {other:?}"),
    }
}

proptest! {
    #[test]
    fn a_date_begins_with_the_first_entry_not_before_it(pauses in prop::collection::vec(0u64..4, 1..40), ts in 0u64..200) {
        let mut room = Room::direct("alice", "bob");
        for pause in pauses {
            for _ in 0..pause {
                room.machine.one(crate::command::Command::Tick);
            }
            room.says("alice", "x");
        }
        let all = room.read("bob", 1, u64::MAX).entries;
        let base = all[0].ts.0.saturating_sub(5);
        let wanted = all.iter().find(|e| e.ts.0 >= base + ts).map(|e| e.seq.0);
        prop_assert_eq!(seq_at(&room, "bob", base + ts), wanted);
        prop_assert_eq!(seq_at(&room, "bob", 0), Some(1));
        prop_assert_eq!(seq_at(&room, "bob", u64::MAX), None);
    }
}
