//! A small server that keeps the promises in memory and breaks connections on purpose: several listeners over one model.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flotilla_proto::entry::{Entry, What, body_hash};
use flotilla_proto::frame::codec::{self, Decoded};
use flotilla_proto::frame::*;
use flotilla_proto::ids::*;
use futures::{SinkExt, StreamExt};
use rand::RngExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

/// Faults, each with its probability per request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Applied, then the connection is cut before the answer.
    pub cut_after: f64,
    pub cut_before: f64,
    pub unavailable: f64,
    /// With one of the codes after which a client comes again.
    pub close: f64,
    pub goaway: f64,
}

#[derive(Default)]
struct Model {
    devices: BTreeMap<String, DeviceId>,
    logs: BTreeMap<ConvId, Vec<Entry>>,
    dedup: BTreeMap<(ConvId, UserId, Cid), Accepted>,
    cursors: BTreeMap<(DeviceId, ConvId), Seq>,
    /// Every `read` that arrived, and whether it was taken: not above what was sent.
    reads: Vec<(UserId, Seq, bool)>,
    faults: Faults,
}

#[derive(Clone)]
pub struct Fake {
    model: Arc<Mutex<Model>>,
    changed: watch::Sender<u64>,
}

pub fn direct_members(conv: &ConvId) -> [UserId; 2] {
    let (a, b) = conv.peers().expect("the fake knows direct conversations only");
    [a, b]
}

impl Fake {
    pub fn new() -> Self {
        Self { model: Arc::default(), changed: watch::channel(0).0 }
    }

    pub fn set_faults(&self, faults: Faults) {
        self.model.lock().expect("not poisoned").faults = faults;
    }

    pub fn heads(&self) -> BTreeMap<ConvId, Seq> {
        let model = self.model.lock().expect("not poisoned");
        model.logs.iter().map(|(conv, log)| (conv.clone(), Seq(log.len() as u64))).collect()
    }

    /// The marks that this user told, and whether each was taken.
    pub fn reads(&self, user: &UserId) -> Vec<(u64, bool)> {
        let model = self.model.lock().expect("not poisoned");
        model.reads.iter().filter(|(by, ..)| by == user).map(|(_, seq, taken)| (seq.0, *taken)).collect()
    }

    /// One more node; its URL.
    pub async fn listen(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let fake = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let fake = fake.clone();
                tokio::spawn(async move { fake.serve(stream).await });
            }
        });
        format!("http://{address}")
    }

    async fn serve(self, stream: TcpStream) -> Option<()> {
        let mut encoding = Encoding::Json;
        #[allow(clippy::result_large_err, reason = "the library's type")]
        let pick = |request: &Request, mut response: Response| {
            if let Some(name) = request.headers().get("sec-websocket-protocol") {
                encoding = name.to_str().ok().and_then(Encoding::of_subprotocol).expect("known");
                response.headers_mut().insert("sec-websocket-protocol", name.clone());
            }
            Ok(response)
        };
        let mut socket = tokio_tungstenite::accept_hdr_async(stream, pick).await.ok()?;
        let mut changed = self.changed.subscribe();
        let first = socket.next().await?.ok()?;
        let frames = codec::decode_client(encoding, &first.into_data(), CodecLimits::BEFORE_HELLO).frames;
        let Some(Decoded::Message(ClientMessage { frame: ClientFrame::Hello(hello), .. })) = frames.first() else {
            return None;
        };
        let user = UserId::parse(hello.token.strip_prefix("dev:")?).ok()?;
        let mut session = self.open(user, hello, encoding);
        let ready = session.ready();
        session.say(&mut socket, None, ready).await?;
        session.push(&mut socket).await?;
        let rev = RevToken::new(Epoch(1), Rev(1));
        session.say(&mut socket, None, ServerFrame::CaughtUp(CaughtUp { rev, behind: vec![] })).await?;
        loop {
            tokio::select! {
                biased;
                message = socket.next() => {
                    let frames = codec::decode_client(encoding, &message?.ok()?.into_data(), CodecLimits::OPEN).frames;
                    for frame in frames {
                        let Decoded::Message(message) = frame else { panic!("the client sent nonsense: {frame:?}") };
                        session.on_message(&mut socket, message).await?;
                    }
                }
                _ = changed.changed() => session.push(&mut socket).await?,
            }
        }
    }

    fn open(&self, user: UserId, hello: &Hello, encoding: Encoding) -> Session {
        let mut model = self.model.lock().expect("not poisoned");
        let fresh = DeviceId(u128::from(model.devices.len() as u64) + 1);
        let device = *model.devices.entry(hello.install.clone()).or_insert(fresh);
        if device == fresh {
            // A new device starts at the heads.
            let heads: Vec<_> = model.logs.iter().map(|(c, log)| (c.clone(), Seq(log.len() as u64))).collect();
            model.cursors.extend(heads.into_iter().map(|(conv, head)| ((device, conv), head)));
        }
        Session { fake: self.clone(), user, device, encoding, sent: BTreeMap::new(), mine: Vec::new() }
    }
}

struct Session {
    fake: Fake,
    user: UserId,
    device: DeviceId,
    encoding: Encoding,
    sent: BTreeMap<ConvId, Seq>,
    mine: Vec<Cid>,
}

type Socket = WebSocketStream<TcpStream>;

impl Session {
    fn ready(&self) -> ServerFrame {
        ServerFrame::Ready(Ready {
            session: SessionNo(1),
            node: NodeId(1),
            user: self.user.clone(),
            device: self.device,
            rev: RevToken::new(Epoch(1), Rev(1)),
            server_time: TsMs(1),
            token_expires_at: None,
            limits: Limits::default(),
            urls: vec![],
            reset: None,
        })
    }

    async fn say(&self, socket: &mut Socket, id: Option<u32>, frame: ServerFrame) -> Option<()> {
        let mut out = Vec::new();
        codec::encode_server(self.encoding, &ServerMessage { id, frame }, &mut out);
        let message = match self.encoding {
            Encoding::Json => Message::text(String::from_utf8(out).expect("text")),
            Encoding::MsgPack => Message::binary(out),
        };
        socket.send(message).await.ok()
    }

    /// What lies between the cursor (or what was sent here) and the head.
    async fn push(&mut self, socket: &mut Socket) -> Option<()> {
        let mut due = Vec::new();
        {
            let model = self.fake.model.lock().expect("not poisoned");
            for (conv, log) in &model.logs {
                if !direct_members(conv).contains(&self.user) {
                    continue;
                }
                let cursor = model.cursors.get(&(self.device, conv.clone())).copied().unwrap_or_default();
                let from = self.sent.get(conv).copied().unwrap_or(cursor);
                self.sent.insert(conv.clone(), Seq(log.len() as u64));
                due.extend(log[from.0 as usize..].iter().cloned());
            }
        }
        for entry in due {
            let own = self.mine.contains(&entry.cid);
            let frame = if own { EntryFrame::echo_of(&entry) } else { EntryFrame::of(&entry) };
            self.say(socket, None, ServerFrame::Entry(Box::new(frame))).await?;
        }
        Some(())
    }

    async fn on_message(&mut self, socket: &mut Socket, message: ClientMessage) -> Option<()> {
        match &message.frame {
            ClientFrame::Ack(items) => {
                let mut model = self.fake.model.lock().expect("not poisoned");
                for item in items {
                    assert!(item.seq <= self.sent[&item.conv], "acked what was never sent");
                    let cursor = model.cursors.entry((self.device, item.conv.clone())).or_default();
                    *cursor = item.seq.max(*cursor);
                }
                return Some(());
            }
            ClientFrame::Read(item) => {
                let mut model = self.fake.model.lock().expect("not poisoned");
                let taken = self.sent.get(&item.conv).is_some_and(|sent| item.seq <= *sent);
                model.reads.push((self.user.clone(), item.seq, taken));
                return Some(());
            }
            ClientFrame::Pong => return Some(()),
            _ => {}
        }
        let command = message.frame.command().expect("only commands are sent in these tests");
        let faults = self.fake.model.lock().expect("not poisoned").faults;
        let hit = |p: f64| p > 0.0 && rand::rng().random_bool(p);
        if hit(faults.cut_before) {
            return None;
        }
        if hit(faults.unavailable) {
            let body = ErrorBody::new(ErrorCode::Unavailable, "no quorum");
            return self.say(socket, message.id, ServerFrame::Error(body)).await;
        }
        if hit(faults.close) {
            let codes = [CloseCode::NotReady, CloseCode::RateLimited, CloseCode::Overloaded];
            let code = codes[rand::rng().random_range(0..codes.len())];
            let (code, reason) = (code.number().into(), code.name().into());
            let _ = socket.close(Some(CloseFrame { code, reason })).await;
            return None;
        }
        if hit(faults.goaway) {
            let goaway = Goaway { reason: "drain".into(), reconnect_in_ms: 1, urls: vec![] };
            self.say(socket, None, ServerFrame::Goaway(goaway)).await?;
        }
        let answer = self.apply(&command);
        self.fake.changed.send_modify(|n| *n += 1);
        if hit(faults.cut_after) {
            return None;
        }
        self.say(socket, message.id, answer).await
    }

    fn apply(&mut self, command: &CommandFrame) -> ServerFrame {
        let conv = command.target.conv_for(&self.user);
        let mut model = self.fake.model.lock().expect("not poisoned");
        let key = (conv.clone(), self.user.clone(), command.cid);
        if let Some(first) = model.dedup.get(&key) {
            return ServerFrame::Accepted(Accepted { dup: true, ..first.clone() });
        }
        if let Some(after) = command.after
            && !model.dedup.contains_key(&(conv.clone(), self.user.clone(), after))
        {
            return ServerFrame::Error(ErrorBody::new(ErrorCode::OutOfOrder, "not yet"));
        }
        if matches!(&command.what, What::Message { body, .. } if body.0.as_ref() == b"forbidden") {
            return ServerFrame::Error(ErrorBody::new(ErrorCode::Forbidden, "not that"));
        }
        let log = model.logs.entry(conv.clone()).or_default();
        let previous = log.last().map(|e| e.chain).unwrap_or_default();
        let seq = Seq(log.len() as u64 + 1);
        let mut entry = Entry {
            conv: conv.clone(),
            seq,
            n: Count(seq.0),
            msg_id: MsgId(seq.0),
            ts: TsMs(1),
            from: self.user.clone(),
            device: self.device,
            cid: command.cid,
            kind: command.what.kind().into(),
            body_hash: body_hash(command.cid, &command.what),
            what: Some(command.what.clone()),
            chain: Hash32::default(),
        };
        entry.chain = entry.chain_after(previous);
        let (msg_id, ts, chain) = (entry.msg_id, entry.ts, entry.chain);
        log.push(entry);
        self.mine.push(command.cid);
        let accepted = Accepted { conv, seq, msg_id, ts, chain, dup: false };
        model.dedup.insert(key, accepted.clone());
        ServerFrame::Accepted(accepted)
    }
}

/// Waits for a condition, at most `limit`.
pub async fn eventually(what: &str, limit: Duration, mut is: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + limit;
    while !is().await {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
