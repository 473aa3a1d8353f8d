//! Pipelined order: the commands that a device gave for one conversation stand in its log in the order in which they were
//! given, whatever was retried.

use std::collections::BTreeMap;

use flotilla_proto::ids::{ConvId, Seq};

use super::world::World;
use super::{Stats, Violation};
use crate::history::Op;

const PROMISE: &str = "pipelined order";

pub fn check(world: &World<'_>, stats: &mut Stats) -> Result<(), Violation> {
    let seqs = world.seqs_of();
    let mut last: BTreeMap<(&str, &ConvId), (Seq, usize)> = BTreeMap::new();
    for (at, record) in world.records.iter().enumerate() {
        let Op::Invoked { cid, conv, pipelined: true, .. } = &record.op else { continue };
        let first = world.invoked.get(cid).is_some_and(|i| i.at == at);
        let Some(seq) = seqs.get(cid).filter(|_| first) else { continue };
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
}
