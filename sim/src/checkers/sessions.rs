//! I7 one-session: session numbers of a device rise, whatever node it goes to; no session is opened for an incarnation that
//! is fenced; a number stands for one session. An older attempt of the same instance takes nothing, and neither does an instance
//! that was replaced, while another one holds the session. A fence that rises leaves no session below it, or a job that ends the rest.

use std::collections::BTreeMap;

use flotilla_machine::meta::{self, FenceTable};
use flotilla_machine::table::{self, View};
use flotilla_machine::user::device::DeviceTable;
use flotilla_machine::user::job::{Job, JobTable};
use flotilla_machine::user::session::{self, SessionNodeTable, SessionRow, SessionTable};
use flotilla_proto::ids::{DeviceId, Incarnation, Instance, NodeId, SessionNo, ShardId, UserId};
use flotilla_proto::limits;
use flotilla_raft::keys;
use flotilla_raft::state::Pointer;
use flotilla_raft::types::Payload;

use super::decode::entry_of;
use super::{Checker, Event, RowChange, Site, World};

#[derive(Default)]
pub struct Sessions {
    known: BTreeMap<(UserId, DeviceId, SessionNo), SessionRow>,
    /// Instances that another one has replaced, and the number with which it did.
    replaced: BTreeMap<(UserId, DeviceId, Instance), SessionNo>,
}

/// A device remembers the instances that were replaced last; so many sessions later one may be forgotten.
const REMEMBERED: u64 = limits::BARRED_INSTANCES_MAX as u64 / 2;

impl Checker for Sessions {
    fn promise(&self) -> &'static str {
        "I7 one-session"
    }

    fn on_event(&mut self, _: &World, site: &Site<'_>, event: &Event) -> Result<u64, String> {
        let Event::Applied { shard, from, pointer, rows, .. } = event else { return Ok(0) };
        let single = is_single(site, *shard, *from, pointer);
        site.with_state(*shard, pointer, |view| {
            rows.iter().try_fold(0, |sum, row| {
                if single {
                    self.on_open(row)?;
                }
                self.on_row(view, rows, row).map(|count| sum + count)
            })
        })
        .map_err(|what| format!("node {}, shard {shard}: {what}", site.node))
    }
}

impl Sessions {
    /// One entry has opened a session while another was open.
    fn on_open(&mut self, row: &RowChange) -> Result<(), String> {
        let Some(((user, device), Some(old), Some(new))) = row.of::<SessionTable>() else { return Ok(()) };
        if old.instance == new.instance {
            return match new.attempt < old.attempt {
                true => Err(format!("an older attempt took the session of {user}'s {device}: {new:?} after {old:?}")),
                false => Ok(()),
            };
        }
        let by = self.replaced.get(&(user.clone(), device, new.instance));
        if by.is_some_and(|by| *by < new.number && new.number.0 - by.0 <= REMEMBERED) {
            return Err(format!(
                "an instance that was replaced took the session of {user}'s {device}: {new:?} after {old:?}"
            ));
        }
        self.replaced.insert((user, device, old.instance), new.number);
        Ok(())
    }

    fn on_row(&mut self, view: &View<'_>, rows: &[RowChange], row: &RowChange) -> Result<u64, String> {
        if let Some(((user, device), Some(old), Some(new))) = row.of::<DeviceTable>()
            && old.number > new.number
        {
            return Err(format!("the session number of {user}'s {device} went from {} to {}", old.number, new.number));
        }
        if let Some((node, old, Some(lowest))) = row.of::<FenceTable>()
            && old.is_none_or(|old| old < lowest)
        {
            return swept(view, node, lowest);
        }
        if let Some((at, Some(()), None)) = row.of::<SessionNodeTable>() {
            let open = session::find(view, &at.user, at.device).ok().flatten();
            let lives = open.is_some_and(|open| (open.node, open.incarnation) == (at.node, at.incarnation));
            return if lives {
                Err(format!("no fence would find the session of {}'s {}", at.user, at.device))
            } else {
                Ok(1)
            };
        }
        let Some(((user, device), old, Some(new))) = row.of::<SessionTable>() else { return Ok(0) };
        if old.as_ref().is_some_and(|old| old.number >= new.number && *old != new) {
            return Err(format!("session {new:?} of {user}'s {device} took over from {old:?}"));
        }
        let newest = table::get::<DeviceTable>(view, &(user.clone(), device)).ok().flatten();
        if newest.is_none_or(|row| row.number != new.number) {
            return Err(format!("session {new:?} of {user}'s {device} is not the device's newest"));
        }
        if old.as_ref() != Some(&new) && new.incarnation < fence_before(view, rows, &new) {
            return Err(format!("session {new:?} of {user}'s {device} was opened for a dead incarnation"));
        }
        let known = self.known.entry((user.clone(), device, new.number)).or_insert_with(|| new.clone());
        if *known != new {
            return Err(format!("session {} of {user}'s {device} was {known:?} and is {new:?}", new.number));
        }
        Ok(1)
    }
}

/// One command of one entry: what several have done one after the other cannot be told apart.
fn is_single(site: &Site<'_>, shard: ShardId, from: Option<u64>, pointer: &Pointer) -> bool {
    let Some(index) = pointer.applied.map(|id| id.index()).filter(|index| from == Some(index - 1)) else {
        return false;
    };
    let stored = site.read.get(&keys::log(shard, pointer.replica, index)).ok().flatten();
    let entry = stored.as_ref().and_then(entry_of);
    entry.is_some_and(|entry| matches!(entry.payload, Payload::Normal(proposal) if proposal.commands.len() == 1))
}

fn swept(view: &View<'_>, node: NodeId, lowest: Incarnation) -> Result<u64, String> {
    let job = table::get::<JobTable>(view, &Job::Sweep(node)).ok().flatten();
    match session::dead(view, node, lowest, 1) {
        Ok((dead, _)) if job.is_none() && !dead.is_empty() => {
            Err(format!("the fence of node {node} rose to {lowest}, and the session of {dead:?} below it lives on"))
        }
        _ => Ok(1),
    }
}

/// The fence that held before the batch: one that rose inside of it may have come after the session.
fn fence_before(view: &View<'_>, rows: &[RowChange], session: &SessionRow) -> Incarnation {
    let changed = rows.iter().filter_map(|row| row.of::<FenceTable>()).find(|(node, _, _)| *node == session.node);
    match changed {
        Some((_, old, _)) => old.unwrap_or_default(),
        None => meta::fence(view, session.node).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{Bench, device_row, fence, session, session_at, session_of};
    use super::Sessions;

    #[test]
    fn a_session_below_the_fence_or_with_a_number_that_does_not_rise_is_seen() {
        let bench = || Bench::new(vec![Box::new(Sessions::default())]);
        let open = |number, incarnation| vec![device_row("bob", number), session("bob", number, incarnation)];
        bench().apply_all(1, 1, open(1, 7)).apply_all(1, 2, open(2, 8)).holds();
        bench().apply_all(1, 1, open(2, 7)).apply_all(1, 2, open(1, 8)).violates("I7");
        bench().apply_all(1, 1, open(1, 7)).apply_all(1, 2, open(1, 8)).violates("I7");
        bench().apply_all(1, 1, vec![fence(8)]).apply_all(1, 2, open(1, 7)).violates("I7");
    }

    #[test]
    fn an_older_attempt_and_an_instance_that_was_replaced_take_nothing() {
        let bench = || {
            let mut bench = Bench::new(vec![Box::new(Sessions::default())]);
            // One command each.
            bench.log(1, 1, 1).log(1, 1, 2).log(1, 1, 3);
            bench
        };
        let open =
            |number, instance, attempt| vec![device_row("bob", number), session_of("bob", number, instance, attempt)];
        bench().apply_all(1, 1, open(1, 1, 2)).apply_all(1, 2, open(2, 1, 2)).apply_all(1, 3, open(3, 2, 1)).holds();
        bench().apply_all(1, 1, open(1, 1, 2)).apply_all(1, 2, open(2, 1, 1)).violates("I7");
        let mut back = bench();
        back.apply_all(1, 1, open(1, 1, 1)).apply_all(1, 2, open(2, 2, 1)).apply_all(1, 3, open(3, 1, 2));
        back.violates("I7");
    }

    #[test]
    fn a_session_that_is_open_and_not_listed_at_its_node_is_seen() {
        let mut bench = Bench::new(vec![Box::new(Sessions::default())]);
        let gone = (session_at("bob", 7).0, None);
        bench.apply_all(1, 1, vec![device_row("bob", 1), session("bob", 1, 7), session_at("bob", 7)]);
        bench.apply_all(1, 2, vec![gone]).violates("I7");
    }

    #[test]
    fn a_fence_that_rises_above_a_session_and_leaves_it_is_seen() {
        let bench = || Bench::new(vec![Box::new(Sessions::default())]);
        let listed = || vec![session_at("bob", 7)];
        bench().apply_all(1, 1, listed()).apply_all(1, 2, vec![fence(7)]).holds();
        bench().apply_all(1, 1, listed()).apply_all(1, 2, vec![fence(8)]).violates("I7");
    }
}
