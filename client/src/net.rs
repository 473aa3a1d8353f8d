//! Base URLs of nodes and TCP connections to them. Plain `http://` only: TLS ends in front of the node. In the simulator a
//! connection has a `fate` too.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rand::RngExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A TCP connection that flushes only what was written.
///
/// The simulator's stream answers a flush of nothing with an error once the peer has closed, and a reply that has already
/// arrived would be lost behind it. Real TCP has nothing to flush.
pub struct Stream {
    inner: TcpStream,
    unflushed: bool,
    #[cfg(madsim)]
    fate: flotilla_proto::fate::Held,
}

impl Stream {
    fn new(inner: TcpStream) -> io::Result<Self> {
        #[cfg(madsim)]
        let fate = flotilla_proto::fate::Held::new(inner.local_addr()?, inner.peer_addr()?);
        Ok(Self {
            inner,
            unflushed: false,
            #[cfg(madsim)]
            fate,
        })
    }
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

#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("{0:?} is not a node's URL: expected http://HOST:PORT")]
    Url(String),
    #[error("cannot connect to {url}: {source}")]
    Connect { url: String, source: io::Error },
    #[error("cannot connect to {0} in time")]
    Timeout(String),
}

/// `HOST:PORT` of a base URL like `http://127.0.0.1:4001` (or `ws://`, or the bare address).
pub fn authority(url: &str) -> Result<&str, NetError> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("ws://")).unwrap_or(url);
    let authority = rest.split('/').next().unwrap_or(rest);
    let port = authority.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then_some(port));
    match port.map(str::parse::<u16>) {
        Some(Ok(_)) => Ok(authority),
        _ => Err(NetError::Url(url.to_owned())),
    }
}

pub async fn connect(url: &str, limit: Duration) -> Result<Stream, NetError> {
    let address = authority(url)?;
    #[cfg(madsim)]
    let door = knock(url, address, limit).await?;
    let stream = tokio::time::timeout(limit, TcpStream::connect(address))
        .await
        .map_err(|_| NetError::Timeout(url.to_owned()))?
        .map_err(|source| NetError::Connect { url: url.to_owned(), source })?;
    // Small frames must not wait for each other; a platform that refuses is only slower.
    let _ = stream.set_nodelay(true);
    let stream = Stream::new(stream).map_err(|source| NetError::Connect { url: url.to_owned(), source })?;
    #[cfg(madsim)]
    let stream = Stream { fate: stream.fate.behind(door), ..stream };
    Ok(stream)
}

/// The simulator may have closed the door.
#[cfg(madsim)]
async fn knock(url: &str, address: &str, limit: Duration) -> Result<flotilla_proto::fate::Door, NetError> {
    use flotilla_proto::fate::{Door, door};
    match door(address) {
        Door::Refused => {
            let source = io::Error::new(io::ErrorKind::ConnectionRefused, "refused by the simulator");
            Err(NetError::Connect { url: url.to_owned(), source })
        }
        Door::Silent => {
            tokio::time::sleep(limit).await;
            Err(NetError::Timeout(url.to_owned()))
        }
        open => Ok(open),
    }
}

/// Below what systems hand out for outgoing connections, so that a restarted node finds its port free.
const LOCAL_PORTS: std::ops::Range<u16> = 15_000..30_000;
const DRAWS_MAX: usize = 200;

/// Different ports of 127.0.0.1 that nobody listens on, for nodes that tests and the load generator start.
///
/// Each is held until all are drawn: a port that was let go at once could be drawn for two nodes of one cluster.
pub fn free_local_ports(count: usize) -> io::Result<Vec<u16>> {
    let mut held = BTreeMap::new();
    for _ in 0..count + DRAWS_MAX {
        if held.len() == count {
            break;
        }
        let port = rand::rng().random_range(LOCAL_PORTS);
        // A port that is held here refuses, too.
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            held.insert(port, listener);
        }
    }
    if held.len() < count {
        return Err(io::Error::other(format!(
            "no {count} free ports between {} and {}",
            LOCAL_PORTS.start, LOCAL_PORTS.end
        )));
    }
    Ok(held.into_keys().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_give_their_address_or_say_what_is_expected() {
        for good in ["http://127.0.0.1:4001", "ws://127.0.0.1:4001/v1/ws", "127.0.0.1:4001"] {
            assert_eq!(authority(good).expect("valid"), "127.0.0.1:4001");
        }
        for bad in ["", "http://", "http://host", "https://host:1", "host:notaport", ":1"] {
            assert!(authority(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ports_of_one_cluster_differ() {
        let ports = free_local_ports(400).expect("400 of 15,000 are free");
        let different: std::collections::BTreeSet<_> = ports.iter().collect();
        assert_eq!(different.len(), 400);
    }
}
