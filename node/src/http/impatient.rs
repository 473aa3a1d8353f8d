//! A connection whose client must take what it asked for: a write that waits too long is an error, and ends it.
//!
//! hyper asks a body for its next piece only while there is room in the socket, so nothing else would ever end an answer that
//! nobody reads, and what it holds (a turn for an export or a stream) with it. Invariant: an error comes only when the socket
//! has taken no byte for the whole time. A WebSocket has a bound of its own, and gets the stream without this.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

pub struct Impatient<S> {
    inner: S,
    full_max: Duration,
    /// Runs while a write waits.
    stuck: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    pub fn new(inner: S, full_max: Duration) -> Self {
        Self { inner, full_max, stuck: None }
    }

    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if written.is_ready() {
            self.stuck = None;
            return written;
        }
        let full_max = self.full_max;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(tokio::time::sleep(full_max)));
        ready!(stuck.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing of its answer")))
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
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_write_that_nobody_takes_is_given_up_and_a_slow_reader_is_not() {
        let full_max = Duration::from_millis(600);
        let (mut client, server) = tokio::io::duplex(16);
        let mut server = Impatient::new(server, full_max);
        let begun = Instant::now();
        let writing = tokio::spawn(async move {
            let result = server.write_all(&[7; 64]).await;
            (result, server)
        });
        let mut taken = [0; 16];
        for _ in 0..3 {
            tokio::time::sleep(full_max / 2).await;
            client.read_exact(&mut taken).await.expect("reads");
        }
        let (result, mut server) = writing.await.expect("no panic");
        assert!(result.is_ok() && begun.elapsed() > full_max, "some was taken each time");
        let begun = Instant::now();
        let written = tokio::time::timeout(full_max * 20, server.write_all(&[7; 64])).await.expect("it ends");
        let error = written.expect_err("nobody reads");
        assert!(error.kind() == io::ErrorKind::TimedOut && begun.elapsed() >= full_max);
    }
}
