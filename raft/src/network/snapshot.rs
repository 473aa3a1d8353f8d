//! A snapshot's way from one replica to another, over a transfer of its own.
//!
//! Opening, chunks, end; then the receiver answers, saying "still at it" while the installation takes its time. Memory is a
//! window of chunks on both sides. A broken transfer starts over with the sender's next try; until the installation nothing of it
//! counts, and what lies on the receiver's disk is garbage of a generation that nobody points at.

use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::ids::NodeId;
use flotilla_proto::limits;
use tokio::time::Instant;

use super::wire::{self, SnapshotEnd, SnapshotOpen, WireError, kind};
use crate::group::Group;
use crate::peer::{BulkError, BulkStream, PeerRefusal, Peers};
use crate::snapshot::{SnapshotChunk, SnapshotChunks, SnapshotError};
use crate::types::{Snapshot, SnapshotData, Vote};

#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error(transparent)]
    Bulk(#[from] BulkError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("the receiver hung up without an answer")]
    NoAnswer,
    #[error("the receiver: {0}")]
    Receiver(String),
    #[error("the receiving group has stopped: {0}")]
    Stopped(String),
}

/// Streams a snapshot and waits until it is installed; the receiver's vote.
pub async fn send(
    peers: &Peers,
    to: NodeId,
    opening: Bytes,
    mut chunks: SnapshotChunks,
    open_by: Instant,
) -> Result<Vote, TransferError> {
    let mut stream = peers.bulk(to, kind::SNAPSHOT, opening, open_by).await?;
    while let Some(chunk) = chunks.next().await? {
        let chunk = wire::encode_answer(&chunk).map_err(WireError::from)?;
        match stream.send(chunk).await {
            Err(BulkError::Answered) => break,
            sent => sent?,
        }
    }
    stream.finish().await?;
    while let Some(answer) = stream.recv().await? {
        if answer.is_empty() {
            continue;
        }
        return match wire::decode(&answer)? {
            SnapshotEnd::Vote(vote) => Ok(vote),
            SnapshotEnd::Failed(reason) => Err(TransferError::Receiver(reason)),
        };
    }
    Err(TransferError::NoAnswer)
}

/// Takes a snapshot and installs it. `payload` is the opening behind its route.
pub async fn receive(group: &Group, payload: Bytes, mut stream: BulkStream) {
    let end = match take(group, &payload, &mut stream).await {
        Ok(vote) => SnapshotEnd::Vote(vote),
        Err(e) => {
            tracing::warn!(shard = %group.shard(), error = %e, "snapshot not taken");
            SnapshotEnd::Failed(e.to_string())
        }
    };
    let Ok(answer) = wire::encode_answer(&end) else { return };
    if stream.send(answer).await.is_ok() {
        stream.close().await;
    }
}

/// Tells the sender that this node has no such replica, or no room for another snapshot.
pub async fn refuse(mut stream: BulkStream, refusal: PeerRefusal) {
    if stream.refuse(&refusal).await.is_ok() {
        stream.close().await;
    }
}

async fn take(group: &Group, payload: &[u8], stream: &mut BulkStream) -> Result<Vote, TransferError> {
    let opening: SnapshotOpen = wire::decode(payload)?;
    let mut sink = group.begin_snapshot(opening.meta.clone()).await?;
    while let Some(chunk) = stream.recv().await? {
        let chunk: SnapshotChunk = wire::decode_chunk(&chunk)?;
        sink.write(chunk).await?;
    }
    let staged = sink.finish()?;
    let snapshot = Snapshot { meta: opening.meta, snapshot: SnapshotData::Staged(staged) };
    let installed = group.raft().install_full_snapshot(opening.vote, snapshot);
    let response = keep_alive(stream, installed).await?.map_err(|e| TransferError::Stopped(e.to_string()))?;
    Ok(response.vote)
}

/// Empty chunks while the work lasts, so that the sender's patience does not end before it.
async fn keep_alive<T>(stream: &mut BulkStream, work: impl Future<Output = T>) -> Result<T, BulkError> {
    let mut work = std::pin::pin!(work);
    let pace = Duration::from_millis(limits::PEER_BULK_IDLE_MS / 4);
    loop {
        if let Ok(done) = tokio::time::timeout(pace, &mut work).await {
            return Ok(done);
        }
        stream.send(Bytes::new()).await?;
    }
}
