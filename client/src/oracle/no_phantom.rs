//! No phantoms: every entry that a device received was sent, with this content, by a device of the user that it names.

use flotilla_proto::entry::body_hash;

use super::world::World;
use super::{Stats, Violation};

const PROMISE: &str = "no phantom";

pub fn check(world: &World<'_>, stats: &mut Stats) -> Result<(), Violation> {
    for (conv, log) in &world.log {
        for (seq, (at, entry)) in log {
            let fail = |why: &str, more: Option<usize>| {
                let records = std::iter::once(*at).chain(more).map(|i| &world.records[i]);
                Violation::new(PROMISE, format!("{conv} seq {seq}: {why}"), records)
            };
            let Some(invoked) = world.invoked.get(&entry.cid) else {
                return Err(fail("nobody sent it", None));
            };
            if invoked.user != &entry.from || invoked.conv != *conv {
                return Err(fail("sent by somebody else, or elsewhere", Some(invoked.at)));
            }
            let known = world.devices.get(invoked.device).is_some_and(|d| d.ids.contains(&entry.device));
            if !known {
                return Err(fail("the device it names is not the sender's", Some(invoked.at)));
            }
            if body_hash(entry.cid, invoked.what) != entry.body_hash {
                return Err(fail("sent with another content", Some(invoked.at)));
            }
            *stats.entry("origins verified").or_default() += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::history::Op;
    use crate::oracle::testkit::History;

    #[test]
    fn an_entry_that_nobody_sent_is_seen() {
        let mut history = History::good();
        history.records.retain(|r| !matches!(r.op, Op::Invoked { .. }));
        history.violates("no phantom");
    }

    #[test]
    fn an_entry_in_the_name_of_another_is_seen() {
        let mut history = History::good();
        let at = history.last(|r| matches!(r.op, Op::Invoked { .. }));
        history.records[at].user = history.user("mallory");
        history.violates("no phantom");
    }
}
