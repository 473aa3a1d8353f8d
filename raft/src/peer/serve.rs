//! Serves one main connection of a peer: reads requests, runs them, writes what came of them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::limits;
use futures::future::BoxFuture;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use super::frame::{FrameBuilder, FrameError, FrameReader, Message, PAYLOAD_BYTES_MAX, Type, messages};
use super::remote::write_batch;
use super::service::{PeerInfo, PeerRefusal, kind};
use super::{BoxIo, Shared};
use crate::runtime::after_the_ready;

/// Refusals and pongs that wait for the socket; above it nothing more is read. One read may bring more requests than that, so
/// many are no sign of a peer that does not read: that one is found out by what is written to it.
const BARE_REPLIES_MAX: usize =
    limits::PEER_SERVE_RAFT_MAX + limits::PEER_SERVE_PATIENT_MAX + limits::PEER_SERVE_REQUESTS_MAX;

/// Until the connection ends, and why it did.
pub async fn run(
    shared: &Arc<Shared>,
    info: PeerInfo,
    reader: FrameReader<ReadHalf<BoxIo>>,
    writer: WriteHalf<BoxIo>,
    mut alive: watch::Receiver<()>,
) -> FrameError {
    let replies = Arc::new(Replies::default());
    let session = Session {
        shared: shared.clone(),
        info,
        replies: replies.clone(),
        raft: Arc::new(Semaphore::new(limits::PEER_SERVE_RAFT_MAX)),
        patient: Arc::new(Semaphore::new(limits::PEER_SERVE_PATIENT_MAX)),
        requests: Arc::new(Semaphore::new(limits::PEER_SERVE_REQUESTS_MAX)),
    };
    tokio::select! {
        biased;
        _ = alive.changed() => FrameError::Io(std::io::Error::other("a newer connection took over")),
        end = session.read(reader) => end,
        end = replies.write(writer) => end,
    }
}

struct Session {
    shared: Arc<Shared>,
    info: PeerInfo,
    replies: Arc<Replies>,
    raft: Arc<Semaphore>,
    patient: Arc<Semaphore>,
    requests: Arc<Semaphore>,
}

impl Session {
    async fn read(&self, mut reader: FrameReader<ReadHalf<BoxIo>>) -> FrameError {
        // The dialer pings when it hears nothing, so silence for twice its patience means that it is gone.
        let silence = Duration::from_millis(2 * limits::PEER_SILENCE_MS);
        loop {
            let found = match tokio::time::timeout(silence, reader.next()).await {
                Err(_) => {
                    return FrameError::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "silent for too long"));
                }
                Ok(Ok(None)) => return FrameError::Cut,
                Ok(Err(e)) => return e,
                Ok(Ok(Some(body))) => match messages(body) {
                    Ok(found) => found,
                    Err(e) => return e,
                },
            };
            for message in found {
                if let Err(e) = self.on_message(message).await {
                    return e;
                }
            }
        }
    }

    async fn on_message(&self, message: Message) -> Result<(), FrameError> {
        match message.ty {
            Type::Request => {
                self.on_request(message).await;
                Ok(())
            }
            Type::Cast => {
                self.shared.service.cast(self.info, message.kind, message.payload);
                Ok(())
            }
            Type::Ping => {
                self.replies.push_bare(Message::bare(Type::Pong)).await;
                Ok(())
            }
            _ => Err(FrameError::Malformed),
        }
    }

    async fn on_request(&self, message: Message) {
        let class = match message.kind {
            kind if kind::is_raft(kind) => &self.raft,
            kind if self.shared.service.is_patient(kind, &message.payload) => &self.patient,
            _ => &self.requests,
        };
        let Ok(permit) = class.clone().try_acquire_owned() else {
            return self.replies.push_bare(refusal(message.id, &PeerRefusal::Overloaded)).await;
        };
        let id = message.id;
        let mut work = self.shared.service.request(self.info, message.kind, message.payload);
        // Polled here once, so that requests of a connection enter the node's queues in the order of arrival; the rest of the
        // work must not hold up the next message.
        match futures::poll!(&mut work) {
            std::task::Poll::Ready(answer) => self.replies.push(reply(id, answer), permit),
            std::task::Poll::Pending => {
                tokio::spawn(finish(work, id, self.replies.clone(), permit));
            }
        }
    }
}

async fn finish(
    work: BoxFuture<'static, Result<Bytes, PeerRefusal>>,
    id: u64,
    replies: Arc<Replies>,
    permit: OwnedSemaphorePermit,
) {
    // Given up without a word when it takes too long: it may have been done, so there is no true answer.
    if let Ok(answer) = tokio::time::timeout(Duration::from_millis(limits::PEER_SERVE_MS), work).await {
        replies.push(reply(id, answer), permit);
    }
}

fn reply(id: u64, answer: Result<Bytes, PeerRefusal>) -> Message {
    match answer {
        Ok(bytes) if bytes.len() <= PAYLOAD_BYTES_MAX => Message::new(Type::Answer, 0, id, bytes),
        Ok(bytes) => {
            // The work is done, so a refusal ("no effect") would be a lie; an unanswered request becomes "unknown".
            tracing::error!(bytes = bytes.len(), "an answer to a peer is too large and was dropped");
            Message::bare(Type::Pong)
        }
        Err(e) => refusal(id, &e),
    }
}

fn refusal(id: u64, refusal: &PeerRefusal) -> Message {
    Message::new(Type::Refusal, 0, id, refusal.encode().unwrap_or_default())
}

/// What waits for the socket; a permit is held until the answer is written, so a peer that does not read stops being served.
#[derive(Default)]
struct Replies {
    queue: Mutex<VecDeque<(Message, Option<OwnedSemaphorePermit>)>>,
    wake: Notify,
    /// The queue was emptied; whoever reads from the peer waits for it.
    emptied: Notify,
}

impl Replies {
    fn push(&self, message: Message, permit: OwnedSemaphorePermit) {
        self.lock().push_back((message, Some(permit)));
        self.wake.notify_one();
    }

    /// Waits while too many wait.
    async fn push_bare(&self, message: Message) {
        while self.lock().len() >= BARE_REPLIES_MAX {
            self.emptied.notified().await;
        }
        self.lock().push_back((message, None));
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Message, Option<OwnedSemaphorePermit>)>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(&self, mut writer: WriteHalf<BoxIo>) -> FrameError {
        let mut frame = FrameBuilder::default();
        loop {
            if self.lock().is_empty() {
                self.wake.notified().await;
                continue;
            }
            after_the_ready().await;
            let waiting = std::mem::take(&mut *self.lock());
            self.emptied.notify_one();
            let (batch, _permits): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
            if let Err(e) = write_batch(&mut writer, &mut frame, &batch).await {
                return e;
            }
        }
    }
}
