//! A shard's state at one instant, and its chunks.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use flotilla_proto::ids::ShardId;
use flotilla_proto::limits::SNAPSHOT_CHUNK_BYTES;
use flotilla_storage::{Engine, Order, Read, key, value};

use super::{SnapshotChunk, SnapshotError, Sum, put_row};
use crate::keys;
use crate::runtime::blocking;
use crate::state::{Pointer, StateError};
use crate::types::{LogId, SnapshotMeta};

/// The rows, applied index and membership of one instant. Cheap to take and to clone; keeps old rows alive.
#[derive(Clone)]
pub struct SnapshotView {
    read: Arc<dyn Read>,
    shard: ShardId,
    pointer: Pointer,
}

impl std::fmt::Debug for SnapshotView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SnapshotView(shard {}, {:?})", self.shard, self.pointer)
    }
}

impl SnapshotView {
    /// The state as it is now. `None` before the group's first start.
    pub fn take(engine: &dyn Engine, shard: ShardId) -> Result<Option<Self>, StateError> {
        Self::of(engine.view(), shard)
    }

    /// The state as a view of the engine shows it.
    pub fn of(read: Arc<dyn Read>, shard: ShardId) -> Result<Option<Self>, StateError> {
        // The pointer comes from the view itself, so that it cannot name another instant than the rows do.
        let pointer = Pointer::load(&*read, shard)?;
        Ok(pointer.map(|pointer| Self { read, shard, pointer }))
    }

    pub fn shard(&self) -> ShardId {
        self.shard
    }

    pub fn applied(&self) -> Option<LogId> {
        self.pointer.applied
    }

    pub fn read(&self) -> &dyn Read {
        &*self.read
    }

    /// What stands in front of the machine's keys in [`read`](Self::read).
    pub fn prefix(&self) -> Vec<u8> {
        keys::state(self.shard, self.pointer.generation)
    }

    pub fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.pointer.applied, last_membership: self.pointer.membership.clone() }
    }

    /// The whole state in pieces, read on demand.
    pub fn chunks(&self) -> SnapshotChunks {
        let prefix = self.prefix();
        SnapshotChunks {
            end: keys::end(prefix.clone()),
            from: prefix,
            view: self.clone(),
            seq: 0,
            sum: Sum::default(),
            done: false,
        }
    }
}

/// The chunks of a view, one at a time: memory is bounded by one chunk and its largest row.
pub struct SnapshotChunks {
    view: SnapshotView,
    from: Vec<u8>,
    end: Vec<u8>,
    seq: u64,
    sum: Sum,
    done: bool,
}

/// What one read of a key range gave.
struct Page {
    rows: Vec<u8>,
    count: u64,
    last_key: Option<Vec<u8>>,
    more: bool,
}

impl SnapshotChunks {
    /// The next chunk; `None` after the one with the total.
    pub async fn next(&mut self) -> Result<Option<SnapshotChunk>, SnapshotError> {
        if self.done {
            return Ok(None);
        }
        let (view, from, end) = (self.view.clone(), self.from.clone(), self.end.clone());
        let page = blocking(move || read_page(&view, &from, &end)).await?;
        if let Some(last) = page.last_key {
            self.from = key::successor(&last);
        }
        self.sum.add(&page.rows, page.count);
        self.done = !page.more;
        let chunk = SnapshotChunk {
            seq: self.seq,
            crc: crc32fast::hash(&page.rows),
            rows: Bytes::from(page.rows),
            total: self.done.then(|| self.sum.total()),
        };
        self.seq += 1;
        Ok(Some(chunk))
    }
}

fn read_page(view: &SnapshotView, from: &[u8], end: &[u8]) -> Result<Page, SnapshotError> {
    let cut = view.prefix().len();
    let mut page = Page { rows: Vec::new(), count: 0, last_key: None, more: false };
    let mut damaged = false;
    view.read.scan(from, end, Order::Forward, &mut |key, row| {
        let bytes = 8 + key.len() - cut + row.len();
        if page.count > 0 && page.rows.len() + bytes > SNAPSHOT_CHUNK_BYTES {
            page.more = true;
            return ControlFlow::Break(());
        }
        if value::open_slice(row).is_err() {
            damaged = true;
            return ControlFlow::Break(());
        }
        put_row(&mut page.rows, &key[cut..], row);
        page.count += 1;
        page.last_key = Some(key.to_vec());
        ControlFlow::Continue(())
    })?;
    if damaged { Err(SnapshotError::DamagedHere) } else { Ok(page) }
}

impl From<StateError> for SnapshotError {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Storage(error) => Self::Storage(error),
            StateError::Damaged { .. } => Self::DamagedHere,
        }
    }
}
