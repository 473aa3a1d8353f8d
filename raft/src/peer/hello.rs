//! The handshake: who dials whom, and whether they should talk at all.
//!
//! The dialer sends [`MAGIC`] and a [`Hello`], the acceptor answers a [`Reply`]. These two layouts never change; everything after
//! them may, under a version that both name. [`judge`] is pure. It does not know sockets.

use bytes::Bytes;
use flotilla_proto::codec::{self, CodecError};
use flotilla_proto::ids::{ClusterId, Incarnation, NodeId};
use flotilla_proto::limits;
use serde::{Deserialize, Serialize};

/// The first bytes of every peer connection: a browser or a scanner is told apart before anything is parsed.
pub const MAGIC: &[u8; 8] = b"FLOTPEER";
/// Protocol versions that this build speaks, both ends inclusive.
/// 2: push heads name all the revisions that they account for.
pub const VERSIONS: (u16, u16) = (2, 2);
const LAYOUT: u8 = 1;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Lane {
    /// Raft, requests and casts; one per direction of a pair.
    Main,
    /// One transfer: a snapshot or a bulk read.
    Bulk,
    /// One request of kind "join"; the only lane of a node without a cluster.
    Join,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub versions: (u16, u16),
    pub cluster: Option<ClusterId>,
    /// The dialer; none for a tool that is no node.
    pub from: Option<NodeId>,
    pub incarnation: Incarnation,
    /// Rises with every connection of this incarnation: an older connection that arrives late loses.
    pub attempt: u64,
    /// Whom the dialer means; none on the join lane when it knows an address only.
    pub to: Option<NodeId>,
    pub lane: Lane,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    pub version: u16,
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub cluster: Option<ClusterId>,
}

/// Why a connection is not wanted, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalCode {
    Version,
    WrongCluster,
    /// One of the two belongs to no cluster yet.
    NotInitialised,
    WrongNode,
    OlderIncarnation,
    OlderConnection,
    Overloaded,
    Malformed,
}

/// Why a connection is not wanted, for programs and people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloRefusal {
    pub code: RefusalCode,
    pub sentence: String,
}

impl HelloRefusal {
    pub fn new(code: RefusalCode, sentence: impl Into<String>) -> Self {
        Self { code, sentence: sentence.into() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Welcome(Welcome),
    Refused(HelloRefusal),
}

/// What the acceptor knows when it judges.
#[derive(Debug, Clone, Copy)]
pub struct Acceptor {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub cluster: Option<ClusterId>,
    /// The newest (incarnation, attempt) of the dialer's main lane.
    pub seen: Option<(Incarnation, u64)>,
}

/// Decides over a connection: the answer to send.
pub fn judge(me: &Acceptor, hello: &Hello) -> Result<Welcome, HelloRefusal> {
    let refuse = |code, sentence: String| Err(HelloRefusal::new(code, sentence));
    let version = hello.versions.1.min(VERSIONS.1);
    if version < hello.versions.0.max(VERSIONS.0) {
        let ((a, b), (c, d)) = (VERSIONS, hello.versions);
        let sentence =
            format!("node {} speaks protocol versions {a} to {b}, you speak {c} to {d}; update the older one", me.node);
        return refuse(RefusalCode::Version, sentence);
    }
    if hello.to.is_some_and(|to| to != me.node) || (hello.to.is_none() && hello.lane != Lane::Join) {
        let meant = hello.to.map_or("nobody".to_owned(), |to| format!("node {to}"));
        let sentence = format!("this is node {}, you asked for {meant}; check the address table", me.node);
        return refuse(RefusalCode::WrongNode, sentence);
    }
    if hello.from == Some(me.node) && hello.lane != Lane::Join {
        let sentence = format!("you say you are node {}, and so am I; two nodes share an id", me.node);
        return refuse(RefusalCode::WrongNode, sentence);
    }
    match (me.cluster, hello.cluster) {
        (Some(mine), Some(yours)) if mine != yours => {
            let sentence = format!("node {} belongs to cluster {mine}, you belong to {yours}", me.node);
            return refuse(RefusalCode::WrongCluster, sentence);
        }
        (Some(_), Some(_)) => {}
        _ if hello.lane == Lane::Join => {}
        (None, _) => {
            let sentence = format!("node {} belongs to no cluster yet; run init or let it join", me.node);
            return refuse(RefusalCode::NotInitialised, sentence);
        }
        (Some(mine), None) => {
            let sentence = format!("node {} belongs to cluster {mine}, you belong to none yet", me.node);
            return refuse(RefusalCode::NotInitialised, sentence);
        }
    }
    if hello.from.is_none() && hello.lane != Lane::Join {
        return refuse(RefusalCode::Malformed, "only a node may open this kind of connection".to_owned());
    }
    judge_age(me, hello)?;
    Ok(Welcome { version, node: me.node, incarnation: me.incarnation, cluster: me.cluster })
}

fn judge_age(me: &Acceptor, hello: &Hello) -> Result<(), HelloRefusal> {
    let Some((incarnation, attempt)) = me.seen.filter(|_| hello.lane != Lane::Join) else {
        return Ok(());
    };
    if hello.incarnation < incarnation {
        let sentence = format!("you are incarnation {}, a newer one ({incarnation}) has been here", hello.incarnation);
        return Err(HelloRefusal::new(RefusalCode::OlderIncarnation, sentence));
    }
    if hello.lane == Lane::Main && hello.incarnation == incarnation && hello.attempt < attempt {
        let sentence = "a newer connection of yours has been here".to_owned();
        return Err(HelloRefusal::new(RefusalCode::OlderConnection, sentence));
    }
    Ok(())
}

impl Hello {
    pub fn encode(&self) -> Result<Bytes, CodecError> {
        codec::encode(LAYOUT, self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(LAYOUT, bytes, limits::PEER_HELLO_BYTES_MAX)
    }
}

impl Reply {
    pub fn encode(&self) -> Result<Bytes, CodecError> {
        codec::encode(LAYOUT, self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(LAYOUT, bytes, limits::PEER_HELLO_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Acceptor = Acceptor {
        node: NodeId(2),
        incarnation: Incarnation(5),
        cluster: Some(ClusterId(9)),
        seen: Some((Incarnation(3), 10)),
    };

    fn hello() -> Hello {
        Hello {
            versions: VERSIONS,
            cluster: Some(ClusterId(9)),
            from: Some(NodeId(1)),
            incarnation: Incarnation(3),
            attempt: 11,
            to: Some(NodeId(2)),
            lane: Lane::Main,
        }
    }

    fn check(me: Acceptor, change: impl FnOnce(&mut Hello), expected: Option<RefusalCode>) {
        let mut hello = hello();
        change(&mut hello);
        let decoded = Hello::decode(&hello.encode().expect("encodes")).expect("decodes");
        assert_eq!(decoded, hello);
        assert_eq!(judge(&me, &hello).err().map(|r| r.code), expected, "{hello:?}");
    }

    #[test]
    fn stranger_is_refused_politely_and_friend_is_welcome() {
        use RefusalCode::*;
        check(ME, |_| {}, None);
        check(ME, |h| h.versions = (1, VERSIONS.1 + 7), None);
        check(ME, |h| h.versions = (VERSIONS.1 + 1, VERSIONS.1 + 7), Some(Version));
        check(ME, |h| h.versions = (0, VERSIONS.0 - 1), Some(Version));
        check(ME, |h| h.to = Some(NodeId(3)), Some(WrongNode));
        check(ME, |h| h.to = None, Some(WrongNode));
        check(ME, |h| h.from = Some(NodeId(2)), Some(WrongNode));
        check(ME, |h| h.from = None, Some(Malformed));
        check(ME, |h| h.cluster = Some(ClusterId(8)), Some(WrongCluster));
        check(ME, |h| h.cluster = None, Some(NotInitialised));
        check(ME, |h| h.incarnation = Incarnation(2), Some(OlderIncarnation));
        check(ME, |h| h.incarnation = Incarnation(4), None);
        check(ME, |h| h.attempt = 9, Some(OlderConnection));
    }

    #[test]
    fn join_lane_reaches_a_node_without_a_cluster_and_nothing_else_does() {
        let fresh = Acceptor { cluster: None, seen: None, ..ME };
        check(fresh, |_| {}, Some(RefusalCode::NotInitialised));
        check(fresh, |h| h.lane = Lane::Join, None);
        let tool = |h: &mut Hello| (h.lane, h.cluster, h.to, h.from) = (Lane::Join, None, None, None);
        check(fresh, tool, None);
        check(ME, tool, None);
        let foreign = |h: &mut Hello| (h.lane, h.cluster) = (Lane::Join, Some(ClusterId(1)));
        check(ME, foreign, Some(RefusalCode::WrongCluster));
    }
}
