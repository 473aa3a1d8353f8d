//! Black-box tests with real processes.
//!
//! - [`cluster`] starts, kills, pauses and restarts nodes, and cleans up
//! - [`scene`] devices on such a cluster, one shared history
//! - [`raw`] a socket that says whatever a test wants
//!
//! The binary comes from `FLOTILLA_BIN`, or lies beside the test executable.

pub mod cluster;
pub mod raw;
pub mod scene;
