//! What openraft is configured with.
//!
//! One leader per term (`leader_id_std`): push streams are ordered by term alone, and the age clock starts at 0 with a
//! term, so two leaders of one term must not exist.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use flotilla_machine::{Reply, Stamp};
use openraft::impls::leader_id_std;
use openraft::type_config::alias;
use serde::{Deserialize, Serialize};

use crate::snapshot::{SnapshotView, StagedSnapshot};

openraft::declare_raft_types!(
    pub TypeConfig:
        D = Proposal,
        R = Replies,
        NodeId = u64,
        Node = openraft::EmptyNode,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = crate::runtime::Runtime,
);

pub type LogId = alias::LogIdOf<TypeConfig>;
pub type Vote = alias::VoteOf<TypeConfig>;
pub type Entry = alias::EntryOf<TypeConfig>;
pub type Payload = alias::PayloadOf<TypeConfig>;
pub type Membership = openraft::Membership<u64, openraft::EmptyNode>;
pub type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
pub type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;
pub type Snapshot = alias::SnapshotOf<TypeConfig, SnapshotData>;
pub type Raft = openraft::Raft<TypeConfig, crate::state::Applier>;

/// The log id of `index` in `term`.
pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(term.into(), index)
}

/// One log entry of commands: stamped by the leader, applied in order. Commands are encoded once and stay opaque here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    pub stamp: Stamp,
    pub commands: Arc<[Bytes]>,
}

impl Proposal {
    pub fn new(stamp: Stamp, commands: Vec<Bytes>) -> Self {
        Self { stamp, commands: commands.into() }
    }

    /// Bytes of all commands.
    pub fn bytes(&self) -> usize {
        self.commands.iter().map(Bytes::len).sum()
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} commands, {} bytes", self.commands.len(), self.bytes())
    }
}

/// The replies to the commands of one proposal, in order. Empty for entries without commands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replies(pub Vec<Reply>);

/// A snapshot in the hands of openraft.
#[derive(Debug)]
pub enum SnapshotData {
    /// On the sender: a consistent view to stream from.
    Live(SnapshotView),
    /// On the receiver: all chunks are written under a state generation of their own.
    Staged(StagedSnapshot),
}
