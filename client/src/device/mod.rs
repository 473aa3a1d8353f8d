//! A device that stays connected: it keeps unanswered commands until each has an answer, receives every entry once and in
//! order, and acks only what its store holds.
//!
//! - [`config`] what it is told, [`handle`] what the application holds, `list` the conversations that it asks for, `blocks` whom the user
//!   has blocked, `named` whom a text names
//! - `actor` the one task that owns everything; `answers` what it does with frames, `asks` with the application's wishes;
//!   `dial` how it connects
//! - `outbox`, `inbox`, `reads`, `calls` pure rules
//!
//! Invariant: one task owns the state; the store is written before the effect that relies on it (first attempt, ack).

mod actor;
mod answers;
mod asks;
mod blocks;
mod calls;
pub mod config;
mod dial;
pub mod handle;
mod inbox;
mod list;
mod named;
mod outbox;
mod reads;

pub use calls::CallError;
pub use config::{Config, TokenError, TokenSource, fixed_token};
pub use handle::{Event, Handle, Outcome, Status, SubmitError, Ticket, message, random_cid, timed_cid};
pub use list::{Last, ListPage, Listed, Mentions};
pub use named::{message_naming, named};

use flotilla_proto::limits;
use tokio::sync::mpsc;

use crate::store::Store;

pub struct Device;

impl Device {
    /// Starts the device's task. Events must be taken: while too many wait, the server is not acked and stops sending.
    pub fn open(config: Config, store: impl Store) -> (Handle, mpsc::Receiver<Event>) {
        let (asks, asked) = mpsc::channel(limits::CLIENT_ASKS_MAX);
        let (events, happened) = mpsc::channel(limits::CLIENT_EVENTS_MAX);
        let user = config.user.clone();
        tokio::spawn(actor::Actor::new(config, Box::new(store), asked, events).run());
        (Handle { user, asks }, happened)
    }
}
