//! ReadIndex: concurrent callers share one round to a quorum.
//!
//! Invariant: a caller's round starts after the caller came. Those that come during a round wait for the next one.

use std::time::Duration;

use flotilla_proto::ids::ReplicaId;
use flotilla_proto::limits::READS_PER_ROUND_MAX;
use openraft::ReadPolicy;
use openraft::errors::RaftError;
use tokio::sync::{mpsc, oneshot};

use super::error::{ReadError, read_error};
use crate::types::Raft;

pub(super) type Waiter = oneshot::Sender<Result<u64, ReadError>>;

pub(super) struct Reads {
    pub raft: Raft,
    pub own: ReplicaId,
    pub queue: mpsc::Receiver<Waiter>,
    /// For the quorum's answer and the apply behind it.
    pub timeout: Duration,
}

impl Reads {
    pub async fn run(mut self) {
        while let Some(first) = self.queue.recv().await {
            let mut waiters = vec![first];
            while waiters.len() < READS_PER_ROUND_MAX {
                let Ok(next) = self.queue.try_recv() else { break };
                waiters.push(next);
            }
            let result = self.round().await;
            for waiter in waiters {
                // A caller that has gone needs no answer.
                waiter.send(result).ok();
            }
        }
    }

    /// The index that was applied here, at a time when this node led with a quorum.
    async fn round(&self) -> Result<u64, ReadError> {
        let linearizer =
            self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await.map_err(|error| read_error(&error, self.own))?;
        let ready = linearizer
            .try_await_ready(&self.raft, Some(self.timeout))
            .await
            .map_err(|fatal| read_error(&RaftError::Fatal(fatal), self.own))?;
        ready.map(|state| state.read_log_id().index()).map_err(|_| ReadError::NoQuorum)
    }
}
