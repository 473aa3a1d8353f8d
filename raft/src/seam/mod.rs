//! What is one thing in production and another in the simulator.

pub mod clock;
#[cfg(madsim)]
pub mod fate;
pub mod fault;
pub mod net;
pub mod signal;
