//! What a device does when the application asks: commands into the outbox, calls, read marks, the orderly end.

use std::time::Duration;

use flotilla_proto::frame::{AckItem, ClientFrame, ClientMessage, ErrorBody, ErrorCode};
use flotilla_proto::ids::{ConvId, Seq};
use flotilla_proto::limits;
use tokio::sync::oneshot;

use super::actor::Actor;
use super::calls::{Call, CallError};
use super::handle::{Ask, Outcome, Status, SubmitError};
use crate::history::Op;
use crate::store::{Change, SavedCommand};

const CLOSE_LIMIT: Duration = Duration::from_secs(1);

type Submitted = (SavedCommand, bool, oneshot::Sender<Result<(), SubmitError>>, oneshot::Sender<Outcome>);

impl Actor {
    pub async fn on_asks(&mut self, first: Ask) -> bool {
        let mut submitted = Vec::new();
        let mut next = Some(first);
        while let Some(ask) = next.take() {
            match ask {
                Ask::Submit { command, pipelined, taken, done } => match self.refusal(submitted.len()) {
                    // Nobody may wait.
                    Some(error) => {
                        let _ = taken.send(Err(error));
                    }
                    None => submitted.push((*command, pipelined, taken, done)),
                },
                Ask::Call { call, limit } => self.on_call(*call, limit),
                Ask::Read { conv, seq } => self.on_read(conv, seq).await,
                Ask::Typing(conv) => self.typing = self.link.as_ref().map(|_| conv),
                Ask::Status(tell) => {
                    let _ = tell.send(self.status());
                }
                Ask::Close(tell) => {
                    self.close().await;
                    let _ = tell.send(());
                    return false;
                }
            }
            if submitted.len() < limits::CLIENT_REQUESTS_IN_FLIGHT_MAX {
                next = self.asks.try_recv().ok();
            }
        }
        self.on_submitted(submitted).await;
        true
    }

    fn refusal(&self, more: usize) -> Option<SubmitError> {
        if let Some(why) = &self.stopped {
            return Some(SubmitError::Stopped(why.clone()));
        }
        (self.outbox.len() + more >= limits::CLIENT_OUTBOX_MAX).then_some(SubmitError::Full)
    }

    async fn on_submitted(&mut self, submitted: Vec<Submitted>) {
        let changes = submitted.iter().map(|(command, ..)| Change::Command(command.clone())).collect();
        // Before anything is known to the wire or to the application.
        if !self.commit(changes).await {
            return;
        }
        let now_ms = self.now_ms();
        for (command, pipelined, taken, done) in submitted {
            let (cid, conv, what) = (command.cid, command.conv.clone(), command.what.clone());
            self.record(Op::Invoked { cid, conv, what, pipelined });
            self.waiters.insert(cid, done);
            self.outbox.add(command, now_ms);
            let _ = taken.send(Ok(()));
        }
    }

    fn on_call(&mut self, call: Call, limit: Duration) {
        if let Some(noted) = call.noted.clone() {
            self.record(Op::Invoked { cid: noted.cid, conv: noted.conv, what: noted.what, pipelined: false });
        }
        if self.calls.is_full() || self.stopped.is_some() {
            let error = ErrorBody::new(ErrorCode::Overloaded, "this device takes no more calls now");
            return self.end_call(call, Err(CallError::Rejected(error)));
        }
        let now_ms = self.now_ms();
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        self.calls.add(call, now_ms, now_ms.saturating_add(limit_ms));
    }

    async fn on_read(&mut self, conv: ConvId, seq: Seq) {
        if !self.reads.is_new(&conv, seq) {
            return;
        }
        // Before the store has it: from then on it may be sent, also by the next process.
        self.record(Op::Read { conv: conv.clone(), seq });
        if self.commit(vec![Change::Read { conv: conv.clone(), seq }]).await {
            self.reads.mark(conv, seq);
        }
    }

    fn status(&self) -> Status {
        Status {
            connected: self.link.as_ref().map(|l| l.url.clone()),
            caught_up: self.link.as_ref().is_some_and(|l| l.caught_up),
            device: self.device,
            unanswered: self.outbox.len(),
            positions: self.inbox.positions().clone(),
            stopped: self.stopped.clone(),
        }
    }

    async fn close(&mut self) {
        while self.out.capacity() > 0 && !self.events.is_empty() && !self.out.is_closed() {
            self.tell();
        }
        let Some(link) = self.link.take() else { return };
        let items = self.inbox.take_acks();
        if !items.is_empty() {
            for AckItem { conv, seq } in &items {
                self.record(Op::Acked { conv: conv.clone(), seq: *seq });
            }
            // A full queue: the entries come again.
            let _ = link.connection.outgoing.try_send(ClientMessage { id: None, frame: ClientFrame::Ack(items) });
        }
        link.connection.close(CLOSE_LIMIT).await;
    }
}
