//! Heads of a user shard that wait for later ones of the same conversations: [`flotilla_machine::user::gather`] makes them one.
//! Their entries have been pushed to live sessions by then, so who is online waits for nothing.
//!
//! Invariants: a request is answered `Done` only when all that it holds is durable; one gathering at a time is in the log; the first
//! after a quiet moment does not wait, and none waits for longer than [`limits::HEADS_GATHER_MS`] and the gathering before.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flotilla_machine::command::Notify as News;
use flotilla_machine::user::gather::Gathered;
use flotilla_proto::limits;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::Cluster;
use super::leader::Leader;
use super::serve::tell_heads;
use super::wire::Failure;

const GATHER: Duration = Duration::from_millis(limits::HEADS_GATHER_MS);

#[derive(Default)]
pub struct Heads {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Default)]
struct Waiting {
    gathered: Gathered,
    /// How many became one with others.
    joined: u64,
    asked: Vec<oneshot::Sender<Result<(), Failure>>>,
    ended: bool,
}

impl Heads {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for others, and until all of them are durable. Of what fails together one request may be at fault, and the answer to it
    /// is another one's too.
    pub async fn gather(&self, news: Vec<News>) -> Result<(), Failure> {
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.lock();
            if waiting.ended {
                return Err(Failure::NotReady);
            }
            for news in news {
                waiting.joined += u64::from(waiting.gathered.add(news));
            }
            waiting.asked.push(answer);
        }
        self.wake.notify_one();
        answered.await.unwrap_or(Err(Failure::NotReady))
    }

    /// The leadership is over: nobody gathers any more.
    pub fn end(&self) {
        *self.lock() = Waiting { ended: true, ..Waiting::default() };
    }

    async fn ready(&self) {
        loop {
            let woken = self.wake.notified();
            if !self.lock().asked.is_empty() {
                return;
            }
            woken.await;
        }
    }

    fn take(&self) -> Waiting {
        let mut waiting = self.lock();
        let ended = waiting.ended;
        std::mem::replace(&mut *waiting, Waiting { ended, ..Waiting::default() })
    }
}

/// Writes what was gathered, until the leadership ends.
pub async fn run(cluster: Arc<Cluster>, leader: Arc<Leader>) {
    let mut next = Instant::now();
    loop {
        leader.heads.ready().await;
        tokio::time::sleep_until(next).await;
        next = Instant::now() + GATHER;
        let Waiting { mut gathered, joined, asked, .. } = leader.heads.take();
        cluster.metrics.heads_joined.add(joined);
        let outcome = tell_heads(&leader, gathered.take()).await;
        for answer in asked {
            // Who asked may have given up.
            let _ = answer.send(outcome);
        }
    }
}
