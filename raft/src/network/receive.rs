//! Raft RPCs that came in for a replica of this node.

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::Serialize;

use super::wire::{self, WireError, kind};
use crate::group::Group;
use crate::peer::PeerRefusal;

/// Runs one RPC; `body` lies behind the route. Polled once in the order of arrival, which is when it enters openraft's queue.
pub fn serve(group: Group, kind: u8, body: Bytes) -> BoxFuture<'static, Result<Bytes, PeerRefusal>> {
    async move {
        let raft = group.raft();
        match kind {
            kind::APPEND => {
                let rpc = wire::decode_append(body).map_err(malformed)?;
                group.on_heard(&rpc.vote);
                answer(raft.append_entries(rpc).await)
            }
            kind::VOTE => {
                let rpc = wire::decode(&body).map_err(malformed)?;
                answer(raft.vote(rpc).await)
            }
            kind::PRE_VOTE => {
                let rpc = wire::decode(&body).map_err(malformed)?;
                match group.refuses_pre_vote() {
                    Some(refusal) => answer(Ok::<_, WireError>(refusal)),
                    None => answer(raft.pre_vote(rpc).await),
                }
            }
            kind::TRANSFER_LEADER => {
                let rpc = wire::decode(&body).map_err(malformed)?;
                answer(raft.handle_transfer_leader(rpc).await)
            }
            other => Err(PeerRefusal::Unsupported(other)),
        }
    }
    .boxed()
}

fn malformed(error: WireError) -> PeerRefusal {
    PeerRefusal::Other(format!("an RPC that cannot be read: {error}"))
}

fn answer<T: Serialize, E: ToString>(result: Result<T, E>) -> Result<Bytes, PeerRefusal> {
    let response = result.map_err(|e| PeerRefusal::NotReady(e.to_string()))?;
    wire::encode_answer(&response).map_err(|e| PeerRefusal::Other(e.to_string()))
}
