//! Raft: at most one leader per term; it was elected by durable votes of a majority, and its log holds everything that was
//! applied anywhere before its term began.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::ids::{NodeId, ReplicaId, ShardId};
use flotilla_raft::{keys, replicas};
use flotilla_storage::Read;

use super::decode::{entry_of, log_id_of, vote_of};
use super::{Checker, Event, Facts, Site, World};

#[derive(Default)]
pub struct Leaders {
    /// By the votes that were committed.
    of_term: BTreeMap<(ShardId, u64), u64>,
    /// Leaderships that were looked into.
    seen: BTreeSet<(ShardId, u64)>,
    /// The highest term of a durable vote that a replica was ever seen with.
    voted: BTreeMap<(ShardId, ReplicaId), u64>,
}

impl Leaders {
    fn claim(&mut self, shard: ShardId, term: u64, leader: u64) -> Result<u64, String> {
        let known = *self.of_term.entry((shard, term)).or_insert(leader);
        if known != leader {
            let (a, b) = (ReplicaId::from_raft(known), ReplicaId::from_raft(leader));
            return Err(format!("shard {shard} has two leaders in term {term}: {a} and {b}"));
        }
        Ok(1)
    }
}

impl Checker for Leaders {
    fn promise(&self) -> &'static str {
        "raft: one leader per term"
    }

    fn on_event(&mut self, world: &World, site: &Site<'_>, event: &Event) -> Result<u64, String> {
        let Event::Vote { shard, generation, new, durable, .. } = event else { return Ok(0) };
        if *durable {
            let voter = ReplicaId::new(NodeId(site.node), *generation);
            let term = self.voted.entry((*shard, voter)).or_default();
            *term = new.leader_id.term.max(*term);
        }
        if !new.committed {
            return Ok(0);
        }
        let (term, leader) = (new.leader_id.term, new.leader_id.voted_for);
        self.claim(*shard, term, leader)?;
        let own = ReplicaId::from_raft(leader);
        if own.node.0 == site.node && self.seen.insert((*shard, term)) {
            complete(world, site, *shard, own, term)?;
        }
        Ok(1)
    }

    fn on_facts(&mut self, world: &World, facts: &Facts) -> Result<u64, String> {
        let lead = facts.leadership;
        if !lead.leads || facts.vote.leader_id.term != lead.term || !facts.vote.committed {
            return Ok(0);
        }
        let own = facts.replica;
        self.claim(facts.shard, lead.term, own.to_raft())?;
        self.elected(world, facts)
    }
}

/// A new leader's log reaches as far as anything that was applied.
fn complete(world: &World, site: &Site<'_>, shard: ShardId, own: ReplicaId, term: u64) -> Result<u64, String> {
    let Some((applied, of_term)) = world.applied.get(&shard).filter(|(_, of_term)| *of_term < term) else {
        return Ok(0);
    };
    let stored = site.read.get(&keys::log(shard, own.generation, *applied)).ok().flatten();
    let has = stored.as_ref().and_then(entry_of).is_some_and(|e| e.log_id.committed_leader_id().term == *of_term);
    let purged = site.read.get(&keys::purged(shard, own.generation)).ok().flatten();
    let purged = purged.as_ref().and_then(log_id_of).is_some_and(|id| id.index() >= *applied);
    if has || purged {
        return Ok(1);
    }
    Err(format!("{own} leads shard {shard} without entry {applied}, which was applied somewhere before"))
}

impl Leaders {
    /// While it leads, a majority has durably voted in its term or a later one.
    fn elected(&self, world: &World, facts: &Facts) -> Result<u64, String> {
        let voters = &facts.group.voters;
        let by_majority = |voters: &BTreeSet<u64>| {
            let voted = |voter: &&u64| self.has_voted(world, facts, &ReplicaId::from_raft(**voter));
            2 * voters.iter().filter(voted).count() > voters.len()
        };
        let now: BTreeSet<u64> = voters.iter().map(|voter| voter.to_raft()).collect();
        if now.is_empty() || by_majority(&now) {
            return Ok(1);
        }
        // Under a change of the membership the voters of its log at the election have decided: of each set of a joint one.
        let mut changes = world.memberships.get(&facts.shard).into_iter().flatten();
        if changes.any(|(_, membership)| membership.get_joint_config().iter().all(&by_majority)) {
            return Ok(1);
        }
        let count = voters.iter().filter(|voter| self.has_voted(world, facts, voter)).count();
        let (own, shard, term) = (facts.replica, facts.shard, facts.leadership.term);
        Err(format!("{own} leads shard {shard} in term {term} with {count} durable votes of {}", voters.len()))
    }

    /// On its disk; or, where the vote was lost in a way that takes nothing back, there once: the disk was replaced, a bit of
    /// it flipped, or the replica was retired for damage and its id will never vote again.
    fn has_voted(&self, world: &World, facts: &Facts, voter: &ReplicaId) -> bool {
        let (shard, term) = (facts.shard, facts.leadership.term);
        let Some(disk) = world.disk(voter.node.0).map(|disk| disk.durable()) else { return false };
        let stored = disk.get(&keys::vote(shard, voter.generation)).ok().flatten();
        let vote = stored.as_ref().and_then(vote_of);
        if vote.is_some_and(|vote| vote.leader_id.term >= term) {
            return true;
        }
        let flipped = stored.is_some() && vote.is_none();
        let lost = flipped
            || world.damaged.get(&(voter.node.0, shard)) == Some(&keys::VOTE)
            || world.wiped.contains(&voter.node.0)
            || is_retired(&*disk, shard, *voter);
        lost && self.voted.get(&(shard, *voter)).is_some_and(|voted| *voted >= term)
    }
}

/// It was here, and is not any more.
fn is_retired(read: &dyn Read, shard: ShardId, replica: ReplicaId) -> bool {
    let marked = read.get(&keys::replica(shard, replica.generation)).ok().flatten().is_some();
    marked && replicas::is_here(read, shard, replica.generation) == Ok(false)
}

#[cfg(test)]
mod tests {
    use flotilla_raft::Vote;

    use super::super::testkit::Bench;
    use super::*;

    #[test]
    fn two_leaders_of_a_term_and_one_without_an_applied_entry_are_seen() {
        let bench = || Bench::new(vec![Box::new(Leaders::default())]);
        bench().vote(1, Vote::new_committed(3, 1), true).vote(2, Vote::new_committed(3, 1), true).holds();
        let two = &mut bench();
        two.vote(1, Vote::new_committed(3, 1), true).vote(2, Vote::new_committed(3, 2), true);
        two.violates("raft: one leader");
        let mut short = bench();
        short.log(1, 1, 1).log(2, 1, 1).apply(1, 1);
        short.vote(3, Vote::new_committed(4, Bench::id(3)), true).violates("raft: one leader");
    }

    #[test]
    fn a_leader_without_durable_votes_is_seen_and_a_voter_retired_since_still_counts() {
        let bench = || {
            let mut bench = Bench::new(vec![Box::new(Leaders::default())]);
            bench.here(1).here(2).here(3);
            bench.vote(1, Vote::new_committed(3, Bench::id(1)), true);
            bench
        };
        let voted = || Vote::new(3, Bench::id(1));
        bench().vote(3, voted(), true).leads(1, 3).holds();
        bench().leads(1, 3).violates("raft: one leader");
        bench().vote(3, voted(), false).leads(1, 3).violates("raft: one leader");
        bench().vote(3, voted(), true).retire(3).leads(1, 3).holds();
        bench().vote(3, Vote::new(2, Bench::id(1)), true).retire(3).leads(1, 3).violates("raft: one leader");
        bench().retire(3).leads(1, 3).violates("raft: one leader");
        bench().vote(3, voted(), true).lose_vote(3).leads(1, 3).violates("raft: one leader");
    }
}
