//! flotilla-client
