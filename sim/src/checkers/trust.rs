//! Corruption never spreads: a replica that has lost something of its log or vote, by a flipped bit or a disk that went back,
//! never appends and never votes again under its id. And a log only grows or is cut: an entry is never written over another one
//! that is still there, as by a replica that takes something for the end of its log which is not.

use super::{Checker, Event, Site, World};

pub struct Trust;

impl Checker for Trust {
    fn promise(&self) -> &'static str {
        "raft: what is lost is not promised again"
    }

    fn on_event(&mut self, world: &World, site: &Site<'_>, event: &Event) -> Result<u64, String> {
        let (shard, generation, what) = match event {
            Event::Vote { found: true, .. } => return Ok(0),
            Event::Vote { shard, generation, new, .. } => (shard, generation, format!("votes {new}")),
            Event::Log { shard, generation, entry, over, .. } => {
                let id = entry.log_id;
                if *over {
                    let node = site.node;
                    return Err(format!("node {node}, shard {shard}: entry {id} is written over one that is there"));
                }
                (shard, generation, format!("appends {id}"))
            }
            _ => return Ok(0),
        };
        if world.distrusted.contains(&(site.node, *shard, *generation)) {
            return Err(format!(
                "node {}, shard {shard}: generation {generation} {what}, and has lost some of its log or its vote",
                site.node
            ));
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
    fn an_entry_over_another_one_is_seen() {
        let bench = || Bench::new(vec![Box::new(Trust)]);
        bench().log(1, 1, 1).log(1, 1, 2).log(2, 1, 1).holds();
        bench().log(1, 1, 1).log(1, 1, 2).log(1, 2, 2).violates("raft: what is lost");
        bench().log(1, 1, 1).log(1, 1, 2).cut(1, 2).log(1, 2, 2).holds();
    }

    #[test]
    fn a_replica_whose_disk_went_back_and_that_votes_or_appends_is_seen() {
        let bench = || {
            let mut bench = Bench::new(vec![Box::new(Trust)]);
            bench.here(1).vote(1, Vote::new(3, 1), true).log(1, 1, 1);
            bench
        };
        bench().restart(1).log(1, 1, 2).holds();
        bench().goes_back(1).restart(1).log(1, 1, 2).violates("raft: what is lost");
        bench().goes_back(1).vote(1, Vote::new(4, 1), true).violates("raft: what is lost");
        bench().goes_back(1).restart(1).log(2, 1, 1).holds();
    }
}
