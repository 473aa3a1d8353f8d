//! I2 gapless, I9, I11 one-history, in the state itself: every entry follows the one before it in seq, chain, id and time;
//! it is never changed (a redaction empties its content) nor removed; a (conversation, sender, cid) has one seq; the head
//! is the last entry; what dedup remembers is the entry that was written, for the whole window.

use std::cell::Cell;
use std::collections::BTreeMap;

use flotilla_machine::conversation::tables::conversation::Conversations;
use flotilla_machine::conversation::tables::dedup::{DedupRow, Dedups};
use flotilla_machine::conversation::tables::entry::Entries as EntryTable;
use flotilla_machine::conversation::tables::sender::Senders;
use flotilla_machine::meta::{ClockTable, SettingsTable};
use flotilla_machine::table::{self, Table, View};
use flotilla_proto::entry::Entry;
use flotilla_proto::ids::{Cid, ConvId, Hash32, MsgId, Seq, UserId};
use flotilla_raft::keys;

use super::{Checker, Event, RowChange, Site, World};

#[derive(Default)]
pub struct Entries {
    cids: BTreeMap<(ConvId, UserId, Cid), Seq>,
    ids: BTreeMap<MsgId, (ConvId, Seq)>,
    /// A row that was asked for is there and damaged.
    unreadable: Cell<bool>,
}

impl Checker for Entries {
    fn promise(&self) -> &'static str {
        "I2 gapless, I11 one-history"
    }

    fn on_event(&mut self, world: &World, site: &Site<'_>, event: &Event) -> Result<u64, String> {
        let Event::Applied { shard, pointer, rows, .. } = event else { return Ok(0) };
        let damaged = world.damaged.get(&(site.node, *shard)) == Some(&keys::STATE);
        site.with_state(*shard, pointer, |view| {
            rows.iter().try_fold(0, |sum, row| {
                self.unreadable.set(false);
                match self.on_row(world, view, row) {
                    // This looks at rows that the product need not read: one of them is the flipped one.
                    Err(_) if damaged && self.unreadable.get() => Ok(sum),
                    told => told.map(|count| sum + count),
                }
            })
        })
        .map_err(|what| format!("node {}: {what}", site.node))
    }
}

/// The row, if it is there and can be read.
fn read<T: Table>(unreadable: &Cell<bool>, view: &View<'_>, key: &T::Key) -> Option<T::Row> {
    let row = table::get::<T>(view, key);
    unreadable.set(unreadable.get() || row.is_err());
    row.ok().flatten()
}

impl Entries {
    fn on_row(&mut self, world: &World, view: &View<'_>, row: &RowChange) -> Result<u64, String> {
        if let Some(((conv, seq), old, new)) = row.of::<EntryTable>() {
            let Some(new) = new else { return Err(format!("entry {seq} of {conv} was removed")) };
            return match old {
                Some(old) => unchanged(&old, &new),
                None => self.on_entry(world, view, &new),
            };
        }
        if let Some((conv, old, Some(new))) = row.of::<Conversations>() {
            let last = read::<EntryTable>(&self.unreadable, view, &(conv.clone(), new.head));
            let same = last.is_some_and(|e| (e.chain, e.msg_id, e.n) == (new.chain, new.last_id, new.n_head));
            if !same || old.is_some_and(|old| old.head > new.head) {
                return Err(format!("the head {} of {conv} is not its last entry", new.head));
            }
            return Ok(1);
        }
        if let Some(((conv, sender, cid), Some(old), None)) = row.of::<Dedups>() {
            return self
                .forgotten(view, &conv, &sender, &old)
                .map_err(|why| format!("cid {cid} of {sender} in {conv} is forgotten {why}"));
        }
        if let Some(((conv, sender, cid), old, Some(new))) = row.of::<Dedups>() {
            if old.is_some_and(|old| old != new) {
                return Err(format!("what dedup knows of cid {cid} of {sender} in {conv} was changed"));
            }
            let entry = read::<EntryTable>(&self.unreadable, view, &(conv.clone(), new.answer.seq));
            if entry.is_none_or(|e| (e.cid, e.chain, e.from) != (cid, new.answer.chain, sender)) {
                return Err(format!("dedup answers cid {cid} in {conv} with seq {}, another entry", new.answer.seq));
            }
            return Ok(1);
        }
        Ok(0)
    }

    fn on_entry(&mut self, world: &World, view: &View<'_>, entry: &Entry) -> Result<u64, String> {
        let Entry { conv, seq, cid, from, .. } = entry;
        let before = (*seq > Seq(1)).then(|| read::<EntryTable>(&self.unreadable, view, &(conv.clone(), seq.prev())));
        let chain = match &before {
            None => Hash32::default(),
            Some(None) => return Err(format!("entry {seq} of {conv} follows a hole")),
            Some(Some(before)) => {
                if before.msg_id >= entry.msg_id || before.ts > entry.ts || before.n > entry.n {
                    return Err(format!("message id, ts or n of {conv} goes back at seq {seq}"));
                }
                before.chain
            }
        };
        if entry.chain_after(chain) != entry.chain {
            return Err(format!("the chain of {conv} breaks at seq {seq}"));
        }
        if let Some(known) = world.entries.get(conv).and_then(|log| log.get(seq))
            && (known.chain, known.msg_id, known.cid) != (entry.chain, entry.msg_id, entry.cid)
        {
            return Err(format!("entry {seq} of {conv} was another one when it was first applied"));
        }
        let first = *self.cids.entry((conv.clone(), from.clone(), *cid)).or_insert(*seq);
        if first != *seq {
            return Err(format!("cid {cid} of {from} stands in {conv} at {first} and at {seq}"));
        }
        let owner = self.ids.entry(entry.msg_id).or_insert_with(|| (conv.clone(), *seq));
        if *owner != (conv.clone(), *seq) {
            return Err(format!("message id {:?} was given to {owner:?} and to {conv} {seq}", entry.msg_id));
        }
        // A replica that catches up may write it and, when its window is over, forget it in one batch.
        if world.entries.get(conv).is_some_and(|log| log.contains_key(seq)) {
            return Ok(1);
        }
        let dedup = read::<Dedups>(&self.unreadable, view, &(conv.clone(), from.clone(), *cid));
        if dedup.is_none_or(|row| row.answer.seq != *seq) {
            return Err(format!("entry {seq} of {conv} was written and its cid {cid} not remembered"));
        }
        Ok(1)
    }
}

impl Entries {
    /// Only what is older than the window, and never without a floor that has its cid answered `too_old` from then on.
    fn forgotten(&self, view: &View<'_>, conv: &ConvId, sender: &UserId, old: &DedupRow) -> Result<u64, String> {
        let clock = read::<ClockTable>(&self.unreadable, view, &()).unwrap_or_default();
        let settings = read::<SettingsTable>(&self.unreadable, view, &()).unwrap_or_default();
        if old.age.0.saturating_add(settings.dedup_window_ms) > clock.age.0 {
            return Err(format!("at age {}, it was said at {}", clock.age, old.age));
        }
        let floor = read::<Senders>(&self.unreadable, view, &(conv.clone(), sender.clone())).unwrap_or_default().floor;
        if floor < old.age {
            Err(format!("above its sender's floor {floor}, it was said at {}", old.age))
        } else {
            Ok(1)
        }
    }
}

fn unchanged(old: &Entry, new: &Entry) -> Result<u64, String> {
    let redacted = Entry { what: None, ..old.clone() };
    if new == old || *new == redacted {
        return Ok(1);
    }
    Err(format!("entry {} of {} was changed after it was written", old.seq, old.conv))
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{Bench, entry, said};
    use super::*;

    #[test]
    fn holes_broken_chains_changed_entries_and_a_cid_given_twice_are_seen() {
        let bench = || Bench::new(vec![Box::new(Entries::default())]);
        let first = entry(1, 10, None);
        let second = entry(2, 11, Some(&first));
        bench().apply_all(1, 1, said(&first)).apply_all(1, 2, said(&second)).holds();
        bench().apply_all(1, 1, said(&first)).apply_all(1, 2, said(&entry(3, 11, Some(&first)))).violates("I2");
        bench().apply_all(1, 1, said(&first)).apply_all(1, 2, said(&entry(2, 10, Some(&first)))).violates("I2");
        bench().apply_all(1, 1, said(&first)).apply_all(1, 2, said(&entry(2, 11, None))).violates("I2");
        bench().apply_all(1, 1, said(&first)).apply_all(2, 1, said(&entry(1, 12, None))).violates("I2");
        let mut forgotten = said(&first);
        forgotten.retain(|(key, _)| key[0] != flotilla_machine::table::kind::DEDUP);
        bench().apply_all(1, 1, forgotten).violates("I2");
        let edited = Entry { ts: flotilla_proto::ids::TsMs(9), ..first.clone() };
        bench().apply_all(1, 1, said(&first)).apply_all(1, 2, said(&edited)).violates("I2");
    }

    #[test]
    fn a_flipped_row_hides_what_follows_it_and_nothing_else() {
        let first = entry(1, 10, None);
        let second = || said(&entry(2, 11, Some(&first)));
        let key = said(&first)[0].0.clone();
        let flipped = |told: bool| {
            let mut bench = Bench::new(vec![Box::new(Entries::default())]);
            bench.apply_all(1, 1, said(&first)).damage(1, &key);
            if told {
                bench.tell_damage();
            }
            bench
        };
        flipped(true).apply_all(1, 2, second()).holds();
        flipped(false).apply_all(1, 2, second()).violates("I2");
        flipped(true).apply_all(1, 2, said(&entry(3, 11, Some(&first)))).violates("I2");
    }
}
