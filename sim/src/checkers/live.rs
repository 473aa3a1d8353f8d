//! No dead route: a client that is connected holds the session that its device has in the committed rows. Where the session was
//! taken over, swept or withdrawn, its gateway is told, or learns it when it presents its sessions, and closes the connection
//! (DESIGN section 5, points 7 and 8).

use std::collections::BTreeMap;
use std::time::Duration;

use flotilla_client::history::{Op, Record};
use flotilla_machine::user::session::SessionTable;
use flotilla_proto::ids::{DeviceId, SessionNo};

use super::last_hop::COUNTED;
use super::{Checker, Event, Facts, Site, World};
use crate::trace;

/// The news of its end is pushed; where that is lost, the next keepalive shows the hole (2 s), and the gateway presents its
/// sessions; where no leader speaks, the lease ends (4 s). Counted is only time in which nothing is broken that may lawfully keep
/// the gateway from hearing of it, or the client of being closed.
const BOUND: Duration = Duration::from_secs(8);

/// Ticks are at most so far apart while any node runs. Longer: all of them were paused, and nobody could be told.
const STANDSTILL: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct Live {
    /// The session of a device as it was applied last, and at which index.
    rows: BTreeMap<DeviceId, (u64, Option<SessionNo>)>,
    /// By the label in the history.
    open: BTreeMap<String, Open>,
    at: Duration,
}

struct Open {
    device: DeviceId,
    session: SessionNo,
    /// How long it has been another one, and nothing kept the gateway from hearing of it.
    dead: Duration,
}

impl Checker for Live {
    fn promise(&self) -> &'static str {
        "connected sessions live"
    }

    fn on_event(&mut self, _: &World, _: &Site<'_>, event: &Event) -> Result<u64, String> {
        let Event::Applied { pointer, rows, .. } = event else { return Ok(0) };
        let Some(index) = pointer.applied.map(|id| id.index()) else { return Ok(0) };
        for row in rows {
            let Some(((_, device), _, new)) = row.of::<SessionTable>() else { continue };
            let known = self.rows.entry(device).or_default();
            // A replica that catches up brings no news.
            if index >= known.0 {
                *known = (index, new.map(|row| row.number));
            }
        }
        Ok(0)
    }

    fn on_record(&mut self, _: &World, record: &Record) -> Result<u64, String> {
        let label = &record.device;
        match &record.op {
            // Of other places and of strangers nobody hears when they end.
            Op::Connected { device, session, .. } if !label.ends_with("-b") && !label.starts_with("strange") => {
                let open = Open { device: *device, session: *session, dead: Duration::ZERO };
                self.open.insert(label.clone(), open);
            }
            Op::Closed { .. } | Op::Reset => drop(self.open.remove(label)),
            _ => {}
        }
        Ok(0)
    }

    /// The ticks are the clock.
    fn on_facts(&mut self, world: &World, _: &Facts) -> Result<u64, String> {
        let now = trace::now();
        let passed = now.saturating_sub(std::mem::replace(&mut self.at, now));
        self.judge(world, passed)
    }
}

impl Live {
    fn judge(&mut self, world: &World, passed: Duration) -> Result<u64, String> {
        if passed.is_zero() || passed > STANDSTILL || world.broken.keys().any(|kind| !COUNTED.contains(kind)) {
            return Ok(0);
        }
        let mut live = 0;
        for (label, open) in &mut self.open {
            let row = self.rows.get(&open.device).and_then(|(_, number)| *number);
            if row == Some(open.session) {
                open.dead = Duration::ZERO;
                live += 1;
                continue;
            }
            open.dead += passed;
            if open.dead > BOUND {
                let (session, bound) = (open.session, BOUND.as_secs());
                return Err(format!(
                    "{label} stays connected with session {session}, which is over for {bound} s; its device has {row:?}"
                ));
            }
        }
        Ok(live)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{Bench, device};
    use super::*;

    #[test]
    fn a_connection_whose_session_is_over_is_seen() {
        let mut checker = Live::default();
        let mut bench = Bench::new(Vec::new());
        bench.connected("bob", 1);
        bench.watch.with_world(|world| checker.on_record(world, &bench.records[0])).expect("nothing is wrong");
        let device = device("bob");
        checker.rows.insert(device, (1, Some(SessionNo(2))));
        checker.open.get_mut("bob").expect("connected").dead = BOUND;
        let told = bench.watch.with_world(|world| checker.judge(world, Duration::from_secs(9)));
        assert_eq!(told, Ok(0), "nobody ran");
        let told = bench.watch.with_world(|world| checker.judge(world, Duration::from_millis(50)));
        assert!(told.is_err());
        checker.rows.insert(device, (2, Some(SessionNo(1))));
        let told = bench.watch.with_world(|world| checker.judge(world, Duration::from_millis(50)));
        assert_eq!(told, Ok(1));
    }
}
