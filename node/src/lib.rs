//! A Flotilla node: everything with a socket or a task.
//!
//! - [`node`] one node, put together
//! - [`cluster`] groups, routing, fan-out, pushes: what replicates and finds its way
//! - [`config`], [`cli`] what an operator sets and says
//! - [`backend`] the trait between the client-facing half and the cluster half
//! - [`auth`] tokens, passwords, limits on login
//! - [`http`] accept loop, REST, health
//! - [`gateway`] WebSocket sessions and delivery windows
//! - `chat` the terminal client behind `flotilla chat`; no part of a running node
//! - [`outgoing`] HTTP to what an operator names
//! - [`queue`] of pushes to a session
//! - [`metrics`] the registry behind `/metrics`

pub mod auth;
pub mod backend;
#[cfg(feature = "terminal")]
pub mod chat;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod gateway;
pub mod http;
pub mod metrics;
pub mod node;
pub mod outgoing;
pub mod queue;
#[cfg(test)]
mod testing;
