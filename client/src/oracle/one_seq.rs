//! I2, second half: one seq per (conversation, sender, cid), whatever is retried: all answers of a cid and all sights of it
//! agree, and the entry at an accepted seq is the accepted one.

use std::collections::BTreeMap;

use flotilla_proto::ids::{Cid, ConvId, Seq, UserId};

use super::world::World;
use super::{Stats, Violation};

const PROMISE: &str = "I2 one seq per cid";

pub fn check(world: &World<'_>, stats: &mut Stats) -> Result<(), Violation> {
    for (cid, answers) in &world.accepted {
        let Some((first_at, first)) = answers.first() else { continue };
        for (at, answer) in &answers[1..] {
            if (&answer.conv, answer.seq, answer.msg_id, answer.ts, answer.chain)
                != (&first.conv, first.seq, first.msg_id, first.ts, first.chain)
            {
                let what = format!("cid {cid} was accepted as seq {} and as seq {}", first.seq, answer.seq);
                return Err(Violation::new(PROMISE, what, [&world.records[*first_at], &world.records[*at]]));
            }
        }
        *stats.entry("cids").or_default() += 1;
        if let Some((at, entry)) = world.entry(&first.conv, first.seq)
            && entry.cid != *cid
        {
            let what = format!("{} seq {} was accepted for cid {cid} and holds another", first.conv, first.seq);
            return Err(Violation::new("I1 accepted-stays", what, [&world.records[*first_at], &world.records[at]]));
        }
    }
    let mut places: BTreeMap<(&ConvId, &UserId, Cid), (Seq, usize)> = BTreeMap::new();
    for (conv, log) in &world.log {
        for (seq, (at, entry)) in log {
            let (place, before) = *places.entry((conv, &entry.from, entry.cid)).or_insert((*seq, *at));
            if place != *seq {
                let what = format!("cid {} of {} stands in {conv} at seq {place} and at {seq}", entry.cid, entry.from);
                return Err(Violation::new(PROMISE, what, [&world.records[before], &world.records[*at]]));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use flotilla_proto::ids::Seq;

    use crate::history::Op;
    use crate::oracle::testkit::History;

    #[test]
    fn a_second_answer_with_another_seq_is_seen() {
        let mut history = History::good();
        let at = history.last(|r| matches!(r.op, Op::Accepted { .. }));
        let mut again = history.records[at].clone();
        if let Op::Accepted { accepted, .. } = &mut again.op {
            (accepted.seq, accepted.dup) = (accepted.seq.next(), true);
        }
        history.records.push(again);
        history.violates("I2 one seq per cid");
    }

    #[test]
    fn a_message_that_stands_twice_in_the_log_is_seen() {
        let mut history = History::good();
        let direct = history.direct.clone();
        let twice = history.cid_of(&direct, Seq(1));
        history.append_as(&direct, "alice", twice, "again");
        history.violates("I2 one seq per cid");
    }

    #[test]
    fn an_accepted_seq_that_holds_another_entry_is_seen() {
        let mut history = History::good();
        let at = history.last(|r| matches!(r.op, Op::Accepted { .. }));
        if let Op::Accepted { accepted, .. } = &mut history.records[at].op {
            accepted.seq = accepted.seq.prev();
        }
        history.violates("I1 accepted-stays");
    }
}
