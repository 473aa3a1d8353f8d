//! What the node does for its peers, and what a request to a peer may come to.
//!
//! It does not know connections.

use bytes::Bytes;
use flotilla_proto::codec::{self, CodecError};
use flotilla_proto::ids::{Incarnation, NodeId};
use flotilla_proto::limits;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::bulk::BulkStream;
use super::hello::Lane;

const LAYOUT: u8 = 1;

/// Ranges of message kinds. Raft has a bound of its own on the server, so that node requests never keep it waiting.
pub mod kind {
    pub const RAFT_MIN: u8 = 1;
    pub const RAFT_MAX: u8 = 15;
    /// The node's own requests, casts and transfers.
    pub const NODE_MIN: u8 = 16;
    pub const NODE_MAX: u8 = 239;
    /// The only kinds on the join lane: what a node without a cluster understands, and tools.
    pub const JOIN_MIN: u8 = 240;
    pub const JOIN_MAX: u8 = 255;

    pub fn is_raft(kind: u8) -> bool {
        (RAFT_MIN..=RAFT_MAX).contains(&kind)
    }

    pub fn is_join(kind: u8) -> bool {
        kind >= JOIN_MIN
    }
}

/// Who speaks, as the handshake established it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerInfo {
    /// Node 0 is a tool on the join lane.
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub lane: Lane,
}

/// The request had no effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum PeerRefusal {
    #[error("too many requests at the peer")]
    Overloaded,
    #[error("the peer does not know requests of kind {0}")]
    Unsupported(u8),
    #[error("the peer is not ready: {0}")]
    NotReady(String),
    #[error("{0}")]
    Other(String),
}

impl PeerRefusal {
    pub(super) fn encode(&self) -> Result<Bytes, CodecError> {
        codec::encode(LAYOUT, self)
    }

    pub(super) fn decode(bytes: &[u8]) -> Self {
        let limit = 2 * limits::PEER_SENTENCE_BYTES_MAX;
        codec::decode(LAYOUT, bytes, limit)
            .unwrap_or_else(|e| Self::Other(format!("a refusal that cannot be read: {e}")))
    }
}

/// Why nothing left this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    #[error("no such peer")]
    NoPeer,
    #[error("not connected")]
    NotConnected,
    #[error("too much is waiting for this peer")]
    Overloaded,
    #[error("the message is too large")]
    TooLarge,
    #[error("time was up before it could be sent")]
    Expired,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Answer(Bytes),
    /// The peer received it and did nothing.
    Refused(PeerRefusal),
    /// Proof that nothing left this node.
    NotSent(NotSent),
    /// Sent, and no answer: it may or may not have been done.
    Unknown,
}

/// What a node does with what its peers send. Must not block; `request` is called in the order of arrival and its future is
/// polled once before the next message of that connection is looked at.
pub trait PeerService: Send + Sync + 'static {
    fn request(&self, from: PeerInfo, kind: u8, payload: Bytes) -> BoxFuture<'static, Result<Bytes, PeerRefusal>>;

    /// Whether a request is one that waits by design before it is answered. Such have a bound of their own on the server, so that they
    /// never keep others waiting.
    fn is_patient(&self, _kind: u8, _payload: &[u8]) -> bool {
        false
    }

    fn cast(&self, from: PeerInfo, kind: u8, payload: Bytes);

    /// The peer's main connection to this node has ended: casts may be gone with it. A newer one may be up already.
    fn gone(&self, _from: PeerInfo) {}

    /// A transfer that the peer opened; ends when the future does.
    fn bulk(&self, from: PeerInfo, kind: u8, payload: Bytes, stream: BulkStream) -> BoxFuture<'static, ()>;
}
