//! The receiving side: chunks into a new state generation.

use flotilla_proto::ids::ShardId;
use flotilla_storage::{Batch, Bulk, Durability};

use super::{Generations, Lease, SnapshotChunk, SnapshotError, SnapshotTotal, Sum, rows};
use crate::keys;
use crate::runtime::{blocking, blocking_write};
use crate::seam::fault;
use crate::types::{LogId, SnapshotMeta};

/// Takes the chunks of one snapshot. Dropped half-way, it leaves rows that nothing points at.
pub struct SnapshotSink {
    generations: Generations,
    lease: Lease,
    meta: SnapshotMeta,
    expected: u64,
    sum: Sum,
    total: Option<SnapshotTotal>,
    _bulk: Bulk,
}

/// A whole snapshot on this disk that nothing points at yet.
#[derive(Debug)]
pub struct StagedSnapshot {
    pub shard: ShardId,
    pub meta: SnapshotMeta,
    pub(crate) lease: Lease,
}

impl StagedSnapshot {
    pub fn last_log_id(&self) -> Option<LogId> {
        self.meta.last_log_id
    }
}

impl SnapshotSink {
    /// Starts a new generation, after sweeping what earlier attempts left behind.
    pub async fn begin(generations: &Generations, meta: SnapshotMeta) -> Result<Self, SnapshotError> {
        let owned = generations.clone();
        let lease = blocking_write(&*generations.engine().clone(), move || {
            owned.sweep()?;
            Ok::<_, SnapshotError>(owned.allocate()?)
        })
        .await?;
        let generations = generations.clone();
        let _bulk = Bulk::begin(generations.engine());
        Ok(Self { generations, lease, meta, expected: 0, sum: Sum::default(), total: None, _bulk })
    }

    /// Checks and stores one chunk. After an error the sink is of no use.
    pub async fn write(&mut self, chunk: SnapshotChunk) -> Result<(), SnapshotError> {
        if chunk.seq != self.expected || self.total.is_some() {
            return Err(SnapshotError::OutOfOrder { expected: self.expected, found: chunk.seq });
        }
        self.expected += 1;
        let prefix = keys::state(self.generations.shard(), self.lease.generation);
        let mut sum = std::mem::take(&mut self.sum);
        let (seq, crc, bytes) = (chunk.seq, chunk.crc, chunk.rows);
        let checked = blocking(move || {
            if crc32fast::hash(&bytes) != crc {
                return Err(SnapshotError::DamagedChunk(seq));
            }
            let mut batch = Batch::new();
            let mut count = 0;
            for row in rows(bytes.clone()) {
                let (key, value) = row.ok_or(SnapshotError::DamagedChunk(seq))?;
                batch.put([&prefix[..], &key[..]].concat(), value);
                count += 1;
            }
            sum.add(&bytes, count);
            Ok((batch, sum))
        })
        .await;
        let (batch, sum) = checked?;
        self.sum = sum;
        self.total = chunk.total;
        let engine = self.generations.engine().clone();
        blocking_write(&*engine.clone(), move || engine.write(batch, Durability::Buffered)).await?;
        fault::point("snapshot.chunk_written");
        Ok(())
    }

    /// The snapshot, if everything announced has come.
    pub fn finish(self) -> Result<StagedSnapshot, SnapshotError> {
        let announced = self.total.ok_or(SnapshotError::Incomplete)?;
        let taken = self.sum.total();
        if taken.rows != announced.rows {
            return Err(SnapshotError::Mismatch { what: "rows" });
        }
        if taken.bytes != announced.bytes {
            return Err(SnapshotError::Mismatch { what: "bytes" });
        }
        if taken.digest != announced.digest {
            return Err(SnapshotError::Mismatch { what: "digest" });
        }
        Ok(StagedSnapshot { shard: self.generations.shard(), meta: self.meta, lease: self.lease })
    }
}
