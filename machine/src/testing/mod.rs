//! Tools for tests of this crate and of others: arbitrary values, a machine on an in-memory engine, generated command logs.
//!
//! - [`arb`] arbitrary ids and contents
//! - [`machine`] a shard on an engine of its own
//! - [`scene`] a few users and conversations that meet often
//! - [`log`] logs of commands over a scene, and any commands at all; [`user_log`] those of the user side

pub mod arb;
pub mod log;
pub mod machine;
pub mod scene;
pub mod user_log;

pub use machine::Machine;
