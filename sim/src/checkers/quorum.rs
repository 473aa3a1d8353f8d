//! durable-quorum: at the instant when an entry is first applied anywhere, and so before anybody can be told that it is
//! accepted, the durable disks of a majority of that configuration's voters hold it. Needs no crash to fire.
//!
//! A configuration decides from the moment when the leader has appended it, before any disk has it. Only one can come so early:
//! the new half of a joint one that is committed. Then the leader must say at its next tick that it has appended it.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::ids::{ReplicaId, ShardId};
use flotilla_raft::keys;
use flotilla_raft::state::Pointer;
use flotilla_storage::Read;

use super::decode::{entry_of, log_id_of};
use super::{Checker, Event, Facts, Site, World};

#[derive(Default)]
pub struct Quorum {
    foreseen: BTreeMap<ShardId, Foreseen>,
}

/// Decided by the new voters of a change alone, before their configuration was seen in any log.
struct Foreseen {
    term: u64,
    index: u64,
}

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
        if let [_, new] = pointer.membership.membership().get_joint_config().as_slice()
            && by_majority(new)
        {
            self.foreseen.entry(*shard).or_insert(Foreseen { term, index });
            return Ok(1);
        }
        let holders: Vec<_> = held.iter().map(|id| ReplicaId::from_raft(*id).to_string()).collect();
        Err(format!(
            "node {} applies entry {index} of term {term} in shard {shard}; durably it is only at {holders:?} of {}",
            site.node,
            voters_of(pointer)
        ))
    }

    fn on_facts(&mut self, _world: &World, facts: &Facts) -> Result<u64, String> {
        let Some(foreseen) = self.foreseen.get(&facts.shard) else { return Ok(0) };
        if !facts.leadership.leads || facts.leadership.term < foreseen.term {
            return Ok(0);
        }
        let (same_term, index) = (facts.leadership.term == foreseen.term, foreseen.index);
        self.foreseen.remove(&facts.shard);
        // Another leader knows nothing of what the one before had in memory only.
        if same_term && facts.group.deciding.len() > 1 {
            return Err(format!(
                "entry {index} of shard {} was decided by the new voters alone; its leader, node {}, has not ended the change: {:?}",
                facts.shard, facts.node, facts.group.deciding
            ));
        }
        Ok(u64::from(same_term))
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
        let bench = || Bench::new(vec![Box::new(Quorum::default())]);
        bench().log(1, 1, 1).log(2, 1, 1).apply(1, 1).holds();
        bench().log(1, 1, 1).apply(1, 1).violates("I1 durable-quorum");
        bench().log(1, 1, 1).log_unsynced(2, 1, 1).apply(1, 1).violates("I1 durable-quorum");
        // Another term's entry at the index is another entry.
        bench().log(1, 2, 1).log(2, 1, 1).apply(1, 1).violates("I1 durable-quorum");
    }

    #[test]
    fn a_disk_that_is_replaced_before_the_apply_held_only_what_was_synced_on_it() {
        let bench = || Bench::new(vec![Box::new(Quorum::default())]);
        bench().log(1, 1, 1).log(2, 1, 1).replace(2).apply(1, 1).holds();
        bench().log(1, 1, 1).log_unsynced(2, 1, 1).replace(2).apply(1, 1).violates("I1 durable-quorum");
        bench().log(1, 1, 1).replace(2).apply(1, 1).violates("I1 durable-quorum");
    }

    #[test]
    fn new_voters_decide_alone_only_when_their_leader_has_ended_the_change() {
        let bench = || {
            let mut bench = Bench::new(vec![Box::new(Quorum::default())]);
            bench.joint(&[1, 2], &[2, 3]).log(2, 1, 1).log(3, 1, 1).apply(2, 1);
            bench
        };
        bench().deciding(2, 1, &[&[2, 3]]).holds();
        bench().deciding(2, 1, &[&[1, 2], &[2, 3]]).violates("I1 durable-quorum");
        bench().deciding(3, 2, &[&[1, 2], &[2, 3]]).holds();
        let mut old_alone = Bench::new(vec![Box::new(Quorum::default())]);
        old_alone.joint(&[1, 2], &[2, 3]).log(1, 1, 1).log(2, 1, 1).apply(2, 1).violates("I1 durable-quorum");
    }
}
