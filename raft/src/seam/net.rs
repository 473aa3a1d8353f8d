//! Listener and stream: the one place where the product gets its sockets.
//!
//! Thin over TCP (no Nagle, so that a batch leaves at once). In the simulator a connection has a `fate` too. It does not know who is at the other end, nor what is said.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// Accepts connections on one address.
pub struct Listener {
    inner: TcpListener,
}

impl Listener {
    pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        let (inner, from) = self.inner.accept().await?;
        Ok((Stream::new(inner)?, from))
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// One connection, both directions. Written bytes may wait until a flush.
///
/// A flush of nothing does nothing: the simulator's stream would answer it with an error once the peer has closed, and hide
/// what has arrived before.
pub struct Stream {
    inner: TcpStream,
    unflushed: bool,
    #[cfg(madsim)]
    fate: flotilla_proto::fate::Held,
}

impl Stream {
    fn new(inner: TcpStream) -> io::Result<Self> {
        inner.set_nodelay(true)?;
        #[cfg(madsim)]
        let fate = flotilla_proto::fate::Held::new(inner.local_addr()?, inner.peer_addr()?);
        Ok(Self {
            inner,
            unflushed: false,
            #[cfg(madsim)]
            fate,
        })
    }

    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.inner.peer_addr()
    }
}

/// Listens on `host:port`; port 0 takes a free one.
pub async fn bind(addr: &str) -> io::Result<Listener> {
    let inner = TcpListener::bind(addr).await?;
    Ok(Listener { inner })
}

/// Connects to `host:port` before the deadline.
pub async fn connect(addr: &str, deadline: Instant) -> io::Result<Stream> {
    let left = deadline.saturating_duration_since(Instant::now());
    #[cfg(madsim)]
    let door = knock(addr, deadline).await?;
    match tokio::time::timeout(left, TcpStream::connect(addr)).await {
        #[cfg(madsim)]
        Ok(connected) => {
            let stream = Stream::new(connected?)?;
            Ok(Stream { fate: stream.fate.behind(door), ..stream })
        }
        #[cfg(not(madsim))]
        Ok(connected) => Stream::new(connected?),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no connection to {addr} in time"))),
    }
}

/// The simulator may have closed the door.
#[cfg(madsim)]
async fn knock(addr: &str, deadline: Instant) -> io::Result<flotilla_proto::fate::Door> {
    use flotilla_proto::fate::{Door, door};
    match door(addr) {
        Door::Refused => Err(io::Error::new(io::ErrorKind::ConnectionRefused, "refused by the simulator")),
        Door::Silent => {
            tokio::time::sleep_until(deadline).await;
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no connection to {addr} in time")))
        }
        open => Ok(open),
    }
}

/// What `host:port` stands for, in the resolver's order.
pub async fn resolve(addr: &str) -> io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host(addr).await?.collect())
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        #[cfg(madsim)]
        std::task::ready!(self.fate.read(cx))?;
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        #[cfg(madsim)]
        let bytes = match self.fate.write(bytes.len())? {
            Some(some) => &bytes[..some],
            None => return Poll::Ready(Ok(bytes.len())),
        };
        self.unflushed = true;
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.unflushed {
            return Poll::Ready(Ok(()));
        }
        let flushed = std::task::ready!(Pin::new(&mut self.inner).poll_flush(cx));
        self.unflushed = false;
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
