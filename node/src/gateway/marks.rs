//! Acks and reads on their way to the user's shard: gathered, sent as one batch, kept and repeated until done.
//!
//! Invariant: one batch at a time; a newer mark of a conversation replaces an older one; nothing is forgotten but by
//! `Done`, and by the news that this session is no longer the device's own.

use std::collections::BTreeMap;

use flotilla_machine::command::MarkKind;
use flotilla_machine::reply::MarkReply;
use flotilla_proto::ids::{ConvId, Count, Seq, ShardId};
use flotilla_proto::limits;

/// One mark as the shard wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    pub conv: ConvId,
    pub kind: MarkKind,
    pub seq: Seq,
    pub n: Count,
    pub head: Seq,
    pub n_head: Count,
}

/// What the answers to a batch mean for the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Fine,
    /// Another session took over: its marks count, ours do not.
    Stale,
    Revoked,
}

#[derive(Debug, Default)]
pub struct Marks {
    waiting: BTreeMap<(ConvId, MarkKind), Want>,
    in_flight: Vec<(ConvId, MarkKind, Seq)>,
    due_at: Option<u64>,
    stale: bool,
}

impl Marks {
    pub fn put(&mut self, want: Want, now: u64) {
        let key = (want.conv.clone(), want.kind);
        let is_new = !self.waiting.contains_key(&key);
        if self.stale || (is_new && self.waiting.len() >= limits::MARKS_WAITING_MAX) {
            return;
        }
        let kept = self.waiting.entry(key).or_insert_with(|| want.clone());
        if want.seq > kept.seq {
            *kept = want;
        }
        self.due_at.get_or_insert(gathered_at(now));
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// When the next batch is due; none while one is under way or nothing waits.
    pub fn due_at(&self) -> Option<u64> {
        self.due_at.filter(|_| self.in_flight.is_empty())
    }

    pub fn take(&mut self, now: u64) -> Option<Vec<Want>> {
        self.due_at().filter(|at| *at <= now)?;
        self.take_now()
    }

    /// Whatever waits, due or not: when the connection ends.
    pub fn take_now(&mut self) -> Option<Vec<Want>> {
        if !self.in_flight.is_empty() || self.waiting.is_empty() {
            return None;
        }
        let batch: Vec<Want> = self.waiting.values().take(limits::MARKS_PER_BATCH_MAX).cloned().collect();
        self.in_flight = batch.iter().map(|w| (w.conv.clone(), w.kind, w.seq)).collect();
        self.due_at = None;
        Some(batch)
    }

    /// Answers in the order of the batch. `acked` is told which acks are done.
    pub fn done(&mut self, replies: &[MarkReply], now: u64, mut acked: impl FnMut(&ConvId, Seq)) -> Verdict {
        let batch = std::mem::take(&mut self.in_flight);
        let mut verdict = Verdict::Fine;
        let mut ahead = replies.len() < batch.len();
        for ((conv, kind, seq), reply) in batch.into_iter().zip(replies) {
            match reply {
                MarkReply::Done => {
                    if kind == MarkKind::Ack {
                        acked(&conv, seq);
                    }
                    let key = (conv, kind);
                    if self.waiting.get(&key).is_some_and(|w| w.seq <= seq) {
                        self.waiting.remove(&key);
                    }
                }
                MarkReply::Ahead => ahead = true,
                MarkReply::StaleSession => verdict = Verdict::Stale,
                MarkReply::NoDevice => verdict = Verdict::Revoked,
            }
        }
        if verdict != Verdict::Fine {
            self.stale = true;
            self.waiting.clear();
        }
        let next = if ahead { now + limits::MARKS_RETRY_MS } else { gathered_at(now) };
        self.due_at = (!self.waiting.is_empty()).then_some(next);
        verdict
    }

    /// No answer, or none that says that it happened.
    pub fn failed(&mut self, now: u64) {
        self.in_flight.clear();
        self.due_at = (!self.waiting.is_empty()).then_some(now + limits::MARKS_RETRY_MS);
    }
}

const STEP: u64 = limits::MARKS_GATHER_MS;
const TURNS: u64 = 4;

/// Marks leave at multiples of the gathering time. The connections of a node whose users are in one shard count from the same
/// times, so what they have for it comes there together and shares an entry of its log.
fn gathered_at(now: u64) -> u64 {
    (now / STEP + 1) * STEP
}

/// From when a connection counts that begins `now`. Shards take turns: if all marks of a node left at once, all leaders would have
/// much to do at the same instants, and messages would wait behind it. Some leave together all the same, because what leaders
/// then propose shares syncs and frames.
pub fn in_step(now: u64, shard: ShardId) -> u64 {
    let turn = STEP * (u64::from(shard.0) % TURNS) / TURNS;
    now.saturating_sub((now + STEP - turn) % STEP)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn want(conv: &ConvId, seq: u64) -> Want {
        let (seq, n) = (Seq(seq), Count(seq));
        Want { conv: conv.clone(), kind: MarkKind::Ack, seq, n, head: seq, n_head: n }
    }

    fn conv() -> ConvId {
        ConvId::parse(&format!("g{:032x}", 1)).expect("valid")
    }

    #[test]
    fn acks_of_200_ms_leave_as_one_and_stay_until_done() {
        let mut marks = Marks::default();
        let c = conv();
        for seq in [3, 5, 4] {
            marks.put(want(&c, seq), 1_000);
        }
        assert_eq!(marks.take(1_199), None);
        assert_eq!(marks.take(1_200), Some(vec![want(&c, 5)]));
        marks.put(want(&c, 6), 1_210);
        assert_eq!(marks.take(9_999), None, "one batch at a time");
        marks.failed(1_300);
        assert_eq!(marks.take(2_300), Some(vec![want(&c, 6)]), "the newer mark covers the older");
        assert_eq!(marks.done(&[MarkReply::Ahead], 2_400, |_, _| {}), Verdict::Fine);
        assert_eq!(marks.take(3_399), None);
        assert_eq!(marks.take(3_400), Some(vec![want(&c, 6)]));
        assert_eq!(marks.done(&[MarkReply::Done], 3_500, |_, _| {}), Verdict::Fine);
        assert!(marks.is_empty());
    }

    #[test]
    fn a_stale_session_stops_trying() {
        let mut marks = Marks::default();
        marks.put(want(&conv(), 3), 0);
        assert!(marks.take(200).is_some());
        assert_eq!(marks.done(&[MarkReply::StaleSession], 300, |_, _| {}), Verdict::Stale);
        marks.put(want(&conv(), 4), 400);
        assert_eq!(marks.take(10_000), None);
    }

    #[test]
    fn connections_of_one_shard_count_in_step_and_shards_take_turns() {
        let mut turns = BTreeSet::new();
        for shard in 1..=16 {
            let begins = [STEP, STEP + 1, 3 * STEP - 1, 17 * STEP + 77].map(|now| (now, in_step(now, ShardId(shard))));
            assert!(begins.iter().all(|(now, at)| at <= now && now - at < STEP), "{begins:?}");
            let phases: BTreeSet<_> = begins.iter().map(|(_, at)| at % STEP).collect();
            assert_eq!(phases.len(), 1, "{begins:?}");
            turns.extend(phases);
        }
        let turns: Vec<_> = turns.into_iter().collect();
        assert_eq!(turns, [0, 50, 100, 150]);
        assert_eq!(in_step(0, ShardId(1)), 0, "a node has just started");
    }
}
