//! The chat rules: pure, synchronous, total.
//!
//! `apply` changes a shard's state by one command; `query` reads it. No clock, randomness, task or file is known here;
//! time comes from the proposal's stamp. A well-formed command never panics, whatever its values.
//!
//! - [`command`], [`reply`], [`effect`] what goes in and comes out
//! - [`query`] what may be read
//! - [`txn`] the state under the writes made so far

pub mod command;
pub mod effect;
pub mod query;
pub mod reply;
pub mod txn;

use bytes::Bytes;
use flotilla_proto::codec::CodecError;
use flotilla_proto::ids::ShardId;
use flotilla_storage::{Read, StorageError};

pub use command::{Command, Stamp};
pub use effect::Effect;
pub use query::{Answer, Query};
pub use reply::{Rejection, Reply};
pub use txn::Txn;

/// What stops a replica: going on would make it differ from the others, or serve damaged rows.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    #[error("a command of the log cannot be decoded; this binary is too old or the log is damaged: {0}")]
    Undecodable(#[from] CodecError),
    #[error("a stored row is damaged (table {table}); reinstall this shard's state by snapshot")]
    Damaged { table: &'static str },
    #[error("storage failed: {0}")]
    Storage(#[from] StorageError),
}

/// Replies in the order of the commands, and hints for the shell.
#[derive(Debug, Default)]
pub struct Applied {
    pub replies: Vec<Reply>,
    pub effects: Vec<Effect>,
}

/// Applies the commands of one proposal in order.
pub fn apply(_txn: &mut Txn<'_>, _shard: ShardId, _stamp: &Stamp, commands: &[Bytes]) -> Result<Applied, Fatal> {
    let mut applied = Applied::default();
    for bytes in commands {
        Command::decode(bytes)?;
        applied.replies.push(Reply::Done);
    }
    Ok(applied)
}

/// Answers a query from one view of a shard's state. `prefix` as in [`Txn`].
pub fn query(_read: &dyn Read, _prefix: &[u8], _shard: ShardId, _query: &Query) -> Result<Answer, Fatal> {
    Ok(Answer::NotFound)
}

/// The digest of all replicated tables, without the prefix.
pub fn digest(_read: &dyn Read, _prefix: &[u8]) -> Result<flotilla_proto::ids::Hash32, Fatal> {
    Ok(flotilla_proto::ids::Hash32::default())
}
