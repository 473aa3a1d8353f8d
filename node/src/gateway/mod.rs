//! WebSocket sessions: pure state machines, and the actor around them.
//!
//! - [`window`] what was sent and what comes next, per conversation
//! - [`marks`] acks and reads on their way to the user's shard
//! - [`session`] the order of everything on one connection after `hello`
//! - [`hello`] from the first frame to an open session, [`withdrawals`] of those that nobody waits for
//! - [`sends`] the order of pipelined sends · [`signals`] what may be lost, [`receipts`] of it, [`hiding`] for whom · [`watches`] what a client
//!   watches · [`rates`] how many sends there may be,
//!   [`limits`] as the cluster sets it at run time · [`pace`] how much else
//! - [`connection`] the actor of one connection, `begin` of it, [`requests`] what the client says, [`asks`] what the session asks,
//!   [`socket`] its bytes, `read_ahead` of them
//! - [`shared`] what all connections share, [`ops`] what they share with REST, [`errors`] the one map to the wire

pub mod asks;
mod begin;
pub mod connection;
pub mod errors;
mod held;
pub mod hello;
pub mod hiding;
pub mod limits;
pub mod marks;
pub mod ops;
pub mod pace;
pub mod pool;
pub mod pulled;
pub mod rates;
mod read_ahead;
pub mod receipts;
pub mod requests;
pub mod sends;
pub mod session;
pub mod shared;
pub mod signals;
pub mod socket;
pub mod watches;
pub mod window;
pub mod withdrawals;

#[cfg(test)]
mod model;
#[cfg(test)]
mod noise_tests;
#[cfg(test)]
mod pulled_tests;
#[cfg(test)]
mod receipt_tests;
#[cfg(test)]
mod signal_tests;
#[cfg(test)]
mod tests;
