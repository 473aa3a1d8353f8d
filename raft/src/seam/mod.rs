//! What is one thing in production and another in the simulator.

pub mod net;
