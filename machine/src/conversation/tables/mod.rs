//! The conversation side's tables, one file each.

pub mod conversation;
pub mod dedup;
pub mod dedup_age;
pub mod dirty;
pub mod entry;
pub mod member;
pub mod mention;
pub mod receipt_dirty;
pub mod revision;
pub mod roster;
pub mod sender;
