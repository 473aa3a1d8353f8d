//! Pipelined order: the commands that a device gave for one conversation stand in its log in the order in which they were
//! given, whatever was retried. But for one that the device has given up with an unknown outcome: what follows does not wait
//! for it, and it may arrive at any time yet.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::ids::{ConvId, Seq};

use super::world::World;
use super::{Stats, Violation};
use crate::history::Op;

const PROMISE: &str = "pipelined order";

pub fn check(world: &World<'_>, stats: &mut Stats) -> Result<(), Violation> {
    let seqs = world.seqs_of();
    let given_up = |record: &crate::history::Record| match &record.op {
        Op::Unknown { cid, .. } => Some(*cid),
        _ => None,
    };
    let given_up: BTreeSet<_> = world.records.iter().filter_map(given_up).collect();
    let mut last: BTreeMap<(&str, &ConvId), (Seq, usize)> = BTreeMap::new();
    for (at, record) in world.records.iter().enumerate() {
        let Op::Invoked { cid, conv, pipelined: true, .. } = &record.op else { continue };
        let first = world.invoked.get(cid).is_some_and(|i| i.at == at);
        let Some(seq) = seqs.get(cid).filter(|_| first && !given_up.contains(cid)) else { continue };
        *stats.entry("pipelined").or_default() += 1;
        if let Some((before, earlier)) = last.insert((&record.device, conv), (*seq, at))
            && before >= *seq
        {
            let what = format!(
                "{} gave two commands for {conv}; the later stands at {seq}, the earlier at {before}",
                record.device
            );
            return Err(Violation::new(PROMISE, what, [&world.records[earlier], record]));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::history::Op;
    use crate::oracle::testkit::History;

    #[test]
    fn two_commands_that_changed_places_are_seen() {
        let mut history = History::good();
        let given =
            |r: &crate::history::Record| r.device == "alice/1" && matches!(&r.op, Op::Invoked { pipelined: true, .. });
        let (first, second) = (history.nth(0, given), history.nth(1, given));
        // Both are given before either is accepted, in the wrong order.
        let later = history.records.remove(second);
        history.records.insert(first, later);
        history.violates("pipelined order");
    }

    #[test]
    fn one_that_was_given_up_may_come_later() {
        let mut history = History::good();
        let given =
            |r: &crate::history::Record| r.device == "alice/1" && matches!(&r.op, Op::Invoked { pipelined: true, .. });
        let (first, second) = (history.nth(0, given), history.nth(1, given));
        let later = history.records.remove(second);
        let Op::Invoked { cid: early, .. } = later.op else { panic!("a command") };
        history.records.insert(first, later);
        let answered = |r: &crate::history::Record| matches!(&r.op, Op::Accepted { cid, .. } if *cid == early);
        let at = history.last(answered);
        history.records[at].op = Op::Unknown { cid: early, why: "given up".into() };
        let verdict = crate::oracle::judge(&history.records, crate::oracle::Demand::default());
        assert!(!verdict.to_string().contains("pipelined order:"), "{verdict}");
    }
}
