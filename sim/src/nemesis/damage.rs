//! A flipped bit in something that a node has stored: log, vote or state of a shard.

use std::ops::ControlFlow;

use bytes::Bytes;
use flotilla_machine::table::kind;
use flotilla_proto::ids::ShardId;
use flotilla_raft::keys::{self, StateGeneration};
use flotilla_storage::{MemDisk, Order};

/// One row, before and after.
pub struct Flipped {
    pub shard: ShardId,
    pub key: Vec<u8>,
    pub now: Bytes,
    pub written: Bytes,
    pub what: String,
}

/// Which rows may be hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    Any,
    /// Of logs, and votes.
    Logs,
    /// What has been said: the state rows that are read least.
    Entries,
}

impl Rows {
    fn kind(self, pick: usize) -> u8 {
        let kinds: &[u8] = match self {
            Self::Any => &[keys::LOG, keys::STATE, keys::STATE, keys::LOG, keys::VOTE],
            Self::Logs => &[keys::LOG, keys::LOG, keys::LOG, keys::VOTE],
            Self::Entries => &[keys::STATE],
        };
        kinds[pick % kinds.len()]
    }

    fn takes(self, key: &[u8]) -> bool {
        let prefix = keys::state(ShardId::CONTROL, StateGeneration(0)).len();
        self != Self::Entries || key.get(prefix) == Some(&kind::ENTRY)
    }
}

/// Flips a bit of one row, chosen by `pick` among those that may be hit; says which. The control group's are spared: its replicas
/// are outside of what is promised to heal by itself.
pub fn flip(disk: &MemDisk, rows: Rows, pick: u32) -> Option<Flipped> {
    let (kind, which) = (rows.kind(pick as usize), rows);
    let mut rows = Vec::new();
    // A simulated disk without faults can be read.
    let _ = disk.written().scan(&[kind], &[kind + 1], Order::Forward, &mut |key, _| {
        rows.push(key.to_vec());
        ControlFlow::Continue(())
    });
    rows.retain(|key| key.get(1..3) != Some(&[0, 0][..]) && which.takes(key));
    let key = rows.get((pick as usize / 5).checked_rem(rows.len())?)?;
    let shard = ShardId(u16::from_be_bytes([*key.get(1)?, *key.get(2)?]));
    let what = match kind {
        keys::LOG => "a log entry",
        keys::VOTE => "the vote",
        _ => "a row of the state",
    };
    let read = || disk.written().get(key).ok().flatten().unwrap_or_default();
    let written = read();
    disk.corrupt(key, pick as usize / 7).then(|| {
        let what = format!("{what} of shard {shard}");
        Flipped { shard, key: key.clone(), now: read(), written, what }
    })
}
