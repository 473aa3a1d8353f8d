//! A stream that is read in large pieces by somebody who asks for small ones.
//!
//! A WebSocket keeps its read buffer for as long as the connection lives, and most connections are silent most of the time. So
//! that buffer is small, and what a read of the socket brings beyond it waits here until it is asked for. Invariants: no byte is
//! lost, doubled or moved; nothing is read while something waits; of a silent connection nothing is kept.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// As much as one read of the socket takes; lives on the stack meanwhile.
const READ_BYTES: usize = 8 * 1024;

pub struct ReadAhead<S> {
    inner: S,
    /// Read, and not asked for yet; less than [`READ_BYTES`].
    ahead: Bytes,
}

impl<S> ReadAhead<S> {
    pub fn new(inner: S) -> Self {
        Self { inner, ahead: Bytes::new() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let now = self.ahead.len().min(buf.remaining());
            buf.put_slice(self.ahead.get(..now).unwrap_or_default());
            self.ahead.advance(now);
            if self.ahead.is_empty() {
                // It would hold on to its memory.
                self.ahead = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        if buf.remaining() >= READ_BYTES {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let mut room = [MaybeUninit::uninit(); READ_BYTES];
        let mut read = ReadBuf::uninit(&mut room);
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut read))?;
        let (now, later) = read.filled().split_at(read.filled().len().min(buf.remaining()));
        buf.put_slice(now);
        if !later.is_empty() {
            self.ahead = Bytes::copy_from_slice(later);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_is_asked_for_in_small_pieces_comes_whole_and_leaves_nothing_behind() {
        let sent: Vec<u8> = (0..3 * READ_BYTES + 17).map(|at| (at % 251) as u8).collect();
        let (mut client, server) = tokio::io::duplex(sent.len());
        client.write_all(&sent).await.expect("there is room");
        drop(client);
        let mut server = ReadAhead::new(server);
        let (mut got, mut piece) = (Vec::new(), [0; 300]);
        for size in [1, 2, 14, 299, 300].into_iter().cycle() {
            let read = server.read(&mut piece[..size]).await.expect("reads");
            got.extend_from_slice(&piece[..read]);
            assert!(server.ahead.len() < READ_BYTES, "bounded");
            if read == 0 {
                break;
            }
        }
        assert_eq!(got, sent);
        assert!(server.ahead.is_empty());
    }

    #[tokio::test]
    async fn what_has_come_is_taken_at_once_and_the_next_read_waits_for_what_comes() {
        let (mut client, server) = tokio::io::duplex(READ_BYTES);
        let mut server = ReadAhead::new(server);
        client.write_all(&[7; 1_000]).await.expect("there is room");
        let mut piece = [0; 1];
        assert_eq!(server.read(&mut piece).await.expect("reads"), 1);
        assert_eq!(server.ahead.len(), 999, "one read took all");
        let mut rest = [0; 999];
        assert_eq!(server.read(&mut rest).await.expect("reads"), 999);
        assert!(futures::poll!(std::pin::pin!(server.read(&mut piece))).is_pending());
    }
}
