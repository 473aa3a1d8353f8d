//! The only crate that knows openraft: replicated logs, the applier, snapshots, groups and the transport between nodes.
//!
//! The map:
//! - [`types`]: what openraft is configured with; [`entry`]: how a log entry looks on disk and on the wire
//! - [`runtime`]: openraft's view of the runtime, and the one place where blocking work is sent off
//! - [`keys`]: every key that this crate writes
//! - [`log`]: one writer for the logs and votes of all groups of a node
//! - [`state`]: applies committed entries through `machine`
//! - [`snapshot`]: consistent views out, staged generations in
//! - [`group`]: the handle of one group; [`config`]: its settings
//! - [`replicas`]: which replicas this node holds; [`inspect`]: what they have stored, read offline
//! - [`peer`]: requests, casts and transfers between nodes; [`network`]: openraft's RPCs over them
//! - [`path`]: stamps of one message's way, off by default
//! - [`seam`]: what is one thing in production and another in the simulator

pub mod config;
pub mod entry;
pub mod group;
pub mod hooks;
pub mod inspect;
pub mod keys;
pub mod log;
pub mod network;
pub mod path;
pub mod peer;
pub mod replicas;
pub mod runtime;
pub mod seam;
pub mod set;
pub mod snapshot;
pub mod state;
#[cfg(all(test, not(madsim)))]
mod testkit;
pub mod types;

pub use config::Timings;
pub use group::{Group, GroupOptions, Leadership, ProposeError, ReadError};
pub use hooks::Hooks;
pub use snapshot::{SnapshotChunk, SnapshotSink, SnapshotView, StagedSnapshot};
pub use types::{Entry, LogId, Proposal, Replies, SnapshotData, TypeConfig, Vote};
