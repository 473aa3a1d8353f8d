//! I6 agreement: replicas that have applied the same log position hold identical state. Compared at every batch that any of
//! them applies, at every start and at every snapshot. A row with a flipped bit counts as it was written: whoever takes it for
//! what it seems to say ends up with another state.

use std::collections::BTreeMap;

use flotilla_proto::ids::ShardId;
use flotilla_raft::state::Pointer;

use super::{Checker, Event, Site, World};

#[derive(Default)]
pub struct Agreement {
    digests: BTreeMap<(ShardId, u64), (u64, u16)>,
}

impl Agreement {
    fn at(
        &mut self,
        site: &Site<'_>,
        shard: ShardId,
        pointer: &Pointer,
        digest: u64,
        how: &str,
    ) -> Result<u64, String> {
        let Some(index) = pointer.applied.map(|id| id.index()) else { return Ok(0) };
        let (known, node) = *self.digests.entry((shard, index)).or_insert((digest, site.node));
        if known != digest {
            return Err(format!(
                "shard {shard} at index {index}: node {} {how} holds another state than node {node} held there",
                site.node
            ));
        }
        Ok(1)
    }
}

impl Checker for Agreement {
    fn promise(&self) -> &'static str {
        "I6 agreement"
    }

    fn on_event(&mut self, _: &World, site: &Site<'_>, event: &Event) -> Result<u64, String> {
        match event {
            Event::Applied { shard, pointer, digest, .. } => self.at(site, *shard, pointer, *digest, "after an apply"),
            Event::State { shard, pointer, digest, installed } => {
                let how = if *installed { "after a snapshot" } else { "after its start" };
                self.at(site, *shard, pointer, *digest, how)
            }
            _ => Ok(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::Bench;
    use super::*;

    #[test]
    fn a_replica_with_other_rows_at_the_same_index_is_seen() {
        let bench = || Bench::new(vec![Box::new(Agreement::default())]);
        let row = |value: &'static str| vec![(&b"\x01k"[..], Some(value))];
        bench().apply_rows(1, 1, row("a")).apply_rows(2, 1, row("a")).holds();
        bench().apply_rows(1, 1, row("a")).apply_rows(2, 1, row("b")).violates("I6");
        // In the end it is the same, however the batches were cut and whatever was overwritten.
        let mut cut = bench();
        cut.apply_rows(1, 1, row("a")).apply_rows(1, 2, row("b")).apply_rows(2, 2, row("b")).restart(1);
        cut.holds();
        let mut lost = bench();
        lost.apply_rows(1, 1, row("a"));
        lost.damage(1, b"\x01k").restart(1).violates("I6");
        // One that is known counts as it was written; what follows from it counts.
        let mut known = bench();
        known.apply_rows(1, 1, row("a")).damage(1, b"\x01k").tell_damage().restart(1).holds();
        known.apply_rows(1, 2, row("b")).apply_rows(2, 1, row("a")).apply_rows(2, 2, row("c")).violates("I6");
    }
}
