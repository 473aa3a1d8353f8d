//! How messages lie on a peer connection.
//!
//! A frame is `u32 length | u32 crc32 of the body | body`, a body is one or many messages, a message is
//! `u8 type | u8 kind | u64 id | u32 length | payload`, all little-endian. Invariant: nothing is allocated for a length before
//! it has been checked, and never more than has arrived (plus a small step). It does not know what a kind means.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flotilla_proto::limits;
use tokio::io::{AsyncRead, AsyncReadExt};

const FRAME_HEADER_BYTES: usize = 8;
const MESSAGE_HEADER_BYTES: usize = 14;
/// Room that is asked for ahead of the bytes that came.
const READ_STEP_BYTES: usize = 64 * 1024;

/// The largest payload of one message.
pub const PAYLOAD_BYTES_MAX: usize = limits::PEER_FRAME_BYTES_MAX - MESSAGE_HEADER_BYTES;

/// What a message is for; `kind` belongs to requests, casts and openings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Type {
    Request = 1,
    Answer = 2,
    /// The request had no effect; the payload says why.
    Refusal = 3,
    Cast = 4,
    Ping = 5,
    Pong = 6,
    /// First message of a transfer.
    Open = 7,
    Chunk = 8,
    /// One chunk has been consumed.
    Ack = 9,
    /// The sender has no more chunks.
    End = 10,
    /// The sender has no more chunks and wants none.
    Stop = 11,
}

impl Type {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Request,
            2 => Self::Answer,
            3 => Self::Refusal,
            4 => Self::Cast,
            5 => Self::Ping,
            6 => Self::Pong,
            7 => Self::Open,
            8 => Self::Chunk,
            9 => Self::Ack,
            10 => Self::End,
            11 => Self::Stop,
            _ => return None,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub ty: Type,
    pub kind: u8,
    pub id: u64,
    pub payload: Bytes,
}

impl Message {
    pub fn new(ty: Type, kind: u8, id: u64, payload: Bytes) -> Self {
        Self { ty, kind, id, payload }
    }

    pub fn bare(ty: Type) -> Self {
        Self::new(ty, 0, 0, Bytes::new())
    }

    /// Bytes in a frame.
    pub fn bytes(&self) -> usize {
        MESSAGE_HEADER_BYTES + self.payload.len()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    #[error("a frame of {bytes} bytes, at most {max} are allowed")]
    TooLarge { bytes: usize, max: usize },
    #[error("the connection ended in the middle of a frame")]
    Cut,
    #[error("a frame's checksum is wrong")]
    Checksum,
    #[error("a frame's body cannot be understood")]
    Malformed,
}

/// Gathers messages into one frame.
#[derive(Default)]
pub struct FrameBuilder {
    buf: BytesMut,
}

impl FrameBuilder {
    /// Whether `message` still fits the frame that is being built.
    pub fn fits(&self, message: &Message) -> bool {
        self.buf.is_empty() || self.buf.len() - FRAME_HEADER_BYTES + message.bytes() <= limits::PEER_BATCH_BYTES
    }

    pub fn push(&mut self, message: &Message) {
        assert!(message.payload.len() <= PAYLOAD_BYTES_MAX, "callers check a payload before they queue it");
        if self.buf.is_empty() {
            self.buf.put_bytes(0, FRAME_HEADER_BYTES);
        }
        self.buf.put_u8(message.ty as u8);
        self.buf.put_u8(message.kind);
        self.buf.put_u64_le(message.id);
        self.buf.put_u32_le(message.payload.len() as u32);
        self.buf.put_slice(&message.payload);
    }

    /// The finished frame; empty if nothing was pushed.
    pub fn finish(&mut self) -> Bytes {
        seal(&mut self.buf);
        self.buf.split().freeze()
    }
}

/// A frame around any body (the handshake's are not messages).
pub fn frame(body: &[u8]) -> Bytes {
    let mut buf = BytesMut::with_capacity(FRAME_HEADER_BYTES + body.len());
    buf.put_bytes(0, FRAME_HEADER_BYTES);
    buf.put_slice(body);
    seal(&mut buf);
    buf.freeze()
}

fn seal(buf: &mut BytesMut) {
    if buf.is_empty() {
        return;
    }
    let (header, body) = buf.split_at_mut(FRAME_HEADER_BYTES);
    header[..4].copy_from_slice(&(body.len() as u32).to_le_bytes());
    header[4..].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
}

/// The messages of a body, sharing its memory.
pub fn messages(mut body: Bytes) -> Result<Vec<Message>, FrameError> {
    let mut found = Vec::new();
    while !body.is_empty() {
        if body.len() < MESSAGE_HEADER_BYTES {
            return Err(FrameError::Malformed);
        }
        let ty = Type::from_byte(body.get_u8()).ok_or(FrameError::Malformed)?;
        let (kind, id, len) = (body.get_u8(), body.get_u64_le(), body.get_u32_le() as usize);
        if len > body.len() {
            return Err(FrameError::Malformed);
        }
        found.push(Message { ty, kind, id, payload: body.split_to(len) });
    }
    Ok(found)
}

/// Reads frames. A `next` that was dropped loses nothing: what came stays in the buffer.
pub struct FrameReader<R> {
    io: R,
    buf: BytesMut,
    bytes_max: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub fn new(io: R, bytes_max: usize) -> Self {
        Self { io, buf: BytesMut::new(), bytes_max }
    }

    /// The largest body from now on (the handshake's is smaller).
    pub fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// Bytes as they come, not framed.
    pub async fn exactly(&mut self, bytes: usize) -> Result<Bytes, FrameError> {
        if !self.fill(bytes).await? {
            return Err(FrameError::Cut);
        }
        Ok(self.buf.split_to(bytes).freeze())
    }

    /// The body of the next frame; none at a clean end between frames.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        if !self.fill(FRAME_HEADER_BYTES).await? {
            return Ok(None);
        }
        let bytes = u32::from_le_bytes([self.buf[0], self.buf[1], self.buf[2], self.buf[3]]) as usize;
        let crc = u32::from_le_bytes([self.buf[4], self.buf[5], self.buf[6], self.buf[7]]);
        if bytes > self.bytes_max {
            return Err(FrameError::TooLarge { bytes, max: self.bytes_max });
        }
        self.fill(FRAME_HEADER_BYTES + bytes).await?;
        self.buf.advance(FRAME_HEADER_BYTES);
        let body = self.buf.split_to(bytes).freeze();
        if crc32fast::hash(&body) != crc { Err(FrameError::Checksum) } else { Ok(Some(body)) }
    }

    /// Waits for `bytes` in the buffer; false at an end before the first of them.
    async fn fill(&mut self, bytes: usize) -> Result<bool, FrameError> {
        while self.buf.len() < bytes {
            // One step at a time: a length that lies costs its sender the bytes, not us the memory.
            self.buf.reserve((bytes - self.buf.len()).min(READ_STEP_BYTES));
            if self.io.read_buf(&mut self.buf).await? == 0 {
                return if self.buf.is_empty() { Ok(false) } else { Err(FrameError::Cut) };
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(id: u64) -> Message {
        Message::new(Type::Request, 7, id, Bytes::from(vec![id as u8; 100]))
    }

    async fn read(bytes: &[u8]) -> Result<Option<Bytes>, FrameError> {
        FrameReader::new(bytes, limits::PEER_FRAME_BYTES_MAX).next().await
    }

    #[tokio::test]
    async fn many_messages_share_a_frame_and_come_back_in_order() {
        let mut builder = FrameBuilder::default();
        let sent: Vec<_> = (1..=3).map(sample).collect();
        sent.iter().for_each(|m| builder.push(m));
        let bytes = builder.finish();
        let body = read(&bytes).await.expect("reads").expect("a frame");
        assert_eq!(messages(body).expect("decodes"), sent);
        assert!(builder.finish().is_empty());
    }

    #[tokio::test]
    async fn oversized_length_is_refused_and_allocates_nothing() {
        let mut bytes = vec![0xffu8; 8];
        bytes.extend([0; 64]);
        let mut reader = FrameReader::new(&bytes[..], limits::PEER_FRAME_BYTES_MAX);
        assert!(matches!(reader.next().await, Err(FrameError::TooLarge { .. })));
        assert!(reader.buf.capacity() <= READ_STEP_BYTES);
    }

    #[tokio::test]
    async fn allowed_length_that_lies_allocates_one_step_only() {
        let mut bytes = (limits::PEER_FRAME_BYTES_MAX as u32).to_le_bytes().to_vec();
        bytes.extend([0; 20]);
        let mut reader = FrameReader::new(&bytes[..], limits::PEER_FRAME_BYTES_MAX);
        assert!(matches!(reader.next().await, Err(FrameError::Cut)));
        assert!(reader.buf.capacity() <= 4 * READ_STEP_BYTES);
    }

    #[tokio::test]
    async fn every_cut_and_every_flipped_bit_is_noticed() {
        let mut builder = FrameBuilder::default();
        builder.push(&sample(1));
        let whole = builder.finish();
        assert!(read(&whole[..0]).await.expect("clean end").is_none());
        for cut in 1..whole.len() {
            assert!(matches!(read(&whole[..cut]).await, Err(FrameError::Cut)), "cut at {cut}");
        }
        for at in 4..whole.len() {
            let mut bent = whole.to_vec();
            bent[at] ^= 0x10;
            assert!(matches!(read(&bent).await, Err(FrameError::Checksum)), "flipped at {at}");
        }
    }

    #[test]
    fn truncated_or_unknown_messages_are_malformed() {
        for body in [&[1u8, 0][..], &[99; 14][..], &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1][..]] {
            assert!(matches!(messages(Bytes::copy_from_slice(body)), Err(FrameError::Malformed)));
        }
    }
}
