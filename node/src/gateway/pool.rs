//! Marks of many connections for one shard, in one command.
//!
//! Connections send their marks at the same times (see [`super::marks`]), so those for one shard are here together: one request
//! and one command instead of one for each device of this node. Invariant: whoever puts marks in is answered for exactly these,
//! in their order, or not at all, and then asks again: nothing that ends early leaves somebody waiting. It does not know what
//! marks mean.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flotilla_machine::command::Mark;
use flotilla_machine::reply::MarkReply;
use flotilla_machine::{Command, Reply};
use flotilla_proto::ids::{ShardId, UserId};
use flotilla_proto::limits;
use tokio::sync::oneshot;

use super::shared::Shared;
use crate::backend::Route;

type Replies = Option<Vec<MarkReply>>;

struct Part {
    user: UserId,
    marks: Vec<Mark>,
    answer: oneshot::Sender<Replies>,
}

#[derive(Default)]
pub struct Pool {
    waiting: Mutex<BTreeMap<ShardId, Vec<Part>>>,
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ShardId, Vec<Part>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True for the first one, who sees to it that they leave.
    fn put(&self, shard: ShardId, part: Part) -> bool {
        let mut waiting = self.lock();
        let parts = waiting.entry(shard).or_default();
        parts.push(part);
        parts.len() == 1
    }

    /// As many as one command may carry, at least one; whether there are more.
    fn take(&self, shard: ShardId) -> (Vec<Part>, bool) {
        let mut waiting = self.lock();
        let mut parts = waiting.remove(&shard).unwrap_or_default();
        let mut marks = 0;
        let fits = parts.iter().take_while(|part| {
            marks += part.marks.len();
            marks <= limits::MARKS_POOLED_MAX
        });
        let rest = parts.split_off(fits.count().max(1).min(parts.len()));
        let more = !rest.is_empty();
        if more {
            waiting.insert(shard, rest);
        }
        (parts, more)
    }
}

/// None: not done, or not known to be done.
pub async fn send(shared: &Arc<Shared>, user: UserId, marks: Vec<Mark>) -> Replies {
    let shard = shared.backend.shard_of(&Route::User(user.clone()));
    let Some(shard) = shard.filter(|_| marks.len() <= limits::MARKS_POOLED_MAX / 4) else {
        return execute(shared, user, marks).await;
    };
    let (answer, done) = oneshot::channel();
    if shared.pool.put(shard, Part { user, marks, answer }) {
        // A task of its own: the connection that came first may end before the others are answered.
        tokio::spawn(flush(shared.clone(), shard));
    }
    tokio::time::timeout(ANSWERED, done).await.ok()?.ok().flatten()
}

/// Longer than any request takes.
const ANSWERED: Duration = Duration::from_millis(limits::MARKS_POOL_MS + 2 * limits::REQUEST_DEADLINE_MS);

/// Sees to it that what waits for a shard leaves. If it ends before, whoever waits is told so, and the next one in is the first.
struct Duty {
    shared: Arc<Shared>,
    shard: ShardId,
    done: bool,
}

impl Drop for Duty {
    fn drop(&mut self) {
        if !self.done {
            self.shared.pool.lock().remove(&self.shard);
        }
    }
}

async fn flush(shared: Arc<Shared>, shard: ShardId) {
    let mut duty = Duty { shared: shared.clone(), shard, done: false };
    tokio::time::sleep(Duration::from_millis(limits::MARKS_POOL_MS)).await;
    loop {
        let (parts, more) = shared.pool.take(shard);
        if more {
            let shared = shared.clone();
            tokio::spawn(async move { deliver(&shared, parts).await });
        } else {
            duty.done = true;
            return deliver(&shared, parts).await;
        }
    }
}

async fn deliver(shared: &Shared, mut parts: Vec<Part>) {
    let Some(user) = parts.first().map(|part| part.user.clone()) else { return };
    let marks = parts.iter_mut().flat_map(|part| part.marks.iter().cloned()).collect();
    // Of a slot that has moved meanwhile: all of them are refused and come again, sorted by the newer table.
    let mut replies = execute(shared, user, marks).await.map(Vec::into_iter);
    for part in parts {
        let own = replies.as_mut().map(|replies| replies.by_ref().take(part.marks.len()).collect());
        // A connection that has ended asks no more.
        let _ = part.answer.send(own);
    }
}

async fn execute(shared: &Shared, user: UserId, marks: Vec<Mark>) -> Replies {
    match shared.backend.execute(Route::User(user), Command::Marks(marks)).await {
        Ok(Reply::Marks(replies)) => {
            flotilla_raft::seam::fault::point("marks.committed");
            Some(replies)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use flotilla_machine::command::MarkKind;
    use flotilla_proto::ids::*;

    use super::*;

    fn part(name: &str, marks: usize) -> (Part, oneshot::Receiver<Replies>) {
        let user = UserId::parse(name).expect("valid");
        let mark = Mark {
            user: user.clone(),
            device: DeviceId(1),
            number: SessionNo(1),
            conv: ConvId::group(&user, Cid(1)),
            kind: MarkKind::Ack,
            seq: Seq(1),
            n: Count(1),
            head: Seq(1),
            n_head: Count(1),
        };
        let (answer, done) = oneshot::channel();
        (Part { user, marks: vec![mark; marks], answer }, done)
    }

    #[test]
    fn the_first_one_sees_to_it_and_a_command_keeps_its_bound() {
        let pool = Pool::default();
        let mut waiters = Vec::new();
        for at in 0..10 {
            let (part, done) = part(&format!("user{at}"), limits::MARKS_POOLED_MAX / 4);
            assert_eq!(pool.put(ShardId(1), part), at == 0);
            waiters.push(done);
        }
        let taken: Vec<_> = std::iter::repeat_with(|| pool.take(ShardId(1))).take(3).collect();
        assert_eq!(
            taken.iter().map(|(parts, more)| (parts.len(), *more)).collect::<Vec<_>>(),
            [(4, true), (4, true), (2, false)]
        );
        assert!(pool.lock().is_empty(), "and the next one is the first again");
        assert!(pool.put(ShardId(1), part("late", 1).0));
    }

    #[tokio::test]
    async fn a_task_that_ends_early_leaves_nobody_waiting() {
        let node = crate::testing::client::Node::start().await;
        let (pool, shard) = (&node.shared.pool, ShardId(1));
        let (waits, done) = part("alice", 1);
        assert!(pool.put(shard, waits));
        let task = tokio::spawn(flush(node.shared.clone(), shard));
        tokio::task::yield_now().await;
        task.abort();
        let told = tokio::time::timeout(crate::testing::client::PATIENCE, done).await;
        assert!(told.is_ok_and(|told| told.is_err()), "told that it was not done");
        assert!(pool.put(shard, part("bob", 1).0), "and the next one is the first again");
    }
}
