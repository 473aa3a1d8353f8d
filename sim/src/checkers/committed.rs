//! I1 and I2 as clients see it: an answer `accepted` and every delivered entry stand for an entry that some replica had applied,
//! and so committed, before the client heard of it; and they say what was applied.

use flotilla_client::history::{Op, Record};
use flotilla_proto::ids::{Cid, ConvId, Hash32, MsgId, Seq};

use super::{Checker, World};

pub struct Committed;

impl Checker for Committed {
    fn promise(&self) -> &'static str {
        "I1 told after commit"
    }

    fn on_record(&mut self, world: &World, record: &Record) -> Result<u64, String> {
        let who = &record.device;
        match &record.op {
            Op::Accepted { cid, accepted } => {
                let told = (accepted.chain, accepted.msg_id, *cid);
                known(world, &accepted.conv, accepted.seq, told).map_err(|what| format!("{who} was told that {what}"))
            }
            Op::Entry { entry } => {
                let told = (entry.chain, entry.msg_id, entry.cid);
                known(world, &entry.conv, entry.seq, told).map_err(|what| format!("{who} received what {what}"))
            }
            _ => Ok(0),
        }
    }
}

fn known(world: &World, conv: &ConvId, seq: Seq, told: (Hash32, MsgId, Cid)) -> Result<u64, String> {
    let Some(known) = world.entries.get(conv).and_then(|log| log.get(&seq)) else {
        return Err(format!("is seq {seq} of {conv} before anybody had applied it"));
    };
    if (known.chain, known.msg_id, known.cid) != told {
        return Err(format!("is seq {seq} of {conv}; applied was {known:?}"));
    }
    Ok(1)
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{Bench, entry, said};
    use super::*;

    #[test]
    fn an_entry_that_was_told_before_it_was_applied_or_another_one_is_seen() {
        let bench = || Bench::new(vec![Box::new(Committed)]);
        let first = entry(1, 10, None);
        bench().apply_all(1, 1, said(&first)).received("bob", &first).holds();
        bench().received("bob", &first).violates("I1 told");
        bench().apply_all(1, 1, said(&first)).received("bob", &entry(1, 11, None)).violates("I1 told");
    }
}
