//! The conversation side as a whole: stories by rule, and properties over generated logs.

mod fan_out;
mod groups;
mod kit;
mod log;
mod properties;
mod receipts;
mod targets;
