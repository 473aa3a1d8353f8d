//! Real-time order: a command that was given after another one's `accepted` was seen has a higher seq in the conversation.

use std::collections::BTreeMap;

use flotilla_proto::ids::{ConvId, Seq};

use super::world::World;
use super::{Stats, Violation};
use crate::history::Op;

const PROMISE: &str = "real-time order";

pub fn check(world: &World<'_>, stats: &mut Stats) -> Result<(), Violation> {
    let seqs = world.seqs_of();
    // The highest accepted so far, and where that is recorded.
    let mut floors: BTreeMap<&ConvId, (Seq, usize)> = BTreeMap::new();
    for (at, record) in world.records.iter().enumerate() {
        match &record.op {
            Op::Accepted { accepted, .. } => {
                let floor = floors.entry(&accepted.conv).or_insert((accepted.seq, at));
                if accepted.seq > floor.0 {
                    *floor = (accepted.seq, at);
                }
            }
            Op::Invoked { cid, conv, .. } => {
                let (Some((floor, before)), Some(seq)) = (floors.get(conv), seqs.get(cid)) else { continue };
                // A cid given twice (again after a restart) has its seq from the first time.
                let first = world.invoked.get(cid).is_some_and(|i| i.at == at);
                *stats.entry("real-time pairs").or_default() += 1;
                if first && seq <= floor {
                    let what =
                        format!("cid {cid} got seq {seq} in {conv} though {floor} was accepted before it was sent");
                    return Err(Violation::new(PROMISE, what, [&world.records[*before], record]));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::history::Op;
    use crate::oracle::testkit::History;

    #[test]
    fn a_later_command_with_an_earlier_seq_is_seen() {
        let mut history = History::good();
        // The first direct message is given only at the end.
        let at = history.nth(0, |r| matches!(&r.op, Op::Invoked { .. }));
        let late = history.records.remove(at);
        history.records.push(late);
        history.violates("real-time order");
    }
}
