//! flotilla-node
