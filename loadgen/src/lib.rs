//! flotilla-loadgen
