//! What nodes and clients say to each other, and the names they use for things.
//!
//! - [`ids`] newtypes for every identifier and sequence number
//! - [`limits`] every bound of the system
//! - [`slots`] the hash of conversations and users into slots, and the table of their shards
//! - [`codec`] the one module that names bincode

pub mod codec;
pub mod ids;
pub mod limits;
pub mod slots;
