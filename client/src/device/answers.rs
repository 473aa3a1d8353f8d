//! What a device does with the frames that arrive: first decide and store, then tell and answer.

use std::time::Duration;

use flotilla_proto::frame::{
    Accepted, CaughtUp, ClientFrame, Conv, ConvReceipts, EntryFrame, ErrorBody, ErrorCode, Gap, Goaway, ReceiptsReply,
    Reply, ServerFrame, ServerMessage, Signal, WatchReceipts,
};
use flotilla_proto::ids::{Cid, ConvId, Seq};
use flotilla_proto::limits;
use rand::RngExt;
use tokio::time::Instant;

use super::actor::{Actor, Flight};
use super::calls::{Call, CallError};
use super::handle::{Event, Outcome};
use super::inbox::Sight;
use crate::clock;
use crate::connection::{Closed, Incoming};
use crate::history::Op;
use crate::store::Change;

/// Of the same node, before another one is tried.
const UNAVAILABLE_MAX: u32 = 2;

/// What a batch of frames leads to once the store has it.
#[derive(Default)]
struct Work {
    changes: Vec<Change>,
    events: Vec<Event>,
    /// Whose ack is due, once for each entry.
    stored: Vec<(ConvId, Seq)>,
    answers: Vec<(Cid, Outcome)>,
    leave: Option<Closed>,
}

impl Actor {
    pub async fn on_incoming(&mut self, first: Option<Incoming>) {
        let mut work = Work::default();
        let mut next = first;
        let mut count = 0;
        let closed = loop {
            match next {
                Some(Incoming::Message(message)) => self.on_message(*message, &mut work),
                Some(Incoming::Closed(closed)) => break Some(closed),
                None if count == 0 => break Some(Closed { code: 1006, reason: "socket lost".into() }),
                None => break None,
            }
            count += 1;
            if count == limits::CLIENT_FRAMES_QUEUED_MAX || work.leave.is_some() {
                break None;
            }
            next = self.link.as_mut().and_then(|l| l.connection.incoming.try_recv().ok());
        };
        let leave = closed.or(work.leave.take());
        if !self.finish(work).await {
            return;
        }
        if let Some(closed) = leave {
            self.on_closed(closed);
        }
    }

    /// The store first; then acks, answers and events.
    async fn finish(&mut self, work: Work) -> bool {
        if !self.commit(work.changes).await {
            return false;
        }
        let now_ms = self.now_ms();
        let caught_up = self.link.as_ref().is_some_and(|l| l.caught_up);
        for (conv, seq) in work.stored {
            self.inbox.stored(&conv, seq, now_ms);
            self.reads.on_stored(&conv, seq, caught_up);
        }
        self.events.extend(work.events);
        for (cid, outcome) in work.answers {
            if let Some(waiter) = self.waiters.remove(&cid) {
                // Nobody may wait.
                let _ = waiter.send(outcome);
            }
        }
        true
    }

    fn on_message(&mut self, message: ServerMessage, work: &mut Work) {
        match message.frame {
            ServerFrame::Entry(entry) => self.on_entry(entry, work),
            ServerFrame::Gap(gap) => self.on_gap(gap, work),
            ServerFrame::Accepted(accepted) => self.on_accepted(message.id, accepted, work),
            ServerFrame::Error(error) => self.on_error(message.id, error, work),
            ServerFrame::Reply(reply) => self.on_reply(message.id, reply),
            ServerFrame::Conv(conv) => self.on_conv(*conv, work),
            ServerFrame::CaughtUp(caught_up) => self.on_caught_up(caught_up, work),
            ServerFrame::Signal(signal) => self.on_signal(signal, work),
            ServerFrame::Urls(urls) => self.urls.learn(&urls.urls),
            ServerFrame::Goaway(goaway) => self.on_goaway(goaway),
            // The connection answers pings; a second ready means nothing.
            ServerFrame::Ping | ServerFrame::Ready(_) => {}
        }
    }

    fn on_entry(&mut self, mut entry: Box<EntryFrame>, work: &mut Work) {
        self.record(Op::Entry { entry: entry.clone() });
        match self.inbox.on_entry(&entry.conv, entry.seq) {
            Sight::Repeat => return work.stored.push((entry.conv, entry.seq)),
            Sight::Hole { stored } => {
                if !self.on_hole(&entry.conv, stored, entry.seq, work) {
                    return;
                }
            }
            Sight::New => {}
        }
        if let Some(what) = self.contents.remove(&entry.cid) {
            entry.fill_echo(&what);
        }
        work.changes.push(Change::Entry(entry.clone()));
        work.changes.push(Change::Position { conv: entry.conv.clone(), seq: entry.seq });
        work.stored.push((entry.conv.clone(), entry.seq));
        work.events.push(Event::Entry(entry));
    }

    fn on_gap(&mut self, gap: Gap, work: &mut Work) {
        self.record(Op::Gap { gap: gap.clone() });
        match self.inbox.on_gap(&gap.conv, gap.from, gap.to) {
            Sight::Repeat => return work.stored.push((gap.conv, gap.to)),
            Sight::Hole { stored } => {
                if !self.on_hole(&gap.conv, stored, gap.to, work) {
                    return;
                }
            }
            Sight::New => {}
        }
        work.changes.push(Change::Gap(gap.clone()));
        work.changes.push(Change::Position { conv: gap.conv.clone(), seq: gap.to });
        work.stored.push((gap.conv.clone(), gap.to));
        work.events.push(Event::Gap(gap));
    }

    /// True: seen twice, go on behind it.
    fn on_hole(&mut self, conv: &ConvId, stored: Seq, got: Seq, work: &mut Work) -> bool {
        self.record(Op::Hole { conv: conv.clone(), stored, got });
        let believed = self.inbox.believe_hole(conv, stored, got);
        work.events.push(Event::Hole { conv: conv.clone(), stored, got, believed });
        if !believed {
            work.leave = Some(Closed { code: 1006, reason: "an entry is missing".into() });
        }
        believed
    }

    fn flight(&mut self, id: Option<u32>) -> Option<Flight> {
        self.link.as_mut()?.flights.remove(&id?)
    }

    fn on_accepted(&mut self, id: Option<u32>, accepted: Accepted, work: &mut Work) {
        if let Some(link) = &mut self.link {
            link.unavailable = 0;
        }
        match self.flight(id) {
            Some(Flight::Command(cid)) if self.outbox.finish(cid).is_some() => {
                self.record(Op::Accepted { cid, accepted: accepted.clone() });
                work.changes.push(Change::Answered(cid));
                work.answers.push((cid, Outcome::Accepted(accepted)));
            }
            // A second answer after an overdue first one.
            Some(Flight::Command(_)) | None => {}
            Some(Flight::Call(key)) => {
                let value = serde_json::to_value(accepted).unwrap_or_default();
                self.end_call_by_key(key, Ok(Reply::Value(value)));
            }
        }
    }

    fn on_reply(&mut self, id: Option<u32>, reply: Reply) {
        if let Some(Flight::Call(key)) = self.flight(id) {
            self.end_call_by_key(key, Ok(reply));
        }
    }

    fn on_error(&mut self, id: Option<u32>, error: ErrorBody, work: &mut Work) {
        let flight = self.flight(id);
        self.count_unavailable(&error, work);
        let now_ms = self.now_ms();
        // A token that is over does not decide about the command.
        let token = matches!(error.code, ErrorCode::TokenExpired | ErrorCode::Unauthenticated);
        if token && flight.is_some() {
            work.leave = Some(Closed { code: 4100, reason: error.to_string() });
        }
        match flight {
            Some(Flight::Command(cid)) if error.code == ErrorCode::OutOfOrder => {
                self.outbox.out_of_order(cid, now_ms, rand::rng().random_range(0..=1_000));
            }
            Some(Flight::Command(cid)) if error.retryable || token => {
                if is_unclear(&error) {
                    self.outbox.doubt(cid);
                }
                let jitter = rand::rng().random_range(0..=1_000);
                self.outbox.retry(cid, now_ms, error.retry_after_ms, jitter);
            }
            Some(Flight::Command(cid)) => self.on_final(cid, error, work),
            Some(Flight::Call(key)) if error.retryable || token => {
                if is_unclear(&error) {
                    self.calls.doubt(key);
                }
                self.calls.retry(key, now_ms, error.retry_after_ms);
            }
            Some(Flight::Call(key)) if self.calls.is_in_doubt(key) => {
                self.end_call_by_key(key, Err(CallError::Unknown(error.to_string())));
            }
            Some(Flight::Call(key)) => self.end_call_by_key(key, Err(CallError::Rejected(error))),
            None => {}
        }
    }

    /// `too_old` is no rejection: the server cannot know whether it happened. Nor is any other while an earlier attempt may
    /// still arrive; an entry with this cid would tell.
    fn on_final(&mut self, cid: Cid, error: ErrorBody, work: &mut Work) {
        let in_doubt = self.outbox.is_in_doubt(cid);
        if self.outbox.finish(cid).is_none() {
            return;
        }
        self.contents.remove(&cid);
        work.changes.push(Change::Answered(cid));
        if error.code == ErrorCode::TooOld || in_doubt && error.code != ErrorCode::IdempotencyMismatch {
            self.record(Op::Unknown { cid, why: error.to_string() });
            work.answers.push((cid, Outcome::Unknown(error.to_string())));
        } else {
            self.record(Op::Rejected { cid, error: error.clone() });
            work.answers.push((cid, Outcome::Rejected(error)));
        }
    }

    /// Another node may be on the right side of whatever is wrong.
    fn count_unavailable(&mut self, error: &ErrorBody, work: &mut Work) {
        let Some(link) = &mut self.link else { return };
        if error.code != ErrorCode::Unavailable {
            return;
        }
        link.unavailable += 1;
        if link.unavailable >= UNAVAILABLE_MAX {
            work.leave = Some(Closed { code: 1006, reason: "this node cannot reach a quorum".into() });
        }
    }

    fn end_call_by_key(&mut self, key: u64, result: Result<Reply, CallError>) {
        if let Some(call) = self.calls.finish(key) {
            self.end_call(call, result);
        }
    }

    pub fn end_call(&mut self, call: Call, result: Result<Reply, CallError>) {
        if let Some(noted) = &call.noted {
            let cid = noted.cid;
            match &result {
                Ok(Reply::Value(value)) => {
                    if let Ok(accepted) = serde_json::from_value::<Accepted>(value.clone()) {
                        self.record(Op::Accepted { cid, accepted });
                    }
                }
                Ok(_) => {}
                Err(CallError::Rejected(error)) => self.record(Op::Rejected { cid, error: error.clone() }),
                Err(CallError::Unknown(why)) => self.record(Op::Unknown { cid, why: why.clone() }),
            }
        }
        if let ClientFrame::Receipts(WatchReceipts { watch }) = &call.frame {
            self.on_watched(watch, &result);
        }
        // Nobody may wait.
        let _ = call.done.send(result);
    }

    /// A list that was refused has ended the one before.
    fn on_watched(&self, asked: &[ConvId], result: &Result<Reply, CallError>) {
        match result {
            Ok(Reply::Value(value)) => {
                self.record(Op::Watched { convs: asked.to_vec() });
                let receipts = serde_json::from_value::<ReceiptsReply>(value.clone()).map(|reply| reply.receipts);
                for ConvReceipts { conv, members } in receipts.into_iter().flatten() {
                    self.record(Op::Receipts { conv, members });
                }
            }
            Ok(_) | Err(CallError::Unknown(_)) => {}
            Err(CallError::Rejected(_)) => self.record(Op::Watched { convs: Vec::new() }),
        }
    }

    fn on_conv(&mut self, conv: Conv, work: &mut Work) {
        self.record(Op::Conv { conv: Box::new(conv.clone()) });
        if self.link.as_ref().is_some_and(|l| l.caught_up) {
            self.rev = Some(conv.rev.clone());
            work.changes.push(Change::Rev(self.rev.clone()));
        }
        self.reads.on_conv(&conv.conv, conv.read);
        work.changes.push(Change::Conv(Box::new(conv.clone())));
        work.events.push(Event::Conv(Box::new(conv)));
    }

    fn on_caught_up(&mut self, caught_up: CaughtUp, work: &mut Work) {
        self.record(Op::CaughtUp);
        self.backoff.reset();
        self.rev = Some(caught_up.rev);
        work.changes.push(Change::Rev(self.rev.clone()));
        self.reads.on_caught_up();
        self.give_up_stale(work);
        if let Some(link) = &mut self.link {
            link.caught_up = true;
        }
        work.events.push(Event::CaughtUp { behind: caught_up.behind });
    }

    fn give_up_stale(&mut self, work: &mut Work) {
        for cid in self.outbox.stale(self.now_ms(), clock::wall_ms()) {
            let why = "older than this device resends by itself";
            self.outbox.finish(cid);
            self.record(Op::Unknown { cid, why: why.into() });
            work.changes.push(Change::Answered(cid));
            work.events.push(Event::Stale(cid));
            work.answers.push((cid, Outcome::Unknown(why.into())));
        }
    }

    fn on_signal(&mut self, signal: Signal, work: &mut Work) {
        if signal.k == "auth_expiring" && self.refreshing.is_none() {
            self.refreshing = Some((self.config.token)(true));
        }
        if let (Some(conv), Some(members)) = (&signal.conv, &signal.members) {
            self.record(Op::Receipts { conv: conv.clone(), members: members.clone() });
        }
        work.events.push(Event::Signal(signal));
    }

    /// Connect elsewhere first; the new session closes this one.
    fn on_goaway(&mut self, goaway: Goaway) {
        self.urls.learn(&goaway.urls);
        self.dial_at = Some(Instant::now() + Duration::from_millis(goaway.reconnect_in_ms));
    }
}

/// It does not tell whether the attempt has had an effect.
fn is_unclear(error: &ErrorBody) -> bool {
    matches!(error.code, ErrorCode::OutcomeUnknown | ErrorCode::Internal)
}
