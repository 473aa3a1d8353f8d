//! Whether those who watch receipts hide their own read marks: one question to a shard for all connections that ask at the same time.
//!
//! When marks move, whoever watches them on this node hears of it at once, and each has to ask. Invariant: a question leaves after
//! whoever shares it has asked, and who gets no answer asks again: nothing that ends early leaves somebody waiting. As many wait as
//! connections have requests in flight.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flotilla_proto::ids::{ShardId, UserId};
use flotilla_proto::limits;
use tokio::sync::oneshot;

use super::shared::Shared;
use crate::http::people;

struct Asked {
    user: UserId,
    answer: oneshot::Sender<bool>,
}

#[derive(Default)]
pub struct Hiding(Mutex<BTreeMap<ShardId, Vec<Asked>>>);

impl Hiding {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ShardId, Vec<Asked>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True for the first one, who sees to it that they are asked for.
    fn put(&self, shard: ShardId, asked: Asked) -> bool {
        let mut waiting = self.lock();
        let all = waiting.entry(shard).or_default();
        all.push(asked);
        all.len() == 1
    }

    fn take(&self, shard: ShardId) -> Vec<Asked> {
        self.lock().remove(&shard).unwrap_or_default()
    }
}

/// None: nobody can tell now.
pub async fn hides_read(shared: &Arc<Shared>, user: &UserId) -> Option<bool> {
    let Some(shard) = people::hiding_shard(shared, user) else {
        return people::hides_read(shared, user).await.ok();
    };
    let (answer, told) = oneshot::channel();
    if shared.hiding.put(shard, Asked { user: user.clone(), answer }) {
        // A task of its own: the connection that came first may end before the others are answered.
        tokio::spawn(ask(Duty { shared: shared.clone(), shard, done: false }));
    }
    tokio::time::timeout(ANSWERED, told).await.ok()?.ok()
}

/// Longer than any request takes.
const ANSWERED: Duration = Duration::from_millis(limits::HIDING_GATHER_MS + 2 * limits::REQUEST_DEADLINE_MS);

/// Sees to it that those who wait for a shard are asked for. If it ends before, they are told so, and the next one in is the first:
/// also where the task is dropped before its first step, so it is made outside.
struct Duty {
    shared: Arc<Shared>,
    shard: ShardId,
    done: bool,
}

impl Drop for Duty {
    fn drop(&mut self) {
        if !self.done {
            self.shared.hiding.take(self.shard);
        }
    }
}

async fn ask(mut duty: Duty) {
    let shared = duty.shared.clone();
    tokio::time::sleep(Duration::from_millis(limits::HIDING_GATHER_MS)).await;
    let mut asked = shared.hiding.take(duty.shard);
    // Whoever comes from here on is the first again.
    duty.done = true;
    while !asked.is_empty() {
        let rest = asked.split_off(asked.len().min(limits::HIDING_USERS_MAX));
        let users = asked.iter().map(|asked| asked.user.clone()).collect();
        // Where nobody can tell, the other ends are dropped, and ask again.
        if let Ok(hiding) = people::hiding(&shared, users).await {
            for Asked { user, answer } in asked {
                // A connection that has ended asks no more.
                let _ = answer.send(hiding.contains(&user));
            }
        }
        asked = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::client::{Node, PATIENCE};

    fn asked(name: &str) -> (Asked, oneshot::Receiver<bool>) {
        let (answer, told) = oneshot::channel();
        (Asked { user: UserId::parse(name).expect("valid"), answer }, told)
    }

    #[tokio::test]
    async fn a_task_that_ends_early_leaves_nobody_waiting() {
        let node = Node::start().await;
        let shard = ShardId(1);
        for steps in [0, 1] {
            let (waits, told) = asked("alice");
            assert!(node.shared.hiding.put(shard, waits));
            let task = tokio::spawn(ask(Duty { shared: node.shared.clone(), shard, done: false }));
            for _ in 0..steps {
                tokio::task::yield_now().await;
            }
            task.abort();
            let told = tokio::time::timeout(PATIENCE, told).await;
            assert!(told.is_ok_and(|told| told.is_err()), "told that nobody can tell, after {steps} steps");
        }
        assert!(node.shared.hiding.put(shard, asked("bob").0), "and the next one is the first again");
    }
}
