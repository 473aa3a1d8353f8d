//! Raft: at most one leader per term; it was elected by durable votes of a majority, and its log holds everything that was
//! applied anywhere before its term began.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::ids::{ReplicaId, ShardId};
use flotilla_raft::keys;

use super::decode::{entry_of, log_id_of, vote_of};
use super::{Checker, Event, Facts, Site, World};

#[derive(Default)]
pub struct Leaders {
    /// By the votes that were committed.
    of_term: BTreeMap<(ShardId, u64), u64>,
    /// Leaderships that were looked into.
    seen: BTreeSet<(ShardId, u64)>,
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
        let Event::Vote { shard, new, .. } = event else { return Ok(0) };
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
        elected(world, facts)
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

/// While it leads, a majority has durably voted in its term or a later one.
fn elected(world: &World, facts: &Facts) -> Result<u64, String> {
    let voters = &facts.group.voters;
    // Under a change of the membership other majorities decide.
    if world.memberships.get(&facts.shard).is_some_and(|all| all.len() > 1) {
        return Ok(0);
    }
    let voted = voters.iter().filter(|voter| {
        let stored =
            world.disk(voter.node.0).map(|disk| disk.durable().get(&keys::vote(facts.shard, voter.generation)));
        let vote = stored.and_then(Result::ok).flatten().as_ref().and_then(vote_of);
        // A voter whose disk was replaced, or whose vote was damaged, voted with what it had before.
        let damaged = world.damaged.contains(&(voter.node.0, facts.shard));
        damaged
            || world.wiped.contains(&voter.node.0)
            || vote.is_some_and(|vote| vote.leader_id.term >= facts.leadership.term)
    });
    let count = voted.count();
    if voters.is_empty() || 2 * count > voters.len() {
        return Ok(1);
    }
    let (own, shard, term) = (facts.replica, facts.shard, facts.leadership.term);
    Err(format!("{own} leads shard {shard} in term {term} with {count} durable votes of {}", voters.len()))
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
}
