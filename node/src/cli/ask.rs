//! One question to one node, over the lane that tools use.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use flotilla_proto::ids::{Incarnation, NodeId};
use flotilla_raft::peer::{self, Caller, Outcome};
use tokio::time::Instant;

use crate::cluster::wire::{self, AdminReply, AdminRequest, KIND_ADMIN};

const DEADLINE: Duration = Duration::from_secs(5);

/// A node's number and its address for peers: `1=127.0.0.1:5001`.
#[derive(Debug, Clone)]
pub struct NodeAddr {
    pub node: NodeId,
    pub addr: String,
}

impl std::str::FromStr for NodeAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not NODE=HOST:PORT, like 1=127.0.0.1:5000");
        let (node, addr) = text.split_once('=').ok_or_else(wrong)?;
        let node = node.trim().parse().ok().filter(|n| *n > 0).ok_or_else(wrong)?;
        if !addr.contains(':') {
            return Err(wrong());
        }
        Ok(Self { node: NodeId(node), addr: addr.trim().to_owned() })
    }
}

/// Asks, and turns everything but an answer into an error that says what to do.
pub async fn ask(at: &str, to: Option<NodeId>, request: &AdminRequest, insecure: bool) -> anyhow::Result<AdminReply> {
    let caller = Caller { node: None, incarnation: Incarnation(0), cluster: None, insecure_peers: insecure };
    let payload = wire::encode(request)?;
    let deadline = Instant::now() + DEADLINE;
    let (_, outcome) = peer::join(&caller, at, to, KIND_ADMIN, payload, deadline).await.with_context(|| {
        format!("cannot reach a node's peer port at {at}; is it running, and is this its --peer-addr?")
    })?;
    match outcome {
        Outcome::Answer(bytes) => match wire::decode(&bytes)? {
            AdminReply::Refused(why) => bail!("the node at {at} refuses: {why}"),
            reply => Ok(reply),
        },
        Outcome::Refused(why) => bail!("the node at {at} refuses: {why}"),
        Outcome::NotSent(_) | Outcome::Unknown => Err(anyhow!("the node at {at} did not answer in time; try again")),
    }
}
