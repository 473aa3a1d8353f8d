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

#[cfg(test)]
mod tests {
    use flotilla_machine::command::NotifyUser;
    use flotilla_proto::ids::*;
    use futures::FutureExt;

    use super::*;

    fn news(head: u64) -> News {
        let user = UserId::parse("ann").expect("valid");
        let (conv, users) = (ConvId::group(&user, Cid(1)), vec![NotifyUser { user, n_sent: Count(0), part: None }]);
        News { conv, head: Seq(head), n_head: Count(head), last_id: MsgId(head), last_ts: TsMs(head), users }
    }

    #[test]
    fn whoever_waits_is_answered_by_what_becomes_of_the_heads_that_it_waits_with() {
        let heads = Heads::default();
        let (mut first, mut second) = (Box::pin(heads.gather(vec![news(4)])), Box::pin(heads.gather(vec![news(5)])));
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        assert_eq!(heads.ready().now_or_never(), Some(()));
        let Waiting { mut gathered, joined, asked, .. } = heads.take();
        assert_eq!((gathered.take(), joined, asked.len()), (vec![news(5)], 1, 2));
        let mut late = Box::pin(heads.gather(vec![news(6)]));
        assert!(late.as_mut().now_or_never().is_none());
        asked.into_iter().for_each(|answer| assert!(answer.send(Err(Failure::Unknown)).is_ok()));
        assert_eq!(first.now_or_never(), Some(Err(Failure::Unknown)));
        assert_eq!(second.now_or_never(), Some(Err(Failure::Unknown)));
        assert!(late.now_or_never().is_none(), "its heads are in the next gathering");
    }

    #[test]
    fn nobody_waits_for_a_leadership_that_is_over() {
        let heads = Heads::default();
        let (mut taken, mut waits) = (Box::pin(heads.gather(vec![news(4)])), Box::pin(heads.gather(vec![news(5)])));
        assert!(taken.as_mut().now_or_never().is_none());
        // The task that writes ends with what it has taken.
        drop(heads.take());
        assert!(waits.as_mut().now_or_never().is_none());
        heads.end();
        assert_eq!(
            (taken.now_or_never(), waits.now_or_never()),
            (Some(Err(Failure::NotReady)), Some(Err(Failure::NotReady)))
        );
        assert_eq!(heads.gather(vec![news(6)]).now_or_never(), Some(Err(Failure::NotReady)));
        assert_eq!(heads.take().asked.len(), 0);
    }
}
