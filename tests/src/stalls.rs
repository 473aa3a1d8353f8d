//! How long conversations stood still for those who wrote to them, from a history alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use flotilla_client::history::{Op, Record};
use flotilla_proto::ids::{Cid, ConvId};

/// Shorter waits are not called a stall.
const STALL_MS: u64 = 500;

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Stalls {
    /// Given to accepted, retries included, in rising order, in milliseconds.
    pub answers_ms: Vec<u64>,
    /// Times in which a conversation had commands waiting and accepted none, in rising order, in milliseconds.
    pub stalls_ms: Vec<u64>,
}

#[derive(Default)]
struct Conv {
    waiting: BTreeSet<(u64, Cid)>,
    /// Since when something waits and nothing was accepted.
    since_us: u64,
}

impl Stalls {
    pub fn of(records: &[Record]) -> Self {
        let mut all = Self::default();
        let mut given: BTreeMap<Cid, (u64, &ConvId)> = BTreeMap::new();
        let mut convs: BTreeMap<&ConvId, Conv> = BTreeMap::new();
        for record in records {
            match &record.op {
                Op::Invoked { cid, conv, .. } => {
                    let state = convs.entry(conv).or_default();
                    if state.waiting.is_empty() {
                        state.since_us = record.at_us;
                    }
                    state.waiting.insert((record.at_us, *cid));
                    given.insert(*cid, (record.at_us, conv));
                }
                Op::Accepted { cid, .. } | Op::Rejected { cid, .. } | Op::Unknown { cid, .. } => {
                    let Some((at, conv)) = given.remove(cid) else { continue };
                    let Some(state) = convs.get_mut(conv) else { continue };
                    state.waiting.remove(&(at, *cid));
                    if matches!(record.op, Op::Accepted { .. }) {
                        all.answers_ms.push((record.at_us - at) / 1_000);
                        let stood = (record.at_us - state.since_us) / 1_000;
                        all.stalls_ms.extend((stood >= STALL_MS).then_some(stood));
                    }
                    state.since_us = record.at_us;
                }
                _ => {}
            }
        }
        all.answers_ms.sort_unstable();
        all.stalls_ms.sort_unstable();
        all
    }
}

pub fn percentile(sorted: &[u64], percent: usize) -> u64 {
    sorted.get(sorted.len() * percent / 100).or(sorted.last()).copied().unwrap_or(0)
}

impl fmt::Display for Stalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (answers, stalls) = (|p| percentile(&self.answers_ms, p), |p| percentile(&self.stalls_ms, p));
        writeln!(f, "accepted after: median {} ms, p99 {} ms, longest {} ms", answers(50), answers(99), answers(100))?;
        write!(
            f,
            "conversations stood still {} times for {STALL_MS} ms or more: median {} ms, p90 {} ms, longest {} ms",
            self.stalls_ms.len(),
            stalls(50),
            stalls(90),
            stalls(100)
        )
    }
}

#[cfg(test)]
mod tests {
    use flotilla_client::device::{message, random_cid};
    use flotilla_proto::frame::Accepted;
    use flotilla_proto::ids::{Hash32, MsgId, Seq, TsMs, UserId};

    use super::*;

    #[test]
    fn a_stall_is_the_time_without_an_accepted_while_something_waits() {
        let user = |name| UserId::parse(name).expect("valid");
        let conv = ConvId::direct(&user("alice"), &user("bob"));
        let record = |at_ms: u64, op| Record { at_us: at_ms * 1_000, device: "a".into(), user: user("alice"), op };
        let invoked =
            |at, cid| record(at, Op::Invoked { cid, conv: conv.clone(), what: message("hi"), pipelined: true });
        let accepted = |at, cid| {
            let accepted = Accepted {
                conv: conv.clone(),
                seq: Seq(1),
                msg_id: MsgId(1),
                ts: TsMs(1),
                chain: Hash32::default(),
                dup: false,
            };
            record(at, Op::Accepted { cid, accepted })
        };
        let (a, b, c) = (random_cid(), random_cid(), random_cid());
        let records = [
            invoked(0, a),
            accepted(10, a),
            invoked(5_000, b),
            invoked(5_100, c),
            accepted(6_000, b),
            accepted(6_400, c),
        ];
        let stalls = Stalls::of(&records);
        assert_eq!(stalls.answers_ms, [10, 1_000, 1_300]);
        assert_eq!(stalls.stalls_ms, [1_000], "5,000 to 6,000; nothing waited before, and 400 ms are no stall");
    }
}
