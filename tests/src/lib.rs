//! Black-box tests with real processes.
//!
//! - [`cluster`] starts, kills, pauses and restarts nodes, and cleans up
//! - [`nemesis`] draws faults from a seed, [`replicas`] compares the nodes' states
//! - [`talk`] what devices do all the time, [`phoenix`] a device that dies, [`stalls`] how long all had to wait
//! - [`scene`] devices on such a cluster, one shared history
//! - [`raw`] a socket that says whatever a test wants
//!
//! The binary comes from `FLOTILLA_BIN`, or lies beside the test executable.

pub mod cluster;
pub mod nemesis;
pub mod phoenix;
pub mod raw;
pub mod replicas;
pub mod scene;
pub mod stalls;
pub mod talk;
