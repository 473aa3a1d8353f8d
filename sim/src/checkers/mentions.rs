//! Who is named in a message is told so on every device until it is read (DEFINITIONS: entries): a row stands for each member but
//! the sender whom a message names that counts, from the entry's own apply on, and no other; in the end the list of
//! conversations counts for every device of a user, at every node, what the log says above what was read and what was said.

use std::collections::BTreeMap;

use flotilla_client::history::{Op, Record};
use flotilla_machine::conversation::tables::entry::Entries;
use flotilla_machine::conversation::tables::mention::Mentions as Table;
use flotilla_machine::meta::SettingsTable;
use flotilla_machine::table::{self, View};
use flotilla_proto::ids::{ConvId, Seq, UserId};
use flotilla_proto::limits;
use serde_json::Value;

use super::model::{Line, Model, end, receives};
use super::{Checker, Event, RowChange, Site, World};

#[derive(Default)]
pub struct Mentions;

impl Checker for Mentions {
    fn promise(&self) -> &'static str {
        "who is named is told so"
    }

    fn on_record(&mut self, world: &World, record: &Record) -> Result<u64, String> {
        let Op::Note { text } = &record.op else { return Ok(0) };
        let Some(list) = text.strip_prefix("names ").and_then(|list| serde_json::from_str(list).ok()) else {
            return Ok(0);
        };
        invented(world, &record.user, &list).map_or(Ok(1), |what| Err(format!("{}: {what}", record.device)))
    }

    fn on_event(&mut self, world: &World, site: &Site<'_>, event: &Event) -> Result<u64, String> {
        let Event::Applied { shard, pointer, rows, .. } = event else { return Ok(0) };
        // Of one batch nobody can say whether the level came first.
        let raised = rows.iter().any(|row| row.of::<SettingsTable>().is_some());
        site.with_state(*shard, pointer, |view| {
            let kept = !raised && level(view) >= limits::MENTIONS_LEVEL;
            rows.iter()
                .try_fold(0, |sum, row| Ok(sum + written(world, row)? + if kept { said(world, view, row)? } else { 0 }))
        })
        .map_err(|what: String| format!("node {}, shard {shard}: {what}", site.node))
    }
}

/// A row that is damaged is the product's to find.
fn level(view: &View<'_>) -> u32 {
    table::get::<SettingsTable>(view, &()).ok().flatten().map_or(0, |settings| settings.feature_level)
}

/// None: it does not tell, because its content was gone before anybody saw it.
fn names(model: &Model, line: &Line, seq: Seq, user: &UserId) -> Option<bool> {
    let part = model.part(user);
    let may = line.kind == "message" && line.from != *user && part.is_some_and(|part| receives(part, seq));
    if may { line.named.as_ref().map(|named| named.contains(user)) } else { Some(false) }
}

/// A row that the log does not explain.
fn written(world: &World, row: &RowChange) -> Result<u64, String> {
    let Some(((conv, user, n), _, seq)) = row.of::<Table>() else { return Ok(0) };
    let Some(seq) = seq else { return Err(format!("{user} is not named any more in message {n} of {conv}")) };
    let Some((model, _)) = world.models.get(&conv) else { return Err(format!("there is no conversation {conv}")) };
    let Some(line) = model.lines.get(&seq) else {
        // What is damaged here is known from elsewhere, or not at all.
        let lost = !world.damaged.is_empty();
        return if lost {
            Ok(0)
        } else {
            Err(format!("a row says that entry {seq} of {conv} names {user}: there is none"))
        };
    };
    if line.n != n || names(model, line, seq, &user) == Some(false) {
        return Err(format!("a row says that entry {seq}, message {n}, of {conv} names {user}; the log has {line:?}"));
    }
    Ok(1)
}

/// A message of which a row is missing.
fn said(world: &World, view: &View<'_>, row: &RowChange) -> Result<u64, String> {
    let Some(((conv, seq), None, Some(_))) = row.of::<Entries>() else { return Ok(0) };
    let Some((model, _)) = world.models.get(&conv) else { return Ok(0) };
    let Some(line) = model.lines.get(&seq) else { return Ok(0) };
    let mut sum = 0;
    for user in line.named.iter().flatten().filter(|user| names(model, line, seq, user) == Some(true)) {
        let stored = table::get::<Table>(view, &(conv.clone(), user.clone(), line.n));
        if stored.is_ok_and(|stored| stored != Some(seq)) {
            return Err(format!("entry {seq} of {conv} names {user}, and no row says so"));
        }
        sum += 1;
    }
    Ok(sum)
}

/// How many unread messages name somebody, and the first of them.
pub type Named = (u64, Option<Seq>);

/// What the log says is unread of a user's mentions, by conversation; none where it does not tell.
pub fn due(world: &World, user: &UserId, conv: &ConvId) -> Option<Named> {
    let (model, _) = world.models.get(conv)?;
    let part = model.part(user)?;
    let row = world.rows.get(&(user.clone(), conv.clone()))?.values().next_back()?;
    let past = row.n_read.max(model.n_sent.get(user).copied().unwrap_or_default());
    let (_, to) = end(part, model.head, model.n_head);
    let mut found = (0, None);
    for (seq, line) in model.lines.iter().filter(|(_, line)| line.kind == "message" && line.n > past && line.n <= to) {
        if names(model, line, *seq, user)? {
            found = (found.0 + 1, found.1.or(Some(*seq)));
        }
    }
    Some(found)
}

/// What a list of conversations shows, by conversation.
pub fn shown(list: &[Value]) -> BTreeMap<ConvId, Named> {
    let of = |conv: &Value| {
        let id = ConvId::parse(conv["conv"].as_str()?).ok()?;
        let mentions = &conv["mentions"];
        Some((id, (mentions["count"].as_u64().unwrap_or_default(), mentions["first"].as_u64().map(Seq))))
    };
    list.iter().filter_map(of).collect()
}

/// What somebody was shown, as it stands in the history.
pub fn note(list: &BTreeMap<ConvId, Named>) -> Op {
    Op::Note { text: format!("names {}", serde_json::to_string(list).unwrap_or_default()) }
}

/// While others write: a count of what nobody has said, or a first one that names somebody else.
pub fn invented(world: &World, user: &UserId, list: &BTreeMap<ConvId, Named>) -> Option<String> {
    list.iter().find_map(|(conv, (count, first))| {
        let (model, _) = world.models.get(conv)?;
        let may = |(seq, line): &(&Seq, &Line)| names(model, line, **seq, user) != Some(false);
        let most = model.lines.iter().filter(may).count() as u64;
        let wrong = first.is_some_and(|seq| model.lines.get(&seq).is_none_or(|line| !may(&(&seq, line))));
        (*count > most || wrong).then(|| {
            format!("{user} is told of {count} messages of {conv} that name them, the first is {first:?}; the log has {most}")
        })
    })
}

/// In the end: a list that does not show what the log says.
pub fn differs(world: &World, user: &UserId, list: &BTreeMap<ConvId, Named>) -> Option<String> {
    list.iter().find_map(|(conv, shown)| {
        let due = due(world, user, conv)?;
        (due != *shown)
            .then(|| format!("{conv} shows {user} {shown:?} unread messages that name them, the log says {due:?}"))
    })
}

#[cfg(test)]
mod tests {
    use flotilla_machine::command::Settings;
    use flotilla_proto::entry::{Entry, What};
    use flotilla_proto::ids::Count;
    use serde_json::json;

    use super::super::testkit::{Bench, Raw, conv, entry, inbox, raw, said, user};
    use super::*;

    fn naming(seq: u64, who: &[&str]) -> Entry {
        let mut entry = entry(seq, u128::from(seq), None);
        if let Some(What::Message { mentions, .. }) = &mut entry.what {
            *mentions = who.iter().map(|name| user(name)).collect();
        }
        entry
    }

    fn named(who: &str, n: u64) -> Raw {
        raw::<Table>(&(conv(), user(who), Count(n)), &Seq(n))
    }

    /// Ann has said something that names these; these rows are written with it.
    fn bench(who: &[&str], rows: Vec<Raw>) -> Bench {
        let mut bench = Bench::new(vec![Box::new(Mentions)]);
        bench.apply_all(1, 1, vec![raw::<SettingsTable>(&(), &Settings::default())]);
        bench.apply_all(1, 2, said(&naming(1, who)).into_iter().chain(rows).collect());
        bench
    }

    #[test]
    fn a_row_that_is_missing_and_one_that_nobody_has_said_are_seen() {
        let promise = "who is named";
        bench(&["bob", "ann", "carol"], vec![named("bob", 1)]).holds();
        bench(&["bob"], vec![]).violates(promise);
        bench(&["bob"], vec![named("bob", 1), named("ann", 1)]).violates(promise);
        bench(&["bob"], vec![named("bob", 1), named("carol", 1)]).violates(promise);
        bench(&[], vec![named("bob", 1)]).violates(promise);
        bench(&["bob"], vec![named("bob", 1), named("bob", 2)]).violates(promise);
        let (key, _) = named("bob", 1);
        let mut forgets = bench(&["bob"], vec![named("bob", 1)]);
        forgets.apply_all(1, 3, vec![(key, None)]).violates(promise);
    }

    #[test]
    fn a_list_that_counts_too_many_too_few_or_what_was_read_is_seen() {
        let mut bench = bench(&["bob"], vec![named("bob", 1)]);
        bench.apply_all(
            1,
            3,
            said(&naming(2, &["bob"])).into_iter().chain([named("bob", 2), inbox("bob", 2, 1)]).collect(),
        );
        bench.holds();
        let list = |count: u64, first: u64| {
            let mentions = if count > 0 { json!({ "count": count, "first": first }) } else { Value::Null };
            shown(&[json!({ "conv": conv().to_string(), "mentions": mentions })])
        };
        bench.watch.with_world(|world| {
            assert_eq!(differs(world, &user("bob"), &list(2, 1)), None);
            assert!(differs(world, &user("bob"), &list(1, 1)).is_some());
            assert!(differs(world, &user("bob"), &list(2, 2)).is_some());
            assert!(differs(world, &user("bob"), &list(0, 0)).is_some());
            assert!(invented(world, &user("bob"), &list(3, 1)).is_some());
            assert!(invented(world, &user("ann"), &list(1, 1)).is_some());
            assert_eq!(invented(world, &user("bob"), &list(1, 2)), None, "the first was read meanwhile");
        });
        let read = flotilla_machine::user::inbox::Row {
            rev: flotilla_proto::ids::Rev(1),
            read: Seq(1),
            n_read: Count(1),
            head: Seq(2),
            n_head: Count(2),
            part: super::super::testkit::part(1),
            ..Default::default()
        };
        bench.apply_all(1, 4, vec![raw::<flotilla_machine::user::inbox::InboxTable>(&(user("bob"), conv()), &read)]);
        bench.watch.with_world(|world| {
            assert!(differs(world, &user("bob"), &list(2, 1)).is_some(), "one was read");
            assert_eq!(differs(world, &user("bob"), &list(1, 2)), None);
        });
    }
}
