//! flotilla-sim
