//! Engines broken on purpose: a suite that cannot fail proves nothing.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::mem::MemSubject;
use crate::{Batch, Durability, Engine, MemEngine, Op, Order, Read, StorageError, Visitor, WriteNo, conformance, key};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    None,
    LosesDeletes,
    RangeDeleteTakesTheEnd,
    FirstOperationWins,
    TearsBatches,
    ScanTakesTheEnd,
    ScanIgnoresTheOrder,
    ScanIgnoresTheBreak,
    ScanIsNotOnePointInTime,
    ViewIsNotFrozen,
    EmptyValueReadsAsAbsent,
    SyncedWriteIsOnlyBuffered,
    SyncDoesNothing,
    FlushOnlySyncs,
    SyncedLagsBehind,
    NumbersRestartWhenOpened,
    CheckpointFailsQuietly,
}

struct Broken {
    engine: Arc<MemEngine>,
    defect: Defect,
    opened_at: u64,
    /// What the two liars say is synced.
    claimed: AtomicU64,
}

impl Broken {
    fn is(&self, defect: Defect) -> bool {
        self.defect == defect
    }

    fn claim(&self) {
        self.claimed.fetch_max(self.engine.last_write().0, Ordering::SeqCst);
    }

    fn spoil(&self, op: Op) -> Op {
        match (self.defect, op) {
            (Defect::LosesDeletes, Op::Delete(key)) => Op::Delete([&key[..], b"?"].concat().into()),
            (Defect::RangeDeleteTakesTheEnd, Op::DeleteRange { from, to }) => {
                Op::DeleteRange { from, to: key::successor(&to).into() }
            }
            (_, op) => op,
        }
    }

    fn write_each_alone(&self, ops: Vec<Op>, durability: Durability) -> Result<WriteNo, StorageError> {
        let mut number = self.engine.last_write();
        for op in ops {
            let mut single = Batch::new();
            single.push(op);
            number = self.engine.write(single, durability)?;
        }
        Ok(number)
    }

    fn scan_live(&self, from: &[u8], to: &[u8], visit: Visitor<'_>) -> Result<(), StorageError> {
        let mut from = from.to_vec();
        while from[..] < *to {
            let mut found = None;
            self.engine.scan(&from, to, Order::Forward, &mut |key, value| {
                found = Some((key.to_vec(), value.to_vec()));
                ControlFlow::Break(())
            })?;
            let Some((key, value)) = found else { break };
            if visit(&key, &value).is_break() {
                break;
            }
            from = key::successor(&key);
        }
        Ok(())
    }
}

impl Read for Broken {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let value = self.engine.get(key)?;
        Ok(value.filter(|value| !(self.is(Defect::EmptyValueReadsAsAbsent) && value.is_empty())))
    }

    fn scan(&self, from: &[u8], to: &[u8], order: Order, visit: Visitor<'_>) -> Result<(), StorageError> {
        match (self.defect, order) {
            (Defect::ScanTakesTheEnd, _) if from < to => self.engine.scan(from, &key::successor(to), order, visit),
            (Defect::ScanIgnoresTheOrder, _) => self.engine.scan(from, to, Order::Forward, visit),
            (Defect::ScanIgnoresTheBreak, _) => self.engine.scan(from, to, order, &mut |key, value| {
                let _ = visit(key, value);
                ControlFlow::Continue(())
            }),
            (Defect::ScanIsNotOnePointInTime, Order::Forward) => self.scan_live(from, to, visit),
            _ => self.engine.scan(from, to, order, visit),
        }
    }
}

impl Engine for Broken {
    fn write(&self, batch: Batch, durability: Durability) -> Result<WriteNo, StorageError> {
        let mut ops: Vec<Op> = batch.into_ops().into_iter().map(|op| self.spoil(op)).collect();
        if self.is(Defect::FirstOperationWins) {
            ops.reverse();
        }
        if self.is(Defect::TearsBatches) && !ops.is_empty() {
            return self.write_each_alone(ops, durability);
        }
        let mut batch = Batch::new();
        ops.into_iter().for_each(|op| batch.push(op));
        let lies = self.is(Defect::SyncedWriteIsOnlyBuffered);
        let number = self.engine.write(batch, if lies { Durability::Buffered } else { durability })?;
        if durability == Durability::Synced {
            self.claim();
        }
        Ok(WriteNo(number.0 - self.opened_at))
    }

    fn sync(&self) -> Result<WriteNo, StorageError> {
        if !self.is(Defect::SyncDoesNothing) {
            self.engine.sync()?;
        }
        self.claim();
        Ok(self.last_write())
    }

    fn flush(&self) -> Result<WriteNo, StorageError> {
        if self.is(Defect::FlushOnlySyncs) {
            self.engine.sync()?;
        } else {
            self.engine.flush()?;
        }
        self.claim();
        Ok(self.last_write())
    }

    fn last_write(&self) -> WriteNo {
        WriteNo(self.engine.last_write().0 - self.opened_at)
    }

    fn synced(&self) -> WriteNo {
        match self.defect {
            // These two lie so well that only a crash tells.
            Defect::SyncedWriteIsOnlyBuffered | Defect::SyncDoesNothing => WriteNo(self.claimed.load(Ordering::SeqCst)),
            Defect::SyncedLagsBehind => WriteNo(self.engine.synced().0.saturating_sub(1)),
            _ => WriteNo(self.engine.synced().0 - self.opened_at),
        }
    }

    fn failure(&self) -> Option<StorageError> {
        self.engine.failure()
    }

    fn view(&self) -> Arc<dyn Read> {
        if self.is(Defect::ViewIsNotFrozen) {
            return self.engine.clone();
        }
        self.engine.view()
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), StorageError> {
        let made = self.engine.checkpoint(dir);
        self.claim();
        if self.is(Defect::CheckpointFailsQuietly) { Ok(()) } else { made }
    }
}

fn wrap(engine: MemEngine, defect: Defect) -> Arc<dyn Engine> {
    let opened_at = if defect == Defect::NumbersRestartWhenOpened { engine.last_write().0 } else { 0 };
    let claimed = AtomicU64::new(engine.last_write().0);
    Arc::new(Broken { engine: Arc::new(engine), defect, opened_at, claimed })
}

/// What the suite says about an engine with this defect.
macro_rules! verdict {
    ($defect:ident) => {
        (Defect::$defect, conformance::run(&|| Box::new(MemSubject::new(|engine| wrap(engine, Defect::$defect))), 128))
    };
}

#[test]
fn wrapper_without_a_defect_passes() {
    let (_, verdict) = verdict!(None);
    assert_eq!(verdict, Ok(()));
}

#[test]
fn every_defect_is_found() {
    let verdicts = [
        verdict!(LosesDeletes),
        verdict!(RangeDeleteTakesTheEnd),
        verdict!(FirstOperationWins),
        verdict!(TearsBatches),
        verdict!(ScanTakesTheEnd),
        verdict!(ScanIgnoresTheOrder),
        verdict!(ScanIgnoresTheBreak),
        verdict!(ScanIsNotOnePointInTime),
        verdict!(ViewIsNotFrozen),
        verdict!(EmptyValueReadsAsAbsent),
        verdict!(SyncedWriteIsOnlyBuffered),
        verdict!(SyncDoesNothing),
        verdict!(FlushOnlySyncs),
        verdict!(SyncedLagsBehind),
        verdict!(NumbersRestartWhenOpened),
        verdict!(CheckpointFailsQuietly),
    ];
    for (defect, verdict) in verdicts {
        let violation = verdict.expect_err(&format!("the suite must notice {defect:?}"));
        println!("{defect:?}: found by {}", violation.case);
    }
}

#[test]
fn defects_that_only_a_crash_shows_are_found_by_crashes() {
    for (defect, verdict) in [
        verdict!(TearsBatches),
        verdict!(SyncedWriteIsOnlyBuffered),
        verdict!(SyncDoesNothing),
        verdict!(FlushOnlySyncs),
    ] {
        let violation = verdict.expect_err(&format!("the suite must notice {defect:?}"));
        assert_eq!(violation.case, "crashes_lose_only_suffixes_of_what_was_not_promised", "{defect:?}: {violation}");
    }
}
