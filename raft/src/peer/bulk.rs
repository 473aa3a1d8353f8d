//! One transfer between two nodes on a connection of its own: a snapshot, a bulk read.
//!
//! Invariants: at most [`limits::PEER_BULK_WINDOW_CHUNKS`] chunks are on their way, so memory is bounded on both sides however slow
//! the reader; no step stands still longer than [`limits::PEER_BULK_IDLE_MS`]; a dropped stream closes the connection, which is how a
//! transfer is cancelled. A connection of its own, not a channel of a shared one: a stalled snapshot must not hold up another.
//! It does not know what the chunks mean.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::limits;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::OwnedSemaphorePermit;

use super::BoxIo;
use super::frame::{FrameBuilder, FrameError, FrameReader, Message, PAYLOAD_BYTES_MAX, Type, messages};
use super::service::PeerRefusal;

#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the peer ended the transfer early")]
    Closed,
    #[error("the peer stood still for too long")]
    Stalled,
    #[error("the peer broke the rules of a transfer")]
    Protocol,
    /// Not sent: the peer has said its last word, and [`BulkStream::recv`] gives it.
    #[error("the peer wants no more chunks")]
    Answered,
    #[error("a chunk is too large")]
    TooLarge,
    #[error("no connection: {0}")]
    Connect(String),
    #[error(transparent)]
    Refused(PeerRefusal),
}

impl From<std::io::Error> for BulkError {
    fn from(e: std::io::Error) -> Self {
        Self::Frame(FrameError::Io(e))
    }
}

/// Both directions of a transfer. Chunks of each side arrive in order.
pub struct BulkStream {
    reader: FrameReader<ReadHalf<BoxIo>>,
    writer: WriteHalf<BoxIo>,
    frame: FrameBuilder,
    /// Own chunks that the peer has not consumed.
    unacked: usize,
    /// Chunks that came while we waited for acks; the peer's window bounds them.
    came: VecDeque<Bytes>,
    /// The consumer holds a chunk that has not been acked.
    owes_ack: bool,
    ended: bool,
    stopped: bool,
    _permits: Vec<OwnedSemaphorePermit>,
}

impl BulkStream {
    pub(super) fn new(
        reader: FrameReader<ReadHalf<BoxIo>>,
        writer: WriteHalf<BoxIo>,
        permits: Vec<OwnedSemaphorePermit>,
    ) -> Self {
        Self {
            reader,
            writer,
            frame: FrameBuilder::default(),
            unacked: 0,
            came: VecDeque::new(),
            owes_ack: false,
            ended: false,
            stopped: false,
            _permits: permits,
        }
    }

    /// Sends one chunk; waits while the window is full.
    pub async fn send(&mut self, chunk: Bytes) -> Result<(), BulkError> {
        if chunk.len() > PAYLOAD_BYTES_MAX {
            return Err(BulkError::TooLarge);
        }
        while self.unacked >= limits::PEER_BULK_WINDOW_CHUNKS {
            if self.stopped {
                return Err(BulkError::Answered);
            }
            self.read_some().await?;
        }
        self.unacked += 1;
        self.write(Message::new(Type::Chunk, 0, 0, chunk)).await
    }

    /// The peer's next chunk; none when it has ended its side. Asking for a chunk says that the one before is done with.
    pub async fn recv(&mut self) -> Result<Option<Bytes>, BulkError> {
        if std::mem::take(&mut self.owes_ack) {
            self.write(Message::bare(Type::Ack)).await?;
        }
        loop {
            if let Some(chunk) = self.came.pop_front() {
                self.owes_ack = true;
                return Ok(Some(chunk));
            }
            if self.ended {
                return Ok(None);
            }
            self.read_some().await?;
        }
    }

    /// Ends this side; the peer may still send.
    pub async fn finish(&mut self) -> Result<(), BulkError> {
        self.write(Message::bare(Type::End)).await
    }

    /// Ends both sides and waits, a bounded time, until the peer has hung up: closing a socket with unread bytes in it may take back
    /// what was sent last.
    pub async fn close(mut self) {
        if self.write(Message::bare(Type::Stop)).await.is_err() {
            return;
        }
        let hang_up = async { while let Ok(Some(_)) = self.reader.next().await {} };
        let _ = tokio::time::timeout(Duration::from_millis(limits::PEER_PING_MS), hang_up).await;
    }

    pub(super) async fn open(&mut self, kind: u8, payload: Bytes) -> Result<(), BulkError> {
        self.write(Message::new(Type::Open, kind, 0, payload)).await
    }

    pub(super) async fn opened(&mut self) -> Result<(u8, Bytes), BulkError> {
        let body = self.body().await?;
        match <[Message; 1]>::try_from(messages(body)?) {
            Ok([message]) if message.ty == Type::Open => Ok((message.kind, message.payload)),
            _ => Err(BulkError::Protocol),
        }
    }

    /// Tells the peer that nothing was done.
    pub async fn refuse(&mut self, refusal: &PeerRefusal) -> Result<(), BulkError> {
        let payload = refusal.encode().map_err(|_| BulkError::Protocol)?;
        self.write(Message::new(Type::Refusal, 0, 0, payload)).await
    }

    async fn body(&mut self) -> Result<Bytes, BulkError> {
        match tokio::time::timeout(idle(), self.reader.next()).await {
            Ok(body) => body?.ok_or(BulkError::Closed),
            Err(_) => Err(BulkError::Stalled),
        }
    }

    async fn read_some(&mut self) -> Result<(), BulkError> {
        let body = self.body().await?;
        for message in messages(body)? {
            match message.ty {
                Type::Chunk if !self.ended && self.came.len() < limits::PEER_BULK_WINDOW_CHUNKS => {
                    self.came.push_back(message.payload);
                }
                Type::Ack if self.unacked > 0 => self.unacked -= 1,
                Type::End => self.ended = true,
                Type::Stop => (self.ended, self.stopped) = (true, true),
                Type::Refusal => return Err(BulkError::Refused(PeerRefusal::decode(&message.payload))),
                _ => return Err(BulkError::Protocol),
            }
        }
        Ok(())
    }

    async fn write(&mut self, message: Message) -> Result<(), BulkError> {
        self.frame.push(&message);
        let bytes = self.frame.finish();
        let write = async {
            self.writer.write_all(&bytes).await?;
            self.writer.flush().await
        };
        match tokio::time::timeout(idle(), write).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(BulkError::Stalled),
        }
    }
}

fn idle() -> Duration {
    Duration::from_millis(limits::PEER_BULK_IDLE_MS)
}
