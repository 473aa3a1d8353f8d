//! The numbered push streams between shard leaders and gateways.
//!
//! - [`stream`] the gateway's side of one stream, pure
//! - [`hub`] the leader's side: numbers frames, sends keepalives
//! - [`receiver`] the gateway's side: hands pushes to sessions, presents them again after a gap

pub mod hub;
pub mod receiver;
pub mod stream;
