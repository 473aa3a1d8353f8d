//! What a watcher is told of how far others are is never more than what is registered, nothing that was registered after it was put
//! out, and no read of others that was registered after it had hidden its own.
//!
//! What was told may be older than that: a signal waits in sockets for as long as faults last. So the marks of the moment are kept
//! at which somebody is put out, or has hidden its reads, and what it is told from then on must not be above them.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_client::history::{Op, Record};
use flotilla_machine::conversation::tables::member::Members;
use flotilla_proto::frame::MemberMarks;
use flotilla_proto::ids::{ConvId, Seq, UserId};

use super::model::is_member;
use super::{Checker, Event, RowChange, Site, World};
use crate::lasting::Act;

/// Delivered and read by member.
type Marks = BTreeMap<UserId, (Seq, Seq)>;

/// What a user's requests to hide its reads, and to show them, have come to.
#[derive(Default)]
struct Hiding {
    /// Requests to show them that may still have an effect.
    shows: BTreeSet<String>,
    /// How many were ever begun.
    begun: usize,
    /// Requests to hide them, with that number when they began.
    hides: BTreeMap<String, usize>,
    /// Hidden for sure, since these marks were the highest.
    since: Option<BTreeMap<ConvId, Marks>>,
}

#[derive(Default)]
pub struct LiveReceipts {
    out: BTreeMap<(ConvId, UserId), Marks>,
    hiding: BTreeMap<UserId, Hiding>,
}

impl Checker for LiveReceipts {
    fn promise(&self) -> &'static str {
        "live receipts tell what is registered"
    }

    fn on_event(&mut self, world: &World, _: &Site<'_>, event: &Event) -> Result<u64, String> {
        let Event::Applied { shard, pointer, rows, .. } = event else { return Ok(0) };
        let index = pointer.applied.map_or(0, |id| id.index());
        if world.is_news(*shard, index) {
            rows.iter().for_each(|row| self.on_row(world, rows, row));
        }
        Ok(0)
    }

    fn on_record(&mut self, world: &World, record: &Record) -> Result<u64, String> {
        match &record.op {
            Op::Note { text } => {
                self.on_act(world, &record.user, text);
                Ok(0)
            }
            Op::Receipts { conv, members } => {
                let told = members.iter().try_for_each(|of| self.on_told(world, &record.user, conv, of));
                told.map(|()| members.len() as u64)
                    .map_err(|what| format!("{} is told of {conv}: {what}", record.device))
            }
            _ => Ok(0),
        }
    }
}

impl LiveReceipts {
    /// Whoever is put out is told nothing that comes later in the log; of one batch nobody can say what came first.
    fn on_row(&mut self, world: &World, batch: &[RowChange], row: &RowChange) {
        let Some(((conv, user), old, Some(new))) = row.of::<Members>() else { return };
        if is_member(&new.part) {
            self.out.remove(&(conv, user));
        } else if old.is_some_and(|old| is_member(&old.part)) {
            let mut marks = registered(world, &conv);
            for ((of, member), _, row) in batch.iter().filter_map(|row| row.of::<Members>()) {
                let Some(row) = row.filter(|_| of == conv) else { continue };
                let known = marks.entry(member).or_default();
                *known = (known.0.max(row.delivered), known.1.max(row.read));
            }
            self.out.insert((conv, user), marks);
        }
    }

    fn on_act(&mut self, world: &World, user: &UserId, text: &str) {
        let mut words = text.splitn(4, ' ');
        let (Some("act"), Some(id), Some(word)) = (words.next(), words.next(), words.next()) else { return };
        let hiding = self.hiding.entry(user.clone()).or_default();
        if word == "begins" {
            match serde_json::from_str(words.next().unwrap_or_default()) {
                Ok(Act::HideRead { on: true }) => drop(hiding.hides.insert(id.to_owned(), hiding.begun)),
                Ok(Act::HideRead { on: false }) => {
                    hiding.begun += 1;
                    hiding.shows.insert(id.to_owned());
                    hiding.since = None;
                }
                _ => {}
            }
            return;
        }
        if matches!(word, "done" | "refused") {
            hiding.shows.remove(id);
        }
        let began = hiding.hides.remove(id).filter(|_| word == "done");
        if began == Some(hiding.begun) && hiding.shows.is_empty() && hiding.since.is_none() {
            let convs: BTreeSet<&ConvId> = world.receipts.keys().map(|(conv, _)| conv).collect();
            hiding.since = Some(convs.into_iter().map(|conv| (conv.clone(), registered(world, conv))).collect());
        }
    }

    fn on_told(&self, world: &World, by: &UserId, conv: &ConvId, of: &MemberMarks) -> Result<(), String> {
        let (user, told) = (&of.user, (of.delivered, of.read.unwrap_or_default()));
        let above = |most: (Seq, Seq)| told.0 > most.0 || told.1 > most.1;
        let most = world.receipts.get(&(conv.clone(), user.clone())).copied().unwrap_or_default();
        if above(most) {
            return Err(format!("{user} is at {told:?} (delivered, read), and registered is {most:?}"));
        }
        if let Some(out) = self.out.get(&(conv.clone(), by.clone())) {
            let most = out.get(user).copied().unwrap_or_default();
            if above(most) {
                return Err(format!("{user} is at {told:?}, and it was {most:?} when {by} was put out"));
            }
        }
        let since = self.hiding.get(by).and_then(|hiding| hiding.since.as_ref()).filter(|_| user != by);
        if let Some(since) = since {
            let most = since.get(conv).and_then(|marks| marks.get(user)).copied().unwrap_or_default();
            if told.1 > most.1 {
                return Err(format!("{user} has read {}, and it was {} when {by} had hidden its own", told.1, most.1));
            }
        }
        Ok(())
    }
}

fn registered(world: &World, conv: &ConvId) -> Marks {
    let of = world.receipts.iter().filter(|((of, _), _)| of == conv);
    of.map(|((_, user), marks)| (user.clone(), *marks)).collect()
}

#[cfg(test)]
mod tests {
    use flotilla_machine::conversation::tables::member::MemberRow;
    use flotilla_proto::ids::Cid;

    use super::super::testkit::{Bench, Raw, conv, part, raw, user};
    use super::*;
    use crate::lasting::{Ended, ends};

    fn marks(name: &str, delivered: u64, read: u64) -> Raw {
        let row = MemberRow { part: part(1), delivered: Seq(delivered), read: Seq(read), ..MemberRow::default() };
        raw::<Members>(&(conv(), user(name)), &row)
    }

    fn out(name: &str) -> Raw {
        let mut row = MemberRow { part: part(1), ..MemberRow::default() };
        row.leave(Seq(9), Default::default());
        raw::<Members>(&(conv(), user(name)), &row)
    }

    fn told(delivered: u64, read: u64) -> Op {
        let read = (read > 0).then_some(Seq(read));
        Op::Receipts { conv: conv(), members: vec![MemberMarks { user: user("bob"), delivered: Seq(delivered), read }] }
    }

    fn bench() -> Bench {
        let mut bench = Bench::new(vec![Box::new(LiveReceipts::default())]);
        bench.apply_all(1, 1, vec![marks("bob", 3, 2), marks("ann", 0, 0)]);
        bench
    }

    const PROMISE: &str = "live receipts";

    #[test]
    fn more_than_is_registered_is_seen() {
        bench().notes("ann", told(3, 2)).notes("ann", told(1, 0)).holds();
        bench().notes("ann", told(4, 2)).violates(PROMISE);
        bench().notes("ann", told(3, 3)).violates(PROMISE);
    }

    #[test]
    fn what_is_registered_after_somebody_was_put_out_is_not_for_it() {
        let later = || {
            let mut bench = bench();
            bench.apply_all(1, 2, vec![out("ann")]).apply_all(1, 3, vec![marks("bob", 5, 2)]);
            // Another node comes to it later.
            bench.apply_all(2, 1, vec![marks("bob", 3, 2), marks("ann", 0, 0)]);
            bench
        };
        later().notes("ann", told(3, 2)).notes("bob", told(5, 2)).holds();
        later().notes("ann", told(5, 2)).violates(PROMISE);
        let mut back = later();
        back.apply_all(1, 4, vec![marks("ann", 0, 0)]).apply_all(2, 2, vec![out("ann")]);
        back.notes("ann", told(5, 2)).holds();
    }

    #[test]
    fn who_has_hidden_its_reads_is_told_those_of_nobody() {
        let act = |bench: &mut Bench, id: u128, on, how| {
            bench.notes("ann", Op::Note { text: Act::HideRead { on }.begins(Cid(id)) });
            bench.notes("ann", Op::Note { text: ends(Cid(id), how, "") });
        };
        let hidden = |how| {
            let mut bench = bench();
            act(&mut bench, 1, true, how);
            bench.apply_all(1, 2, vec![marks("bob", 5, 5)]);
            bench
        };
        hidden(Ended::Done).notes("ann", told(5, 0)).notes("ann", told(3, 2)).holds();
        hidden(Ended::Done).notes("ann", told(5, 5)).violates(PROMISE);
        hidden(Ended::Unknown).notes("ann", told(5, 5)).holds();
        let mut shown = hidden(Ended::Done);
        act(&mut shown, 2, false, Ended::Unknown);
        act(&mut shown, 3, true, Ended::Done);
        shown.notes("ann", told(5, 5)).holds();
    }
}
