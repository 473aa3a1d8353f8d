//! Stamps of one message's way through a node, for the table of hops: trace events of the target `flotilla::path`, off
//! unless the log filter names it (`FLOTILLA_LOG=info,flotilla::path=trace`). The log's own time stamps are the times.
//!
//! A send is followed by its cid; between proposal and apply, where commands are opaque, by shard and log index. `apply`
//! names both and joins the two. Nothing here changes what is done.

use bytes::Bytes;
use flotilla_machine::Command;
use flotilla_proto::ids::{Cid, ConvId, Seq, ShardId, UserId};
use tracing::Level;

/// True only while somebody listens; everything else here costs nothing otherwise.
pub fn is_on() -> bool {
    tracing::enabled!(target: "flotilla::path", Level::TRACE)
}

pub fn cid(stage: &'static str, cid: Cid) {
    tracing::trace!(target: "flotilla::path", stage, %cid);
}

/// A stage on the way to one user.
pub fn to(stage: &'static str, cid: Cid, user: &UserId) {
    tracing::trace!(target: "flotilla::path", stage, %cid, %user);
}

/// The frame of an entry is queued for a user's socket.
pub fn entry(cid: Cid, user: &UserId, conv: &ConvId, seq: Seq) {
    tracing::trace!(target: "flotilla::path", stage = "entry", %cid, %user, %conv, %seq);
}

/// A stage that concerns a position of one user in one conversation.
pub fn position(stage: &'static str, user: &UserId, conv: &ConvId, seq: Seq) {
    tracing::trace!(target: "flotilla::path", stage, %user, %conv, %seq);
}

/// The sends among encoded commands.
pub fn commands<'a>(stage: &'static str, commands: impl IntoIterator<Item = &'a Bytes>) {
    if is_on() {
        sends(commands).for_each(|send| cid(stage, send));
    }
}

pub fn index(stage: &'static str, shard: ShardId, index: u64) {
    tracing::trace!(target: "flotilla::path", stage, shard = shard.0, index);
}

/// An entry that is applied, with the sends in it.
pub fn apply<'a>(shard: ShardId, index: u64, commands: impl IntoIterator<Item = &'a Bytes>) {
    for cid in sends(commands) {
        tracing::trace!(target: "flotilla::path", stage = "apply", %cid, shard = shard.0, index);
    }
}

fn sends<'a>(commands: impl IntoIterator<Item = &'a Bytes>) -> impl Iterator<Item = Cid> {
    commands.into_iter().filter_map(|bytes| match Command::decode(bytes) {
        Ok(Command::Append(append)) => Some(append.cid),
        _ => None,
    })
}
