//! All groups of a node.

pub mod plan;
pub mod spread;
