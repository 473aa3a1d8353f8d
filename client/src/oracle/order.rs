//! I2 and I4: a device sees a conversation's entries in `seq` order without a hole; a repeat only on a new connection, and
//! there once. Where a device is open in several places, a connection of one begins behind what any of them has acked.

use std::collections::BTreeMap;

use flotilla_proto::ids::{ConvId, Seq};

use super::world::World;
use super::{Stats, Violation};
use crate::history::Op;

const PROMISE: &str = "I4 order";

/// What a device has of one conversation: over all connections, and on this one.
#[derive(Default, Clone, Copy)]
struct Sight {
    stored: Option<(Seq, usize)>,
    here: Option<(Seq, usize)>,
}

pub fn check(world: &World<'_>, stats: &mut Stats) -> Result<(), Violation> {
    let mut sights: BTreeMap<(&str, &ConvId), Sight> = BTreeMap::new();
    let mut acked: BTreeMap<(&str, &ConvId), Seq> = BTreeMap::new();
    for (at, record) in world.records.iter().enumerate() {
        let device = record.device.as_str();
        let (conv, from, to) = match &record.op {
            Op::Connected { .. } => {
                in_device(&mut sights, device, |sight| sight.here = None);
                continue;
            }
            Op::Reset => {
                in_device(&mut sights, device, |sight| *sight = Sight::default());
                continue;
            }
            Op::Acked { conv, seq } => {
                let upto = acked.entry((device, conv)).or_default();
                *upto = (*seq).max(*upto);
                continue;
            }
            Op::Entry { entry } => (&entry.conv, entry.seq, entry.seq),
            Op::Gap { gap } => (&gap.conv, gap.from, gap.to),
            _ => continue,
        };
        *stats.entry("ordered").or_default() += 1;
        let sight = sights.entry((device, conv)).or_default();
        let wrong = match (sight.here, sight.stored) {
            (Some((here, before)), _) if from != here.next() => Some((here, before, "on one connection")),
            (None, Some((stored, before)))
                if from > stored.next() && from > acked_elsewhere(world, &acked, device, conv).next() =>
            {
                Some((stored, before, "after a reconnect"))
            }
            _ => None,
        };
        if let Some((had, before, when)) = wrong {
            let what = format!("{device} had {conv} up to seq {had} and then got {from}..={to}, {when}");
            return Err(Violation::new(PROMISE, what, [&world.records[before], record]));
        }
        sight.here = Some((to, at));
        if sight.stored.is_none_or(|(stored, _)| stored < to) {
            sight.stored = Some((to, at));
        }
    }
    Ok(())
}

/// Up to where other places of the same device have acked.
fn acked_elsewhere(world: &World<'_>, acked: &BTreeMap<(&str, &ConvId), Seq>, device: &str, conv: &ConvId) -> Seq {
    let Some(own) = world.devices.get(device) else { return Seq::ZERO };
    let other = |label: &str| label != device && world.devices.get(label).is_some_and(|other| own.is_same(other));
    let seqs = acked.iter().filter(|((label, of), _)| *of == conv && other(label)).map(|(_, seq)| *seq);
    seqs.max().unwrap_or_default()
}

fn in_device<'a>(
    sights: &mut BTreeMap<(&'a str, &'a ConvId), Sight>,
    device: &str,
    mut change: impl FnMut(&mut Sight),
) {
    // Reconnects are rare beside entries.
    sights.iter_mut().filter(|((label, _), _)| *label == device).for_each(|(_, sight)| change(sight));
}

#[cfg(test)]
mod tests {
    use crate::history::Op;
    use crate::oracle::testkit::History;
    use crate::oracle::{Demand, judge};

    #[test]
    fn a_hole_and_a_repeat_on_one_connection_are_seen_and_a_repeat_after_a_reconnect_is_fine() {
        let entry_of = |h: &History, nth: usize| {
            h.nth(nth, |r| r.device == "bob/1" && matches!(&r.op, Op::Entry { entry } if entry.conv == h.direct))
        };
        let mut hole = History::good();
        let at = entry_of(&hole, 1);
        hole.records.remove(at);
        hole.violates("I4 order");

        // Another place of this device has acked what is missing, or less.
        for (upto, fine) in [(2, true), (1, false)] {
            let mut place = History::good();
            let (first, at) = (entry_of(&place, 0), entry_of(&place, 1));
            let mut second = place.records[place.nth(0, |r| r.device == "bob/1")].clone();
            let mut missed = place.records[at].clone();
            let reconnected = second.clone();
            (second.device, missed.device) = ("bob/b".into(), "bob/b".into());
            let acked = Op::Acked { conv: place.direct.clone(), seq: flotilla_proto::ids::Seq(upto) };
            let ack = crate::history::Record { op: acked, ..second.clone() };
            place.records.remove(at);
            place.records.splice(first + 1..=first, [second, missed, ack, reconnected]);
            if fine {
                let verdict = judge(&place.records, Demand::default());
                assert!(verdict.holds(), "{verdict}");
            } else {
                place.violates("I4 order");
            }
        }

        let mut repeat = History::good();
        let at = entry_of(&repeat, 1);
        let again = repeat.records[at].clone();
        repeat.records.insert(at + 1, again.clone());
        repeat.violates("I4 order");

        let mut resumed = History::good();
        resumed.connect("bob/1", "bob");
        resumed.records.push(again);
        let verdict = judge(&resumed.records, Demand { repeats_min: 1, ..Demand::default() });
        assert!(verdict.holds(), "{verdict}");
    }
}
