//! `flotilla chat` on a terminal: conversations beside the one that is open, and a line to type in.
//!
//! - [`model`] what there is to see and what follows from keys and events, [`room`] one conversation, [`input`] the line that is
//!   typed, [`command`] lines that begin with `/`: all pure
//! - [`view`] draws, [`wrap`] breaks lines, [`keys`] what a key does
//! - [`app`] the one that touches terminal and device
//!
//! It knows nothing of the protocol: sending, resuming and acking are `flotilla-client`'s. A server never runs any of this.

mod app;
mod command;
mod input;
mod keys;
mod model;
mod room;
mod secret;
#[cfg(test)]
mod tests;
mod view;
mod wrap;

pub use app::run;
pub use secret::ask_secret;
