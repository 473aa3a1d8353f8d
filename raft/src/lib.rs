//! flotilla-raft
