//! One WebSocket with its outgoing frames: whatever waits goes out in as few messages and writes as the limits allow.
//!
//! Invariant: at most one message is under way in the socket; a frame is never torn; reading goes on while writing waits.
//! It does not know what the frames mean.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::frame::codec::encode_server;
use flotilla_proto::frame::{CloseCode, Encoding, ServerFrame, ServerMessage};
use flotilla_proto::limits;
use futures::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::read_ahead::ReadAhead;

/// For most messages of a client. It is kept as long as the connection, so it is small; larger reads are [`ReadAhead`]'s.
const READ_BUFFER_BYTES: usize = 512;
/// From here on a write does not wait for more.
const WRITE_BYTES: usize = 4 * 1024;
/// What is said when the connection ends may take this long to leave.
const FAREWELL: Duration = Duration::from_secs(2);

/// What came in.
#[derive(Debug)]
pub enum Incoming {
    Frames(Bytes),
    /// Over the limit, not UTF-8, not WebSocket, or in the other encoding.
    Bad(CloseCode),
    Closed,
}

pub struct Socket<S> {
    ws: WebSocketStream<ReadAhead<S>>,
    pub encoding: Encoding,
    /// Whole messages, and the one that is being filled.
    out: VecDeque<Vec<u8>>,
    current: Vec<u8>,
    current_frames: usize,
    waiting_bytes: usize,
    writing: bool,
    /// Read already, and not asked for yet.
    ahead: Option<Incoming>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// `read`: bytes that came behind the HTTP request.
    pub async fn new(io: S, read: Vec<u8>, encoding: Encoding) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(WRITE_BYTES)
            .max_write_buffer_size(4 * limits::MESSAGE_BYTES_MAX)
            .max_message_size(Some(limits::MESSAGE_BYTES_MAX))
            .max_frame_size(Some(limits::MESSAGE_BYTES_MAX));
        let ws = WebSocketStream::from_partially_read(ReadAhead::new(io), read, Role::Server, Some(config)).await;
        Self {
            ws,
            encoding,
            out: VecDeque::new(),
            current: Vec::new(),
            current_frames: 0,
            waiting_bytes: 0,
            writing: false,
            ahead: None,
        }
    }

    /// Bytes that wait for the socket.
    pub fn waiting(&self) -> usize {
        self.waiting_bytes + self.current.len()
    }

    pub fn is_writing(&self) -> bool {
        self.writing || self.waiting() > 0
    }

    /// Queues one frame.
    pub fn put(&mut self, id: Option<u32>, frame: ServerFrame) {
        let before = self.current.len();
        encode_server(self.encoding, &ServerMessage { id, frame }, &mut self.current);
        self.current_frames += 1;
        let is_full =
            self.current.len() > limits::MESSAGE_BYTES_MAX || self.current_frames > limits::FRAMES_PER_MESSAGE_MAX;
        if is_full && before > 0 {
            // The newline between two JSON frames belongs to neither message.
            let newline = usize::from(self.encoding == Encoding::Json);
            let last = self.current.split_off(before + newline);
            self.current.truncate(before);
            self.finish_message();
            self.current = last;
            self.current_frames = 1;
        }
    }

    fn finish_message(&mut self) {
        if !self.current.is_empty() {
            let message = self.take_current();
            self.waiting_bytes += message.len();
            self.out.push_back(message);
        }
    }

    fn take_current(&mut self) -> Vec<u8> {
        self.current_frames = 0;
        std::mem::take(&mut self.current)
    }

    /// The next message from the client; writes what waits on the way. Safe to cancel.
    pub async fn next(&mut self, may_read: bool) -> Incoming {
        poll_fn(|cx| self.poll(cx, may_read)).await
    }

    /// Ends when the client has closed or is gone; reads at most one message ahead for it, so a client that has said more
    /// than that is taken for alive. Safe to cancel.
    pub async fn gone(&mut self) {
        poll_fn(|cx| {
            if self.ahead.is_none()
                && let Poll::Ready(incoming) = self.poll(cx, true)
            {
                self.ahead = Some(incoming);
            }
            if matches!(self.ahead, Some(Incoming::Closed)) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn poll(&mut self, cx: &mut Context<'_>, may_read: bool) -> Poll<Incoming> {
        if self.poll_write(cx).is_err() {
            return Poll::Ready(Incoming::Closed);
        }
        if !may_read {
            return Poll::Pending;
        }
        if let Some(ahead) = self.ahead.take() {
            return Poll::Ready(ahead);
        }
        loop {
            let Poll::Ready(message) = Pin::new(&mut self.ws).poll_next(cx) else { return Poll::Pending };
            return Poll::Ready(match message {
                Some(Ok(Message::Text(text))) if self.encoding == Encoding::Json => Incoming::Frames(text.into()),
                Some(Ok(Message::Binary(bytes))) if self.encoding == Encoding::MsgPack => Incoming::Frames(bytes),
                Some(Ok(Message::Text(_) | Message::Binary(_))) => Incoming::Bad(CloseCode::BadFrame),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {
                    // The answer to a ping is queued inside and leaves with the next flush.
                    self.writing = true;
                    if self.poll_write(cx).is_err() {
                        return Poll::Ready(Incoming::Closed);
                    }
                    continue;
                }
                Some(Ok(Message::Close(_))) | None => Incoming::Closed,
                Some(Err(Error::Capacity(_))) => Incoming::Bad(CloseCode::MessageTooBig),
                Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => Incoming::Closed,
                Some(Err(Error::Utf8(_) | Error::Protocol(_))) => Incoming::Bad(CloseCode::BadFrame),
                Some(Err(_)) => Incoming::Closed,
            });
        }
    }

    /// One message after the other, each flushed before the next, so that what arrives meanwhile is gathered.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        loop {
            if self.writing {
                match Pin::new(&mut self.ws).poll_flush(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(flushed) => flushed?,
                }
                self.writing = false;
            }
            let bytes = match self.out.pop_front() {
                Some(bytes) => {
                    self.waiting_bytes -= bytes.len();
                    bytes
                }
                None if self.current.is_empty() => return Ok(()),
                None => self.take_current(),
            };
            let message = match self.encoding {
                Encoding::MsgPack => Message::Binary(bytes.into()),
                Encoding::Json => match Utf8Bytes::try_from(Bytes::from(bytes)) {
                    Ok(text) => Message::Text(text),
                    Err(_) => continue,
                },
            };
            if let Poll::Ready(ready) = Pin::new(&mut self.ws).poll_ready(cx) {
                ready?;
            }
            Pin::new(&mut self.ws).start_send(message)?;
            self.writing = true;
        }
    }

    /// Sends what waits, then the close frame, and hears the client out for a moment, so that the code arrives.
    /// Boxed, so that a connection makes room for its end only when it ends.
    pub fn close(mut self, code: CloseCode) -> Pin<Box<impl Future<Output = ()>>> {
        Box::pin(async move {
            let farewell = async {
                poll_fn(|cx| match self.poll_write(cx) {
                    Err(_) => Poll::Ready(()),
                    Ok(()) if self.is_writing() => Poll::Pending,
                    Ok(()) => Poll::Ready(()),
                })
                .await;
                let frame = CloseFrame { code: code.number().into(), reason: code.name().into() };
                if self.ws.close(Some(frame)).await.is_err() {
                    return;
                }
                while let Some(Ok(_)) = poll_fn(|cx| Pin::new(&mut self.ws).poll_next(cx)).await {}
            };
            let _ = tokio::time::timeout(FAREWELL, farewell).await;
        })
    }
}
