//! RocksDB's errors in our words. The binding gives a string only, so this reads it.

use std::path::Path;

use rocksdb::{Error, ErrorKind};

use crate::StorageError;

pub(super) fn translate(doing: &'static str, error: &Error) -> StorageError {
    let text: &str = error.as_ref();
    match error.kind() {
        _ if text.contains("No space left on device") || text.contains("Disk quota exceeded") => {
            StorageError::Full { detail: text.into() }
        }
        // What RocksDB says when it may not read a file, and never otherwise to a read.
        ErrorKind::Incomplete => StorageError::NotResident,
        ErrorKind::Corruption => StorageError::Corrupt { what: format!("{doing}: {text}") },
        _ => StorageError::Io { doing, detail: text.into() },
    }
}

pub(super) fn translate_open(dir: &Path, error: &Error) -> StorageError {
    let text: &str = error.as_ref();
    // The first is the same process, the second another one.
    if text.contains("lock hold by current process") || text.contains("While lock file") {
        return StorageError::Locked { what: format!("the data directory {}", dir.display()) };
    }
    translate("opening the database", error)
}
