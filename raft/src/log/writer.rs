//! The one task that writes logs and votes, for all groups of a node: whatever waits shares one sync.
//!
//! After a failed write nothing that this process says can be trusted: the hooks hear of it once, everything that waits
//! gets an error, and the task ends, so nothing later is ever confirmed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flotilla_proto::limits::{LOG_WRITE_BYTES_MAX, LOG_WRITER_QUEUE_MAX, LOG_WRITES_PER_SYNC_MAX};
use flotilla_proto::plant::{self, Plant};
use flotilla_storage::{Batch, Durability, Engine, StorageError};
use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot};

use super::store::Shared;
use crate::hooks::{Hooks, supervise};
use crate::path;
use crate::runtime::after_the_ready;
use crate::seam::fault;
use crate::seam::worker::Worker;
use crate::types::TypeConfig;

/// A handle to the node's writer. The task ends with its last handle.
#[derive(Clone)]
pub struct LogWriter {
    queue: mpsc::Sender<Write>,
    stats: Arc<WriterStats>,
}

/// What the writer has done so far.
#[derive(Debug, Default)]
pub struct WriterStats {
    /// Calls of all groups.
    pub writes: AtomicU64,
    /// Batches given to the engine.
    pub batches: AtomicU64,
    /// Those of them that were synced.
    pub syncs: AtomicU64,
    pub bytes: AtomicU64,
}

struct Write {
    batch: Batch,
    durability: Durability,
    then: Then,
}

/// What happens after the write.
pub(super) enum Then {
    Nothing,
    /// Entries of a group up to this index are durable.
    Flushed {
        log: Arc<Shared>,
        index: u64,
        callback: IOFlushed<TypeConfig>,
    },
    Answer(oneshot::Sender<()>),
}

impl LogWriter {
    pub fn start(engine: Arc<dyn Engine>, hooks: Arc<dyn Hooks>) -> Self {
        let (queue, waiting) = mpsc::channel(LOG_WRITER_QUEUE_MAX);
        let stats = Arc::new(WriterStats::default());
        let worker = Worker::start("flotilla-log");
        let task = Task { engine, hooks: hooks.clone(), waiting, worker, stats: stats.clone() };
        supervise(hooks, None, "the log writer", task.run());
        Self { queue, stats }
    }

    pub fn stats(&self) -> &WriterStats {
        &self.stats
    }

    /// Queues a write; waits only while the queue is full.
    pub(super) async fn submit(&self, batch: Batch, durability: Durability, then: Then) -> io::Result<()> {
        let write = Write { batch, durability, then };
        self.queue.send(write).await.map_err(|_| stopped())
    }

    /// Writes, and returns when it is durable.
    pub(super) async fn write_synced(&self, batch: Batch) -> io::Result<()> {
        let (answer, done) = oneshot::channel();
        self.submit(batch, Durability::Synced, Then::Answer(answer)).await?;
        done.await.map_err(|_| stopped())
    }
}

fn stopped() -> io::Error {
    io::Error::other("the log writer has stopped after a failed write")
}

struct Task {
    engine: Arc<dyn Engine>,
    hooks: Arc<dyn Hooks>,
    waiting: mpsc::Receiver<Write>,
    worker: Worker,
    stats: Arc<WriterStats>,
}

impl Task {
    async fn run(mut self) {
        while let Some(first) = self.waiting.recv().await {
            after_the_ready().await;
            let (batch, durability, mut thens) = self.gather(first);
            if plant::on(Plant::CallbackBeforeSync) {
                let (early, late) = thens.into_iter().partition(|then| matches!(then, Then::Flushed { .. }));
                let _ = complete(early, Ok(()), &self.stats);
                thens = late;
                // A disk that takes its time: the callers go on meanwhile.
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            fault::point("log.before_sync");
            if let Err(error) = self.write(batch, durability, thens).await {
                // The queue closes before the hook runs: nothing queued later can be confirmed any more.
                self.waiting.close();
                self.hooks.on_fatal(None, format!("the log cannot be written: {error}"));
                return;
            }
        }
    }

    /// Takes whatever waits, up to the bounds.
    fn gather(&mut self, first: Write) -> (Batch, Durability, Vec<Then>) {
        let Write { mut batch, mut durability, then } = first;
        let mut thens = vec![then];
        while thens.len() < LOG_WRITES_PER_SYNC_MAX && batch.bytes() < LOG_WRITE_BYTES_MAX {
            let Ok(mut next) = self.waiting.try_recv() else { break };
            batch.append(&mut next.batch);
            if next.durability == Durability::Synced {
                durability = Durability::Synced;
            }
            thens.push(next.then);
        }
        (batch, durability, thens)
    }

    /// Writes, and tells who waits on the thread that wrote: it knows first, and this task may have to queue for its turn.
    async fn write(&mut self, batch: Batch, durability: Durability, thens: Vec<Then>) -> Result<(), StorageError> {
        self.stats.batches.fetch_add(1, Ordering::Relaxed);
        self.stats.bytes.fetch_add(batch.bytes() as u64, Ordering::Relaxed);
        if durability == Durability::Synced {
            self.stats.syncs.fetch_add(1, Ordering::Relaxed);
        }
        let (engine, stats) = (self.engine.clone(), self.stats.clone());
        let work = move || {
            let result = engine.write(batch, durability).map(|_| ());
            fault::point("log.after_sync_before_callback");
            complete(thens, result, &stats)
        };
        self.worker.write(&*self.engine, work).await
    }
}

fn complete(thens: Vec<Then>, result: Result<(), StorageError>, stats: &WriterStats) -> Result<(), StorageError> {
    stats.writes.fetch_add(thens.len() as u64, Ordering::Relaxed);
    for then in thens {
        match (then, &result) {
            (Then::Nothing, _) => {}
            (Then::Flushed { log, index, callback }, Ok(())) => {
                path::index("durable", log.shard, index);
                log.lock().cache.mark_durable(index);
                callback.io_completed(Ok(()));
            }
            (Then::Flushed { callback, .. }, Err(error)) => {
                callback.io_completed(Err(io::Error::other(error.clone())));
            }
            // A receiver that is gone belongs to a group that was dropped; the write stands.
            (Then::Answer(answer), Ok(())) => drop(answer.send(())),
            // Dropping the sender tells the waiter that nothing is promised.
            (Then::Answer(_), Err(_)) => {}
        }
    }
    result
}
