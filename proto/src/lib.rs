//! What nodes and clients say to each other, and the names they use for things.
//!
//! - [`ids`] newtypes for every identifier and sequence number
//! - [`limits`] every bound of the system
//! - [`slots`] the hash of conversations and users into slots, and the table of their shards
//! - [`entry`] one entry of a conversation, its body hash and its chain
//! - [`member`] intervals of membership and what they make readable
//! - [`frame`] client frames, errors and close codes, in JSON and MessagePack
//! - [`schema`] JSON Schema of ids and codes
//! - [`codec`] the one module that names bincode
//! - [`plant`] deliberate bugs and `fate` broken connections, in the simulator's build only

pub mod codec;
pub mod entry;
pub mod fate;
pub mod frame;
pub mod ids;
pub mod limits;
pub mod member;
pub mod plant;
pub mod schema;
pub mod slots;
