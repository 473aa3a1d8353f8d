//! Tools for tests of this crate and of others: a machine on an in-memory engine, and generators of command logs.
