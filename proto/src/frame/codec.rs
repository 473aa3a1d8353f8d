//! The envelope `{"t": type, "id": u32?, "d": …}` in both subprotocols.
//!
//! One WebSocket message holds one or more frames: JSON with a newline between, MessagePack concatenated. Each frame is read
//! twice: once for `t`, `id` and its length, once for the content as `t` says, so that nothing is buffered in between and any
//! key order is accepted. Limits are checked before anything is decoded; no input makes a decoder panic.

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use super::client::{ClientFrame, ClientMessage};
use super::server::{Reply, ServerFrame, ServerMessage};
use crate::limits;

pub const SUBPROTOCOL_JSON: &str = "flotilla.v1.json";
pub const SUBPROTOCOL_MSGPACK: &str = "flotilla.v1.msgpack";

/// Nested values in one MessagePack frame (JSON has its own bound of 128).
const DEPTH_MAX: usize = 64;
/// An unknown `t` is repeated in logs and answers only up to here.
const TYPE_BYTES_SHOWN_MAX: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// In text messages.
    Json,
    /// In binary messages.
    MsgPack,
}

impl Encoding {
    pub fn subprotocol(self) -> &'static str {
        match self {
            Encoding::Json => SUBPROTOCOL_JSON,
            Encoding::MsgPack => SUBPROTOCOL_MSGPACK,
        }
    }

    pub fn of_subprotocol(name: &str) -> Option<Self> {
        match name {
            SUBPROTOCOL_JSON => Some(Encoding::Json),
            SUBPROTOCOL_MSGPACK => Some(Encoding::MsgPack),
            _ => None,
        }
    }
}

/// What a decoder takes in one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub bytes: usize,
    pub frames: usize,
}

impl Limits {
    pub const BEFORE_HELLO: Limits =
        Limits { bytes: limits::MESSAGE_BYTES_MAX_BEFORE_HELLO, frames: limits::FRAMES_PER_MESSAGE_MAX };
    pub const OPEN: Limits = Limits { bytes: limits::MESSAGE_BYTES_MAX, frames: limits::FRAMES_PER_MESSAGE_MAX };
}

/// Why the rest of a message cannot be taken. The frames before it count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Close 4507.
    #[error("a message of {bytes} bytes is over the limit of {limit}")]
    TooBig { bytes: usize, limit: usize },
    /// Close 4500.
    #[error("more than {limit} frames in one message")]
    TooMany { limit: usize },
    /// Close 4500.
    #[error("not a frame: {why}")]
    Malformed { why: String },
}

/// One frame as far as it could be understood.
#[derive(Debug, Clone, PartialEq)]
pub enum Decoded<M> {
    Message(M),
    /// A type that this build does not know, sent as a request: answer `unsupported`.
    Unknown {
        t: String,
        id: u32,
    },
    /// A request whose content does not fit its type: answer `bad_request`.
    Invalid {
        t: String,
        id: u32,
        why: String,
    },
}

/// All frames of one message up to the first bad one.
#[derive(Debug, Clone, PartialEq)]
pub struct Unpacked<M> {
    pub frames: Vec<Decoded<M>>,
    pub bad: Option<FrameError>,
}

pub fn decode_client(encoding: Encoding, bytes: &[u8], limits: Limits) -> Unpacked<ClientMessage> {
    unpack(encoding, bytes, limits)
}

pub fn decode_server(encoding: Encoding, bytes: &[u8], limits: Limits) -> Unpacked<ServerMessage> {
    unpack(encoding, bytes, limits)
}

/// Appends one frame to `out`, which may hold others already.
pub fn encode_client(encoding: Encoding, message: &ClientMessage, out: &mut Vec<u8>) {
    use ClientFrame as F;
    let mut put = Put { encoding, id: message.id, out };
    match &message.frame {
        F::Hello(d) => put.frame("hello", d),
        F::Auth(d) => put.frame("auth", d),
        F::Send(d) => put.frame("send", d),
        F::Edit(d) => put.frame("edit", d),
        F::Delete(d) => put.frame("delete", d),
        F::React(d) => put.frame("react", d),
        F::Ack(d) => put.frame("ack", d),
        F::Read(d) => put.frame("read", d),
        F::Typing(d) => put.frame("typing", d),
        F::Presence(d) => put.frame("presence", d),
        F::Receipts(d) => put.frame("receipts", d),
        F::History(d) => put.frame("history", d),
        F::Sync(d) => put.frame("sync", d),
        F::Call(d) => put.frame("call", d),
        F::State(d) => put.frame("state", d),
        F::Pong => put.frame("pong", &Nothing {}),
    }
}

/// Appends one frame to `out`, which may hold others already. `t` comes first.
pub fn encode_server(encoding: Encoding, message: &ServerMessage, out: &mut Vec<u8>) {
    use ServerFrame as F;
    let mut put = Put { encoding, id: message.id, out };
    match &message.frame {
        F::Ready(d) => put.frame("ready", d),
        F::Accepted(d) => put.frame("accepted", d),
        F::Reply(Reply::History(d)) => put.frame("reply", d),
        F::Reply(Reply::Sync(d)) => put.frame("reply", d),
        F::Reply(Reply::Value(d)) => put.frame("reply", d),
        F::Error(d) => put.frame("error", d),
        F::Entry(d) => put.frame("entry", d),
        F::Gap(d) => put.frame("gap", d),
        F::Conv(d) => put.frame("conv", d),
        F::CaughtUp(d) => put.frame("caught_up", d),
        F::Signal(d) => put.frame("signal", d),
        F::Urls(d) => put.frame("urls", d),
        F::Goaway(d) => put.frame("goaway", d),
        F::Ping => put.frame("ping", &Nothing {}),
    }
}

#[derive(Serialize, Deserialize)]
struct Nothing {}

struct Put<'a> {
    encoding: Encoding,
    id: Option<u32>,
    out: &'a mut Vec<u8>,
}

impl Put<'_> {
    fn frame<D: Serialize>(&mut self, t: &'static str, d: &D) {
        #[derive(Serialize)]
        struct Envelope<'a, D> {
            t: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            id: Option<u32>,
            d: &'a D,
        }
        let envelope = Envelope { t, id: self.id, d };
        match self.encoding {
            Encoding::Json => {
                if !self.out.is_empty() {
                    self.out.push(b'\n');
                }
                serde_json::to_writer(&mut *self.out, &envelope).expect("frames have text keys and memory is the sink");
            }
            Encoding::MsgPack => {
                let mut packer = rmp_serde::Serializer::new(&mut *self.out).with_struct_map();
                envelope.serialize(&mut packer).expect("frames have known lengths and memory is the sink");
            }
        }
    }
}

/// What the first reading of a frame finds.
#[derive(Deserialize)]
struct Head {
    t: String,
    #[serde(default)]
    id: Option<u32>,
    #[serde(default, rename = "d")]
    _d: Option<IgnoredAny>,
}

/// Bytes of exactly one frame.
#[derive(Clone, Copy)]
struct Raw<'a> {
    encoding: Encoding,
    bytes: &'a [u8],
}

impl Raw<'_> {
    fn content<D: DeserializeOwned>(self) -> Result<D, String> {
        #[derive(Deserialize)]
        struct Envelope<D> {
            d: D,
        }
        match self.encoding {
            Encoding::Json => serde_json::from_slice::<Envelope<D>>(self.bytes).map(|e| e.d).map_err(|e| e.to_string()),
            Encoding::MsgPack => {
                let mut unpacker = rmp_serde::Deserializer::new(std::io::Cursor::new(self.bytes));
                unpacker.set_max_depth(DEPTH_MAX);
                Envelope::<D>::deserialize(&mut unpacker).map(|e| e.d).map_err(|e| e.to_string())
            }
        }
    }

    fn reply(self) -> Result<Reply, String> {
        #[derive(Deserialize)]
        struct Probe {
            #[serde(default)]
            entries: Option<IgnoredAny>,
            #[serde(default)]
            convs: Option<IgnoredAny>,
        }
        match self.content::<Probe>() {
            Ok(Probe { entries: Some(_), .. }) => self.content().map(Reply::History),
            Ok(Probe { convs: Some(_), .. }) => self.content().map(Reply::Sync),
            _ => self.content().map(Reply::Value),
        }
    }
}

trait Message: Sized {
    /// None: this build does not know the type.
    fn read(t: &str, id: Option<u32>, raw: Raw<'_>) -> Option<Result<Self, String>>;
}

impl Message for ClientMessage {
    fn read(t: &str, id: Option<u32>, raw: Raw<'_>) -> Option<Result<Self, String>> {
        use ClientFrame as F;
        let frame = match t {
            "hello" => raw.content().map(F::Hello),
            "auth" => raw.content().map(F::Auth),
            "send" => raw.content().map(F::Send),
            "edit" => raw.content().map(F::Edit),
            "delete" => raw.content().map(F::Delete),
            "react" => raw.content().map(F::React),
            "ack" => raw.content().map(F::Ack),
            "read" => raw.content().map(F::Read),
            "typing" => raw.content().map(F::Typing),
            "presence" => raw.content().map(F::Presence),
            "receipts" => raw.content().map(F::Receipts),
            "history" => raw.content().map(F::History),
            "sync" => raw.content().map(F::Sync),
            "call" => raw.content().map(F::Call),
            "state" => raw.content().map(F::State),
            "pong" => Ok(F::Pong),
            _ => return None,
        };
        Some(frame.map(|frame| Self { id, frame }))
    }
}

impl Message for ServerMessage {
    fn read(t: &str, id: Option<u32>, raw: Raw<'_>) -> Option<Result<Self, String>> {
        use ServerFrame as F;
        let frame = match t {
            "ready" => raw.content().map(F::Ready),
            "accepted" => raw.content().map(F::Accepted),
            "reply" => raw.reply().map(F::Reply),
            "error" => raw.content().map(F::Error),
            "entry" => raw.content().map(F::Entry),
            "gap" => raw.content().map(F::Gap),
            "conv" => raw.content().map(F::Conv),
            "caught_up" => raw.content().map(F::CaughtUp),
            "signal" => raw.content().map(F::Signal),
            "urls" => raw.content().map(F::Urls),
            "goaway" => raw.content().map(F::Goaway),
            "ping" => Ok(F::Ping),
            _ => return None,
        };
        Some(frame.map(|frame| Self { id, frame }))
    }
}

fn unpack<M: Message>(encoding: Encoding, bytes: &[u8], limits: Limits) -> Unpacked<M> {
    let mut unpacked = Unpacked { frames: Vec::new(), bad: None };
    if bytes.len() > limits.bytes {
        unpacked.bad = Some(FrameError::TooBig { bytes: bytes.len(), limit: limits.bytes });
        return unpacked;
    }
    let mut rest = bytes;
    let mut count = 0;
    while let Some(next) = take(encoding, &mut rest) {
        count += 1;
        if count > limits.frames {
            unpacked.bad = Some(FrameError::TooMany { limit: limits.frames });
            break;
        }
        match next.and_then(|(head, raw)| read(head, raw)) {
            Ok(Some(frame)) => unpacked.frames.push(frame),
            Ok(None) => {}
            Err(why) => {
                unpacked.bad = Some(FrameError::Malformed { why });
                break;
            }
        }
    }
    if count == 0 {
        unpacked.bad = Some(FrameError::Malformed { why: "an empty message".to_owned() });
    }
    unpacked
}

/// None: to be ignored.
fn read<M: Message>(head: Head, raw: Raw<'_>) -> Result<Option<Decoded<M>>, String> {
    match (M::read(&head.t, head.id, raw), head.id) {
        (Some(Ok(message)), _) => Ok(Some(Decoded::Message(message))),
        (Some(Err(why)), Some(id)) => Ok(Some(Decoded::Invalid { t: head.t, id, why })),
        (Some(Err(why)), None) => Err(format!("{}: {why}", head.t)),
        (None, Some(id)) => Ok(Some(Decoded::Unknown { t: shown(&head.t), id })),
        (None, None) => Ok(None),
    }
}

fn shown(t: &str) -> String {
    t.chars().take(TYPE_BYTES_SHOWN_MAX).collect()
}

/// The next frame's head and bytes, taken off `rest`; none at the end.
fn take<'a>(encoding: Encoding, rest: &mut &'a [u8]) -> Option<Result<(Head, Raw<'a>), String>> {
    match encoding {
        Encoding::Json => loop {
            if rest.is_empty() {
                return None;
            }
            let end = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
            let (line, after) = rest.split_at(end);
            *rest = after.get(1..).unwrap_or(&[]);
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let head = serde_json::from_slice::<Head>(line).map_err(|e| e.to_string());
            return Some(head.map(|head| (head, Raw { encoding, bytes: line })));
        },
        Encoding::MsgPack => {
            if rest.is_empty() {
                return None;
            }
            let mut unpacker = rmp_serde::Deserializer::new(std::io::Cursor::new(*rest));
            unpacker.set_max_depth(DEPTH_MAX);
            let head = match Head::deserialize(&mut unpacker) {
                Ok(head) => head,
                Err(e) => return Some(Err(e.to_string())),
            };
            let used = usize::try_from(unpacker.position()).unwrap_or(rest.len()).min(rest.len());
            let (bytes, after) = rest.split_at(used);
            *rest = after;
            Some(Ok((head, Raw { encoding, bytes })))
        }
    }
}
