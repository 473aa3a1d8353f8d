//! Random histories of everything an engine can do, against a plain map.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::model::{self, Key, Model};
use super::{Checked, Subject, ensure, same};
use crate::{Batch, Durability, Order, Read, WriteNo};

#[derive(Clone, Debug)]
enum Step {
    Write(Batch, Durability),
    Sync,
    Flush,
    Get(Key),
    Scan {
        from: Key,
        to: Key,
        order: Order,
        limit: usize,
    },
    /// Keeps a view, in place of the oldest if there are three already.
    TakeView,
    CheckViews,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let durability = prop::sample::select(vec![Durability::Synced, Durability::Buffered, Durability::Unlogged]);
    let order = prop::sample::select(vec![Order::Forward, Order::Reverse]);
    prop_oneof![
        12 => (model::batch(), durability).prop_map(|(batch, durability)| Step::Write(batch, durability)),
        2 => Just(Step::Sync),
        1 => Just(Step::Flush),
        4 => model::key().prop_map(Step::Get),
        6 => (model::key(), model::key(), order, 1usize..20)
            .prop_map(|(from, to, order, limit)| Step::Scan { from, to, order, limit }),
        3 => Just(Step::TakeView),
        2 => Just(Step::CheckViews),
        1 => Just(Step::Reopen),
    ]
}

pub(super) fn check(fresh: &dyn Fn() -> Box<dyn Subject>, histories: u32) -> Result<(), String> {
    let config = Config { cases: histories, failure_persistence: None, ..Config::default() };
    let history = prop::collection::vec(step(), 1..40);
    TestRunner::new(config)
        .run(&history, |steps| replay(&mut *fresh(), steps).map_err(|failure| TestCaseError::fail(failure.0)))
        .map_err(|error| error.to_string())
}

fn replay(subject: &mut dyn Subject, steps: Vec<Step>) -> Checked {
    let mut model = Model::new();
    let mut logged = WriteNo(0);
    let mut views: Vec<(Arc<dyn Read>, Model)> = Vec::new();
    for step in steps {
        match step {
            Step::Write(batch, durability) => {
                let is_logged = durability != Durability::Unlogged && !batch.is_empty();
                write(subject, &mut model, batch, durability)?;
                logged = if is_logged { subject.engine().last_write() } else { logged };
            }
            Step::Sync => {
                let engine = subject.engine();
                let covered = engine.sync()?;
                let synced = engine.synced();
                ensure("a sync covers what was logged", covered >= logged && synced >= logged)?;
                ensure("synced never passes the last write", synced <= engine.last_write())?;
            }
            Step::Flush => {
                let engine = subject.engine();
                let covered = engine.flush()?;
                let synced = engine.synced();
                ensure("a flush covers what was logged", covered >= logged && synced >= logged)?;
                ensure("synced never passes the last write", synced <= engine.last_write())?;
            }
            Step::Get(key) => {
                let got = subject.engine().get(&key)?;
                same("a get", got.as_deref(), model.get(&key).map(|value| &value[..]))?;
            }
            Step::Scan { from, to, order, limit } => {
                let got = model::scan(&*subject.engine(), &from, &to, order, limit)?;
                same("a scan", got, model::expected_scan(&model, &from, &to, order, limit))?;
            }
            Step::TakeView => {
                if views.len() == 3 {
                    views.remove(0);
                }
                views.push((subject.engine().view(), model.clone()));
            }
            Step::CheckViews => check_views(&views)?,
            Step::Reopen => {
                check_views(&views)?;
                views.clear();
                reopen(subject)?;
            }
        }
    }
    check_views(&views)?;
    model::same_content(&*subject.engine(), &model)
}

fn write(subject: &dyn Subject, model: &mut Model, batch: Batch, durability: Durability) -> Checked {
    let engine = subject.engine();
    let before = engine.last_write();
    model::apply(model, batch.ops());
    let ops = batch.len() as u64;
    let number = engine.write(batch, durability)?;
    same("the last write", engine.last_write().0, before.0 + ops)?;
    ensure("synced never passes the last write", engine.synced() <= engine.last_write())?;
    if ops == 0 {
        // An empty synced write is a sync, which covers what was logged.
        return ensure("the number of an empty batch", number <= before);
    }
    same("the number of a batch", number, engine.last_write())?;
    if durability == Durability::Synced {
        same("synced after a synced write", engine.synced(), number)?;
    }
    Ok(())
}

fn check_views(views: &[(Arc<dyn Read>, Model)]) -> Checked {
    views.iter().try_for_each(|(view, model)| model::same_content(&**view, model))
}

fn reopen(subject: &mut dyn Subject) -> Checked {
    let before = subject.engine().last_write();
    subject.reopen()?;
    let engine = subject.engine();
    same("the last write after a clean close", engine.last_write(), before)?;
    same("synced after opening", engine.synced(), before)
}
