//! The only crate that knows openraft: replicated logs, the applier, snapshots, groups and the transport between nodes.
//!
//! The map:
//! - [`peer`]: requests, casts and transfers between nodes
//! - [`seam`]: what is one thing in production and another in the simulator

pub mod peer;
pub mod seam;
