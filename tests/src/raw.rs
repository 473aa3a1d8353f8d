//! A WebSocket that says whatever a test wants, in JSON, and sees whatever comes back.

use std::time::Duration;

use anyhow::{Context, bail};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

const LIMIT: Duration = Duration::from_secs(20);

pub struct Raw {
    socket: WebSocketStream<TcpStream>,
    waiting: Vec<Value>,
}

/// What came: a frame, or the end with its code.
#[derive(Debug, Clone, PartialEq)]
pub enum Got {
    Frame(Value),
    Closed(u16),
}

impl Raw {
    /// `protocol`: what is offered as subprotocol.
    pub async fn dial(url: &str, protocol: Option<&str>) -> anyhow::Result<Self> {
        let address = flotilla_client::net::authority(url)?.to_owned();
        let mut request = format!("ws://{address}/v1/ws").into_client_request()?;
        if let Some(name) = protocol {
            request.headers_mut().insert("sec-websocket-protocol", name.parse()?);
        }
        let stream = TcpStream::connect(&address).await?;
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await?;
        Ok(Self { socket, waiting: Vec::new() })
    }

    /// Through `hello` to `caught_up`, as a demo user on a device of its own.
    pub async fn open(url: &str, name: &str, install: &str) -> anyhow::Result<Self> {
        let mut raw = Self::dial(url, Some("flotilla.v1.json")).await?;
        raw.say(&hello(name, install)).await?;
        raw.until(|f| f["t"] == "caught_up").await?;
        Ok(raw)
    }

    pub async fn say(&mut self, frame: &Value) -> anyhow::Result<()> {
        self.text(frame.to_string()).await
    }

    pub async fn text(&mut self, text: impl Into<String>) -> anyhow::Result<()> {
        Ok(self.socket.send(Message::text(text.into())).await?)
    }

    pub async fn binary(&mut self, bytes: Vec<u8>) -> anyhow::Result<()> {
        Ok(self.socket.send(Message::binary(bytes)).await?)
    }

    pub async fn next(&mut self) -> anyhow::Result<Got> {
        loop {
            if !self.waiting.is_empty() {
                return Ok(Got::Frame(self.waiting.remove(0)));
            }
            let next = tokio::time::timeout(LIMIT, self.socket.next()).await.context("nothing came in time")?;
            match next {
                Some(Ok(Message::Text(text))) => {
                    for line in text.lines() {
                        self.waiting.push(serde_json::from_str(line)?);
                    }
                }
                Some(Ok(Message::Close(Some(frame)))) => return Ok(Got::Closed(frame.code.into())),
                Some(Ok(Message::Close(None))) => return Ok(Got::Closed(1005)),
                None | Some(Err(_)) => return Ok(Got::Closed(1006)),
                Some(Ok(_)) => {}
            }
        }
    }

    /// The first frame that fits; those before it are dropped.
    pub async fn until(&mut self, is: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        loop {
            match self.next().await? {
                Got::Frame(frame) if is(&frame) => return Ok(frame),
                Got::Frame(_) => {}
                Got::Closed(code) => bail!("closed with {code} instead"),
            }
        }
    }

    /// The answer to a request.
    pub async fn answer(&mut self, id: u32) -> anyhow::Result<Value> {
        self.until(|f| f["id"] == id).await
    }

    pub async fn ask(&mut self, id: u32, t: &str, d: Value) -> anyhow::Result<Value> {
        self.say(&json!({"t": t, "id": id, "d": d})).await?;
        self.answer(id).await
    }

    /// The code with which the connection ends, whatever comes before.
    pub async fn closed(&mut self) -> anyhow::Result<u16> {
        loop {
            if let Got::Closed(code) = self.next().await? {
                return Ok(code);
            }
        }
    }
}

pub fn hello(name: &str, install: &str) -> Value {
    let instance = flotilla_client::device::random_cid();
    json!({"t": "hello", "d": {"token": format!("dev:{name}"), "install": install, "instance": instance, "attempt": 1}})
}
