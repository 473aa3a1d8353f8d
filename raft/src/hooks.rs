//! What this crate tells the node. Called from async tasks: implementations return at once and never block.

use flotilla_machine::Effect;
use flotilla_proto::ids::{ReplicaId, ShardId};

pub trait Hooks: Send + Sync + 'static {
    /// Hints from entries that have just been applied here, leader or not. May be lost or repeated.
    fn on_applied(&self, shard: ShardId, effects: Vec<Effect>);

    /// The state of this group jumped ahead by a snapshot: no effects came for what it skipped.
    fn on_installed(&self, _shard: ShardId) {}

    /// This replica cannot start: it must leave its group and come back as a learner of a new generation. Ask for one.
    fn on_damaged(&self, _shard: ShardId, _replica: ReplicaId, _reason: String) {}

    /// This process must stop: nothing that the group or the disk says can be trusted from here on.
    fn on_fatal(&self, shard: Option<ShardId>, reason: String);
}
