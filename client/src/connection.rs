//! One WebSocket to one node: `hello`, frames in and out, heartbeat.
//!
//! Two tasks own the socket, so that a full send never keeps frames from being read. Invariant: frames come out in the
//! order in which they arrived, and the last thing to come out is `Closed`. Knows nothing of devices or retries.

use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::frame::codec::{self, Decoded};
use flotilla_proto::frame::{
    ClientFrame, ClientMessage, CodecLimits, Encoding, Hello, Ready, ServerFrame, ServerMessage, Verdict,
};
use flotilla_proto::limits;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::net::{self, NetError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From `hello` to `ready`: above the server's own deadline for a session.
const READY_TIMEOUT: Duration = Duration::from_secs(12);
/// Frames gathered into one message; half of the server's bound.
const FRAMES_GATHERED_MAX: usize = limits::FRAMES_PER_MESSAGE_MAX / 2;

type Socket = WebSocketStream<net::Stream>;

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("no WebSocket at {url}: {why}")]
    Handshake { url: String, why: String },
    #[error("closed before ready: {0}")]
    Closed(Closed),
    #[error("no answer to hello in time")]
    Timeout,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// The server's close code; 1006 where the connection just broke.
    pub code: u16,
    pub reason: String,
}

impl Closed {
    fn broken(reason: impl Into<String>) -> Self {
        Self { code: 1006, reason: reason.into() }
    }

    pub fn verdict(&self) -> Verdict {
        Verdict::of(self.code)
    }
}

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.code, self.reason)
    }
}

#[derive(Debug)]
pub enum Incoming {
    Message(Box<ServerMessage>),
    Closed(Closed),
}

/// An open connection. Dropping it drops the socket.
pub struct Connection {
    pub incoming: mpsc::Receiver<Incoming>,
    pub outgoing: mpsc::Sender<ClientMessage>,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
        self.writer.abort();
    }
}

impl Connection {
    /// Connects, says `hello` and waits for `ready`. Nothing else can arrive before it.
    pub async fn open(url: &str, encoding: Encoding, hello: Hello) -> Result<(Self, Ready), ConnectError> {
        let mut connection = Self::dial(url, encoding).await?;
        let message = ClientMessage { id: None, frame: ClientFrame::Hello(hello) };
        connection.outgoing.send(message).await.map_err(|_| ConnectError::Closed(Closed::broken("socket lost")))?;
        let ready = tokio::time::timeout(READY_TIMEOUT, connection.wait_ready());
        let ready = ready.await.map_err(|_| ConnectError::Timeout)?.map_err(ConnectError::Closed)?;
        Ok((connection, ready))
    }

    async fn wait_ready(&mut self) -> Result<Ready, Closed> {
        loop {
            match self.incoming.recv().await {
                // A server may say other things first in later versions.
                Some(Incoming::Message(message)) => {
                    if let ServerFrame::Ready(ready) = message.frame {
                        return Ok(ready);
                    }
                }
                Some(Incoming::Closed(closed)) => return Err(closed),
                None => return Err(Closed::broken("socket lost")),
            }
        }
    }

    /// The bare WebSocket, before `hello`.
    pub async fn dial(url: &str, encoding: Encoding) -> Result<Self, ConnectError> {
        let stream = net::connect(url, CONNECT_TIMEOUT).await?;
        let handshake = |why: String| ConnectError::Handshake { url: url.to_owned(), why };
        let mut request = format!("ws://{}/v1/ws", net::authority(url)?)
            .into_client_request()
            .map_err(|e| handshake(e.to_string()))?;
        request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(encoding.subprotocol()));
        // The library's defaults are 128 KiB of buffers per connection and messages of 64 MiB.
        let config = WebSocketConfig::default()
            .read_buffer_size(4 * 1024)
            .write_buffer_size(4 * 1024)
            .max_message_size(Some(limits::MESSAGE_BYTES_MAX))
            .max_frame_size(Some(limits::MESSAGE_BYTES_MAX));
        let opened = tokio_tungstenite::client_async_with_config(request, stream, Some(config));
        let (socket, _) = tokio::time::timeout(CONNECT_TIMEOUT, opened)
            .await
            .map_err(|_| ConnectError::Timeout)?
            .map_err(|e| handshake(e.to_string()))?;
        Ok(Self::start(socket, encoding))
    }

    fn start(socket: Socket, encoding: Encoding) -> Self {
        let (sink, stream) = socket.split();
        let (to_device, incoming) = mpsc::channel(limits::CLIENT_FRAMES_QUEUED_MAX);
        let (outgoing, to_send) = mpsc::channel(limits::CLIENT_FRAMES_QUEUED_MAX);
        let pongs = outgoing.downgrade();
        Self {
            incoming,
            outgoing,
            reader: tokio::spawn(read_all(stream, encoding, to_device, pongs)),
            writer: tokio::spawn(write_all(sink, encoding, to_send)),
        }
    }

    /// Sends what is queued, then closes in order, within `limit`.
    pub async fn close(mut self, limit: Duration) {
        let (gone, _) = mpsc::channel(1);
        drop(std::mem::replace(&mut self.outgoing, gone));
        let ended = async { while !matches!(self.incoming.recv().await, None | Some(Incoming::Closed(_))) {} };
        // Not in time: dropped.
        let _ = tokio::time::timeout(limit, ended).await;
    }
}

async fn read_all(
    mut stream: SplitStream<Socket>,
    encoding: Encoding,
    to_device: mpsc::Sender<Incoming>,
    pongs: mpsc::WeakSender<ClientMessage>,
) {
    let closed = loop {
        let next = tokio::time::timeout(Duration::from_millis(limits::RECEIVE_TIMEOUT_MS), stream.next()).await;
        let bytes: Bytes = match next {
            Err(_) => break Closed::broken("nothing received in time"),
            Ok(None) => break Closed::broken("socket closed"),
            Ok(Some(Err(e))) => break Closed::broken(e.to_string()),
            Ok(Some(Ok(Message::Text(text)))) => text.into(),
            Ok(Some(Ok(Message::Binary(bytes)))) => bytes,
            Ok(Some(Ok(Message::Close(frame)))) => break close_of(frame),
            Ok(Some(Ok(_))) => continue,
        };
        let unpacked = codec::decode_server(encoding, &bytes, CodecLimits::OPEN);
        for frame in unpacked.frames {
            let Decoded::Message(message) = frame else { continue };
            if message.frame == ServerFrame::Ping {
                // A full queue is full of other frames: the server hears from us anyway.
                if let Some(pongs) = pongs.upgrade() {
                    let _ = pongs.try_send(ClientMessage { id: None, frame: ClientFrame::Pong });
                }
                continue;
            }
            if to_device.send(Incoming::Message(Box::new(message))).await.is_err() {
                return;
            }
        }
        if let Some(bad) = unpacked.bad {
            break Closed::broken(format!("the server sent something that is not a frame: {bad}"));
        }
    };
    // The device may be gone.
    let _ = to_device.send(Incoming::Closed(closed)).await;
}

fn close_of(frame: Option<tungstenite::protocol::CloseFrame>) -> Closed {
    match frame {
        None => Closed { code: 1005, reason: String::new() },
        Some(frame) => Closed { code: frame.code.into(), reason: frame.reason.to_string() },
    }
}

async fn write_all(
    mut sink: SplitSink<Socket, Message>,
    encoding: Encoding,
    mut to_send: mpsc::Receiver<ClientMessage>,
) {
    let mut carried: Option<Vec<u8>> = None;
    loop {
        let mut out = match carried.take() {
            Some(bytes) => bytes,
            None => match to_send.recv().await {
                Some(message) => encoded(encoding, &message),
                None => break,
            },
        };
        let mut count = 1;
        while count < FRAMES_GATHERED_MAX {
            let Ok(message) = to_send.try_recv() else { break };
            let next = encoded(encoding, &message);
            if out.len() + 1 + next.len() > limits::MESSAGE_BYTES_MAX_BEFORE_HELLO {
                carried = Some(next);
                break;
            }
            if encoding == Encoding::Json {
                out.push(b'\n');
            }
            out.extend_from_slice(&next);
            count += 1;
        }
        let message = match encoding {
            Encoding::Json => Message::text(String::from_utf8(out).expect("JSON is text")),
            Encoding::MsgPack => Message::binary(out),
        };
        if sink.send(message).await.is_err() {
            // The reader sees the broken socket too and says so.
            return;
        }
    }
    // The other side may be gone already.
    let _ = sink.close().await;
}

fn encoded(encoding: Encoding, message: &ClientMessage) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    codec::encode_client(encoding, message, &mut out);
    out
}
