//! durable-quorum: at the instant when an entry is first applied anywhere, and so before anybody can be told that it is
//! accepted, the durable disks of a majority of that configuration's voters hold it. Needs no crash to fire.

use std::collections::BTreeSet;

use flotilla_proto::ids::{ReplicaId, ShardId};
use flotilla_raft::keys;
use flotilla_raft::state::Pointer;
use flotilla_storage::Read;

use super::decode::{entry_of, log_id_of};
use super::{Checker, Event, Site, World};

pub struct Quorum;

impl Checker for Quorum {
    fn promise(&self) -> &'static str {
        "I1 durable-quorum"
    }

    fn on_event(&mut self, world: &World, site: &Site<'_>, event: &Event) -> Result<u64, String> {
        let Event::Applied { shard, pointer, .. } = event else { return Ok(0) };
        let Some(id) = pointer.applied else { return Ok(0) };
        let index = id.index();
        if !world.is_news(*shard, index) {
            return Ok(0);
        }
        let term = id.committed_leader_id().term;
        let configs = world.configs(*shard, pointer);
        let held: BTreeSet<u64> = configs
            .iter()
            .flatten()
            .flatten()
            .copied()
            .filter(|voter| holds(world, *shard, ReplicaId::from_raft(*voter), term, index))
            .collect();
        let by_majority = |voters: &BTreeSet<u64>| 2 * voters.intersection(&held).count() > voters.len();
        if configs.iter().any(|config| config.iter().all(by_majority)) {
            return Ok(1);
        }
        let holders: Vec<_> = held.iter().map(|id| ReplicaId::from_raft(*id).to_string()).collect();
        Err(format!(
            "node {} applies entry {index} of term {term} in shard {shard}; durably it is only at {holders:?} of {}",
            site.node,
            voters_of(pointer)
        ))
    }
}

fn voters_of(pointer: &Pointer) -> String {
    let voters: Vec<_> =
        pointer.membership.membership().voter_ids().map(|id| ReplicaId::from_raft(id).to_string()).collect();
    format!("{voters:?}")
}

/// On the node's disk, or on one that has been taken from it since: an entry is applied some time after it was committed, and
/// then a machine may have been replaced.
fn holds(world: &World, shard: ShardId, voter: ReplicaId, term: u64, index: u64) -> bool {
    let lost = world.lost.get(&voter.node.0).into_iter().flatten();
    let mut disks = world.disk(voter.node.0).into_iter().chain(lost);
    disks.any(|disk| is_on(&*disk.durable(), shard, voter, term, index))
}

/// In the synced log, or behind what was purged from it.
fn is_on(disk: &dyn Read, shard: ShardId, voter: ReplicaId, term: u64, index: u64) -> bool {
    if let Ok(Some(stored)) = disk.get(&keys::log(shard, voter.generation, index)) {
        return entry_of(&stored).is_some_and(|entry| entry.log_id.committed_leader_id().term == term);
    }
    let purged = disk.get(&keys::purged(shard, voter.generation)).ok().flatten();
    purged.as_ref().and_then(log_id_of).is_some_and(|id| id.index() >= index)
}

#[cfg(test)]
mod tests {
    use super::super::testkit::Bench;
    use super::*;

    #[test]
    fn an_entry_applied_before_a_majority_has_synced_it_is_seen() {
        let bench = || Bench::new(vec![Box::new(Quorum)]);
        bench().log(1, 1, 1).log(2, 1, 1).apply(1, 1).holds();
        bench().log(1, 1, 1).apply(1, 1).violates("I1 durable-quorum");
        bench().log(1, 1, 1).log_unsynced(2, 1, 1).apply(1, 1).violates("I1 durable-quorum");
        // Another term's entry at the index is another entry.
        bench().log(1, 2, 1).log(2, 1, 1).apply(1, 1).violates("I1 durable-quorum");
    }

    #[test]
    fn a_disk_that_is_replaced_before_the_apply_held_only_what_was_synced_on_it() {
        let bench = || Bench::new(vec![Box::new(Quorum)]);
        bench().log(1, 1, 1).log(2, 1, 1).replace(2).apply(1, 1).holds();
        bench().log(1, 1, 1).log_unsynced(2, 1, 1).replace(2).apply(1, 1).violates("I1 durable-quorum");
        bench().log(1, 1, 1).replace(2).apply(1, 1).violates("I1 durable-quorum");
    }
}
