//! The outbox: commands in order, per conversation, until each has its answer. Pure: time comes in as milliseconds.
//!
//! Invariant: a command is on the wire only while all earlier ones of its conversation are too, so that pipelined order
//! survives retries: each names the nearest earlier one that is still unanswered as `after`.
//!
//! Most of what is refused takes everything behind it along: those name it, and come back as `out_of_order`. Then a
//! conversation has one command on the wire, and twice as many after each that has its final answer; a row of n that are all
//! refused costs about 2 n frames, where sending the whole rest each time would cost n * n / 2, all of which count against the
//! user's limit. Where the reason holds for all of them (no member any more, blocked), the server gives it to each, whatever it
//! names: nothing comes back `out_of_order`, and the row goes out as fast as if it were accepted.

use std::collections::{BTreeMap, VecDeque};

use flotilla_proto::entry::What;
use flotilla_proto::frame::{ClientFrame, Delete, Edit, React, SendMessage};
use flotilla_proto::ids::{Cid, ConvId};
use flotilla_proto::limits;

use crate::store::SavedCommand;

const RETRY_MS_MIN: u64 = 40;
const RETRY_MS_MAX: u64 = 2_000;
/// No server makes a command wait longer, whatever it says.
const RETRY_AFTER_MS_MAX: u64 = 60_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not on the wire before this time.
    Waiting { until_ms: u64 },
    /// Sent on the current connection; given up at this time.
    Flying { until_ms: u64 },
}

#[derive(Debug)]
struct Item {
    command: SavedCommand,
    state: State,
    /// Since when this process has it.
    since_ms: u64,
    /// Attempts so far, those of earlier processes counted as one.
    attempts: u32,
    /// What the last attempt named as `after`.
    after: Option<Cid>,
    /// An attempt got no answer, or one that does not tell: it may arrive at any time yet.
    in_doubt: bool,
}

impl Item {
    /// Never too young: the command was saved before its first attempt, and a wall clock that was set back makes nothing younger
    /// than this process knows it to be.
    fn age_ms(&self, now_ms: u64, wall_ms: u64) -> u64 {
        wall_ms.saturating_sub(self.command.saved_ms).max(now_ms.saturating_sub(self.since_ms))
    }
}

/// The commands of one conversation.
#[derive(Debug)]
struct Queue {
    items: VecDeque<Item>,
    /// So many may be on the wire.
    window: usize,
}

impl Default for Queue {
    fn default() -> Self {
        Self { items: VecDeque::new(), window: limits::CLIENT_REQUESTS_IN_FLIGHT_MAX }
    }
}

#[derive(Debug, Default)]
pub struct Outbox {
    queues: BTreeMap<ConvId, Queue>,
    convs: BTreeMap<Cid, ConvId>,
    flying: usize,
}

impl Outbox {
    /// Commands of an earlier process: they may have been attempted.
    pub fn restored(commands: Vec<SavedCommand>) -> Self {
        let mut outbox = Self::default();
        for command in commands {
            outbox.push(command, 0, 1);
        }
        outbox
    }

    pub fn len(&self) -> usize {
        self.convs.len()
    }

    pub fn flying(&self) -> usize {
        self.flying
    }

    pub fn add(&mut self, command: SavedCommand, now_ms: u64) {
        self.push(command, now_ms, 0);
    }

    fn push(&mut self, command: SavedCommand, now_ms: u64, attempts: u32) {
        self.convs.insert(command.cid, command.conv.clone());
        let (state, in_doubt) = (State::Waiting { until_ms: now_ms }, attempts > 0);
        let item = Item { state, since_ms: now_ms, attempts, after: None, in_doubt, command };
        self.queues.entry(item.command.conv.clone()).or_default().items.push_back(item);
    }

    /// Is there a command for the wire now?
    pub fn has_next(&self, now_ms: u64) -> bool {
        self.queues.values().any(|queue| sendable(queue, now_ms).is_some())
    }

    /// The next command for the wire; it counts as sent.
    pub fn next(&mut self, now_ms: u64, wall_ms: u64) -> Option<(Cid, ClientFrame)> {
        let (queue, at) = self.queues.values_mut().find_map(|q| sendable(q, now_ms).map(|at| (q, at)))?;
        let after = at.checked_sub(1).map(|before| queue.items[before].command.cid);
        let item = &mut queue.items[at];
        // A part of a second counts whole.
        let age_s = (item.attempts > 0).then(|| item.age_ms(now_ms, wall_ms).max(1).div_ceil(1_000));
        item.state = State::Flying { until_ms: now_ms + limits::CLIENT_ANSWER_TIMEOUT_MS };
        item.attempts += 1;
        item.after = after;
        self.flying += 1;
        Some((item.command.cid, frame(&item.command, age_s, after)))
    }

    /// It has its final answer: the command goes, and its conversation may have more on the wire again. One that was refused
    /// because it names this one has nothing to wait for any more.
    pub fn finish(&mut self, cid: Cid) -> Option<SavedCommand> {
        if let Some(queue) = self.queue(cid) {
            queue.window = (queue.window * 2).min(limits::CLIENT_REQUESTS_IN_FLIGHT_MAX);
        }
        let conv = self.convs.remove(&cid)?;
        let queue = &mut self.queues.get_mut(&conv)?.items;
        let at = queue.iter().position(|i| i.command.cid == cid)?;
        let item = queue.remove(at)?;
        if matches!(item.state, State::Flying { .. }) {
            self.flying -= 1;
        }
        if let Some(Item { state: State::Waiting { until_ms }, after, .. }) = queue.get_mut(at)
            && *after == Some(cid)
        {
            *until_ms = 0;
        }
        if queue.is_empty() {
            self.queues.remove(&conv);
        }
        Some(item.command)
    }

    fn narrow(&mut self, cid: Cid) {
        if let Some(queue) = self.queue(cid) {
            queue.window = 1;
        }
    }

    /// The last attempt may or may not have happened.
    pub fn doubt(&mut self, cid: Cid) {
        if let Some(item) = self.item(cid) {
            item.in_doubt = true;
        }
    }

    /// May an earlier attempt still have an effect, after the answer to this one?
    ///
    /// Why: rejections are not remembered. 1. an edit is on its way to a node that stands still, 2. the client sends it again
    /// through another node, 3. it is rejected, for its conversation does not exist yet, 4. the conversation is made, 5. the
    /// first attempt arrives and is applied.
    pub fn is_in_doubt(&mut self, cid: Cid) -> bool {
        self.item(cid).is_some_and(|item| item.in_doubt)
    }

    /// Not now: again after a pause that grows with the attempts, and never before `wanted_ms`. `jitter` in 0..=1000.
    pub fn retry(&mut self, cid: Cid, now_ms: u64, wanted_ms: Option<u64>, jitter: u64) {
        self.narrow(cid);
        self.pause(cid, now_ms, wanted_ms, jitter);
    }

    fn pause(&mut self, cid: Cid, now_ms: u64, wanted_ms: Option<u64>, jitter: u64) {
        let Some(item) = self.item(cid) else { return };
        let grown = (RETRY_MS_MIN << item.attempts.saturating_sub(1).min(6)).min(RETRY_MS_MAX);
        let drawn = grown / 2 + grown / 2 * jitter.min(1_000) / 1_000;
        // Who waits as told does not come together with everybody else who was told the same.
        let told = wanted_ms.map(|ms| ms.min(RETRY_AFTER_MS_MAX) + drawn / 4);
        let was =
            std::mem::replace(&mut item.state, State::Waiting { until_ms: now_ms + drawn.max(told.unwrap_or(0)) });
        if matches!(was, State::Flying { .. }) {
            self.flying -= 1;
        }
    }

    /// `out_of_order`: at once if the command that it named is gone by now (it was rejected, and then the answers of both
    /// crossed the next attempt), else after a pause. A row of rejected commands would otherwise cost a grown pause each.
    pub fn out_of_order(&mut self, cid: Cid, now_ms: u64, jitter: u64) {
        let named = self.item(cid).and_then(|item| item.after);
        let gone = named.is_some_and(|after| !self.convs.contains_key(&after));
        self.narrow(cid);
        self.pause(cid, now_ms, None, jitter);
        if let Some(item) = self.item(cid).filter(|_| gone) {
            item.state = State::Waiting { until_ms: now_ms };
        }
    }

    /// Nothing that was on the wire will be answered any more.
    pub fn disconnected(&mut self, now_ms: u64) {
        for item in self.queues.values_mut().flat_map(|q| &mut q.items) {
            if matches!(item.state, State::Flying { .. }) {
                item.state = State::Waiting { until_ms: now_ms };
                item.in_doubt = true;
            }
        }
        self.flying = 0;
    }

    /// Commands whose answer is overdue go back; how many.
    pub fn expire(&mut self, now_ms: u64) -> usize {
        let mut expired = 0;
        for item in self.queues.values_mut().flat_map(|q| q.items.iter_mut().take(NEAR)) {
            if matches!(item.state, State::Flying { until_ms } if until_ms <= now_ms) {
                item.state = State::Waiting { until_ms: now_ms };
                item.in_doubt = true;
                expired += 1;
            }
        }
        self.flying -= expired;
        expired
    }

    /// Commands that are too old to be sent again without asking the person.
    pub fn stale(&self, now_ms: u64, wall_ms: u64) -> Vec<Cid> {
        let old = |i: &&Item| i.age_ms(now_ms, wall_ms) > limits::CLIENT_RESEND_MS;
        self.queues.values().flat_map(|q| &q.items).filter(old).map(|i| i.command.cid).collect()
    }

    /// When something changes by itself: a pause ends or an answer is overdue.
    pub fn wake_ms(&self, now_ms: u64) -> Option<u64> {
        self.queues
            .values()
            .flat_map(near)
            .map(|i| match i.state {
                State::Waiting { until_ms } | State::Flying { until_ms } => until_ms,
            })
            .filter(|at| *at > now_ms)
            .min()
    }

    fn queue(&mut self, cid: Cid) -> Option<&mut Queue> {
        self.queues.get_mut(self.convs.get(&cid)?)
    }

    fn item(&mut self, cid: Cid) -> Option<&mut Item> {
        self.queue(cid)?.items.iter_mut().find(|i| i.command.cid == cid)
    }
}

/// Only these can be on the wire, or next for it.
const NEAR: usize = limits::CLIENT_REQUESTS_IN_FLIGHT_MAX + 1;

fn near(queue: &Queue) -> impl Iterator<Item = &Item> {
    queue.items.iter().take(NEAR)
}

/// The first command that is not on the wire, if its time has come and the window has room. Those before it are all on the wire.
fn sendable(queue: &Queue, now_ms: u64) -> Option<usize> {
    let at = near(queue).position(|i| matches!(i.state, State::Waiting { .. }))?;
    let due = matches!(queue.items[at].state, State::Waiting { until_ms } if until_ms <= now_ms);
    (due && at < queue.window).then_some(at)
}

fn frame(command: &SavedCommand, age_s: Option<u64>, after: Option<Cid>) -> ClientFrame {
    let (conv, cid) = (command.conv.clone(), command.cid);
    match command.what.clone() {
        What::Edit { target, body } => ClientFrame::Edit(Edit { conv, seq: target, cid, age_s, after, body }),
        What::Delete { target } => ClientFrame::Delete(Delete { conv, seq: target, cid, age_s, after }),
        What::React { target, emoji, on } => {
            ClientFrame::React(React { conv, seq: target, cid, age_s, after, emoji, on })
        }
        What::Message { kind, body, reply_to, mentions, media } => ClientFrame::Send(SendMessage {
            conv: command.to.is_none().then_some(conv),
            to: command.to.clone(),
            cid,
            age_s,
            after,
            kind,
            body,
            mentions,
            reply_to,
            media,
        }),
        // Changes of a group go by `call`; the handle cannot put one here.
        other => unreachable!("{} is not a command of the outbox", other.kind()),
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::ids::{Blob, UserId};

    use super::*;

    fn user(name: &str) -> UserId {
        UserId::parse(name).expect("valid")
    }

    fn command(cid: u128, peer: &str) -> SavedCommand {
        let what = What::Message {
            kind: "message".into(),
            body: Blob::default(),
            reply_to: None,
            mentions: vec![],
            media: None,
        };
        let conv = ConvId::direct(&user("alice"), &user(peer));
        SavedCommand { cid: Cid(cid), conv, to: Some(user(peer)), what, saved_ms: 10_000 }
    }

    fn sent(outbox: &mut Outbox, now: u64) -> Vec<(u128, Option<u128>, Option<u64>)> {
        let mut all = Vec::new();
        while let Some((cid, ClientFrame::Send(s))) = outbox.next(now, 10_000 + now) {
            all.push((cid.0, s.after.map(|c| c.0), s.age_s));
        }
        all
    }

    #[test]
    fn pipelined_commands_name_the_nearest_unanswered_one() {
        let mut outbox = Outbox::default();
        for cid in 1..=3 {
            outbox.add(command(cid, "bob"), 0);
        }
        outbox.add(command(9, "carol"), 0);
        assert_eq!(sent(&mut outbox, 0), [(1, None, None), (2, Some(1), None), (3, Some(2), None), (9, None, None)]);
        outbox.finish(Cid(1));
        outbox.finish(Cid(2));
        outbox.add(command(4, "bob"), 1);
        assert_eq!(sent(&mut outbox, 1), [(4, Some(3), None)]);
        outbox.finish(Cid(3));
        outbox.disconnected(2_500);
        assert_eq!(sent(&mut outbox, 2_500), [(4, None, Some(3)), (9, None, Some(3))], "after drops once accepted");
    }

    #[test]
    fn nothing_overtakes_a_command_that_pauses() {
        let mut outbox = Outbox::default();
        outbox.add(command(1, "bob"), 0);
        outbox.add(command(2, "bob"), 0);
        assert_eq!(sent(&mut outbox, 0).len(), 2);
        outbox.retry(Cid(2), 0, None, 0);
        outbox.retry(Cid(1), 0, Some(500), 1_000);
        assert!(sent(&mut outbox, 499).is_empty(), "2 waits for 1");
        assert_eq!(outbox.wake_ms(0), Some(20));
        let told = 500 + 10;
        assert!(sent(&mut outbox, told - 1).is_empty(), "the server said when");
        assert_eq!(sent(&mut outbox, told), [(1, None, Some(1))], "one until one is accepted");
        outbox.finish(Cid(1));
        assert_eq!(sent(&mut outbox, told), [(2, None, Some(1))]);
    }

    #[test]
    fn commands_behind_a_rejected_one_do_not_pause() {
        let mut outbox = Outbox::default();
        for cid in 1..=4 {
            outbox.add(command(cid, "bob"), 0);
        }
        assert_eq!(sent(&mut outbox, 0).len(), 4);
        // Earlier attempts have made the pauses long.
        for _ in 0..8 {
            outbox.disconnected(0);
            sent(&mut outbox, 0);
        }
        // The refusal of 3 comes before the rejection of 2, as that of 2 after the rejection of 1.
        outbox.out_of_order(Cid(3), 0, 1_000);
        outbox.finish(Cid(1));
        outbox.out_of_order(Cid(2), 0, 1_000);
        outbox.out_of_order(Cid(4), 0, 1_000);
        assert_eq!(sent(&mut outbox, 0), [(2, None, Some(1))], "nothing is left to wait for");
        outbox.finish(Cid(2));
        assert_eq!(sent(&mut outbox, 0), [(3, None, Some(1))]);
        outbox.finish(Cid(3));
        assert_eq!(sent(&mut outbox, 0), [(4, None, Some(1))]);
        assert_eq!(outbox.flying(), 1);
    }

    /// Plays `rejected` on a row of commands until none is left; each frame is answered in its turn, as the server would.
    fn frames(count: u128, mut accepts: impl FnMut(u128, usize) -> bool) -> usize {
        let mut outbox = Outbox::default();
        (1..=count).for_each(|cid| outbox.add(command(cid, "bob"), 0));
        let (mut frames, mut now, mut applied) = (0, 0, Vec::new());
        while outbox.len() > 0 {
            let flight = sent(&mut outbox, now);
            frames += flight.len();
            for (cid, after, _) in flight {
                if after.is_some_and(|after| !applied.contains(&after)) {
                    outbox.out_of_order(Cid(cid), now, 500);
                } else {
                    applied.extend(accepts(cid, frames).then_some(cid));
                    outbox.finish(Cid(cid));
                }
            }
            now = if outbox.has_next(now) { now } else { outbox.wake_ms(now).unwrap_or(now + 1) };
        }
        frames
    }

    #[test]
    fn a_row_of_refused_commands_costs_two_frames_each() {
        let window = limits::CLIENT_REQUESTS_IN_FLIGHT_MAX;
        assert_eq!(frames(300, |_, _| true), 300, "nothing is refused: each once");
        assert!(frames(300, |_, _| false) <= 600, "{} frames", frames(300, |_, _| false));
        // The first ones alone: soon the window is as wide as ever.
        assert!(frames(300, |cid, _| cid > 5) <= 300 + window, "{} frames", frames(300, |cid, _| cid > 5));
        let every_other = frames(300, |cid, _| cid % 2 == 0);
        assert!(every_other <= 600, "{every_other} frames");
    }

    #[test]
    fn a_row_that_is_refused_as_a_whole_goes_out_as_fast_as_one_that_is_accepted() {
        let mut outbox = Outbox::default();
        (1..=300).for_each(|cid| outbox.add(command(cid, "bob"), 0));
        let first = sent(&mut outbox, 0);
        outbox.retry(Cid(1), 0, None, 0);
        (2..=first.len() as u128).for_each(|cid| outbox.out_of_order(Cid(cid), 0, 0));
        let mut turns = Vec::new();
        while outbox.len() > 0 {
            // No member any more: each is told that, whatever it names.
            let flight = sent(&mut outbox, 60_000);
            flight.iter().for_each(|(cid, ..)| assert!(outbox.finish(Cid(*cid)).is_some()));
            turns.push(flight.len());
        }
        assert_eq!(turns, [1, 2, 8, 48, 48, 48, 48, 48, 48, 1]);
    }

    #[test]
    fn what_comes_too_fast_is_sent_one_by_one_until_there_is_room() {
        let mut outbox = Outbox::default();
        (1..=40).for_each(|cid| outbox.add(command(cid, "bob"), 0));
        assert_eq!(sent(&mut outbox, 0).len(), 40);
        outbox.retry(Cid(1), 0, Some(400), 0);
        (2..=40).for_each(|cid| outbox.out_of_order(Cid(cid), 0, 0));
        assert!(sent(&mut outbox, 399).is_empty(), "not before the server said");
        let mut turns = Vec::new();
        while outbox.len() > 0 {
            let flight = sent(&mut outbox, 60_000);
            flight.iter().for_each(|(cid, ..)| assert!(outbox.finish(Cid(*cid)).is_some()));
            turns.push(flight.len());
        }
        assert_eq!(turns, [1, 2, 8, 29], "and then wider and wider");
    }

    #[test]
    fn an_overdue_answer_is_unknown_and_sent_again_with_its_age() {
        let mut outbox = Outbox::restored(vec![command(1, "bob")]);
        assert_eq!(sent(&mut outbox, 0), [(1, None, Some(1))], "an earlier process may have sent it");
        assert_eq!(outbox.expire(limits::CLIENT_ANSWER_TIMEOUT_MS), 1);
        assert_eq!(outbox.flying(), 0);
        assert_eq!(sent(&mut outbox, 8_000), [(1, None, Some(8))]);
        assert!(outbox.stale(8_000, 10_000 + limits::CLIENT_RESEND_MS).is_empty());
        assert_eq!(outbox.stale(8_000, 10_001 + limits::CLIENT_RESEND_MS), [Cid(1)]);
    }

    #[test]
    fn a_retry_grows_older_while_the_wall_clock_goes_back() {
        let mut outbox = Outbox::default();
        outbox.add(command(1, "bob"), 1_000);
        assert!(outbox.next(1_000, 10_000).is_some());
        outbox.disconnected(2_000);
        let Some((_, ClientFrame::Send(again))) = outbox.next(31_500, 4_000) else { panic!("is sent again") };
        assert_eq!(again.age_s, Some(31), "30.5 s by the clock that only goes on");
        assert!(outbox.stale(1_000 + limits::CLIENT_RESEND_MS, 4_000).is_empty());
        assert_eq!(outbox.stale(1_001 + limits::CLIENT_RESEND_MS, 4_000), [Cid(1)], "and it is given up by that clock");
    }

    #[test]
    fn a_command_with_an_attempt_that_was_never_answered_is_in_doubt() {
        let mut outbox = Outbox::default();
        (1..=3).for_each(|cid| outbox.add(command(cid, "bob"), 0));
        assert_eq!(sent(&mut outbox, 0).len(), 3);
        outbox.retry(Cid(1), 0, None, 0);
        assert!(!outbox.is_in_doubt(Cid(1)), "it was answered: nothing happened");
        outbox.doubt(Cid(1));
        assert!(outbox.is_in_doubt(Cid(1)), "the answer did not tell");
        outbox.disconnected(0);
        assert!(outbox.is_in_doubt(Cid(2)));
        outbox.add(command(4, "carol"), 0);
        assert!(!outbox.is_in_doubt(Cid(4)), "never sent");
        sent(&mut outbox, 10_000);
        outbox.expire(10_000 + limits::CLIENT_ANSWER_TIMEOUT_MS);
        assert!(outbox.is_in_doubt(Cid(4)));
        assert!(Outbox::restored(vec![command(1, "bob")]).is_in_doubt(Cid(1)));
    }
}
