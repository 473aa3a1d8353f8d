//! Opens one connection and goes through the handshake, as the dialer.
//!
//! Everything before the welcome is bounded by one deadline; whatever goes wrong here is proof that no request was sent.

use std::net::SocketAddr;

use flotilla_proto::codec::CodecError;
use flotilla_proto::ids::{ClusterId, Incarnation, NodeId};
use flotilla_proto::limits;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::Instant;

use super::BoxIo;
use super::frame::{FrameError, FrameReader, frame};
use super::hello::{Hello, HelloRefusal, Lane, MAGIC, Reply, VERSIONS, Welcome};
use crate::seam::net;

/// Who dials.
#[derive(Debug, Clone)]
pub struct Caller {
    /// None for a tool, which may use the join lane only.
    pub node: Option<NodeId>,
    pub incarnation: Incarnation,
    pub cluster: Option<ClusterId>,
    /// Plain TCP to other machines is allowed.
    pub insecure_peers: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("no answer in time")]
    TimedOut,
    #[error("refused: {}", .0.sentence)]
    Refused(HelloRefusal),
    #[error("{addr} answers, but not as a flotilla node's peer port: {source}")]
    NotAPeer { addr: String, source: FrameError },
    #[error(
        "{addr} is not on this machine, and peer connections are not encrypted; set insecure_peers if the network between nodes is trusted"
    )]
    Insecure { addr: String },
    #[error("handshake: {0}")]
    Codec(#[from] CodecError),
}

impl DialError {
    /// The other machine says that no process has this port.
    pub fn nobody_listens(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused)
    }
}

/// A connection after its handshake.
pub struct Established {
    pub welcome: Welcome,
    pub reader: FrameReader<ReadHalf<BoxIo>>,
    pub writer: WriteHalf<BoxIo>,
}

/// Connects to `addr` (host:port) and shakes hands before the deadline.
pub async fn establish(
    caller: &Caller,
    addr: &str,
    to: Option<NodeId>,
    lane: Lane,
    attempt: u64,
    deadline: Instant,
) -> Result<Established, DialError> {
    let left = deadline.saturating_duration_since(Instant::now());
    let hello = Hello {
        versions: VERSIONS,
        cluster: caller.cluster,
        from: caller.node,
        incarnation: caller.incarnation,
        attempt,
        to,
        lane,
    };
    let dial = async {
        if !caller.insecure_peers && !all_loopback(&net::resolve(addr).await?) {
            return Err(DialError::Insecure { addr: addr.to_owned() });
        }
        let stream = secure(net::connect(addr, deadline).await?);
        shake(stream, addr, &hello).await
    };
    match tokio::time::timeout(left, dial).await {
        Ok(done) => done,
        Err(_) => Err(DialError::TimedOut),
    }
}

/// The place for mutual TLS: the stream that comes out is what both sides speak over.
fn secure(stream: net::Stream) -> BoxIo {
    Box::new(stream)
}

async fn shake(stream: BoxIo, addr: &str, hello: &Hello) -> Result<Established, DialError> {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut opening = MAGIC.to_vec();
    opening.extend_from_slice(&frame(&hello.encode()?));
    writer.write_all(&opening).await?;
    writer.flush().await?;
    let mut reader = FrameReader::new(reader, limits::PEER_HELLO_BYTES_MAX);
    let body = match reader.next().await {
        Ok(Some(body)) => body,
        Ok(None) => return Err(not_a_peer(addr, FrameError::Cut)),
        Err(source) => return Err(not_a_peer(addr, source)),
    };
    match Reply::decode(&body)? {
        Reply::Refused(refusal) => Err(DialError::Refused(refusal)),
        Reply::Welcome(welcome) => {
            reader.set_bytes_max(limits::PEER_FRAME_BYTES_MAX);
            Ok(Established { welcome, reader, writer })
        }
    }
}

fn not_a_peer(addr: &str, source: FrameError) -> DialError {
    DialError::NotAPeer { addr: addr.to_owned(), source }
}

pub fn all_loopback(addrs: &[SocketAddr]) -> bool {
    !addrs.is_empty() && addrs.iter().all(|a| a.ip().is_loopback())
}
