//! I8: purged <= applied <= committed, as a group says of itself; and while its process lives none of them goes back, nor
//! does its term (I9).

use std::collections::BTreeMap;

use flotilla_proto::ids::{ReplicaId, ShardId};
use flotilla_raft::group::Facts as GroupFacts;

use super::{Checker, Event, Facts, Site, World};

#[derive(Default)]
pub struct Pointers {
    last: BTreeMap<(ShardId, ReplicaId), GroupFacts>,
}

impl Checker for Pointers {
    fn promise(&self) -> &'static str {
        "I8 pointers"
    }

    fn on_event(&mut self, _: &World, site: &Site<'_>, event: &Event) -> Result<u64, String> {
        // A start may find applied state rolled back: the log replays it.
        if let Event::State { installed: false, .. } = event {
            self.last.retain(|(_, replica), _| replica.node.0 != site.node);
        }
        Ok(0)
    }

    fn on_facts(&mut self, _: &World, facts: &Facts) -> Result<u64, String> {
        let now = &facts.group;
        let who = || format!("{} in shard {}: {now:?}", facts.replica, facts.shard);
        if now.purged > now.applied || now.applied > now.committed {
            return Err(format!("out of order at {}", who()));
        }
        let before = self.last.insert((facts.shard, facts.replica), now.clone()).unwrap_or_default();
        let back = [
            (before.term, now.term),
            (before.applied, now.applied),
            (before.committed, now.committed),
            (before.purged, now.purged),
        ];
        if back.iter().any(|(before, now)| before > now) {
            return Err(format!("I9 monotone: went back from {before:?} at {}", who()));
        }
        Ok(1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::Bench;
    use super::*;

    fn said(purged: u64, applied: u64, committed: u64) -> GroupFacts {
        GroupFacts { term: 1, last_log: committed, purged, applied, committed, ..GroupFacts::default() }
    }

    #[test]
    fn applied_above_committed_and_an_index_that_goes_back_are_seen() {
        let bench = || Bench::new(vec![Box::new(Pointers::default())]);
        bench().facts(1, said(1, 2, 3)).facts(1, said(1, 3, 3)).holds();
        bench().facts(1, said(1, 4, 3)).violates("I8");
        bench().facts(1, said(3, 2, 3)).violates("I8");
        bench().facts(1, said(1, 3, 3)).facts(1, said(1, 2, 3)).violates("I8");
    }
}
