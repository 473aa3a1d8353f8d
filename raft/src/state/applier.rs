//! Applies committed entries, builds snapshots, installs them: openraft's state machine.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use flotilla_machine as machine;
use flotilla_machine::Txn;
use flotilla_proto::ids::ShardId;
use flotilla_proto::limits::{APPLY_BYTES_MAX, APPLY_ENTRIES_MAX};
use flotilla_proto::plant::{self, Plant};
use flotilla_storage::{Batch, Durability, Engine, Order as EngineOrder, Read, StorageError};
use futures::{Stream, StreamExt as _};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};

use super::lane::{ApplyLanes, Done, HotPart, Work};
use super::{AppliedMark, Pointer, StateError, mark_damaged};
use crate::entry;
use crate::hooks::Hooks;
use crate::keys;
use crate::path;
use crate::runtime::{blocking, blocking_write};
use crate::seam::fault;
use crate::snapshot::{Generations, SnapshotError, SnapshotSink, SnapshotView, StagedSnapshot};
use crate::types::{Entry, LogId, Replies, Snapshot, SnapshotData, SnapshotMeta, StoredMembership, TypeConfig};

/// The owner of one group's applied state.
pub struct Applier {
    generations: Generations,
    pointer: Pointer,
    mark: AppliedMark,
    lanes: ApplyLanes,
    hooks: Arc<dyn Hooks>,
    order: Order,
    /// Of the state that `pointer` names; forgotten when a snapshot replaces it.
    kept: machine::Kept,
    hot: HotPart,
}

/// What is asserted of the indexes of applied entries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Consecutive,
    /// openraft's test suite leaves entries out.
    #[cfg(test)]
    Rising,
}

type Responder = Option<ApplyResponder<TypeConfig>>;

impl Applier {
    /// `pointer` as [`super::open`] gave it.
    pub fn new(
        generations: Generations,
        pointer: Pointer,
        mark: AppliedMark,
        lanes: ApplyLanes,
        hooks: Arc<dyn Hooks>,
    ) -> Self {
        let hot = lanes.hot_part();
        let kept = machine::Kept::default();
        Self { generations, pointer, mark, lanes, hooks, order: Order::Consecutive, kept, hot }
    }

    #[cfg(test)]
    pub fn with_gaps(mut self) -> Self {
        self.order = Order::Rising;
        self
    }

    fn shard(&self) -> ShardId {
        self.generations.shard()
    }

    fn engine(&self) -> &Arc<dyn Engine> {
        self.generations.engine()
    }

    async fn view(&self) -> Result<Option<SnapshotView>, StateError> {
        let (engine, shard) = (self.engine().clone(), self.shard());
        blocking(move || SnapshotView::take(&*engine, shard)).await
    }

    /// One write for all of these entries, then the replies, then the hints.
    async fn flush(&mut self, entries: Vec<Entry>, responders: Vec<Responder>, bytes: usize) -> io::Result<()> {
        let Some(last) = entries.last().map(|entry| entry.log_id) else { return Ok(()) };
        let shard = self.shard();
        stamp(shard, &entries);
        let (pointer, kept, order) = (self.pointer.clone(), std::mem::take(&mut self.kept), self.order);
        let applied =
            self.lanes.apply(Work { shard, pointer, kept, hot_bytes: self.hot.bytes(), order, entries, bytes }).await;
        let done = match applied {
            Some(Ok(done)) => done,
            Some(Err(fatal)) => return Err(self.stop(last, fatal).await),
            None => return Err(io::Error::other("the lane of this group has ended")),
        };
        self.pointer = done.pointer;
        self.kept = done.kept;
        fault::point("state.applied_before_reply");
        path::index("applied", shard, last.index());
        for (responder, replies) in responders.into_iter().zip(done.replies) {
            if let Some(responder) = responder {
                responder.send(replies);
            }
        }
        fault::point("state.replied_before_effects");
        if !done.effects.is_empty() {
            self.hooks.on_applied(self.shard(), done.effects);
        }
        Ok(())
    }

    /// This replica cannot go on without differing from the others.
    async fn stop(&self, at: LogId, fatal: machine::Fatal) -> io::Error {
        if is_damage(&fatal) {
            let (engine, shard) = (self.engine().clone(), self.shard());
            blocking(move || mark_damaged(&*engine, shard)).await;
        }
        let reason = format!("shard {} cannot apply up to {at}: {fatal}", self.shard());
        self.hooks.on_fatal(Some(self.shard()), reason.clone());
        io::Error::other(reason)
    }

    async fn stage(&self, meta: &SnapshotMeta, view: SnapshotView) -> Result<StagedSnapshot, SnapshotError> {
        let mut sink = SnapshotSink::begin(&self.generations, meta.clone()).await?;
        let mut chunks = view.chunks();
        while let Some(chunk) = chunks.next().await? {
            sink.write(chunk).await?;
        }
        sink.finish()
    }

    /// Flips to the staged generation in one synced batch; a crash before it leaves the old state whole.
    async fn flip(&mut self, meta: &SnapshotMeta, staged: StagedSnapshot) -> io::Result<()> {
        if staged.shard != self.shard() {
            return Err(io::Error::other(format!("a snapshot of shard {} came to {}", staged.shard, self.shard())));
        }
        let pointer = Pointer {
            generation: staged.lease.generation,
            replica: self.pointer.replica,
            applied: meta.last_log_id,
            membership: meta.last_membership.clone(),
        };
        let mut batch = Batch::new();
        pointer.put(self.shard(), &mut batch);
        let late = if plant::on(Plant::SnapshotNonAtomic) { self.hold_back(&pointer, &mut batch)? } else { None };
        fault::point("snapshot.before_flip");
        let engine = self.engine().clone();
        let flipped = blocking_write(&**self.engine(), move || engine.write(batch, Durability::Synced)).await;
        if let Err(error) = flipped {
            return Err(self.fail("installing a snapshot", error));
        }
        self.pointer = pointer;
        self.kept = machine::Kept::default();
        if let Some(applied) = meta.last_log_id {
            self.mark.is_durable(applied.index());
        }
        drop(staged);
        fault::point("snapshot.installed");
        if let Some(late) = late {
            let engine = self.engine().clone();
            let written = blocking_write(&**self.engine(), move || engine.write(late, Durability::Buffered)).await;
            written.map_err(|error| self.fail("writing what was held back", error))?;
        }
        let generations = self.generations.clone();
        let swept = blocking_write(&**self.engine(), move || generations.sweep()).await;
        swept.map_err(|error| self.fail_state("sweeping the state before a snapshot", error))?;
        self.hooks.on_installed(self.shard());
        Ok(())
    }

    /// Takes the second half of the staged rows out, to be written behind the pointer; see [`Plant::SnapshotNonAtomic`].
    fn hold_back(&self, to: &Pointer, batch: &mut Batch) -> io::Result<Option<Batch>> {
        let first = keys::state(self.shard(), to.generation);
        let mut rows = Vec::new();
        let read = self.engine().scan(&first, &keys::end(first.clone()), EngineOrder::Forward, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        });
        read.map_err(|error| self.fail("holding back a snapshot", error))?;
        let late = rows.split_off(rows.len() / 2);
        let Some((from, _)) = late.first().cloned() else { return Ok(None) };
        batch.delete_range(from, keys::end(first));
        let mut rest = Batch::new();
        late.into_iter().for_each(|(key, value)| rest.put(key, value));
        Ok(Some(rest))
    }

    fn fail(&self, doing: &str, error: StorageError) -> io::Error {
        let reason = format!("{doing} for shard {} failed: {error}", self.shard());
        self.hooks.on_fatal(Some(self.shard()), reason);
        io::Error::other(error)
    }

    fn fail_state(&self, doing: &str, error: StateError) -> io::Error {
        let reason = format!("{doing} for shard {} failed: {error}", self.shard());
        self.hooks.on_fatal(Some(self.shard()), reason);
        io::Error::other(error)
    }
}

fn stamp(shard: ShardId, entries: &[Entry]) {
    if !path::is_on() {
        return;
    }
    for entry in entries {
        if let EntryPayload::Normal(proposal) = &entry.payload {
            path::apply(shard, entry.log_id.index(), proposal.commands.iter());
        }
    }
}

/// True if stored rows are not what was written.
pub(crate) fn is_damage(fatal: &machine::Fatal) -> bool {
    matches!(fatal, machine::Fatal::Damaged { .. } | machine::Fatal::Storage(StorageError::Corrupt { .. }))
}

/// The writes of these entries, which nobody has made yet, and what they leave once somebody has.
pub(super) fn apply_entries(engine: &dyn Engine, work: Work) -> Result<(Batch, Done), machine::Fatal> {
    let Work { shard, mut pointer, mut kept, hot_bytes, order, entries, bytes: _ } = work;
    kept.allow(hot_bytes);
    let base: &dyn Read = engine;
    let mut txn = Txn::keeping(base, keys::state(shard, pointer.generation), &mut kept);
    let mut replies = Vec::with_capacity(entries.len());
    let mut effects = Vec::new();
    let before = pointer.clone();
    for entry in &entries {
        plant::applying(entry.log_id.committed_leader_id().term);
        assert_follows(pointer.applied, entry.log_id, order);
        let mut entry_replies = Replies::default();
        match &entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Normal(proposal) => {
                let applied = machine::apply_keeping(&mut txn, shard, &proposal.stamp, &proposal.commands, &mut kept)?;
                entry_replies.0 = applied.replies;
                effects.extend(applied.effects);
            }
            EntryPayload::Membership(membership) => {
                pointer.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
            }
        }
        pointer.applied = Some(entry.log_id);
        replies.push(entry_replies);
    }
    let mut batch = txn.into_batch_keeping(&mut kept);
    if plant::on(Plant::ApplyTwice) { &before } else { &pointer }.put(shard, &mut batch);
    Ok((batch, Done { pointer, kept, replies, effects }))
}

/// Entries are applied in order and once.
fn assert_follows(applied: Option<LogId>, next: LogId, order: Order) {
    let expected = applied.map_or(0, |applied| applied.index() + 1);
    match order {
        Order::Consecutive => assert_eq!(next.index(), expected, "entry {next} cannot follow {applied:?}"),
        #[cfg(test)]
        Order::Rising => assert!(next.index() >= expected, "entry {next} cannot follow {applied:?}"),
    }
}

impl RaftStateMachine<TypeConfig> for Applier {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.pointer.applied, self.pointer.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut stream: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let (mut entries, mut responders, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some(next) = stream.next().await {
            let (entry, responder) = next?;
            bytes += entry::encoded_len(&entry);
            entries.push(entry);
            responders.push(responder);
            if bytes >= APPLY_BYTES_MAX || entries.len() >= APPLY_ENTRIES_MAX {
                self.flush(std::mem::take(&mut entries), std::mem::take(&mut responders), bytes).await?;
                bytes = 0;
            }
        }
        self.flush(entries, responders, bytes).await
    }

    /// The view is taken here, between two applies: taken later it could show entries that openraft does not know to be
    /// applied yet, and the purge behind the snapshot would overtake them.
    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            view: self.view().await,
            engine: self.engine().clone(),
            shard: self.shard(),
            mark: self.mark.clone(),
            hooks: self.hooks.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: SnapshotData) -> Result<(), io::Error> {
        if meta.last_log_id < self.pointer.applied {
            // Only a transfer that was overtaken ends here; what it staged goes with the next sweep.
            tracing::info!(shard = %self.shard(), "a snapshot older than the applied state is not installed");
            return Ok(());
        }
        let staged = match data {
            SnapshotData::Staged(staged) => staged,
            SnapshotData::Live(view) => self.stage(meta, view).await.map_err(io::Error::other)?,
        };
        self.flip(meta, staged).await
    }

    /// Always the state as of now: newer than the last one built, and as consistent.
    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        if self.pointer.applied.is_none() {
            return Ok(None);
        }
        let view = self.view().await.map_err(io::Error::other)?;
        Ok(view.map(snapshot_of))
    }
}

fn snapshot_of(view: SnapshotView) -> Snapshot {
    Snapshot { meta: view.meta(), snapshot: SnapshotData::Live(view) }
}

/// Builds a snapshot: makes what its view shows durable, so that the log below it may go.
pub struct SnapshotBuilder {
    view: Result<Option<SnapshotView>, StateError>,
    engine: Arc<dyn Engine>,
    shard: ShardId,
    mark: AppliedMark,
    hooks: Arc<dyn Hooks>,
}

impl SnapshotBuilder {
    async fn build(&self) -> Result<SnapshotView, StateError> {
        let gone = || StateError::Damaged { what: format!("the pointer of shard {} is gone", self.shard) };
        let view = self.view.clone()?.ok_or_else(gone)?;
        let engine = self.engine.clone();
        let only_syncs = plant::on(Plant::SnapshotOnlySyncs);
        blocking_write(&*self.engine, move || if only_syncs { engine.sync() } else { engine.flush() }).await?;
        if let Some(applied) = view.applied() {
            self.mark.is_durable(applied.index());
        }
        Ok(view)
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        match self.build().await {
            Ok(view) => Ok(snapshot_of(view)),
            Err(error) => {
                let reason = format!("building a snapshot of shard {} failed: {error}", self.shard);
                self.hooks.on_fatal(Some(self.shard), reason);
                Err(io::Error::other(error))
            }
        }
    }
}
