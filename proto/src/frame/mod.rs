//! What clients and nodes say to each other: the frames of PROTOCOL.md, both encodings, errors and close codes.
//!
//! - [`client`] frames a client sends, [`server`] frames a node sends, [`entry`] the `entry` frame and its way back
//! - [`codec`] the envelope in JSON and MessagePack
//! - [`error`] the table of error codes, [`close`] the table of close codes
//! - [`types`] the table of frame types, for documents
//! - [`token`] the `rev` token, opaque to clients
//!
//! Invariant: additive changes only. Unknown fields are ignored, an unknown `t` with an `id` is reported so that it can be
//! answered `unsupported`, one without an `id` is skipped. No decoder panics, whatever the bytes.

pub mod client;
pub mod close;
pub mod codec;
pub mod entry;
pub mod error;
pub mod server;
pub mod token;
pub mod types;
mod wire;

pub use client::*;
pub use close::{CloseCode, Verdict};
pub use codec::{Decoded, Encoding, FrameError, Limits as CodecLimits, Unpacked};
pub use entry::EntryFrame;
pub use error::{ErrorBody, ErrorCode};
pub use server::*;
pub use token::RevToken;
