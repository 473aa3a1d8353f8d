//! Raft, log matching: one log id stands for one payload on all disks ever written; what was applied at an index is the
//! same on every replica, for ever.

use std::collections::BTreeMap;

use flotilla_proto::ids::{Generation, ShardId};
use flotilla_raft::keys;

use super::decode::{entry_of, hash_of};
use super::{Checker, Event, Site, World};

#[derive(Default)]
pub struct OneLog {
    /// (term, index) -> hash of the stored bytes, and the node that wrote it first.
    payloads: BTreeMap<(ShardId, u64, u64), (u64, u16)>,
    /// What was applied at an index.
    applied: BTreeMap<(ShardId, u64), (u64, u64, u16)>,
}

impl Checker for OneLog {
    fn promise(&self) -> &'static str {
        "raft: one log"
    }

    fn on_event(&mut self, _: &World, site: &Site<'_>, event: &Event) -> Result<u64, String> {
        match event {
            Event::Log { shard, hash, entry, .. } => {
                let (term, index) = (entry.log_id.committed_leader_id().term, entry.log_id.index());
                let (known, node) = *self.payloads.entry((*shard, term, index)).or_insert((*hash, site.node));
                if known != *hash {
                    return Err(format!(
                        "shard {shard}: entry {index} of term {term} is one thing on node {node}, another on node {}",
                        site.node
                    ));
                }
                Ok(1)
            }
            Event::Applied { shard, from, pointer, .. } => {
                let Some(to) = pointer.applied else { return Ok(0) };
                let from = from.map_or(0, |from| from + 1);
                (from..=to.index()).try_fold(0, |sum, index| {
                    self.on_applied(site, *shard, pointer.replica, index).map(|count| sum + count)
                })
            }
            _ => Ok(0),
        }
    }
}

impl OneLog {
    fn on_applied(&mut self, site: &Site<'_>, shard: ShardId, replica: Generation, index: u64) -> Result<u64, String> {
        // A leader may apply from memory what its own disk is still slow with.
        let Some(stored) = site.read.get(&keys::log(shard, replica, index)).ok().flatten() else { return Ok(0) };
        let Some(entry) = entry_of(&stored) else { return Ok(0) };
        let (term, hash) = (entry.log_id.committed_leader_id().term, hash_of(&[&stored]));
        let (first, known, node) = *self.applied.entry((shard, index)).or_insert((term, hash, site.node));
        if (first, known) != (term, hash) {
            return Err(format!(
                "shard {shard}: node {} applies entry {index} of term {term}, node {node} applied one of term {first} there",
                site.node
            ));
        }
        Ok(1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::Bench;
    use super::*;

    #[test]
    fn a_log_id_with_two_payloads_and_an_index_applied_twice_are_seen() {
        let bench = || Bench::new(vec![Box::new(OneLog::default())]);
        bench().log(1, 1, 1).log(2, 1, 1).apply(1, 1).apply(2, 1).holds();
        bench().log(1, 1, 1).log_of(2, 1, 1, 99).violates("raft: one log");
        bench().log(1, 1, 1).apply(1, 1).log(2, 2, 1).apply(2, 1).violates("raft: one log");
    }
}
