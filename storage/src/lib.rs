//! flotilla-storage
