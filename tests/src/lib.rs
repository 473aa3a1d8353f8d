//! flotilla-tests
