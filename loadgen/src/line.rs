//! One raw WebSocket of one demo user: `hello`, frames in, frames out. No retries, no store, no task of its own: the
//! generator must not be what is measured.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use flotilla_client::net;
use flotilla_proto::frame::codec::{self, Decoded};
use flotilla_proto::frame::{ClientFrame, ClientMessage, CodecLimits, Encoding, Hello, ServerFrame, ServerMessage};
use flotilla_proto::ids::{DeviceId, Instance, UserId};
use flotilla_proto::limits;
use futures::{FutureExt, SinkExt, StreamExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

const LIMIT: Duration = Duration::from_secs(15);

/// Who speaks on a line, across its connections.
#[derive(Debug, Clone)]
pub struct Who {
    pub user: UserId,
    pub install: String,
    pub instance: Instance,
    pub device: Option<DeviceId>,
    pub attempt: u64,
}

impl Who {
    pub fn new(user: UserId) -> Self {
        let install = format!("{:032x}", rand::random::<u128>());
        Self { user, install, instance: Instance(rand::random()), device: None, attempt: 0 }
    }
}

pub struct Line {
    socket: WebSocketStream<net::Stream>,
    encoding: Encoding,
    out: Vec<u8>,
    frames: usize,
}

impl Line {
    /// The bare WebSocket.
    async fn dial(url: &str, encoding: Encoding, buffer: usize) -> anyhow::Result<Self> {
        let stream = net::connect(url, LIMIT).await?;
        let mut request = format!("ws://{}/v1/ws", net::authority(url)?).into_client_request()?;
        request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(encoding.subprotocol()));
        let config = WebSocketConfig::default()
            .read_buffer_size(buffer)
            .write_buffer_size(buffer)
            .max_message_size(Some(limits::MESSAGE_BYTES_MAX))
            .max_frame_size(Some(limits::MESSAGE_BYTES_MAX));
        let opened = tokio_tungstenite::client_async_with_config(request, stream, Some(config));
        let (socket, _) = tokio::time::timeout(LIMIT, opened).await.context("no handshake in time")??;
        Ok(Self { socket, encoding, out: Vec::new(), frames: 0 })
    }

    /// Through `hello` to `caught_up`; the entries that came between.
    pub async fn open(
        url: &str,
        encoding: Encoding,
        buffer: usize,
        who: &mut Who,
    ) -> anyhow::Result<(Self, Vec<ServerMessage>)> {
        let mut line = Self::dial(url, encoding, buffer).await?;
        who.attempt += 1;
        line.put(ClientMessage {
            id: None,
            frame: ClientFrame::Hello(Hello {
                token: format!("dev:{}", who.user),
                device: who.device,
                install: who.install.clone(),
                instance: who.instance,
                attempt: who.attempt,
                rev: None,
                client: Default::default(),
                window: None,
                state: Default::default(),
            }),
        });
        line.flush().await?;
        let mut pending = Vec::new();
        let hello = async {
            loop {
                for message in line.receive().await? {
                    match &message.frame {
                        ServerFrame::Ready(ready) => who.device = Some(ready.device),
                        ServerFrame::CaughtUp(_) => return anyhow::Ok(()),
                        ServerFrame::Entry(_) => pending.push(message),
                        _ => {}
                    }
                }
            }
        };
        tokio::time::timeout(LIMIT, hello).await.context("not caught up in time")??;
        Ok((line, pending))
    }

    /// Queues one frame for the next flush.
    pub fn put(&mut self, message: ClientMessage) {
        if self.frames > 0 && self.encoding == Encoding::Json {
            self.out.push(b'\n');
        }
        codec::encode_client(self.encoding, &message, &mut self.out);
        self.frames += 1;
    }

    /// Sends what is queued as one message.
    pub async fn flush(&mut self) -> anyhow::Result<()> {
        if self.frames == 0 {
            return Ok(());
        }
        self.frames = 0;
        let out = std::mem::take(&mut self.out);
        let message = match self.encoding {
            Encoding::Json => Message::text(String::from_utf8(out).expect("JSON is text")),
            Encoding::MsgPack => Message::binary(out),
        };
        Ok(self.socket.send(message).await?)
    }

    /// The next frames, with everything that has come already; answers pings. Safe to cancel.
    pub async fn receive(&mut self) -> anyhow::Result<Vec<ServerMessage>> {
        let mut frames = Vec::new();
        let first = self.socket.next().await;
        self.take(first, &mut frames)?;
        while let Some(next) = self.socket.next().now_or_never() {
            self.take(next, &mut frames)?;
        }
        Ok(frames)
    }

    fn take(
        &mut self,
        next: Option<Result<Message, tokio_tungstenite::tungstenite::Error>>,
        frames: &mut Vec<ServerMessage>,
    ) -> anyhow::Result<()> {
        let bytes: Bytes = match next {
            Some(Ok(Message::Text(text))) => text.into(),
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Close(Some(close)))) => bail!("closed with {} {}", u16::from(close.code), close.reason),
            Some(Ok(Message::Close(None))) | None => bail!("closed"),
            Some(Ok(_)) => return Ok(()),
            Some(Err(error)) => return Err(error.into()),
        };
        let unpacked = codec::decode_server(self.encoding, &bytes, CodecLimits::OPEN);
        for frame in unpacked.frames {
            match frame {
                Decoded::Message(ServerMessage { frame: ServerFrame::Ping, .. }) => {
                    self.put(ClientMessage { id: None, frame: ClientFrame::Pong });
                }
                Decoded::Message(message) => frames.push(message),
                Decoded::Unknown { .. } | Decoded::Invalid { .. } => {}
            }
        }
        match unpacked.bad {
            Some(bad) => bail!("the server sent something that is not a frame: {bad}"),
            None => Ok(()),
        }
    }
}
