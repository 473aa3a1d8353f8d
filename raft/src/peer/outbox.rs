//! What waits for one peer: messages for the socket and requests without an answer.
//!
//! Invariants: bounded in messages, bytes and open requests; a request is `NotSent` exactly while no byte of it can have left, and
//! `Unknown` from the moment the writer has taken it; every request is settled once. It does not know sockets.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use flotilla_proto::limits;
use tokio::sync::{Notify, oneshot};

use super::frame::{Message, PAYLOAD_BYTES_MAX, Type};
use super::service::{NotSent, Outcome};

#[derive(Default)]
pub struct Outbox {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    /// The connection that is up; messages are taken only while there is one.
    connection: Option<u64>,
    queue: VecDeque<Message>,
    queue_bytes: usize,
    open: BTreeMap<u64, Open>,
    last_id: u64,
}

struct Open {
    answer: oneshot::Sender<Outcome>,
    taken: bool,
}

/// A request on its way. Dropped, it is forgotten; a late answer finds nobody.
pub struct Ticket<'a> {
    outbox: &'a Outbox,
    id: u64,
    pub answer: oneshot::Receiver<Outcome>,
}

impl Ticket<'_> {
    /// Gives up, and says what is known.
    pub fn expire(self) -> Outcome {
        self.outbox.forget(self.id)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.outbox.forget(self.id);
    }
}

impl Outbox {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock, and half-done states do not exist.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn on_connected(&self, connection: u64) {
        self.state().connection = Some(connection);
        self.wake.notify_one();
    }

    /// Settles everything that was on its way.
    pub fn on_disconnected(&self) {
        let mut state = self.state();
        state.connection = None;
        state.queue.clear();
        state.queue_bytes = 0;
        for (_, open) in std::mem::take(&mut state.open) {
            let outcome = if open.taken { Outcome::Unknown } else { Outcome::NotSent(NotSent::NotConnected) };
            let _ = open.answer.send(outcome);
        }
    }

    pub fn request(&self, kind: u8, payload: Bytes) -> Result<Ticket<'_>, NotSent> {
        let mut state = self.state();
        if state.open.len() >= limits::PEER_IN_FLIGHT_MAX {
            return Err(NotSent::Overloaded);
        }
        let id = state.last_id + 1;
        state.enqueue(Message::new(Type::Request, kind, id, payload))?;
        state.last_id = id;
        let (tx, answer) = oneshot::channel();
        state.open.insert(id, Open { answer: tx, taken: false });
        drop(state);
        self.wake.notify_one();
        Ok(Ticket { outbox: self, id, answer })
    }

    pub fn cast(&self, kind: u8, payload: Bytes) -> Result<(), NotSent> {
        self.state().enqueue(Message::new(Type::Cast, kind, 0, payload))?;
        self.wake.notify_one();
        Ok(())
    }

    pub fn ping(&self) {
        // A full queue needs no ping: what is in it will be answered, or not.
        let _ = self.state().enqueue(Message::bare(Type::Ping));
        self.wake.notify_one();
    }

    /// Returns when there is something for the socket of `connection`.
    pub async fn filled(&self, connection: u64) {
        while !self.state().has_for(connection) {
            self.wake.notified().await;
        }
    }

    /// The next messages for the socket of `connection`, at least one, about a batch at most.
    pub async fn take(&self, connection: u64) -> Vec<Message> {
        loop {
            let batch = self.state().take(connection);
            if !batch.is_empty() {
                return batch;
            }
            self.wake.notified().await;
        }
    }

    pub fn settle(&self, id: u64, outcome: Outcome) {
        if let Some(open) = self.state().open.remove(&id) {
            let _ = open.answer.send(outcome);
        }
    }

    fn forget(&self, id: u64) -> Outcome {
        match self.state().open.remove(&id) {
            Some(open) if !open.taken => Outcome::NotSent(NotSent::Expired),
            _ => Outcome::Unknown,
        }
    }

    /// (messages waiting, requests without an answer)
    pub fn depth(&self) -> (usize, usize) {
        let state = self.state();
        (state.queue.len(), state.open.len())
    }
}

impl State {
    fn enqueue(&mut self, message: Message) -> Result<(), NotSent> {
        if message.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(NotSent::TooLarge);
        }
        if self.connection.is_none() {
            return Err(NotSent::NotConnected);
        }
        let bytes = self.queue_bytes + message.bytes();
        if self.queue.len() >= limits::PEER_QUEUE_MESSAGES_MAX || bytes > limits::PEER_QUEUE_BYTES_MAX {
            return Err(NotSent::Overloaded);
        }
        self.queue_bytes = bytes;
        self.queue.push_back(message);
        Ok(())
    }

    fn has_for(&self, connection: u64) -> bool {
        self.connection == Some(connection) && !self.queue.is_empty()
    }

    fn take(&mut self, connection: u64) -> Vec<Message> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        if self.connection != Some(connection) {
            return batch;
        }
        while let Some(message) = self.queue.front() {
            if !batch.is_empty() && bytes + message.bytes() > limits::PEER_BATCH_BYTES {
                break;
            }
            let Some(message) = self.queue.pop_front() else { break };
            self.queue_bytes -= message.bytes();
            if message.ty == Type::Request {
                match self.open.get_mut(&message.id) {
                    Some(open) => open.taken = true,
                    // Given up while it waited: its owner was told that nothing left.
                    None => continue,
                }
            }
            bytes += message.bytes();
            batch.push(message);
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connected() -> Outbox {
        let outbox = Outbox::default();
        outbox.on_connected(1);
        outbox
    }

    #[tokio::test]
    async fn request_is_not_sent_until_taken_and_unknown_after() {
        let outbox = Outbox::default();
        assert_eq!(outbox.request(16, Bytes::new()).err(), Some(NotSent::NotConnected));
        outbox.on_connected(1);
        let waiting = outbox.request(16, Bytes::new()).expect("queued");
        assert_eq!(waiting.expire(), Outcome::NotSent(NotSent::Expired));
        let mut first = outbox.request(16, Bytes::from_static(b"a")).expect("queued");
        let taken = outbox.take(1).await;
        assert_eq!(taken.len(), 1, "the expired one never leaves");
        assert_eq!(taken[0].payload, "a");
        let mut second = outbox.request(16, Bytes::new()).expect("queued");
        outbox.on_disconnected();
        assert_eq!(first.answer.try_recv(), Ok(Outcome::Unknown));
        assert_eq!(second.answer.try_recv(), Ok(Outcome::NotSent(NotSent::NotConnected)));
        assert_eq!(outbox.depth(), (0, 0));
    }

    #[tokio::test]
    async fn late_answer_is_dropped() {
        let outbox = connected();
        let ticket = outbox.request(16, Bytes::new()).expect("queued");
        let id = outbox.take(1).await[0].id;
        assert_eq!(ticket.expire(), Outcome::Unknown);
        outbox.settle(id, Outcome::Answer(Bytes::new()));
        assert_eq!(outbox.depth(), (0, 0));
    }

    #[test]
    fn queue_is_bounded_in_messages_and_bytes_and_open_requests() {
        let outbox = connected();
        let sent =
            (0..limits::PEER_QUEUE_MESSAGES_MAX * 2).take_while(|_| outbox.cast(16, Bytes::new()).is_ok()).count();
        assert_eq!(sent, limits::PEER_QUEUE_MESSAGES_MAX);
        assert_eq!(outbox.request(16, Bytes::new()).err(), Some(NotSent::Overloaded));

        let outbox = connected();
        let big = Bytes::from(vec![0; PAYLOAD_BYTES_MAX]);
        let sent = (0..100).take_while(|_| outbox.cast(16, big.clone()).is_ok()).count();
        assert_eq!(sent, limits::PEER_QUEUE_BYTES_MAX / limits::PEER_FRAME_BYTES_MAX);
        let over = Bytes::from(vec![0; PAYLOAD_BYTES_MAX + 1]);
        assert_eq!(outbox.cast(16, over), Err(NotSent::TooLarge));
    }
}
