//! An ordered key-value engine, and nothing about chat.
//!
//! The map:
//! - [`engine`]: the [`Engine`] and [`Read`] traits, [`Batch`], [`Durability`], write numbers.
//! - [`error`]: what can go wrong, and what the caller does next.
//! - [`key`]: helpers for big-endian keys; [`value`]: version byte, payload, checksum.
//! - [`mem`]: [`MemEngine`] on a [`MemDisk`], which models a disk that loses what was not synced.
//! - `rocks` (feature `rocksdb`): `RocksEngine`, one RocksDB with one write-ahead log, for real nodes.
//! - [`watermark`]: the small file that notices a lost synced tail.
//! - `conformance` (feature `conformance`, or tests): the suite that every engine passes.
//!
//! Both engines have one write-ahead log. A crash loses a suffix of the logged batches, never one out of the middle, and a synced
//! write makes all logged ones before it durable. What is written unlogged is lost by any crash, a suffix again, until it has been
//! flushed: [`Durability::Unlogged`] is for what the logged rows can bring back.
//!
//! This crate knows no runtime, never sleeps and starts no thread of its own.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod engine;
pub mod error;
pub mod key;
pub mod mem;
#[cfg(feature = "rocksdb")]
pub mod rocks;
pub mod value;
pub mod watermark;

pub use engine::{Batch, Bulk, Durability, Engine, Op, Order, Read, Visitor, WriteNo};
pub use error::StorageError;
pub use mem::{Faults, MemDisk, MemEngine};
#[cfg(feature = "rocksdb")]
pub use rocks::{RocksEngine, RocksOptions};
pub use watermark::{Watermark, WatermarkFile, WatermarkStore};
