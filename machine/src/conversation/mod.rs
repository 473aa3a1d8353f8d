//! The conversation side: the log, its members, dedup, and what is owed to user shards.
//!
//! - [`append`] one entry asked for by a client: the order of checks; [`validate`] what a client may put into it;
//!   [`plan`] who may and what changes, by kind ([`direct`], [`group`], [`target`]), [`mode`]; [`write`] the one place that writes it
//! - [`receipts`], [`clear`], [`evict`] the other commands
//! - [`queries`] what may be read; [`tables`] what is stored
//!
//! Invariants: seq has no hole and one seq per (conversation, sender, cid) inside the dedup window (I2); every user shard
//! with a member, or a leaver that has not been told, has a dirty row until it has confirmed the head and the parts.
//!
//! It does not know sessions, inboxes or nodes: it owes, the pumps pay.

mod append;
mod block;
mod clear;
mod direct;
mod evict;
mod group;
mod mode;
mod plan;
mod queries;
mod receipts;
pub mod tables;
mod target;
#[cfg(test)]
mod tests;
mod validate;
mod write;

pub use append::append;
pub use block::set_blocked;
pub use clear::{clear_dirty, clear_receipt_dirty};
pub use evict::{evict_dedup, eviction_due};
pub use mode::{PullRuleTable, set_pull_rule};
pub use queries::{for_reader, owed, query};
pub use receipts::receipts;
