//! The chat rules: pure, synchronous, total.
//!
//! `apply` changes a shard's state by one command; `query` reads it. No clock, randomness, task or file is known here;
//! time comes from the proposal's stamp. A well-formed command never panics, whatever its values.
//!
//! - [`command`], [`reply`], [`effect`] what goes in and comes out
//! - [`query`] what may be read
//! - [`txn`] the state under the writes made so far; `hot` rows kept between transactions; [`table`] how a table is declared
//!   and reached
//! - [`meta`] what a shard knows about itself: clocks, slots, settings, fences
//! - [`conversation`], [`user`], [`control`] the rules, one file per table and one per family of commands

pub mod apply;
pub mod command;
pub mod control;
pub mod conversation;
pub mod effect;
mod hot;
mod level;
mod lookup;
pub mod meta;
pub mod query;
pub mod reply;
pub mod table;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
pub mod txn;
pub mod user;

use std::ops::ControlFlow;

use bytes::Bytes;
use flotilla_proto::codec::CodecError;
use flotilla_proto::ids::{Hash32, ShardId};
use flotilla_storage::{Read, StorageError};
use sha2::{Digest as _, Sha256};

use apply::{Ctx, Outcome, Stop};
use meta::{Meta, Owned};
use query::ShardState;
use table::{Rows, View};

pub use command::{Command, Stamp};
pub use effect::Effect;
pub use meta::Kept;
pub use query::{Answer, Query};
pub use reply::{Rejection, Reply};
pub use txn::Txn;

/// What stops a replica: going on would make it differ from the others, or serve damaged rows.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    #[error("a command of the log cannot be decoded; this binary is too old or the log is damaged: {0}")]
    Undecodable(#[from] CodecError),
    #[error("the log goes on at feature level {0}, this binary knows {max}: start a newer one", max = flotilla_proto::limits::FEATURE_LEVEL)]
    NewerLevel(u32),
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
pub fn apply(txn: &mut Txn<'_>, shard: ShardId, stamp: &Stamp, commands: &[Bytes]) -> Result<Applied, Fatal> {
    apply_keeping(txn, shard, stamp, commands, &mut Kept::default())
}

/// As [`apply`], with what the proposal before left: `kept` must be of this state, with everything that was applied since.
pub fn apply_keeping(
    txn: &mut Txn<'_>,
    shard: ShardId,
    stamp: &Stamp,
    commands: &[Bytes],
    kept: &mut Kept,
) -> Result<Applied, Fatal> {
    let mut meta = match kept.meta.take() {
        Some(meta) => {
            if cfg!(debug_assertions) {
                assert_eq!(meta, Meta::load(txn, shard)?, "what is kept is what the rows say");
            }
            meta
        }
        None => Meta::load(txn, shard)?,
    };
    meta.advance(txn, stamp);
    let mut ctx = Ctx { txn, meta, effects: Vec::new() };
    let mut replies = Vec::with_capacity(commands.len());
    for bytes in commands {
        let command = Command::decode(bytes)?;
        replies.push(apply_one(&mut ctx, &command)?);
    }
    kept.meta = Some(ctx.meta);
    Ok(Applied { replies, effects: ctx.effects })
}

fn apply_one(ctx: &mut Ctx<'_, '_>, command: &Command) -> Result<Reply, Fatal> {
    let writes = ctx.txn.writes_made();
    match dispatch(ctx, command) {
        Ok(reply) => Ok(reply),
        Err(Stop::Rejected(rejection)) => {
            debug_assert_eq!(ctx.txn.writes_made(), writes, "a rejected command has no effect: {command:?}");
            Ok(Reply::Rejected(rejection))
        }
        Err(Stop::Fatal(fatal)) => Err(fatal),
    }
}

fn dispatch(ctx: &mut Ctx<'_, '_>, command: &Command) -> Outcome {
    command.check_level(level(ctx)?)?;
    match command {
        Command::Tick => Ok(Reply::Done),

        Command::Append(c) => conversation::append(ctx, c),
        Command::Receipts(items) => conversation::receipts(ctx, items),
        Command::ClearDirty { target, items } => conversation::clear_dirty(ctx, *target, items),
        Command::ClearReceiptDirty { items } => conversation::clear_receipt_dirty(ctx, items),
        Command::SetBlocked { conv, user, on } => conversation::set_blocked(ctx, conv, user, *on),
        Command::EvictDedup { limit } => conversation::evict_dedup(ctx, *limit),

        Command::Register(c) => user::register(ctx, c),
        Command::Login(c) => user::login(ctx, c),
        Command::RotateToken(c) => user::rotate_token(ctx, c),
        Command::Logout { user, device } => user::logout(ctx, user, *device),
        Command::RevokeDevice { user, device, request } => user::revoke_device(ctx, user, *device, *request),
        Command::RenameDevice { user, device, name } => user::rename_device(ctx, user, *device, name),
        Command::SetPassword { user, phc, request } => user::set_password(ctx, user, phc, *request),
        Command::OpenSession(c) => user::open_session(ctx, c),
        Command::CloseSession { user, device, number } => user::close_session(ctx, user, *device, *number),
        Command::WithdrawSession { user, device, instance, attempt } => {
            user::withdraw_session(ctx, user, *device, *instance, *attempt)
        }
        Command::SetPrivacy { user, presence } => user::set_privacy(ctx, user, *presence),
        Command::ChangePrivacy { user, presence, hide_read } => user::change_privacy(ctx, user, *presence, *hide_read),
        Command::SetContact { user, contact, name } => user::set_contact(ctx, user, contact, name.as_deref()),
        Command::SetConv { user, conv, change } => user::set_conv(ctx, user, conv, change),
        Command::SetProfile { user, name, avatar, about } => {
            user::set_profile(ctx, user, name.as_deref(), avatar.as_deref(), about.as_deref())
        }
        Command::SetBlock { user, peer, on, request } => user::set_block(ctx, user, peer, *on, *request),
        Command::BlockSettled { user, peer, request } => user::block_settled(ctx, user, peer, *request),
        Command::IssueCode { user, code, request } => user::issue_code(ctx, user, *code, *request),
        Command::UseCode { code, request, login } => user::use_code(ctx, *code, *request, login),
        Command::Notify(items) => user::notify(ctx, items),
        Command::Marks(items) => user::marks(ctx, items),
        Command::PeerMarks(items) => user::peer_marks(ctx, items),
        Command::ClearReceiptDue { items } => user::clear_receipt_due(ctx, items),

        Command::Fence { node, lowest, limit } => user::fence(ctx, *node, *lowest, *limit),
        Command::StepJob { limit } => user::step_job(ctx, *limit),
        Command::SetSlots(slots) => Ok(ctx.meta.set_slots(ctx.txn, slots).map(|()| Reply::Done)?),
        Command::SetSettings(settings) => Ok(ctx.meta.set_settings(ctx.txn, settings).map(|()| Reply::Done)?),

        Command::PlaceDevice { user, device, places } => user::place_device(ctx, user, *device, places),
        Command::SetPullRule(rule) => conversation::set_pull_rule(ctx, *rule),

        Command::Control(c) => control::apply(ctx, c),

        Command::Digest => Ok(Reply::Digest(digest_of(ctx.txn)?)),
    }
}

/// The cluster's feature level. The control group holds the cluster's settings, every other shard a copy of its own.
fn level(ctx: &Ctx<'_, '_>) -> Result<u32, Fatal> {
    match ctx.meta.shard {
        ShardId::CONTROL => control::level(ctx.txn),
        _ => Ok(ctx.meta.settings.feature_level),
    }
}

/// Answers a query from one view of a shard's state. `prefix` as in [`Txn`].
pub fn query(read: &dyn Read, prefix: &[u8], shard: ShardId, query: &Query) -> Result<Answer, Fatal> {
    let view = View { read, prefix };
    let owned = || Owned::load(&view, shard);
    let meta = || Meta::load(&view, shard);
    match query {
        // The pumps ask these for every message, and no meta row has a part in their answers.
        Query::LiveSessions { users } => user::live_sessions(&view, users).map(Answer::LiveSessions),
        Query::ReceiptsDue { after, limit } => user::receipts_due(&view, after.as_ref(), *limit),
        Query::Dirty { .. } | Query::DirtyOf { .. } | Query::DirtyTargets | Query::ReceiptsDirty { .. } => {
            conversation::owed(&view, query)
        }

        Query::Changed { .. }
        | Query::Unplaced { .. }
        | Query::Pending { .. }
        | Query::Rows { .. }
        | Query::Row { .. }
        | Query::RowsOf { .. }
        | Query::Sessions { .. }
        | Query::Presence { .. }
        | Query::Recent { .. }
        | Query::Profile { .. }
        | Query::Blocks { .. }
        | Query::Block { .. }
        | Query::FindUsers { .. }
        | Query::Contacts { .. }
        | Query::Privacy { .. }
        | Query::Hiding { .. }
        | Query::Account { .. } => user::query(&view, &owned()?, query),

        Query::Entries { .. }
        | Query::Conversation { .. }
        | Query::Members { .. }
        | Query::Folded { .. }
        | Query::SeqAt { .. }
        | Query::Standing { .. }
        | Query::Feed { .. }
        | Query::Mentions { .. }
        | Query::Marks { .. }
        | Query::Audience { .. } => conversation::query(&view, &owned()?, query),

        Query::ShardState => shard_state(&view, &meta()?),
        Query::ControlState => control::query(&view, &meta()?),
        Query::ClientLimits => control::client_limits(&view, &meta()?),
    }
}

fn shard_state(view: &View<'_>, meta: &Meta) -> Result<Answer, Fatal> {
    Ok(Answer::ShardState(ShardState {
        age: meta.clock.age,
        display: meta.clock.display,
        slots: meta.slot_table(),
        settings: meta.settings.clone(),
        fences: meta::fences(view)?,
        job_due: conversation::eviction_due(view, meta)? || user::job_due(view)?,
    }))
}

/// The digest of all replicated tables, without the prefix.
pub fn digest(read: &dyn Read, prefix: &[u8]) -> Result<Hash32, Fatal> {
    digest_of(&View { read, prefix })
}

/// SHA-256 over every key and value in key order, each behind its length.
fn digest_of(rows: &dyn Rows) -> Result<Hash32, Fatal> {
    let mut hash = Sha256::new();
    table::scan_all(rows, &mut |key, value| {
        for part in [key, value] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        ControlFlow::Continue(())
    })?;
    Ok(Hash32(hash.finalize().into()))
}
