//! Damages the database of a stopped node: one row at a time, as a bad disk would, but where a test wants it.
//!
//! It knows the first bytes of keys as `flotilla-raft` lays them out, and the node's own rows by name.

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, ensure};
use flotilla_storage::rocks::{RocksEngine, RocksOptions};
use flotilla_storage::{Batch, Durability, Engine, Order, Read, value};

/// Key kinds of a shard: log entries, votes, rows of the state.
pub const LOG: u8 = 1;
pub const VOTE: u8 = 2;
pub const STATE: u8 = 8;

fn open(dir: &Path) -> anyhow::Result<RocksEngine> {
    Ok(RocksEngine::open(&dir.join("db"), RocksOptions::default())?)
}

/// Flips one bit in the last value of a kind in a shard. The checksum of the value is left as it was.
pub fn flip(dir: &Path, kind: u8, shard: u16) -> anyhow::Result<()> {
    let engine = open(dir)?;
    let mut from = vec![kind];
    from.extend_from_slice(&shard.to_be_bytes());
    let mut to = vec![kind];
    to.extend_from_slice(&(shard + 1).to_be_bytes());
    let mut last = None;
    engine.scan(&from, &to, Order::Reverse, &mut |key, stored| {
        last = Some((key.to_vec(), stored.to_vec()));
        ControlFlow::Break(())
    })?;
    let (key, mut stored) = last.with_context(|| format!("shard {shard} has no row of kind {kind}"))?;
    let middle = stored.len() / 2;
    stored[middle] ^= 0x10;
    ensure!(value::open_slice(&stored).is_err(), "the damage would not be noticed");
    put(&engine, key, stored)
}

/// Writes one of the node's own rows (`boot`, `node`, …) with another layout version.
pub fn set_layout(dir: &Path, row: &str, version: u8) -> anyhow::Result<()> {
    let engine = open(dir)?;
    let key = [b"\xf0", row.as_bytes()].concat();
    let stored = engine.get(&key)?.with_context(|| format!("no row `{row}`"))?;
    let (_, payload) = value::open_slice(&stored)?;
    let newer = value::seal(version, payload);
    put(&engine, key, newer.to_vec())
}

fn put(engine: &RocksEngine, key: Vec<u8>, stored: Vec<u8>) -> anyhow::Result<()> {
    let mut batch = Batch::new();
    batch.put(key, stored);
    engine.write(batch, Durability::Synced)?;
    Ok(())
}
