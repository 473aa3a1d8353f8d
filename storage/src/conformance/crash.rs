//! Random histories with kills: what comes back are the logged batches up to some one and the unlogged ones up to some one, and
//! nothing of what was promised is missing.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::model::{self, Model};
use super::{Checked, Failure, Subject, ensure};
use crate::{Batch, Durability, Engine, Op, WriteNo};

#[derive(Clone, Debug)]
enum Step {
    Write(Batch, Durability),
    Sync,
    Flush,
    Crash { keep: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => model::batch().prop_map(|batch| Step::Write(batch, Durability::Buffered)),
        4 => model::batch().prop_map(|batch| Step::Write(batch, Durability::Unlogged)),
        2 => model::batch().prop_map(|batch| Step::Write(batch, Durability::Synced)),
        1 => Just(Step::Sync),
        1 => Just(Step::Flush),
        2 => prop_oneof![0usize..6, Just(usize::MAX)].prop_map(|keep| Step::Crash { keep }),
    ]
}

pub(super) fn check(fresh: &dyn Fn() -> Box<dyn Subject>, histories: u32) -> Result<(), String> {
    if !fresh().crash(0).map_err(|error| error.to_string())? {
        return Ok(());
    }
    let config = Config { cases: histories, failure_persistence: None, ..Config::default() };
    let history = prop::collection::vec(step(), 1..40);
    TestRunner::new(config)
        .run(&history, |steps| replay(&mut *fresh(), steps).map_err(|failure| TestCaseError::fail(failure.0)))
        .map_err(|error| error.to_string())
}

struct Written {
    number: WriteNo,
    ops: Vec<Op>,
    is_logged: bool,
    /// A crash must not take it.
    is_promised: bool,
}

/// Every batch that may still be taken, and what was there before them.
struct History {
    base: (WriteNo, Model),
    written: Vec<Written>,
}

impl History {
    fn write(&mut self, number: WriteNo, batch: &Batch, durability: Durability) {
        if !batch.is_empty() {
            let is_logged = durability != Durability::Unlogged;
            self.written.push(Written { number, ops: batch.ops().to_vec(), is_logged, is_promised: false });
        }
        if durability == Durability::Synced {
            self.promise_logged();
        }
    }

    fn promise_logged(&mut self) {
        self.written.iter_mut().filter(|batch| batch.is_logged).for_each(|batch| batch.is_promised = true);
    }

    /// Everything written so far can no longer go.
    fn promise_all(&mut self) {
        for batch in std::mem::take(&mut self.written) {
            model::apply(&mut self.base.1, &batch.ops);
            self.base.0 = batch.number;
        }
    }

    fn newest(&self) -> Model {
        self.left_by(|_| true).1
    }

    /// Number and content that a crash leaves which takes all but these.
    fn left_by(&self, keeps: impl Fn(&Written) -> bool) -> (WriteNo, Model) {
        let (mut number, mut content) = self.base.clone();
        for batch in self.written.iter().filter(|batch| keeps(batch)) {
            model::apply(&mut content, &batch.ops);
            number = batch.number;
        }
        (number, content)
    }

    /// What a crash may leave that keeps so many logged batches of the tail. The unlogged ones survive up to any place at
    /// which the engine may have made room by itself, together with all logged ones up to there.
    fn legal(&self, keep: usize) -> Vec<(WriteNo, Model)> {
        let tail = self.written.iter().filter(|batch| batch.is_logged && !batch.is_promised);
        let logged = tail.take(keep).last().map_or(WriteNo(0), |batch| batch.number);
        let flushed = std::iter::once(WriteNo(0)).chain(self.written.iter().map(|batch| batch.number));
        let after = |flushed: WriteNo| {
            let in_log = |batch: &Written| batch.is_logged && (batch.is_promised || batch.number <= logged);
            self.left_by(|batch| batch.number <= flushed || in_log(batch))
        };
        flushed.map(after).collect()
    }

    fn recover(&mut self, engine: &dyn Engine, keep: usize) -> Checked {
        let found = (engine.last_write(), model::content(engine)?);
        let legal = self.legal(keep);
        if !legal.contains(&found) {
            let numbers: Vec<_> = legal.iter().map(|(number, _)| number.0).collect();
            return Err(Failure(format!("{found:?} came back with {keep} kept, legal are {numbers:?}")));
        }
        ensure("what came back is synced", engine.synced() == found.0)?;
        (self.base, self.written) = (found, Vec::new());
        Ok(())
    }
}

fn replay(subject: &mut dyn Subject, steps: Vec<Step>) -> Checked {
    let mut history = History { base: (WriteNo(0), Model::new()), written: Vec::new() };
    for step in steps {
        match step {
            Step::Write(batch, durability) => {
                let number = subject.engine().write(batch.clone(), durability)?;
                history.write(number, &batch, durability);
            }
            Step::Sync => {
                subject.engine().sync()?;
                history.promise_logged();
            }
            Step::Flush => {
                subject.engine().flush()?;
                history.promise_all();
            }
            Step::Crash { keep } => {
                let promised = subject.engine().synced();
                subject.crash(keep)?;
                ensure("what was said to be synced is there", subject.engine().last_write() >= promised)?;
                history.recover(&*subject.engine(), keep)?;
            }
        }
    }
    model::same_content(&*subject.engine(), &history.newest())
}
