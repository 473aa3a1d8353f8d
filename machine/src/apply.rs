//! What every command handler gets, and how it answers.
//!
//! Invariant: a handler decides first and writes after; a rejection has made no write.

use crate::effect::Effect;
use crate::meta::Meta;
use crate::reply::{Rejection, Reply};
use crate::{Fatal, Txn};

/// The state, the shard's own rows, and the hints gathered so far.
pub struct Ctx<'a, 'b> {
    pub txn: &'a mut Txn<'b>,
    pub meta: Meta,
    pub effects: Vec<Effect>,
}

/// Why a handler stops: a rejection goes to the asker, a fatal stops the replica.
#[derive(Debug)]
pub enum Stop {
    Rejected(Rejection),
    Fatal(Fatal),
}

impl From<Rejection> for Stop {
    fn from(rejection: Rejection) -> Self {
        Stop::Rejected(rejection)
    }
}

impl From<Fatal> for Stop {
    fn from(fatal: Fatal) -> Self {
        Stop::Fatal(fatal)
    }
}

pub type Outcome = Result<Reply, Stop>;

/// A list in a command that is longer than its bound is refused whole.
pub fn check_batch(len: usize, max: usize) -> Result<(), Rejection> {
    if len <= max { Ok(()) } else { Err(Rejection::Validation(format!("a command carries at most {max} items"))) }
}
