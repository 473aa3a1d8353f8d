//! Sends, answers, entries and acks.

use std::cmp::Reverse;
use std::time::Duration;

use flotilla_proto::frame::{
    AckItem, Call, ClientFrame, ClientMessage, ErrorBody, Reply, ServerFrame, ServerMessage, Typing,
};
use flotilla_proto::ids::{Cid, Seq};
use flotilla_proto::limits;
use serde_json::Value;

use super::device::Phase;
use super::frames::{self, Incoming};
use super::ledger::{Sight, State};
use super::time::At;
use super::{Answer, Engine};

/// Request ids from here on are calls; below, sends.
pub const FIRST_CALL: u32 = 1_000;
/// A refused send that may be sent again is, after this.
const RETRY: Duration = Duration::from_millis(50);
/// An answer that does not come is waited for so long.
const ANSWER_LIMIT: Duration = Duration::from_millis(limits::CLIENT_ANSWER_TIMEOUT_MS);
const ACK_DELAY: Duration = Duration::from_millis(limits::CLIENT_ACK_DELAY_MS);

impl Engine {
    /// Makes a send; it leaves with this turn if its device is online, else when it is.
    pub fn send(&mut self, conv: u32, sender: u16, intended: At, now: At) {
        let number = self.conversations[conv as usize].ledger.make(sender, intended);
        if self.window.measures(intended) {
            self.tally.sent += 1;
            if self.window.is_open {
                self.tally.late(now.since(intended));
            }
        }
        self.dispatch(conv, number, now);
    }

    pub(super) fn dispatch(&mut self, conv: u32, number: u64, now: At) {
        let conversation = &mut self.conversations[conv as usize];
        let Some(sent) = conversation.ledger.sent(number).filter(|sent| sent.state == State::Open) else { return };
        let (sender, intended) = (usize::from(sent.sender), sent.intended);
        let at = conversation.senders[sender] as usize;
        let device = &mut self.devices[at];
        if device.phase != Phase::Online {
            return;
        }
        let Some(id) = device.take_slot((conv, number)) else {
            device.backlog.push_back((conv, number));
            return;
        };
        let again = conversation.ledger.leaves(number, now);
        let age_s = again.then(|| now.since(intended) / 1_000_000);
        let (target, cid, tail) = (&conversation.targets[sender], conversation.ledger.cid(number), &self.tail);
        if let Some(socket) = &mut device.socket {
            socket.frame(|out| frames::send(out, id, target, cid, age_s, tail));
        }
        if !again && self.kept > 0 {
            self.note_sent(at, conv, cid);
        }
        self.touch(at);
    }

    /// This device's user is writing.
    pub fn typing(&mut self, at: usize, conv: u32) {
        let conv = self.conversations[conv as usize].id.clone();
        self.put(at, &ClientMessage { id: None, frame: ClientFrame::Typing(Typing { conv }) });
    }

    /// This device's user has read everything that it has.
    pub fn read(&mut self, at: usize, conv: u32) {
        let last = self.devices[at].positions.iter().find(|p| p.conv == conv).map(|p| p.watch.last);
        if let Some(seq) = last.filter(|seq| *seq > 0) {
            let item = AckItem { conv: self.conversations[conv as usize].id.clone(), seq: Seq(seq) };
            self.put(at, &ClientMessage { id: None, frame: ClientFrame::Read(item) });
        }
    }

    /// A request id for something that is no send; the answer comes by [`Engine::answer`].
    pub fn call_id(&mut self) -> u32 {
        let id = self.next_call;
        self.next_call += 1;
        id
    }

    /// Asks for a REST operation over the socket; the answer comes by [`Engine::answer`].
    pub fn call(&mut self, at: usize, method: &str, key: Option<Cid>, params: Value) -> u32 {
        let id = self.call_id();
        let frame = ClientFrame::Call(Call { method: method.into(), key, params });
        self.put(at, &ClientMessage { id: Some(id), frame });
        id
    }

    pub fn answer(&mut self, id: u32) -> Option<Answer> {
        self.answers.remove(&id)
    }

    pub fn put(&mut self, at: usize, message: &ClientMessage) {
        self.devices[at].put(message);
        self.touch(at);
    }

    pub(super) fn on_frame(&mut self, at: usize, frame: Incoming<'_>, now: At) {
        match frame {
            Incoming::Entry(entry) => self.on_entry(at, &entry, now),
            Incoming::Accepted { id, seq, chain } => self.on_accepted(at, id, seq, chain, now),
            Incoming::Other(message) => self.on_other(at, *message, now),
        }
    }

    fn on_other(&mut self, at: usize, message: ServerMessage, now: At) {
        match message.frame {
            ServerFrame::Ready(ready) => self.devices[at].id = Some(ready.device),
            ServerFrame::CaughtUp(_) => self.on_caught_up(at, now),
            ServerFrame::Ping => self.put(at, &ClientMessage { id: None, frame: ClientFrame::Pong }),
            // Nothing is trimmed in a run: what a gap leaves out is lost, as the missing seqs show.
            ServerFrame::Gap(_) => self.tally.error("gap"),
            ServerFrame::Error(error) => self.on_error(at, message.id, error, now),
            ServerFrame::Reply(reply) => {
                if let Some(id) = message.id {
                    let value = match reply {
                        Reply::Value(value) => value,
                        Reply::History(history) => serde_json::to_value(history).unwrap_or_default(),
                        Reply::Sync(sync) => serde_json::to_value(sync).unwrap_or_default(),
                    };
                    self.answers.insert(id, Ok(value));
                }
            }
            // Closed by the server a little later; then the device goes elsewhere.
            ServerFrame::Goaway(_) => {}
            _ => {}
        }
    }

    fn on_error(&mut self, at: usize, id: Option<u32>, error: ErrorBody, now: At) {
        self.tally.error(error.code.name());
        let Some(id) = id else { return };
        if id >= FIRST_CALL {
            self.answers.insert(id, Err(error));
            return;
        }
        let Some((conv, number)) = self.devices[at].free_slot(id) else { return };
        self.next_of_backlog(at, now);
        if error.retryable {
            let wait = error.retry_after_ms.map_or(RETRY, Duration::from_millis);
            self.retries.push(Reverse((now.after(wait), conv, number)));
        } else {
            let ledger = &mut self.conversations[conv as usize].ledger;
            let sender = ledger.sent(number).map(|sent| sent.sender);
            ledger.on_rejected(number);
            if let Some(sender) = sender {
                self.answered(conv, sender, now);
            }
        }
    }

    fn next_of_backlog(&mut self, at: usize, now: At) {
        // One that has its answer by now leaves the place to the one behind it: or a new send would take it, and overtake that.
        while let Some((conv, number)) = self.devices[at].backlog.pop_front() {
            let sent = self.conversations[conv as usize].ledger.sent(number);
            if sent.is_some_and(|sent| sent.state == State::Open) {
                return self.dispatch(conv, number, now);
            }
        }
    }

    fn on_accepted(&mut self, at: usize, id: u32, seq: u64, chain: u64, now: At) {
        let Some((conv, number)) = self.devices[at].free_slot(id) else { return };
        // Before the next send is made: it would overtake what waits for a place among the requests.
        self.next_of_backlog(at, now);
        let conversation = &mut self.conversations[conv as usize];
        if let Some(sent) = conversation.ledger.on_accepted(number, seq, chain, &mut self.tally.faults) {
            let previous = std::mem::replace(&mut conversation.last_accepted, now);
            let shard = conversation.shard.map_or(0, |shard| shard.0);
            self.tally.accepted(conv, &sent, previous, now, &self.window);
            self.tally.of_shard(shard, now, &self.window);
            self.answered(conv, sent.sender, now);
        }
    }

    fn on_entry(&mut self, at: usize, entry: &frames::Entry<'_>, now: At) {
        let device = &mut self.devices[at];
        let found = device.positions.iter().position(|p| *self.conversations[p.conv as usize].text == *entry.conv);
        let Some(found) = found else {
            self.tally.faults.foreign += 1;
            return;
        };
        let position = &mut device.positions[found];
        let sight = position.watch.on_entry(entry.seq, &mut self.tally.faults);
        position.stored = position.stored.max(entry.seq);
        device.unacked += 1;
        device.entries_since_hello += 1;
        let full = device.unacked >= limits::CLIENT_ACK_ENTRIES;
        if !device.ack_waits {
            device.ack_waits = true;
            self.acks.push_back((now.after(ACK_DELAY), at as u32));
        }
        let conv = position.conv;
        if sight == Sight::New {
            let conversation = &mut self.conversations[conv as usize];
            if entry.seq == 1 && !conversation.is_direct {
                conversation.ledger.own(1);
            } else if let Some(sent) =
                conversation.ledger.on_entry(entry.cid, entry.seq, entry.chain, &mut self.tally.faults)
            {
                let own = conversation.senders[usize::from(sent.sender)] as usize == at;
                self.tally.entry(&sent, own, now, &self.window);
            }
        }
        if full {
            self.ack_now(at);
        }
    }

    /// The delay is over.
    pub(super) fn ack(&mut self, at: usize) {
        self.devices[at].ack_waits = false;
        self.ack_now(at);
    }

    /// Everything that this device has and has not acked.
    pub fn ack_now(&mut self, at: usize) {
        let device = &mut self.devices[at];
        device.unacked = 0;
        let Some(socket) = &mut device.socket else { return };
        let mut due = device.positions.iter_mut().filter(|p| p.stored > p.acked).peekable();
        while due.peek().is_some() {
            let conversations = &self.conversations;
            let items = due.by_ref().take(limits::CLIENT_ACKS_PER_FRAME_MAX).map(|position| {
                position.acked = position.stored;
                (&*conversations[position.conv as usize].text, position.stored)
            });
            socket.frame(|out| frames::ack(out, items));
        }
        self.touch(at);
    }

    /// Sends whose answer does not come leave again.
    pub(super) fn look_for_unanswered(&mut self, now: At) {
        let late = |left: At| left != At::NEVER && now.since(left) > ANSWER_LIMIT.as_micros() as u64;
        for conv in 0..self.conversations.len() {
            let ledger = &self.conversations[conv].ledger;
            if ledger.unanswered == 0 {
                continue;
            }
            let senders = 0..self.conversations[conv].senders.len() as u16;
            let open = senders.flat_map(|sender| ledger.open(sender).take(limits::FRAMES_PER_MESSAGE_MAX));
            let again: Vec<u64> =
                open.filter(|number| ledger.sent(*number).is_some_and(|sent| late(sent.left))).collect();
            for number in again {
                self.tally.error("no answer in time");
                self.dispatch(conv as u32, number, now);
            }
        }
    }
}
