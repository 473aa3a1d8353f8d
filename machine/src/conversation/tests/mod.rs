//! The conversation side as a whole: stories by rule, and properties over generated logs.

mod blocks;
mod fan_out;
mod folded;
mod groups;
mod kit;
mod log;
mod mentions;
mod properties;
mod pulled;
mod receipts;
mod targets;
