//! The Rust client of Flotilla, the history of what a client did and saw, and the oracle that judges histories.
//!
//! - [`connection`] one WebSocket: frames in and out, heartbeat
//! - [`device`] a device that stays connected: outbox, resume, ordered entries, acks
//! - [`store`] what a device must keep across crashes, in memory or in a file
//! - [`http`] the few REST calls that a client needs
//! - [`terminal`] what `flotilla chat`, `send` and `tail` do, in plain lines and JSON lines
//! - [`history`] one record per event, as it happened
//! - [`oracle`] judges a history against the promises
//!
//! Everything runs over the `tokio` alias, so the same code runs in the simulator.

pub mod clock;
pub mod connection;
pub mod device;
pub mod history;
pub mod http;
pub mod net;
pub mod oracle;
pub mod store;
pub mod terminal;

pub use device::{Config, Device, Event, Handle, Outcome};
