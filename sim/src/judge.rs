//! The verdict: waits until everything is delivered, then asks the oracle and compares the replicas.
//!
//! Invariant: a run is *unknown*, not passed, unless what its options demand really happened. The liveness phase names the
//! first condition that was not met.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use flotilla_client::history::{Op, Record, Recorder};
use flotilla_client::oracle::{self, Demand, Verdict};
use flotilla_proto::entry::What;
use flotilla_proto::frame::ErrorCode;
use flotilla_proto::ids::{Cid, ConvId, Seq, ShardId};

use crate::checkers::finished;
use crate::cluster::Cluster;
use crate::liveness;
use crate::options::Options;
use crate::report;
use crate::workload::Chat;

const AGREEMENT_PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Violated(Vec<String>),
    /// The run did not show what it was made for.
    Unknown(String),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    pub invoked: usize,
    pub accepted: usize,
    pub repeats: usize,
    pub rejected: usize,
    pub unknown: usize,
    pub delivered: usize,
    pub connections: usize,
    /// Refused because the other person does not want to hear of it.
    pub blocked: usize,
    /// Messages to one other person: nothing else in the workload lets anybody refuse them.
    pub direct: usize,
    pub direct_accepted: usize,
}

pub fn count(records: &[Record]) -> Counts {
    let mut counts = Counts::default();
    let mut direct = BTreeSet::new();
    for record in records {
        match &record.op {
            Op::Invoked { cid, conv, what, .. } => {
                counts.invoked += 1;
                if conv.peers().is_some() && matches!(what, What::Message { .. }) {
                    counts.direct += usize::from(direct.insert(*cid));
                }
            }
            Op::Accepted { cid, accepted } => {
                counts.accepted += 1;
                counts.direct_accepted += usize::from(direct.remove(cid));
                counts.repeats += usize::from(accepted.dup);
            }
            Op::Rejected { cid, error } => {
                counts.rejected += 1;
                if error.code == ErrorCode::Blocked {
                    counts.blocked += 1;
                    counts.direct -= usize::from(direct.remove(cid));
                }
            }
            Op::Unknown { .. } => counts.unknown += 1,
            Op::Entry { .. } => counts.delivered += 1,
            Op::Connected { .. } => counts.connections += 1,
            _ => {}
        }
    }
    counts
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} commands: {} accepted ({} as repeats), {} rejected, {} unknown; {} entries received, {} connections",
            self.invoked, self.accepted, self.repeats, self.rejected, self.unknown, self.delivered, self.connections
        )
    }
}

/// The head of each conversation as senders were told.
pub fn heads(records: &[Record]) -> BTreeMap<ConvId, Seq> {
    let mut heads = BTreeMap::new();
    for record in records {
        if let Op::Accepted { accepted, .. } = &record.op {
            let head = heads.entry(accepted.conv.clone()).or_insert(accepted.seq);
            *head = accepted.seq.max(*head);
        }
    }
    heads
}

/// Everything after the last fault: liveness, then the last comparisons.
pub async fn settle(
    options: &Options,
    cluster: &Cluster,
    chat: &Chat,
    recorder: &Recorder,
    records: &mut Vec<Record>,
) -> Vec<String> {
    let unmet = liveness::run(options, cluster, chat, recorder, records).await;
    let mut violations: Vec<String> = unmet.into_iter().collect();
    // With more nodes than three a shard is not on all of them; its replicas have been compared already.
    let nodes = cluster.core();
    // A flipped bit that nobody has read is still there.
    let whole = cluster.watch.with_world(|world| world.damaged.is_empty());
    if violations.is_empty() && whole && nodes.len() == cluster.seats.len() && nodes.len() <= 3 {
        violations.extend(agreement(options, cluster).await);
    }
    records.extend(recorder.take());
    violations.extend(cluster.watch.with_world(|world| finished::forgotten(world, &nodes, records)));
    violations
}

/// I6: replicas at one index hold one state.
async fn agreement(options: &Options, cluster: &Cluster) -> Vec<String> {
    let mut violations = Vec::new();
    for shard in (0..=options.shards).map(ShardId) {
        match cluster.agreed(shard, AGREEMENT_PATIENCE).await {
            Ok(Some(digests)) if digests.windows(2).all(|pair| pair[0].1 == pair[1].1) => {}
            Ok(Some(digests)) => {
                violations.push(format!("I6 agreement: shard {shard} differs between nodes: {digests:?}"))
            }
            Ok(None) => violations.push(format!(
                "liveness: the replicas of shard {shard} do not reach one index within {} s",
                AGREEMENT_PATIENCE.as_secs()
            )),
            Err(error) => violations.push(format!("liveness: shard {shard} cannot be compared: {error:#}")),
        }
    }
    violations
}

/// A command that was refused for good and wrongly. A plain message to one other person: nothing in a run lets anybody refuse it,
/// but who is blocked, which is judged by itself. What was too old to be known is not known, and a cid that comes with another
/// body is refused rightly. And anything outside of direct conversations that is said to be blocked: nobody is blocked there.
pub fn refused(records: &[Record]) -> Option<String> {
    let invoked = |cid: &Cid| {
        records.iter().find_map(|record| match &record.op {
            Op::Invoked { cid: known, conv, what, .. } if known == cid => {
                Some((conv.peer_of(&record.user).is_some(), matches!(what, What::Message { reply_to: None, .. })))
            }
            _ => None,
        })
    };
    let lawful = |code: ErrorCode, direct: bool, plain: bool| match code {
        ErrorCode::Blocked => direct,
        ErrorCode::IdempotencyMismatch | ErrorCode::TooOld => true,
        _ => !direct || !plain,
    };
    let mut wrong = records.iter().filter_map(|record| match &record.op {
        Op::Rejected { cid, error } if !error.retryable => {
            let (direct, plain) = invoked(cid)?;
            (!lawful(error.code, direct, plain)).then_some((record, cid, error, direct))
        }
        _ => None,
    });
    let (record, cid, error, direct) = wrong.next()?;
    let what = if direct { "a message to one other person" } else { "what is no message to one other person" };
    Some(format!("{what} is refused: {} was told {error:?} of cid {cid}", record.device))
}

/// What the run demanded and did not get.
pub fn unshown(options: &Options, counts: &Counts, faults: u32, load: &report::Counts) -> Option<String> {
    // Some are lost with the process that had just been given them.
    let Counts { accepted, rejected, blocked, direct, direct_accepted, .. } = *counts;
    if options.change_percent == 0 && accepted + blocked < options.sends / 2 {
        return Some(format!("only {accepted} of {} commands were accepted", options.sends));
    }
    // Where members come and go much is refused, and rightly: who has left a group writes to it in vain.
    if accepted + rejected < options.sends / 2 {
        return Some(format!("only {} of {} commands have a final answer", accepted + rejected, options.sends));
    }
    if direct == 0 || direct_accepted < direct.div_ceil(2) {
        return Some(format!("only {direct_accepted} of {direct} messages to one other person were accepted"));
    }
    if faults == 0 && options.lanes.iter().any(|lane| !lane.is_empty()) {
        return Some("nothing was broken".into());
    }
    let parts = options.load.parts();
    let never = parts.iter().find(|part| load.get(**part).copied().unwrap_or(0) == 0);
    never.map(|part| format!("of the load, {part} never happened"))
}

/// What the oracle finds in the clients' history, and how much it has checked.
pub fn oracle(records: &[Record]) -> (Option<String>, oracle::Stats) {
    match oracle::judge(records, Demand::default()) {
        Verdict::Violated(violation, stats) => (Some(violation.to_string()), stats),
        // What a run must have shown is judged by its options.
        Verdict::Holds(stats) | Verdict::Unknown(_, stats) => (None, stats),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_with_too_few_answers_or_direct_messages_has_shown_nothing() {
        let plain = Options { sends: 100, ..Options::default() };
        let changing = Options { change_percent: 50, ..plain.clone() };
        let none = report::Counts::new();
        let said = |accepted, rejected, direct, direct_accepted| Counts {
            accepted,
            rejected,
            direct,
            direct_accepted,
            ..Counts::default()
        };
        assert_eq!(unshown(&plain, &said(90, 5, 40, 40), 0, &none), None);
        assert!(unshown(&plain, &said(40, 60, 40, 40), 0, &none).is_some(), "nobody may refuse that much");
        assert_eq!(unshown(&changing, &said(35, 60, 30, 30), 0, &none), None);
        assert!(unshown(&changing, &said(35, 10, 30, 30), 0, &none).is_some(), "most have no answer");
        assert!(unshown(&changing, &said(35, 60, 30, 14), 0, &none).is_some(), "these cannot be refused");
        assert!(unshown(&changing, &said(35, 60, 0, 0), 0, &none).is_some(), "nothing that had to be accepted");
        let loaded = Options { load: crate::options::Load { paging: 3, ..Default::default() }, ..plain };
        let shown = report::Counts::from([("paging".to_owned(), 1)]);
        assert!(unshown(&loaded, &said(90, 5, 40, 40), 0, &none).is_some(), "no page was read");
        assert_eq!(unshown(&loaded, &said(90, 5, 40, 40), 0, &shown), None);
    }
}
