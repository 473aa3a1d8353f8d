//! The user side: accounts, devices, sessions, inbox rows, cursors.
//!
//! - [`account`] users and passwords · [`device`] login, names, revocation · [`token`] refresh tokens and their rotation · [`code`] one-time codes
//! - [`session`] open and close · [`job`] fences, and work in steps
//! - [`inbox`] the row of one conversation and its revisions, [`conv_settings`] what is pinned, muted, hidden · [`cursor`] a device's place in it, [`place`] the first one in pull mode
//! - [`heads`] what conversations tell · [`marks`] acks, reads, and the receipts owed for them
//! - [`presence`] who is here, and who may see it · [`privacy`] whether read marks are shown · [`contact`], [`block`], [`profile`] what a user keeps of others and says of itself
//! - [`query`](self::query()) what may be read · [`gather`] makes news of one conversation one, [`split_notify`] cuts them into commands
//!
//! It does not know the log of a conversation, only what `notify` says of it.

pub mod account;
pub mod block;
pub mod code;
pub mod contact;
pub mod conv_settings;
pub mod cursor;
pub mod device;
pub mod gather;
pub mod heads;
pub mod inbox;
pub mod job;
mod key;
pub mod marks;
pub mod place;
pub mod presence;
pub mod privacy;
pub mod profile;
mod query;
mod search;
pub mod session;
mod split;
#[cfg(test)]
pub(crate) mod tests;
pub mod token;

pub use account::{register, set_password};
pub use block::{block_settled, set_block};
pub use code::{issue_code, use_code};
pub use contact::set_contact;
pub use conv_settings::set_conv;
pub use device::{login, rename_device, revoke_device};
pub use heads::{notify, peer_marks};
pub use job::{fence, job_due, step_job};
pub use marks::{clear_receipt_due, marks};
pub use place::place_device;
pub use presence::set_privacy;
pub use privacy::change_privacy;
pub use profile::set_profile;
pub use query::{live_sessions, query, receipts_due};
pub use session::{close_session, open_session, withdraw_session};
pub use split::split_notify;
pub use token::{logout, rotate_token};
