//! A Flotilla node: everything with a socket or a task.
//!
//! - [`backend`] the trait between the client-facing half and the cluster half
//! - [`auth`] tokens, passwords, limits on login
//! - [`http`] accept loop, REST, health
//! - [`gateway`] WebSocket sessions and delivery windows
//! - [`metrics`] the registry behind `/metrics`

pub mod auth;
pub mod backend;
pub mod gateway;
pub mod http;
pub mod metrics;
#[cfg(test)]
mod testing;
