//! The rules of conversations (DEFINITIONS: members, entries; DESIGN section 4): nothing is appended that its sender may not
//! do, and every row that stands beside the log says what the log says: members, roles, stays, counts, what was deleted,
//! whom each shard must still be told of. Judged when it is first applied anywhere; other replicas must be equal.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use flotilla_machine::conversation::tables::conversation::Conversations;
use flotilla_machine::conversation::tables::dirty::Dirties;
use flotilla_machine::conversation::tables::entry::Entries;
use flotilla_machine::conversation::tables::member::Members;
use flotilla_machine::conversation::tables::roster::Rosters;
use flotilla_machine::table::{self, KeyBuilder, Table, View};
use flotilla_proto::ids::{ConvId, Count, Seq, ShardId, UserId};
use flotilla_proto::member::Mode;
use flotilla_proto::slots;

use super::model::Model;
use super::{Checker, Event, Site, World};

#[derive(Default)]
pub struct Rules {
    /// Conversations in which something was wrong: what follows is noise.
    broken: BTreeSet<ConvId>,
}

impl Checker for Rules {
    fn promise(&self) -> &'static str {
        "state follows from the log"
    }

    fn on_event(&mut self, world: &World, site: &Site<'_>, event: &Event) -> Result<u64, String> {
        let Event::Applied { shard, pointer, rows, .. } = event else { return Ok(0) };
        let mut touched = BTreeSet::new();
        for row in rows {
            touched.extend(row.of::<Conversations>().map(|(conv, _, _)| conv));
            touched.extend(row.of::<Dirties>().map(|((_, conv), _, _)| conv));
            touched.extend(row.of::<Members>().map(|((conv, _), _, _)| conv));
        }
        let mut sum = 0;
        for conv in touched.into_iter().filter(|conv| !self.broken.contains(conv)).collect::<Vec<_>>() {
            // At another head than the newest it is compared with the replica that was there first.
            let Some(model) = world.models.get(&conv) else { continue };
            if let Some(why) = &model.1 {
                self.broken.insert(conv);
                return Err(why.clone());
            }
            let result = site.with_state(*shard, pointer, |view| compare(world, view, &conv, &model.0));
            match result {
                Ok(count) => sum += count,
                Err(what) => {
                    self.broken.insert(conv.clone());
                    return Err(format!("node {}, shard {shard}, {conv}: {what}", site.node));
                }
            }
        }
        Ok(sum)
    }
}

/// A row that is damaged is the product's to find: then nothing is compared.
fn compare(world: &World, view: &View<'_>, conv: &ConvId, model: &Model) -> Result<u64, String> {
    let Ok(Some(row)) = table::get::<Conversations>(view, conv) else { return Ok(0) };
    if row.head != model.head {
        return Ok(0);
    }
    let members: BTreeSet<UserId> = model.members().cloned().collect();
    let told = (row.name.as_str(), row.history, row.n_head, row.members() as usize);
    if told != (model.name.as_str(), model.history, model.n_head, members.len()) {
        return Err(format!("its row is {row:?}; the log gives n {} and members {members:?}", model.n_head));
    }
    if row.archived && !members.is_empty() {
        return Err("it is archived and has members".into());
    }
    let slot = slots::of_conversation(conv);
    let Ok(rows) = all::<Members>(view, KeyBuilder::new(Members::KIND).slot(slot).conv(conv).build()) else {
        return Ok(0);
    };
    for ((_, user), row) in &rows {
        let due = (model.parts.get(user), model.n_sent.get(user).copied().unwrap_or_default());
        if (Some(&row.part), row.n_sent) != due {
            return Err(format!("the member row of {user} is {row:?}; the log gives {due:?}"));
        }
    }
    if let Some(lost) = model.parts.keys().find(|user| !rows.iter().any(|((_, known), _)| known == *user)) {
        return Err(format!("{lost} has no member row"));
    }
    redactions(view, conv, model)?;
    targets(world, view, conv, model, &members)
}

fn all<T: Table>(view: &View<'_>, prefix: Vec<u8>) -> Result<Vec<(T::Key, T::Row)>, ()> {
    let mut found = Vec::new();
    let scanned = table::scan_prefix::<T>(view, &prefix, &mut |key, row| {
        found.push((key, row));
        ControlFlow::Continue(())
    });
    scanned.map(|()| found).map_err(|_| ())
}

fn redactions(view: &View<'_>, conv: &ConvId, model: &Model) -> Result<(), String> {
    let slot = slots::of_conversation(conv);
    let Ok(entries) = all::<Entries>(view, KeyBuilder::new(Entries::KIND).slot(slot).conv(conv).build()) else {
        return Ok(());
    };
    for ((_, seq), entry) in entries {
        let is_due = model.redacted.contains(&seq) || model.blurred.contains(&seq);
        if entry.is_redacted() != is_due {
            return Err(format!("entry {seq} is redacted: {}; by the log: {is_due}", entry.is_redacted()));
        }
    }
    Ok(())
}

/// Who must be told: each member stands on the roster of its shard, and a shard whose member has not been told the newest head
/// is owed it.
fn targets(
    world: &World,
    view: &View<'_>,
    conv: &ConvId,
    model: &Model,
    members: &BTreeSet<UserId>,
) -> Result<u64, String> {
    let slot = slots::of_conversation(conv);
    let Ok(rosters) = all::<Rosters>(view, KeyBuilder::new(Rosters::KIND).slot(slot).conv(conv).build()) else {
        return Ok(0);
    };
    let listed = rosters.iter().flat_map(|(_, row)| row.users.iter()).filter(|l| l.current).map(|l| l.user.clone());
    let listed: BTreeSet<UserId> = listed.collect();
    if listed != *members {
        return Err(format!("on its rosters stand {listed:?}, members are {members:?}"));
    }
    let owed: BTreeMap<ShardId, Seq> = rosters.iter().map(|((_, shard), row)| (*shard, row.owed())).collect();
    let targets: BTreeSet<ShardId> = members.iter().filter_map(|user| world.users.get(user)).copied().collect();
    for listed in rosters.iter().flat_map(|(_, row)| row.users.iter()) {
        let mseq = model.part(&listed.user).map_or(Seq::ZERO, |part| part.mseq);
        let told = world.inboxes.get(&(listed.user.clone(), conv.clone())).map_or(Seq::ZERO, |told| told.mseq);
        if told < mseq && listed.owed != mseq {
            return Err(format!("the membership of {} of {mseq} has not arrived and is not owed", listed.user));
        }
    }
    for target in targets.iter().chain(owed.keys()) {
        let Ok(row) = table::get::<Dirties>(view, &(*target, conv.clone())) else { return Ok(0) };
        let parts = owed.get(target).copied().unwrap_or_default();
        if row.map_or(Seq::ZERO, |row| row.parts) != parts {
            return Err(format!("shard {target} is owed parts up to {parts} by its roster, its dirty row is {row:?}"));
        }
        let head = row.map(|row| (row.head, row.n_head));
        let here = |user: &UserId| world.users.get(user) == Some(target);
        let wanted = due(model, here);
        if targets.contains(target) && head.is_some_and(|head| head != wanted) {
            return Err(format!("shard {target} is owed {row:?}, the head is {}", wanted.0));
        }
        let mut members = members.iter().filter(|user| here(user));
        let untold = members.find(|user| told(world, user, conv) < due(model, |other| other == *user));
        if let (None, Some(user)) = (head, untold) {
            return Err(format!("{user} on shard {target} has not been told of {}, and nothing is owed", model.head));
        }
    }
    Ok(1)
}

/// The head that users are owed: in pull mode that of the last entry that touched any of them.
fn due(model: &Model, of: impl Fn(&UserId) -> bool) -> (Seq, Count) {
    if model.mode == Mode::Push {
        return (model.head, model.n_head);
    }
    let touched = model.past.keys().filter(|(user, _)| of(user)).map(|(_, seq)| *seq);
    let last = touched.max().unwrap_or_default();
    (last, model.n_at(last).unwrap_or_default())
}

fn told(world: &World, user: &UserId, conv: &ConvId) -> (Seq, Count) {
    world.inboxes.get(&(user.clone(), conv.clone())).map_or((Seq::ZERO, Count(0)), |told| (told.head, told.n_head))
}

#[cfg(test)]
mod tests {
    use flotilla_machine::conversation::tables::conversation::{ConversationRow, TargetCount};
    use flotilla_machine::conversation::tables::dirty::DirtyRow;
    use flotilla_machine::conversation::tables::member::MemberRow;
    use flotilla_machine::conversation::tables::roster::{Listed, RosterRow};
    use flotilla_proto::entry::Entry;

    use super::super::testkit::{Bench, Raw, conv, entry, part, raw, said, user};
    use super::*;

    /// What the first message of a direct conversation writes.
    fn first(entry: &Entry) -> Vec<Raw> {
        let row = |name| {
            let n_sent = if user(name) == entry.from { entry.n } else { Count(0) };
            raw::<Members>(&(conv(), user(name)), &MemberRow { part: part(1), n_sent, ..MemberRow::default() })
        };
        let listed = |name| Listed { user: user(name), current: true, owed: Seq(1) };
        let head = ConversationRow {
            head: entry.seq,
            n_head: entry.n,
            chain: entry.chain,
            last_id: entry.msg_id,
            last_ts: entry.ts,
            targets: vec![TargetCount { shard: Bench::SHARD, members: 2 }],
            ..ConversationRow::default()
        };
        let owed = DirtyRow { head: Seq(1), n_head: entry.n, parts: Seq(1), ..DirtyRow::default() };
        let mut rows = said(entry);
        rows.retain(|(key, _)| key[0] != Conversations::KIND);
        rows.extend([row("ann"), row("bob"), raw::<Conversations>(&conv(), &head)]);
        rows.push(raw::<Rosters>(&(conv(), Bench::SHARD), &RosterRow { users: vec![listed("ann"), listed("bob")] }));
        rows.push(raw::<Dirties>(&(Bench::SHARD, conv()), &owed));
        rows
    }

    fn without(kind: u8) -> Bench {
        let mut bench = Bench::new(vec![Box::new(Rules::default())]);
        let mut rows = first(&entry(1, 10, None));
        rows.retain(|(key, _)| key[0] != kind);
        bench.users(&["ann", "bob"]).apply_all(1, 2, rows);
        bench
    }

    #[test]
    fn rows_that_the_log_does_not_give_are_seen() {
        without(0).holds();
        for kind in [Members::KIND, Rosters::KIND, Dirties::KIND] {
            without(kind).violates("state follows");
        }
    }

    #[test]
    fn an_entry_that_its_sender_may_not_append_is_seen() {
        let mut stranger = entry(1, 10, None);
        stranger.from = user("carol");
        let mut bench = Bench::new(vec![Box::new(Rules::default())]);
        bench.users(&["ann", "bob"]).apply_all(1, 2, first(&stranger)).violates("state follows");
    }
}
