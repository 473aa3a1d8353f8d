//! One WebSocket, without blocking: bytes of the socket to messages, frames to as few writes as possible.
//!
//! The library that servers and clients use elsewhere costs a microsecond or two for a message; here that would be taken
//! from the servers beside it. Only what a node sends is understood: unmasked, unfragmented messages. Outgoing messages are
//! masked with zero, which costs the node the same work.
//!
//! Invariant: frames of one message are at most what the protocol allows, so that the node never has to refuse one.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};

use flotilla_proto::limits;
use mio::net::TcpStream;
use socket2::{Domain, Protocol, Socket as Raw, Type};

/// A sealed message is at most so long, frames included.
const MESSAGE_BYTES: usize = limits::MESSAGE_BYTES_MAX / 2;

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: flotilla.v1.json\r\n\r\n";

pub struct Socket {
    pub stream: TcpStream,
    /// What arrived and is not a whole message yet.
    pub partial: Vec<u8>,
    upgraded: bool,
    /// Sealed messages, from `sent` on still to be written.
    out: Vec<u8>,
    sent: usize,
    /// Frames of the message that is being gathered.
    frames: Vec<u8>,
    count: usize,
}

/// What a piece of the input is.
#[derive(Debug, PartialEq, Eq)]
pub enum Input<'a> {
    Message(&'a [u8]),
    Ping(&'a [u8]),
    /// Code and reason; 1005 without one.
    Closed(u16, String),
}

impl Socket {
    /// Begins to connect, from `source` if one is named, and asks for the upgrade as soon as it is connected.
    pub fn dial(to: SocketAddr, source: Option<IpAddr>) -> io::Result<Self> {
        let raw = Raw::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        raw.set_nonblocking(true)?;
        raw.set_tcp_nodelay(true)?;
        if let Some(source) = source {
            raw.bind(&SocketAddr::new(source, 0).into())?;
        }
        match raw.connect(&to.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        let stream = TcpStream::from_std(raw.into());
        let out = format!("GET /v1/ws HTTP/1.1\r\nHost: {to}\r\n{UPGRADE}").into_bytes();
        Ok(Self { stream, partial: Vec::new(), upgraded: false, out, sent: 0, frames: Vec::new(), count: 0 })
    }

    pub fn is_upgraded(&self) -> bool {
        self.upgraded
    }

    /// Gathers one frame, written by `put` behind whatever is there.
    pub fn frame(&mut self, put: impl FnOnce(&mut Vec<u8>)) {
        if self.count > 0 {
            self.frames.push(b'\n');
        }
        put(&mut self.frames);
        self.count += 1;
        if self.count >= limits::FRAMES_PER_MESSAGE_MAX || self.frames.len() >= MESSAGE_BYTES {
            self.seal();
        }
    }

    fn seal(&mut self) {
        if self.count > 0 {
            message(&mut self.out, 1, &self.frames);
            self.frames.clear();
            self.count = 0;
        }
    }

    pub fn pong(&mut self, payload: &[u8]) {
        self.seal();
        message(&mut self.out, 10, payload);
    }

    /// Gives the system what it takes. An error: the connection is gone.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.upgraded {
            self.seal();
        }
        while self.sent < self.out.len() {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock || error.kind() == ErrorKind::NotConnected => {
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.sent = 0;
        // After a burst: there may be a hundred thousand connections.
        if self.out.capacity() > 64 * 1024 {
            self.out = Vec::new();
        }
        Ok(())
    }

    /// Reads once. `Ok(0)` is the end of the stream; `WouldBlock` comes as `None`.
    pub fn read(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match self.stream.read(into) {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The answer to the upgrade, if it is whole: how long it is.
    pub fn upgrade(&mut self, bytes: &[u8]) -> Result<Option<usize>, String> {
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            return if bytes.len() > 16 * 1024 { Err("no end of the upgrade's answer".into()) } else { Ok(None) };
        };
        if !bytes.starts_with(b"HTTP/1.1 101") {
            let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
            return Err(format!("upgrade refused: {}", String::from_utf8_lossy(line)));
        }
        self.upgraded = true;
        Ok(Some(end + 4))
    }
}

/// One masked message behind what is in `out`.
fn message(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.push(0x80 | opcode);
    match payload.len() {
        short @ 0..126 => out.push(0x80 | short as u8),
        medium @ 126..65_536 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
}

/// The first whole piece of `bytes` and its length; none: more must arrive.
pub fn input(bytes: &[u8]) -> Result<Option<(Input<'_>, usize)>, String> {
    let [head, length, ..] = *bytes else { return Ok(None) };
    if length & 0x80 != 0 {
        return Err("the server sent a masked message".into());
    }
    let (start, length) = match length {
        126 => match bytes.get(2..4).and_then(|two| two.try_into().ok()) {
            Some(two) => (4, usize::from(u16::from_be_bytes(two))),
            None => return Ok(None),
        },
        127 => match bytes.get(2..10).and_then(|eight| eight.try_into().ok()) {
            Some(eight) => (10, usize::try_from(u64::from_be_bytes(eight)).unwrap_or(usize::MAX)),
            None => return Ok(None),
        },
        short => (2, usize::from(short)),
    };
    if length > 16 * limits::MESSAGE_BYTES_MAX {
        return Err(format!("the server sent a message of {length} bytes"));
    }
    let Some(payload) = bytes.get(start..start + length) else { return Ok(None) };
    let piece = match head {
        0x81 | 0x82 => Input::Message(payload),
        0x89 => Input::Ping(payload),
        // Nothing asks for it.
        0x8a => Input::Ping(&[]),
        0x88 => match payload {
            [high, low, reason @ ..] => {
                Input::Closed(u16::from_be_bytes([*high, *low]), String::from_utf8_lossy(reason).into_owned())
            }
            _ => Input::Closed(1005, String::new()),
        },
        other => return Err(format!("the server sent a fragment or an unknown opcode ({other:#x})")),
    };
    Ok(Some((piece, start + length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        message(&mut out, 1, payload);
        // As a server sends it: without mask.
        out[1] &= 0x7f;
        let mask = out.len() - payload.len() - 4;
        out.drain(mask..mask + 4);
        out
    }

    #[test]
    fn messages_of_every_length_come_back_whole_and_only_when_whole() {
        for length in [0, 1, 125, 126, 65_535, 65_536, 100_000] {
            let payload = vec![b'x'; length];
            let mut bytes = served(&payload);
            for part in [0, 1, bytes.len() - 1] {
                assert_eq!(input(&bytes[..part]), Ok(None), "{length} bytes, {part} of them there");
            }
            let whole = bytes.len();
            bytes.extend_from_slice(b"next");
            assert_eq!(input(&bytes), Ok(Some((Input::Message(&payload), whole))));
        }
    }

    #[test]
    fn a_close_says_why() {
        let bytes = [0x88, 4, 0x0f, 0xa3, b'n', b'o'];
        assert_eq!(input(&bytes), Ok(Some((Input::Closed(4003, "no".into()), 6))));
        assert!(input(&[0x01, 1, b'x']).is_err(), "fragments are not understood, and said so");
    }
}
