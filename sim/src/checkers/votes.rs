//! Raft: a vote, once given, is never taken back: terms never fall, and in one term a replica votes for one candidate, also
//! across restarts and lost tails. In memory a replica is never behind its own disk.

use std::collections::BTreeMap;
use std::time::Duration;

use flotilla_proto::ids::{Generation, ShardId};
use flotilla_raft::{Vote, keys, replicas};

use super::decode::vote_of;
use super::{Checker, Event, Facts, Site, World};
use crate::cluster::TICK;
use crate::trace;

#[derive(Default)]
pub struct Votes {
    /// The highest vote that was durable.
    durable: BTreeMap<(u16, ShardId, Generation), Vote>,
    /// Replicas that were behind their disk at the last ticks: the vote there, and for how many.
    behind: BTreeMap<(u16, ShardId), (Vote, u32)>,
    /// What a sync took at worst of late, and when: a core tells of itself only between its writes, and may have several
    /// to make.
    slowest: BTreeMap<u16, (Duration, Duration)>,
}

/// What a replica says of itself may lag behind its disk for an instant.
const TICKS_BEHIND_MAX: u32 = 5;
const SYNCS_BEHIND_MAX: u32 = 8;
/// A slow disk is an excuse for as long as what waited for it may take, and no longer.
const LATE: Duration = Duration::from_secs(10);

/// A replica whose candidate has lost follows the one that a quorum has elected in the same term: that takes nothing
/// back. Nobody else can be elected in it.
fn goes_back(old: &Vote, new: &Vote) -> bool {
    let (before, after) = (old.leader_id, new.leader_id);
    let follows = new.committed && !old.committed;
    after.term < before.term
        || after.term == before.term
            && (after.voted_for != before.voted_for && !follows || old.committed && !new.committed)
}

impl Checker for Votes {
    fn promise(&self) -> &'static str {
        "raft: votes are kept"
    }

    fn on_event(&mut self, world: &World, site: &Site<'_>, event: &Event) -> Result<u64, String> {
        if let Event::State { shard, installed: false, .. } = event {
            return self.on_start(world, site, *shard);
        }
        let Event::Vote { shard, generation, old, new, durable, found } = event else { return Ok(0) };
        let place = (site.node, *shard, *generation);
        let node = site.node;
        // A disk that was put back: what it says was known to be lost.
        if world.outside.contains(&place) || *found && world.distrusted.contains(&place) {
            return Ok(0);
        }
        if !durable {
            return Err(format!("node {node} wrote the vote {new} of shard {shard} without a sync"));
        }
        for old in old.iter().chain(self.durable.get(&place)) {
            if goes_back(old, new) {
                return Err(format!("node {node}, shard {shard}: the vote {old} was followed by {new}"));
            }
        }
        self.durable.insert(place, *new);
        Ok(1)
    }

    fn on_facts(&mut self, world: &World, facts: &Facts) -> Result<u64, String> {
        let (node, shard) = (facts.node.0, facts.shard);
        let Some(disk) = world.disk(node) else { return Ok(0) };
        let slowest = self.slowest.entry(node).or_default();
        let (now, stall) = (trace::now(), disk.faults().stall);
        if stall >= slowest.0 || now.saturating_sub(slowest.1) > LATE {
            *slowest = (stall, now);
        }
        let slowest = slowest.0;
        let stored = disk.durable().get(&keys::vote(shard, facts.replica.generation)).ok().flatten();
        let Some(stored) = stored.as_ref().and_then(vote_of) else { return Ok(0) };
        if !goes_back(&stored, &facts.vote) {
            self.behind.remove(&(node, shard));
            return Ok(1);
        }
        let behind = self.behind.entry((node, shard)).or_insert((stored, 0));
        *behind = (stored, if behind.0 == stored { behind.1 + 1 } else { 1 });
        let patience = TICKS_BEHIND_MAX + (SYNCS_BEHIND_MAX * slowest).div_duration_f32(TICK) as u32;
        if behind.1 > patience {
            return Err(format!("node {node}, shard {shard}: {} in memory, {stored} on the disk", facts.vote));
        }
        Ok(0)
    }
}

impl Votes {
    /// What was durable must be there again.
    fn on_start(&mut self, world: &World, site: &Site<'_>, shard: ShardId) -> Result<u64, String> {
        let mine = (site.node, shard, Generation(0))..=(site.node, shard, Generation(u32::MAX));
        let known =
            |place: &(u16, ShardId, Generation)| world.outside.contains(place) || world.distrusted.contains(place);
        for ((node, shard, generation), vote) in self.durable.range(mine).filter(|(place, _)| !known(place)) {
            let here = replicas::is_here(site.read, *shard, *generation).unwrap_or(false);
            let stored = site.read.get(&keys::vote(*shard, *generation)).ok().flatten();
            if here && stored.is_none() {
                return Err(format!("node {node}, shard {shard}: the vote {vote} is gone after a start"));
            }
        }
        Ok(1)
    }
}

#[cfg(test)]
mod tests {
    use flotilla_raft::Vote;

    use super::super::testkit::Bench;
    use super::*;

    #[test]
    fn a_vote_for_another_candidate_a_lower_term_and_an_unsynced_one_are_seen() {
        let bench = || Bench::new(vec![Box::new(Votes::default())]);
        let mut fine = bench();
        fine.vote(1, Vote::new(3, 1), true).vote(1, Vote::new_committed(3, 1), true).vote(1, Vote::new(4, 2), true);
        fine.holds();
        let mut lost = bench();
        lost.vote(1, Vote::new(3, 1), true).vote(1, Vote::new_committed(3, 2), true);
        lost.holds();
        bench()
            .vote(1, Vote::new_committed(3, 1), true)
            .vote(1, Vote::new_committed(3, 2), true)
            .violates("raft: votes");
        bench().vote(1, Vote::new_committed(3, 1), true).vote(1, Vote::new(3, 2), true).violates("raft: votes");
        bench().vote(1, Vote::new(3, 1), true).vote(1, Vote::new(3, 2), true).violates("raft: votes");
        bench().vote(1, Vote::new(3, 1), true).vote(1, Vote::new(2, 2), true).violates("raft: votes");
        bench().vote(1, Vote::new(3, 1), false).violates("raft: votes");
    }
}
