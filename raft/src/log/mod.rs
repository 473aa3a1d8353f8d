//! Logs and votes of all groups of a node.
//!
//! Invariants:
//! - One writer task per node does every write, in the order of the calls; a callback or an answer comes only after the
//!   sync that covers it, and never after an error.
//! - What `append` has returned for can be read at once; entries that are not durable yet never leave the cache.
//! - A log entry is purged only when the applied state that covers it is durable.
//! - A damaged entry is never taken for the end of the log.

mod cache;
mod open;
mod reader;
mod store;
#[cfg(all(test, not(madsim)))]
mod tests;
mod writer;

pub use open::OpenError;
pub use reader::LogReader;
pub use store::LogStore;
pub use writer::{LogWriter, WriterStats};

/// Version byte of the rows for votes and purge positions.
pub(crate) const ROW_VERSION: u8 = 1;
