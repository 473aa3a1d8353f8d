//! What this crate tells the node. Called from async tasks: implementations return at once and never block.

use std::sync::Arc;

use flotilla_machine::Effect;
use flotilla_proto::ids::{ReplicaId, ShardId};

pub trait Hooks: Send + Sync + 'static {
    /// Hints from entries that have just been applied here, leader or not. May be lost or repeated.
    fn on_applied(&self, shard: ShardId, effects: Vec<Effect>);

    /// The state of this group jumped ahead by a snapshot: no effects came for what it skipped.
    fn on_installed(&self, _shard: ShardId) {}

    /// This replica cannot start: it must leave its group and come back as a learner of a new generation. Ask for one.
    fn on_damaged(&self, _shard: ShardId, _replica: ReplicaId, _reason: String) {}

    /// The group's leader says that this replica has lost entries which it had acknowledged as synced, though it started as
    /// if nothing was missing. It must not take part any more, and nor must what else the same disk holds.
    fn on_forgotten(&self, _shard: ShardId, _replica: ReplicaId, _what: String) {}

    /// This process must stop: nothing that the group or the disk says can be trusted from here on.
    fn on_fatal(&self, shard: Option<ShardId>, reason: String);
}

/// Spawns a task that a live process cannot do without: its panic is told to the hooks instead of being swallowed.
pub(crate) fn supervise(
    hooks: Arc<dyn Hooks>,
    shard: Option<ShardId>,
    what: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
) {
    let running = tokio::spawn(task);
    tokio::spawn(async move {
        if let Err(error) = running.await
            && error.is_panic()
        {
            hooks.on_fatal(shard, format!("{what} panicked"));
        }
    });
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use super::*;
    use crate::testkit::{Recorder, eventually};

    #[tokio::test]
    async fn panic_of_a_supervised_task_is_told() {
        let hooks = Arc::new(Recorder::default());
        supervise(hooks.clone(), None, "a task", async {});
        supervise(hooks.clone(), None, "another task", async { panic!("on purpose") });
        eventually("the hook hears of it", || hooks.fatals() == ["another task panicked"]).await;
    }
}
