//! I8, purging: a log entry is purged only when the applied state that covers it is durable.

use flotilla_raft::state::Pointer;

use super::{Checker, Event, Site, World};

pub struct Purge;

impl Checker for Purge {
    fn promise(&self) -> &'static str {
        "I8 purged <= durably applied"
    }

    fn on_event(&mut self, world: &World, site: &Site<'_>, event: &Event) -> Result<u64, String> {
        let Event::Purged { shard, upto, .. } = event else { return Ok(0) };
        let Some(disk) = world.disk(site.node) else { return Ok(0) };
        let pointer = Pointer::load(&*disk.durable(), *shard).ok().flatten();
        let applied = pointer.and_then(|pointer| pointer.applied).map(|id| id.index());
        if applied.is_some_and(|applied| upto.index() <= applied) {
            return Ok(1);
        }
        Err(format!("node {} purges shard {shard} up to {upto}, its state is durable up to {applied:?}", site.node))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::Bench;
    use super::*;

    #[test]
    fn a_purge_past_the_durable_state_is_seen() {
        let bench = || Bench::new(vec![Box::new(Purge)]);
        // A synced write of another kind makes the applied state durable too.
        bench().log(1, 1, 1).apply(1, 1).log(1, 1, 2).purge(1, 1).holds();
        bench().log(1, 1, 1).log(1, 1, 2).apply(1, 1).purge(1, 1).violates("I8 purged");
    }
}
