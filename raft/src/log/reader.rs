//! Reading a group's log: from the cache in the steady state, from disk for what is older.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, ControlFlow, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use flotilla_proto::limits::LOG_READ_BYTES_MAX;
use flotilla_storage::{Order, Read, StorageError, value};
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use openraft::OptionalSend;
use openraft::storage::RaftLogReader;

use super::store::Shared;
use crate::entry::{self, ENTRY_VERSION};
use crate::keys;
use crate::runtime::blocking;
use crate::types::{Entry, TypeConfig, Vote};

/// Reads one group's log. Clones share the cache.
#[derive(Clone)]
pub struct LogReader {
    pub(super) log: Arc<Shared>,
}

/// Part of a range that one lock of the log could give.
struct Plan {
    /// On disk, to be read from the view.
    disk: Option<(u64, u64, Arc<dyn Read>)>,
    cached: Vec<Entry>,
}

impl LogReader {
    /// Entries of `[start, end)` that exist, in order and without holes, until their bytes pass `bytes_max`.
    async fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let Plan { disk, cached } = self.plan(start, end, bytes_max);
        let Some((from, to, view)) = disk else { return Ok(cached) };
        let log = self.log.clone();
        let mut entries = blocking(move || {
            let read = read_disk(&*view, &log, from, to, bytes_max);
            drop(view);
            read
        })
        .await
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let complete = entries.len() as u64 == to - from;
        if complete && entries.iter().map(entry::encoded_len).sum::<usize>() < bytes_max {
            entries.extend(cached);
        }
        Ok(entries)
    }

    /// Decides under one lock, so that a truncation in between cannot mix two histories: the view is taken while the
    /// bounds hold.
    fn plan(&self, start: u64, end: u64, bytes_max: usize) -> Plan {
        let state = self.log.lock();
        let start = start.max(state.first_index());
        let end = end.min(state.end_index());
        if start >= end {
            return Plan { disk: None, cached: Vec::new() };
        }
        let cached_from = state.cache.first().unwrap_or(end).min(end);
        let disk = (start < cached_from).then(|| (start, cached_from, self.log.engine.view()));
        let cached = state.cache.range(start.max(cached_from), end, bytes_max);
        Plan { disk, cached }
    }
}

/// A log entry on disk that is not what was written, or is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum EntryDamage {
    #[error("log entry {index} of shard {shard} is damaged: {what}")]
    Entry { shard: u16, index: u64, what: String },
    #[error("log entry {index} of shard {shard} is missing")]
    Missing { shard: u16, index: u64 },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

fn read_disk(view: &dyn Read, log: &Shared, from: u64, to: u64, bytes_max: usize) -> Result<Vec<Entry>, EntryDamage> {
    let mut entries = Vec::new();
    let mut budget = bytes_max;
    let mut result = Ok(());
    let (first, last) = (keys::log(log.shard, log.generation, from), keys::log(log.shard, log.generation, to));
    view.scan(&first, &last, Order::Forward, &mut |key, stored| {
        if stored.len() > budget && !entries.is_empty() {
            return ControlFlow::Break(());
        }
        budget = budget.saturating_sub(stored.len());
        match decode_row(log, key, stored, from + entries.len() as u64) {
            Ok(entry) => entries.push(entry),
            Err(damage) => {
                result = Err(damage);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    result?;
    if entries.is_empty() {
        return Err(EntryDamage::Missing { shard: log.shard.0, index: from });
    }
    Ok(entries)
}

/// Checks a stored entry against where it stands.
pub(super) fn decode_row(log: &Shared, key: &[u8], stored: &[u8], expected: u64) -> Result<Entry, EntryDamage> {
    let shard = log.shard.0;
    let index = keys::log_index(key).unwrap_or(u64::MAX);
    if index != expected {
        return Err(EntryDamage::Missing { shard, index: expected });
    }
    let damaged = |what: String| EntryDamage::Entry { shard, index, what };
    let (version, body) = value::open(&Bytes::copy_from_slice(stored)).map_err(|error| damaged(error.to_string()))?;
    if version != ENTRY_VERSION {
        return Err(damaged(format!("version {version}")));
    }
    let entry = entry::decode_body(body).map_err(|error| damaged(error.to_string()))?;
    if entry.log_id.index() != index {
        return Err(damaged(format!("it says it is entry {}", entry.log_id.index())));
    }
    Ok(entry)
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        self.read(start, end, usize::MAX).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.log.lock().vote)
    }

    /// May be empty if the range was truncated or purged meanwhile; openraft then sends a heartbeat and asks again.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, LOG_READ_BYTES_MAX).await
    }

    /// Page by page: a restart may have far more to apply than fits in memory at once.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        let reader = self.clone();
        let pages = stream::try_unfold((reader, start), move |(reader, from)| async move {
            if from >= end {
                return Ok::<_, io::Error>(None);
            }
            let page = reader.read(from, end, LOG_READ_BYTES_MAX).await?;
            let Some(last) = page.last() else { return Ok(None) };
            let next = last.log_id.index() + 1;
            Ok(Some((stream::iter(page.into_iter().map(Ok)), (reader, next))))
        });
        pages.try_flatten().boxed()
    }
}
