//! The model that engines are compared with: a plain map, and random operations on few keys.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use proptest::prelude::*;

use super::{Checked, same};
use crate::{Batch, Op, Order, Read, StorageError};

pub(super) type Key = Vec<u8>;
pub(super) type Model = BTreeMap<Key, Vec<u8>>;
pub(super) type Pairs = Vec<(Key, Vec<u8>)>;

/// Above every key that the strategies make.
pub(super) const END: &[u8] = &[0xff; 8];

pub(super) fn apply(model: &mut Model, ops: &[Op]) {
    for op in ops {
        match op {
            Op::Put(key, value) => {
                model.insert(key.to_vec(), value.to_vec());
            }
            Op::Delete(key) => {
                model.remove(&key[..]);
            }
            Op::DeleteRange { from, to } => model.retain(|key, _| key[..] < from[..] || key[..] >= to[..]),
        }
    }
}

/// What a scan that stops after `limit` pairs must visit.
pub(super) fn expected_scan(model: &Model, from: &[u8], to: &[u8], order: Order, limit: usize) -> Pairs {
    let inside = model.iter().filter(|(key, _)| &key[..] >= from && &key[..] < to);
    let pairs = inside.map(|(key, value)| (key.clone(), value.clone()));
    match order {
        Order::Forward => pairs.take(limit).collect(),
        Order::Reverse => pairs.rev().take(limit).collect(),
    }
}

/// What a scan visits until it is told to stop at pair number `limit`.
pub(super) fn scan(read: &dyn Read, from: &[u8], to: &[u8], order: Order, limit: usize) -> Result<Pairs, StorageError> {
    let mut pairs = Vec::new();
    if limit == 0 {
        return Ok(pairs);
    }
    read.scan(from, to, order, &mut |key, value| {
        pairs.push((key.to_vec(), value.to_vec()));
        if pairs.len() >= limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(pairs)
}

/// Everything a reader sees.
pub(super) fn content(read: &dyn Read) -> Result<Model, StorageError> {
    Ok(scan(read, &[], END, Order::Forward, usize::MAX)?.into_iter().collect())
}

/// Compares a reader with the model: by scans in both orders, and by a get of each key that either knows.
#[track_caller]
pub(super) fn same_content(read: &dyn Read, model: &Model) -> Checked {
    for order in [Order::Forward, Order::Reverse] {
        let expected = expected_scan(model, &[], END, order, usize::MAX);
        same("a whole scan", scan(read, &[], END, order, usize::MAX)?, expected)?;
    }
    for (key, value) in model {
        same("a get", read.get(key)?.as_deref(), Some(&value[..]))?;
    }
    Ok(())
}

/// Keys over few bytes, so that operations meet often; prefixes of each other and both extremes included.
pub(super) fn key() -> impl Strategy<Value = Key> {
    prop::collection::vec(prop::sample::select(vec![0u8, 1, b'a', 0xff]), 0..4)
}

fn op() -> impl Strategy<Value = Op> {
    let value = prop_oneof![
        9 => prop::collection::vec(any::<u8>(), 0..6),
        1 => prop::collection::vec(any::<u8>(), 300..400),
    ];
    prop_oneof![
        5 => (key(), value).prop_map(|(key, value)| Op::Put(key.into(), value.into())),
        2 => key().prop_map(|key| Op::Delete(key.into())),
        1 => (key(), key()).prop_map(|(from, to)| Op::DeleteRange { from: from.into(), to: to.into() }),
    ]
}

pub(super) fn batch() -> impl Strategy<Value = Batch> {
    prop::collection::vec(op(), 0..6).prop_map(|ops| {
        let mut batch = Batch::new();
        ops.into_iter().for_each(|op| batch.push(op));
        batch
    })
}

/// A batch of puts, for the fixed cases.
pub(super) fn put(pairs: &[(&'static str, &'static str)]) -> Batch {
    let mut batch = Batch::new();
    for (key, value) in pairs {
        batch.put(*key, *value);
    }
    batch
}
