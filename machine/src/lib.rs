//! flotilla-machine
