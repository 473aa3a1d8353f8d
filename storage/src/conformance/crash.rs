//! Random histories with kills: what comes back is the state after some whole batch, and never older than
//! the last one that was promised.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::model::{self, Model};
use super::{Checked, Failure, Subject, ensure};
use crate::{Batch, Durability, WriteNo};

#[derive(Clone, Debug)]
enum Step {
    Write(Batch, Durability),
    Sync,
    Crash { keep: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => model::batch().prop_map(|batch| Step::Write(batch, Durability::Buffered)),
        2 => model::batch().prop_map(|batch| Step::Write(batch, Durability::Synced)),
        1 => Just(Step::Sync),
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

/// The states that a crash may bring back: the durable one first, then one per unsynced batch.
struct Legal {
    states: Vec<(WriteNo, Model)>,
}

impl Legal {
    fn newest(&self) -> Result<&(WriteNo, Model), Failure> {
        self.states.last().ok_or_else(|| Failure("the model lost its states".into()))
    }

    /// Only the newest state is left: all before it can no longer come back.
    fn promise(&mut self) {
        self.states.drain(..self.states.len() - 1);
    }

    /// Takes over the state that came back, which must be one of the legal ones, and the one kept.
    fn recover(&mut self, last: WriteNo, found: &Model, keep: usize) -> Checked {
        let kept = keep.min(self.states.len() - 1);
        let Some(index) = self.states.iter().rposition(|(number, state)| *number == last && state == found) else {
            let numbers: Vec<_> = self.states.iter().map(|(number, _)| number.0).collect();
            return Err(Failure(format!("write {last:?} with {found:?} came back, legal are {numbers:?}")));
        };
        ensure("the crash kept the batches it was told to keep", self.states[index] == self.states[kept])?;
        self.states = vec![self.states.swap_remove(index)];
        Ok(())
    }
}

fn replay(subject: &mut dyn Subject, steps: Vec<Step>) -> Checked {
    let mut legal = Legal { states: vec![(WriteNo(0), Model::new())] };
    for step in steps {
        match step {
            Step::Write(batch, durability) => {
                let (_, mut state) = legal.newest()?.clone();
                model::apply(&mut state, batch.ops());
                let empty = batch.is_empty();
                let number = subject.engine().write(batch, durability)?;
                if !empty {
                    legal.states.push((number, state));
                }
                if durability == Durability::Synced {
                    legal.promise();
                }
            }
            Step::Sync => {
                subject.engine().sync()?;
                legal.promise();
            }
            Step::Crash { keep } => {
                subject.crash(keep)?;
                let engine = subject.engine();
                legal.recover(engine.last_write(), &model::content(&*engine)?, keep)?;
            }
        }
    }
    let (_, state) = legal.newest()?;
    model::same_content(&*subject.engine(), state)
}
