//! I1 and I3: after faults heal, every accepted entry has reached every device that was registered when it was accepted and
//! whose user was a member at that seq, unless a `gap` said that retention removed it first. A device that is open in several
//! places, by the id that the server gave it, has what any of them has: what one has acked does not come to the others.

use flotilla_proto::frame::GapReason;
use flotilla_proto::ids::{ConvId, Seq};

use super::world::{Device, World};
use super::{Stats, Violation};
use crate::history::Record;

const PROMISE: &str = "I3 no-loss";

pub fn check(world: &World<'_>, stats: &mut Stats) -> Result<(), Violation> {
    for (cid, answers) in &world.accepted {
        let (Some((at, accepted)), Some(invoked)) = (answers.first(), world.invoked.get(cid)) else { continue };
        // Registered before the command was given: surely before it was accepted.
        let evidence = [&world.records[invoked.at], &world.records[*at]];
        owed(world, &accepted.conv, accepted.seq, invoked.at, &evidence, stats)?;
    }
    // An entry that anybody has seen was accepted, whether its sender got the answer or not.
    for (conv, log) in &world.log {
        for (seq, (at, entry)) in log {
            if let Some(invoked) = world.invoked.get(&entry.cid).filter(|_| !world.accepted.contains_key(&entry.cid)) {
                owed(world, conv, *seq, invoked.at, &[&world.records[*at]], stats)?;
            }
        }
    }
    Ok(())
}

fn owed(
    world: &World<'_>,
    conv: &ConvId,
    seq: Seq,
    since: usize,
    evidence: &[&Record],
    stats: &mut Stats,
) -> Result<(), Violation> {
    for (label, device) in &world.devices {
        let (Some(user), Some(registered)) = (device.user, device.registered_at) else { continue };
        if registered > since || world.is_member(conv, user, seq) != Some(true) {
            continue;
        }
        *stats.entry("owed").or_default() += 1;
        let somewhere = || world.devices.values().any(|other| device.is_same(other) && has(other, conv, seq));
        if !has(device, conv, seq) && !somewhere() {
            let highest = device.seen.get(conv).and_then(|s| s.last()).copied().unwrap_or_default();
            let what = format!("{label} never received {conv} seq {seq} (its highest there: {highest})");
            return Err(Violation::new(PROMISE, what, evidence.iter().copied()));
        }
    }
    Ok(())
}

fn has(device: &Device<'_>, conv: &ConvId, seq: Seq) -> bool {
    let excused = || {
        let gaps = device.gaps.get(conv).into_iter().flatten();
        gaps.filter(|g| g.reason == GapReason::Retention || g.reason == GapReason::Restored)
            .any(|g| g.from <= seq && seq <= g.to)
    };
    device.seen.get(conv).is_some_and(|seen| seen.contains(&seq)) || excused()
}

#[cfg(test)]
mod tests {
    use flotilla_proto::ids::{DeviceId, SessionNo};

    use crate::history::Op;
    use crate::oracle::testkit::History;
    use crate::oracle::{Demand, Verdict, judge};

    #[test]
    fn an_accepted_entry_that_a_member_device_never_got_is_a_loss() {
        let mut history = History::good();
        // The last entry of the group at one device: no hole shows it.
        let at = history.last(|r| r.device == "carol/1" && matches!(r.op, Op::Entry { .. }));
        history.records.remove(at);
        history.violates("I3 no-loss");
        let calm = Demand { healed: false, ..Demand::default() };
        assert!(matches!(judge(&history.records, calm), Verdict::Holds(_)), "before healing nothing is lost yet");
    }

    #[test]
    fn what_one_place_of_a_device_has_is_not_lost_to_the_other_and_another_device_is_no_place_of_it() {
        let second = |id: &dyn Fn(DeviceId) -> DeviceId| {
            let mut history = History::good();
            let at = history.last(|r| r.device == "carol/1" && matches!(r.op, Op::Entry { .. }));
            let connected = history.nth(0, |r| r.device == "carol/1" && matches!(r.op, Op::Connected { .. }));
            let Op::Connected { device, .. } = history.records[connected].op else { panic!("it connects") };
            let mut taken = history.records[at].clone();
            let mut opened = history.records[connected].clone();
            (opened.device, taken.device) = ("carol/b".into(), "carol/b".into());
            let (session, url) = (SessionNo(2), String::new());
            opened.op = Op::Connected { device: id(device), session, url, attempt: 1 };
            history.records.splice(at..=at, [opened, taken]);
            history
        };
        let place = second(&|device| device);
        let verdict = judge(&place.records, Demand::default());
        assert!(verdict.holds(), "{verdict}");
        second(&|device| DeviceId(device.0 + 1)).violates("I3 no-loss");
    }
}
