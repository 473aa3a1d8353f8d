//! I11 and I9: two sights of (conversation, seq) agree on every device; each `chain` follows from the one before and each
//! `body_hash` from its content; message ids rise and `ts` never falls inside a conversation.

use std::collections::BTreeMap;

use flotilla_proto::entry::body_hash;
use flotilla_proto::frame::EntryFrame;
use flotilla_proto::ids::{ConvId, Hash32, Seq};

use super::world::World;
use super::{Stats, Violation};
use crate::history::Op;

const PROMISE: &str = "I11 one-history";

pub fn check(world: &World<'_>, stats: &mut Stats) -> Result<(), Violation> {
    let mut first: BTreeMap<(&ConvId, Seq), (usize, &EntryFrame)> = BTreeMap::new();
    for (at, record) in world.records.iter().enumerate() {
        let Op::Entry { entry } = &record.op else { continue };
        let (before, seen) = *first.entry((&entry.conv, entry.seq)).or_insert((at, entry));
        let fail = |what: String| Violation::new(PROMISE, what, [&world.records[before], record]);
        if !agree(seen, entry) {
            return Err(fail(format!("two sights of {} seq {} differ", entry.conv, entry.seq)));
        }
        if let Some(what) = entry.what() {
            *stats.entry("bodies verified").or_default() += 1;
            if body_hash(entry.cid, &what) != entry.body_hash {
                return Err(fail(format!("the body of {} seq {} is not what was hashed", entry.conv, entry.seq)));
            }
        }
    }
    for (cid, answers) in &world.accepted {
        for (at, accepted) in answers {
            let Some((seen, entry)) = world.entry(&accepted.conv, accepted.seq).filter(|(_, e)| e.cid == *cid) else {
                continue;
            };
            if (accepted.chain, accepted.msg_id, accepted.ts) != (entry.chain, entry.msg_id, entry.ts) {
                let what = format!("the answer for {} seq {} and its entry differ", accepted.conv, accepted.seq);
                return Err(Violation::new(PROMISE, what, [&world.records[*at], &world.records[seen]]));
            }
        }
    }
    world.log.values().try_for_each(|log| links(world, log, stats))
}

pub(super) fn agree(a: &EntryFrame, b: &EntryFrame) -> bool {
    let (a, b) = (a.to_entry(), b.to_entry());
    // A redaction between the two sights empties the content and nothing else.
    let content = a.what.is_none() || b.what.is_none() || a.what == b.what;
    content && flotilla_proto::entry::Entry { what: None, ..a } == flotilla_proto::entry::Entry { what: None, ..b }
}

fn links(world: &World<'_>, log: &BTreeMap<Seq, (usize, &EntryFrame)>, stats: &mut Stats) -> Result<(), Violation> {
    let mut before: Option<(usize, &EntryFrame)> = None;
    for (seq, (at, entry)) in log {
        let previous = match before {
            Some((_, b)) if b.seq.next() == *seq => Some(b.chain),
            // The chain begins with zeroes.
            None if *seq == Seq(1) => Some(Hash32::default()),
            _ => None,
        };
        let evidence = || before.iter().map(|(b, _)| &world.records[*b]).chain([&world.records[*at]]);
        if previous.is_some_and(|p| entry.to_entry().chain_after(p) != entry.chain) {
            let what = format!("the chain of {} breaks at seq {seq}", entry.conv);
            return Err(Violation::new(PROMISE, what, evidence()));
        }
        *stats.entry("chain links verified").or_default() += u64::from(previous.is_some());
        if before.is_some_and(|(_, b)| b.msg_id >= entry.msg_id || b.ts > entry.ts || b.n > entry.n) {
            let what = format!("message id, ts or n of {} goes back at seq {seq}", entry.conv);
            return Err(Violation::new("I9 monotone", what, evidence()));
        }
        before = Some((*at, entry));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use flotilla_proto::ids::{Blob, Hash32, MsgId};

    use crate::history::Op;
    use crate::oracle::testkit::History;

    fn damaged(change: impl Fn(&mut flotilla_proto::frame::EntryFrame), everywhere: bool) -> History {
        let mut history = History::good();
        let at = history.last(|r| matches!(&r.op, Op::Entry { entry } if entry.body.is_some()));
        let Op::Entry { entry: target } = history.records[at].op.clone() else { unreachable!("just found") };
        for (i, record) in history.records.iter_mut().enumerate() {
            if let Op::Entry { entry } = &mut record.op
                && (i == at || (everywhere && (&entry.conv, entry.seq) == (&target.conv, target.seq)))
            {
                change(entry);
            }
        }
        history
    }

    #[test]
    fn two_devices_that_saw_different_entries_are_seen() {
        damaged(|e| e.device.0 += 1, false).violates("I11 one-history");
    }

    #[test]
    fn a_broken_chain_a_changed_body_and_an_id_that_goes_back_are_seen() {
        damaged(|e| e.chain = Hash32([1; 32]), true).violates("I11 one-history");
        let changed = |e: &mut flotilla_proto::frame::EntryFrame| {
            e.body = e.body.as_ref().map(|_| Blob::from(b"forged".to_vec()));
        };
        damaged(changed, true).violates("I11 one-history");
        let mut history = History::good();
        let direct = history.direct.clone();
        history.next_msg_id = MsgId(1);
        history.append(&direct, "alice", "back");
        history.violates("I9 monotone");
    }
}
