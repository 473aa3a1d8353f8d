//! What is one thing in production and another in the simulator. What becomes of a connection there: `flotilla_proto::fate`.

pub mod clock;
pub mod fault;
pub mod net;
pub mod signal;
pub(crate) mod worker;
