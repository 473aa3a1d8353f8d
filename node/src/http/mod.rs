//! HTTP: accept loop, WebSocket upgrade, REST, health.
//!
//! - [`server`] connections, caps and the router; [`impatient`] answers that nobody takes
//! - [`ws`] the upgrade to a WebSocket
//! - [`route`] how an operation is declared, [`routes`] the table of all, [`api`] who asks for one, also by `call` over the socket
//! - [`documents`] the API as OpenAPI, AsyncAPI, JSON Schema
//! - [`page`] the web page out of the binary, [`origin`] which pages may talk to this node
//! - [`stream`] the inbox as server-sent events, [`sent`] what one has sent, [`turns`] how many there are; [`logs`] what a look at an inbox reads
//! - [`accounts`], [`login`], [`groups`], [`inbox`], [`lists`], [`history`], [`people`], [`profiles`] the operations by subject

pub mod accounts;
pub mod api;
pub mod documents;
pub mod groups;
pub mod history;
pub mod impatient;
pub mod inbox;
pub mod lists;
pub mod login;
pub mod logs;
pub mod origin;
pub mod page;
pub mod people;
pub mod profiles;
pub mod route;
pub mod routes;
pub mod sent;
pub mod server;
pub mod stream;
pub mod turns;
pub mod ws;

#[cfg(test)]
pub mod fits;
#[cfg(test)]
mod inbox_tests;
#[cfg(test)]
mod login_tests;
#[cfg(test)]
mod noise_tests;
#[cfg(test)]
mod people_tests;
#[cfg(test)]
mod tests;
