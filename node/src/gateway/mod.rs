//! WebSocket sessions: pure state machines, and the actor around them.
//!
//! - [`window`] what was sent and what comes next, per conversation
//! - [`marks`] acks and reads on their way to the user's shard
//! - [`session`] the order of everything on one connection after `hello`

pub mod marks;
pub mod session;
pub mod window;
