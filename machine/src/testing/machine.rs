//! One shard's state on an engine of its own: apply, look, copy.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use flotilla_proto::ids::*;
use flotilla_proto::slots::SlotTable;
use flotilla_storage::{Durability, Engine, MemEngine, Order, Read, StorageError};

use crate::command::{Command, Settings, Stamp};
use crate::meta::{Kept, Meta};
use crate::query::{Answer, Query};
use crate::reply::Reply;
use crate::table::View;
use crate::{Applied, Fatal, Txn};

pub struct Machine {
    engine: MemEngine,
    prefix: Vec<u8>,
    shard: ShardId,
    /// As an applier keeps it, so that every test of the rules tests that too.
    kept: Kept,
}

/// Few enough that rows leave the memory and come back to it in the course of a test.
const KEPT_BYTES: usize = 8 << 10;

fn kept() -> Kept {
    let mut kept = Kept::default();
    kept.allow(KEPT_BYTES);
    kept
}

impl Machine {
    /// A shard that owns nothing yet.
    pub fn new(shard: ShardId) -> Self {
        Self { engine: MemEngine::new(), prefix: vec![3, 0, 1], shard, kept: kept() }
    }

    /// A shard that has taken this slot table.
    pub fn with_slots(shard: ShardId, slots: &SlotTable) -> Self {
        let mut machine = Self::new(shard);
        machine.one(Command::SetSlots(slots.clone()));
        machine.one(Command::SetSettings(Settings::default()));
        machine
    }

    /// Applies one proposal and stores its batch.
    pub fn try_apply(&mut self, stamp: &Stamp, commands: &[Bytes]) -> Result<Applied, Fatal> {
        let mut kept = std::mem::take(&mut self.kept);
        let mut txn = Txn::keeping(&self.engine, self.prefix.clone(), &mut kept);
        let applied = crate::apply_keeping(&mut txn, self.shard, stamp, commands, &mut kept)?;
        self.engine.write(txn.into_batch_keeping(&mut kept), Durability::Buffered)?;
        self.kept = kept;
        Ok(applied)
    }

    pub fn apply(&mut self, stamp: &Stamp, commands: &[Command]) -> Applied {
        let encoded: Vec<Bytes> = commands.iter().map(|c| c.encode().expect("commands encode")).collect();
        self.try_apply(stamp, &encoded).expect("well-formed commands on sound state")
    }

    /// One command, a millisecond after the previous one.
    pub fn one(&mut self, command: Command) -> Reply {
        let display = self.meta().clock.display;
        self.at(Stamp { age_delta_ms: 1, display: TsMs(display.0 + 1) }, command)
    }

    pub fn at(&mut self, stamp: Stamp, command: Command) -> Reply {
        let mut applied = self.apply(&stamp, &[command]);
        assert_eq!(applied.replies.len(), 1, "one reply per command");
        applied.replies.remove(0)
    }

    /// Lets the age clock run, and nothing else.
    pub fn wait(&mut self, age_delta_ms: u64) {
        self.at(Stamp { age_delta_ms, display: TsMs(0) }, Command::Tick);
    }

    /// Applies without storing: how many rows the proposal writes.
    pub fn rows_written(&self, command: Command) -> usize {
        let mut txn = Txn::new(&self.engine, self.prefix.clone());
        let encoded = command.encode().expect("commands encode");
        crate::apply(&mut txn, self.shard, &Stamp::default(), &[encoded]).expect("applies");
        txn.into_batch().len()
    }

    /// How many point reads of stored rows a proposal of this command makes.
    pub fn rows_read(&self, command: Command) -> usize {
        let counting = Counting { engine: &self.engine, gets: AtomicUsize::new(0) };
        let mut txn = Txn::new(&counting, self.prefix.clone());
        let encoded = command.encode().expect("commands encode");
        crate::apply(&mut txn, self.shard, &Stamp::default(), &[encoded]).expect("applies");
        counting.gets.load(Ordering::Relaxed)
    }

    /// Changes rows behind the rules' back.
    pub fn tamper(&mut self, change: impl FnOnce(&mut Txn<'_>)) {
        let mut txn = Txn::new(&self.engine, self.prefix.clone());
        change(&mut txn);
        self.kept = kept();
        self.engine.write(txn.into_batch(), Durability::Buffered).expect("writes");
    }

    pub fn query(&self, query: &Query) -> Answer {
        crate::query(&self.engine, &self.prefix, self.shard, query).expect("sound state")
    }

    pub fn view(&self) -> View<'_> {
        View { read: &self.engine, prefix: &self.prefix }
    }

    pub fn meta(&self) -> Meta {
        Meta::load(&self.view(), self.shard).expect("sound state")
    }

    pub fn digest(&self) -> Hash32 {
        crate::digest(&self.engine, &self.prefix).expect("sound state")
    }

    /// All rows, by key without the prefix.
    pub fn rows(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut rows = BTreeMap::new();
        crate::table::scan_all(&self.view(), &mut |key, value| {
            rows.insert(key.to_vec(), value.to_vec());
            ControlFlow::Continue(())
        })
        .expect("sound state");
        rows
    }

    /// The same state under another prefix, as a snapshot's install leaves it.
    pub fn copy(&self, prefix: Vec<u8>) -> Machine {
        let copy = Machine { engine: MemEngine::new(), prefix, shard: self.shard, kept: kept() };
        let mut batch = flotilla_storage::Batch::new();
        let end = flotilla_storage::key::prefix_end(&self.prefix).expect("a prefix below 0xff");
        self.engine
            .scan(&self.prefix, &end, Order::Forward, &mut |key, value| {
                let key = [&copy.prefix, &key[self.prefix.len()..]].concat();
                batch.put(key, Bytes::copy_from_slice(value));
                ControlFlow::Continue(())
            })
            .expect("scans");
        copy.engine.write(batch, Durability::Buffered).expect("writes");
        copy
    }
}

/// Counts the point reads that pass through.
struct Counting<'a> {
    engine: &'a MemEngine,
    gets: AtomicUsize,
}

impl Read for Counting<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.engine.get(key)
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        order: Order,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        self.engine.scan(from, to, order, visit)
    }
}
