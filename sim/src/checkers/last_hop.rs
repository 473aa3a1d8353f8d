//! The last hop, at every moment and not only in the end (RELIABILITY section 3): what a user's row says is pending does not stay
//! away from a connected device for longer than the bounds of the hops before it add up to. A gateway that is not told
//! notices the hole, the silence or the new leader, or it closes the connection.

use std::collections::BTreeMap;
use std::time::Duration;

use flotilla_client::history::{Op, Record};
use flotilla_machine::conversation::tables::entry::Entries;
use flotilla_machine::user::inbox::InboxTable;
use flotilla_proto::ids::{ConvId, Seq, UserId};
use flotilla_proto::member::Mode;

use super::model::{end, receives};
use super::{Checker, Event, Facts, Site, World};
use crate::options::DEAF;
use crate::trace;

/// The lease of a gateway (4 s) and the time in which its end is noticed, a keepalive (2 s), an election, and a read of the log
/// with its tries again. Counted is only time in which nothing is broken that may lawfully keep the device waiting.
pub const BOUND: Duration = Duration::from_secs(12);

/// While these last, whoever is not told must have been closed: nothing else stands between a client and its gateway, and
/// nothing between the gateway and the log but a silence that ends its lease.
pub const COUNTED: [&str; 4] = ["minority", "transfer", "clock", "drift"];

/// So long a gateway that hears no other node keeps a client at most: the last keepalive that a quorum stood behind (2 s), a
/// lease (4 s), and the time in which its end is noticed.
const ALONE: Duration = Duration::from_secs(7);

#[derive(Default)]
pub struct LastHop {
    /// By the label in the history.
    open: BTreeMap<String, Open>,
    at: Duration,
}

struct Open {
    user: UserId,
    connected: bool,
    url: String,
    /// How long it has been connected to a gateway that hears no other node.
    alone: Duration,
    has: BTreeMap<ConvId, Seq>,
    /// Up to where the user may see more, and how long the device has waited for it.
    waits: BTreeMap<ConvId, (Seq, Duration)>,
}

impl Checker for LastHop {
    fn promise(&self) -> &'static str {
        "last hop"
    }

    fn on_event(&mut self, world: &World, _: &Site<'_>, event: &Event) -> Result<u64, String> {
        let Event::Applied { rows, .. } = event else { return Ok(0) };
        for row in rows {
            if let Some(((conv, seq), None, Some(_))) = row.of::<Entries>() {
                self.pulled(world, &conv, seq);
            }
            let Some(((user, conv), _, Some(row))) = row.of::<InboxTable>() else { continue };
            let (head, _) = end(&row.part, row.head, row.n_head);
            for open in self.open.values_mut().filter(|open| open.connected && open.user == user) {
                let has = open.has.get(&conv).copied();
                let has = has.or_else(|| row.part.intervals.first().map(|stay| stay.from.prev())).unwrap_or_default();
                if (has.0 + 1..=head.0).any(|seq| receives(&row.part, Seq(seq))) && known(world, &user, &conv) < head {
                    let (upto, _) = open.waits.entry(conv.clone()).or_default();
                    *upto = head.max(*upto);
                }
            }
        }
        Ok(0)
    }

    fn on_record(&mut self, _: &World, record: &Record) -> Result<u64, String> {
        let label = &record.device;
        match &record.op {
            Op::Connected { url, .. } => {
                let before = self.open.remove(label);
                let has = before.map(|open| open.has).unwrap_or_default();
                // Of other places and of strangers nobody hears when they end.
                let connected = !label.ends_with("-b") && !label.starts_with("strange");
                let (user, url) = (record.user.clone(), url.clone());
                let open = Open { user, connected, url, alone: Duration::ZERO, has, waits: BTreeMap::new() };
                self.open.insert(label.clone(), open);
            }
            Op::Closed { .. } | Op::Reset => {
                if let Some(open) = self.open.get_mut(label) {
                    open.waits.clear();
                    open.connected = false;
                }
            }
            Op::Entry { entry } => return Ok(self.got(record, &entry.conv, entry.seq)),
            Op::Gap { gap } => return Ok(self.got(record, &gap.conv, gap.to)),
            _ => {}
        }
        Ok(0)
    }

    /// The ticks are the clock.
    fn on_facts(&mut self, world: &World, _: &Facts) -> Result<u64, String> {
        let now = trace::now();
        let passed = now.saturating_sub(std::mem::replace(&mut self.at, now));
        self.left_alone(world, passed)?;
        if passed.is_zero() || world.broken.keys().any(|kind| !COUNTED.contains(kind)) {
            return Ok(0);
        }
        for (label, open) in &mut self.open {
            for (conv, (_, waited)) in &mut open.waits {
                *waited += passed;
                if *waited > BOUND {
                    let has = open.has.get(conv).copied().unwrap_or_default();
                    return Err(format!(
                        "{label} is connected, has {conv} up to {has}, and was not told of more for {} s in which nothing kept it from being told",
                        BOUND.as_secs()
                    ));
                }
            }
        }
        Ok(0)
    }
}

/// What was told of before this row was applied: a replica that catches up brings no news.
fn known(world: &World, user: &UserId, conv: &ConvId) -> Seq {
    world.inboxes.get(&(user.clone(), conv.clone())).map_or(Seq::ZERO, |told| told.head)
}

impl LastHop {
    /// In pull mode no row tells: an entry that is applied anywhere is on its way to every member whose row says so.
    fn pulled(&mut self, world: &World, conv: &ConvId, seq: Seq) {
        let Some((model, _)) = world.models.get(conv).filter(|(model, _)| model.mode == Mode::Pull) else { return };
        if world.heads.get(conv).is_some_and(|head| *head >= seq) {
            return;
        }
        for open in self.open.values_mut().filter(|open| open.connected) {
            let told = world.inboxes.get(&(open.user.clone(), conv.clone()));
            let Some(part) = model.part(&open.user) else { continue };
            // Whoever has not heard of its stay hears of it by its row first.
            let knows = told.is_some_and(|told| told.mseq >= part.mseq);
            let has = open.has.get(conv).copied().unwrap_or_default();
            if knows && receives(part, seq) && has < seq {
                let (upto, _) = open.waits.entry(conv.clone()).or_default();
                *upto = seq.max(*upto);
            }
        }
    }

    /// U7: a minority leader is cut off together with a gateway; whoever is connected there is told nothing for ever.
    fn left_alone(&mut self, world: &World, passed: Duration) -> Result<(), String> {
        let deaf = world.broken.keys().any(|kind| DEAF.contains(kind));
        for (label, open) in self.open.iter_mut().filter(|(_, open)| open.connected) {
            let there = |node: &u16| open.url.contains(&format!("10.0.0.{node}:"));
            if deaf || !world.alone.iter().any(there) {
                open.alone = Duration::ZERO;
                continue;
            }
            open.alone += passed;
            if open.alone > ALONE {
                let (url, for_s) = (&open.url, ALONE.as_secs());
                return Err(format!("{label} stays connected to {url}, which has heard no other node for {for_s} s"));
            }
        }
        Ok(())
    }

    fn got(&mut self, record: &Record, conv: &ConvId, seq: Seq) -> u64 {
        let Some(open) = self.open.get_mut(&record.device) else { return 0 };
        let has = open.has.entry(conv.clone()).or_default();
        *has = seq.max(*has);
        if let Some((upto, waited)) = open.waits.get_mut(conv) {
            // Something comes: the window may be full, and the device slow.
            *waited = Duration::ZERO;
            if *has >= *upto {
                open.waits.remove(conv);
            }
        }
        1
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{Bench, entry, inbox, said};
    use super::*;

    #[test]
    fn a_device_that_is_connected_and_not_told_is_seen() {
        let mut checker = LastHop::default();
        let mut bench = Bench::new(Vec::new());
        let one = entry(1, 10, None);
        bench.connected("bob", 1);
        bench.apply_all(1, 1, said(&one)).apply_all(1, 2, vec![inbox("bob", 1, 1)]);
        bench.watch.with_world(|world| {
            checker.on_record(world, &bench.records[0]).expect("nothing is owed yet");
            let open = checker.open.get_mut("bob").expect("connected");
            open.waits.insert(one.conv.clone(), (Seq(1), BOUND));
            let waits = |checker: &LastHop| checker.open["bob"].waits.len();
            assert_eq!(waits(&checker), 1);
            let got = Record {
                op: Op::Entry { entry: Box::new(flotilla_proto::frame::EntryFrame::of(&one)) },
                ..bench.records[0].clone()
            };
            checker.on_record(world, &got).expect("it came");
            assert_eq!(waits(&checker), 0);
        });
    }
}
