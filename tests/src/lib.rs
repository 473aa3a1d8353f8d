//! Black-box tests with real processes.
//!
//! - [`cluster`] starts, kills, pauses and restarts nodes, and cleans up
//! - [`nemesis`] draws faults from a seed, [`replicas`] compares the nodes' states
//! - [`talk`] what devices do all the time, [`phoenix`] a device that dies, [`stalls`] how long all had to wait
//! - [`probe`] what tests ask of nodes beside chatting: status, digests, memory, the reason why one ended
//! - [`scene`] devices on such a cluster, one shared history
//! - [`raw`] a socket that says whatever a test wants
//! - [`surgery`] damages the database of a stopped node
//!
//! The binary comes from `FLOTILLA_BIN`, or lies beside the test executable.

pub mod cluster;
pub mod nemesis;
pub mod phoenix;
pub mod probe;
pub mod raw;
pub mod replicas;
pub mod scene;
pub mod stalls;
pub mod surgery;
pub mod talk;
