//! Tools for tests of this crate and of others: arbitrary values, a machine on an in-memory engine, generated command logs.

pub mod arb;
