//! Stories and properties of the user side.

mod accounts;
mod agreement;
mod codes;
mod delivery;
mod inbox;
pub(crate) mod kit;
mod marks;
mod people;
mod privacy;
mod sessions;
mod settled;
mod tables;
mod whole;
