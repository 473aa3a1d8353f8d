//! A node in this process and clients that say exactly what a test wants, right or wrong.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::frame::codec::{decode_server, encode_client};
use flotilla_proto::frame::*;
use flotilla_proto::ids::*;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::Fake;
use crate::auth::password::Passwords;
use crate::gateway::shared::{Options, Shared};
use crate::metrics::Registry;

/// Long enough for a busy machine; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Node {
    pub fake: Arc<Fake>,
    pub shared: Arc<Shared>,
    pub addr: SocketAddr,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Node {
    pub async fn start() -> Self {
        Self::with(Options { dev_auth: true, ..Options::default() }).await
    }

    pub async fn with(options: Options) -> Self {
        let fake = Fake::new();
        let clock = Arc::new(flotilla_raft::seam::clock::wall);
        let registry = Arc::new(Registry::default());
        let shared = Arc::new(Shared::new(fake.clone(), clock, options, Passwords::cheap(), registry));
        let listener = flotilla_raft::seam::net::bind("127.0.0.1:0").await.expect("binds");
        let addr = listener.local_addr().expect("bound");
        let server = tokio::spawn(crate::http::server::serve(listener, shared.clone()));
        Self { fake, shared, addr, server }
    }

    /// A demo user's new device, with `ready` taken.
    pub async fn device(&self, user: &str, store: &str) -> Client {
        let mut client = Client::connect(self.addr, Encoding::Json).await;
        client.hello(user, store, None).await;
        client
    }

    pub async fn caught_up(&self, user: &str, store: &str) -> Client {
        let mut client = self.device(user, store).await;
        client.until(|f| matches!(f, ServerFrame::CaughtUp(_))).await;
        client
    }

    /// One HTTP request: status and JSON body. Panics if the API's documents do not name such an answer.
    pub async fn http(&self, verb: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, serde_json::Value) {
        let mut stream = TcpStream::connect(self.addr).await.expect("connects");
        let mut text = format!("{verb} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
        text += &format!("content-length: {}\r\n", body.len());
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{text}\r\n{body}").as_bytes()).await.expect("writes");
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("answers").expect("reads");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
        let body = serde_json::from_str(body).unwrap_or_else(|_| body.into());
        crate::http::fits::check_answer(verb, path, status, &body);
        (status, body)
    }

    /// One HTTP request without a body: head, in lower case but for its first line, and body.
    pub async fn ask(&self, verb: &str, path: &str, headers: &[(&str, &str)]) -> (String, String) {
        let mut stream = TcpStream::connect(self.addr).await.expect("connects");
        let mut text = format!("{verb} {path} HTTP/1.1\r\nconnection: close\r\n");
        if headers.iter().all(|(name, _)| *name != "host") {
            text += "host: x\r\n";
        }
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{text}\r\n").as_bytes()).await.expect("writes");
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("answers").expect("reads");
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (format!("{head}\r\n"), body.to_owned())
    }

    /// An answer that does not end by itself, read as far as wanted.
    pub async fn open(&self, path: &str, token: &str, headers: &[(&str, &str)]) -> Streamed {
        let mut stream = TcpStream::connect(self.addr).await.expect("connects");
        let mut text = format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n");
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{text}\r\n").as_bytes()).await.expect("writes");
        Streamed { stream, text: String::new() }
    }

    /// The head of the answer to a GET.
    pub async fn head(&self, path: &str, headers: &[(&str, &str)]) -> String {
        self.ask("GET", path, headers).await.0
    }

    /// A POST with a fresh key.
    pub async fn post(&self, path: &str, token: &str, body: &str) -> (u16, serde_json::Value) {
        let key = Cid(rand::random()).to_string();
        self.http("POST", path, &[("authorization", &format!("Bearer {token}")), ("idempotency-key", &key)], body).await
    }

    pub async fn get(&self, path: &str, token: &str) -> (u16, serde_json::Value) {
        self.http("GET", path, &[("authorization", &format!("Bearer {token}"))], "").await
    }
}

pub struct Streamed {
    stream: TcpStream,
    pub text: String,
}

impl Streamed {
    /// Reads on until this has come; false: the connection ended before.
    pub async fn until(&mut self, wanted: &str) -> bool {
        let mut bytes = [0; 4096];
        while !self.text.contains(wanted) {
            match tokio::time::timeout(PATIENCE, self.stream.read(&mut bytes)).await.expect("something comes") {
                Ok(0) | Err(_) => return false,
                Ok(n) => self.text += &String::from_utf8_lossy(&bytes[..n]),
            }
        }
        true
    }

    /// The id of the last event so far.
    pub fn last_id(&self) -> String {
        let mut lines = self.text.lines().filter_map(|line| line.strip_prefix("id: "));
        lines.next_back().expect("an event with an id").to_owned()
    }
}

pub struct Client {
    pub ws: WebSocketStream<TcpStream>,
    pub encoding: Encoding,
    frames: std::collections::VecDeque<ServerMessage>,
    next_id: u32,
    pub ready: Option<Ready>,
}

/// What a connection said next.
#[derive(Debug)]
pub enum Said {
    Frame(Box<ServerMessage>),
    Closed(u16),
}

impl Client {
    pub async fn connect(addr: SocketAddr, encoding: Encoding) -> Self {
        Self::offer(addr, Some(encoding.subprotocol()), None, encoding).await
    }

    pub async fn offer(addr: SocketAddr, protocol: Option<&str>, origin: Option<&str>, encoding: Encoding) -> Self {
        let mut request = format!("ws://{addr}/v1/ws").into_client_request().expect("a request");
        if let Some(protocol) = protocol {
            request.headers_mut().insert("sec-websocket-protocol", protocol.parse().expect("a header"));
        }
        if let Some(origin) = origin {
            request.headers_mut().insert("origin", origin.parse().expect("a header"));
        }
        let stream = TcpStream::connect(addr).await.expect("connects");
        let (ws, _) = tokio_tungstenite::client_async(request, stream).await.expect("upgrades");
        Self { ws, encoding, frames: Default::default(), next_id: 1, ready: None }
    }

    pub fn hello_frame(token: &str, store: &str) -> Hello {
        Hello {
            token: token.into(),
            device: None,
            install: format!("store {store}"),
            instance: Instance(rand::random()),
            attempt: 0,
            rev: None,
            client: ClientInfo::default(),
            window: None,
            state: Activity::Active,
        }
    }

    pub async fn hello(&mut self, user: &str, store: &str, rev: Option<RevToken>) {
        let hello = Hello { rev, ..Self::hello_frame(&format!("dev:{user}"), store) };
        self.say(ClientFrame::Hello(hello)).await;
        let ServerFrame::Ready(ready) = self.frame().await else { panic!("ready comes first") };
        self.ready = Some(ready);
    }

    pub async fn say(&mut self, frame: ClientFrame) {
        self.say_all(vec![ClientMessage { id: None, frame }]).await;
    }

    /// With an id; returns it.
    pub async fn ask(&mut self, frame: ClientFrame) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        self.say_all(vec![ClientMessage { id: Some(id), frame }]).await;
        id
    }

    pub async fn say_all(&mut self, messages: Vec<ClientMessage>) {
        let mut bytes = Vec::new();
        for message in &messages {
            encode_client(self.encoding, message, &mut bytes);
        }
        self.raw(bytes).await;
    }

    pub async fn raw(&mut self, bytes: Vec<u8>) {
        let message = match self.encoding {
            Encoding::Json => Message::text(String::from_utf8(bytes).expect("json is text")),
            Encoding::MsgPack => Message::binary(bytes),
        };
        // A closed connection is noticed by the reader.
        let _ = self.ws.send(message).await;
    }

    pub async fn next(&mut self) -> Said {
        loop {
            if let Some(message) = self.frames.pop_front() {
                return Said::Frame(Box::new(message));
            }
            let next = tokio::time::timeout(PATIENCE, self.ws.next()).await.expect("the server says something");
            let bytes = match next {
                Some(Ok(Message::Text(text))) => text.as_bytes().to_vec(),
                Some(Ok(Message::Binary(bytes))) => bytes.to_vec(),
                Some(Ok(Message::Close(Some(frame)))) => return Said::Closed(frame.code.into()),
                Some(Ok(_)) => continue,
                _ => return Said::Closed(1006),
            };
            let unpacked = decode_server(self.encoding, &bytes, CodecLimits::OPEN);
            assert_eq!(unpacked.bad, None, "the server's messages decode");
            for frame in unpacked.frames {
                match frame {
                    Decoded::Message(message) => self.frames.push_back(message),
                    other => panic!("the server said {other:?}"),
                }
            }
        }
    }

    pub async fn frame(&mut self) -> ServerFrame {
        match self.next().await {
            Said::Frame(message) => message.frame,
            Said::Closed(code) => panic!("closed with {code}"),
        }
    }

    /// Skips to the first frame that fits.
    pub async fn until(&mut self, fits: impl Fn(&ServerFrame) -> bool) -> ServerFrame {
        loop {
            let frame = self.frame().await;
            if fits(&frame) {
                return frame;
            }
        }
    }

    pub async fn closed(&mut self) -> u16 {
        loop {
            if let Said::Closed(code) = self.next().await {
                return code;
            }
        }
    }

    /// The answer to one request, other frames skipped.
    pub async fn answer(&mut self, id: u32) -> ServerFrame {
        loop {
            match self.next().await {
                Said::Frame(message) if message.id == Some(id) => return message.frame,
                Said::Frame(_) => {}
                Said::Closed(code) => panic!("closed with {code}"),
            }
        }
    }

    pub async fn error(&mut self, frame: ClientFrame) -> ErrorCode {
        let id = self.ask(frame).await;
        match self.answer(id).await {
            ServerFrame::Error(error) => error.code,
            other => panic!("expected an error, got {other:?}"),
        }
    }

    pub async fn send(&mut self, to: &str, cid: u128, body: &str) -> Accepted {
        let id = self.ask(message(to, cid, body)).await;
        match self.answer(id).await {
            ServerFrame::Accepted(accepted) => accepted,
            other => panic!("expected accepted, got {other:?}"),
        }
    }

    pub async fn entry(&mut self) -> EntryFrame {
        match self.until(|f| matches!(f, ServerFrame::Entry(_))).await {
            ServerFrame::Entry(entry) => *entry,
            _ => unreachable!("just matched"),
        }
    }

    pub async fn ack(&mut self, conv: &ConvId, seq: u64) {
        self.say(ClientFrame::Ack(vec![AckItem { conv: conv.clone(), seq: Seq(seq) }])).await;
    }
}

pub fn message(to: &str, cid: u128, body: &str) -> ClientFrame {
    ClientFrame::Send(SendMessage {
        conv: None,
        to: Some(UserId::parse(to).expect("a user")),
        cid: Cid(cid),
        age_s: None,
        after: None,
        kind: "message".into(),
        body: Blob::from(body.as_bytes().to_vec()),
        mentions: vec![],
        reply_to: None,
        media: None,
    })
}
