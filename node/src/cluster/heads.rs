//! Heads of a user shard that wait for later ones of the same conversations: [`flotilla_machine::user::gather`] makes them one.
//! Their entries have been pushed to live sessions by then.
//!
//! Invariants: a request is answered for only when all that it holds is durable; the first after a quiet moment does not wait, and none
//! waits for longer than [`limits::HEADS_GATHER_MS`] while the log takes them. Where it does not, they wait for gatherings before.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flotilla_machine::command::Notify as News;
use flotilla_machine::user::gather::Gathered;
use flotilla_proto::limits;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
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
    /// is another one's too. `NotReady` also says that the leadership is over; they may be in the log by then.
    pub async fn gather(&self, news: Vec<News>) -> Result<(), Failure> {
        if news.is_empty() {
            return Ok(());
        }
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

impl Waiting {
    fn answer(self, outcome: Result<(), Failure>) {
        for answer in self.asked {
            // Who asked may have given up.
            let _ = answer.send(outcome);
        }
    }
}

/// Writes what was gathered, until the leadership ends.
pub async fn run(cluster: Arc<Cluster>, leader: Arc<Leader>) {
    let write = |mut waiting: Waiting| {
        let (cluster, leader) = (cluster.clone(), leader.clone());
        async move {
            cluster.metrics.heads_joined.add(waiting.joined);
            let outcome = tell_heads(&leader, waiting.gathered.take()).await;
            waiting.answer(outcome);
        }
    };
    gather(&leader.heads, write).await;
}

async fn gather<F: Future<Output = ()>>(heads: &Heads, write: impl Fn(Waiting) -> F) {
    let mut writing = FuturesUnordered::new();
    let mut next = Instant::now();
    loop {
        let due = async {
            heads.ready().await;
            tokio::time::sleep_until(next).await;
        };
        tokio::select! {
            biased;
            Some(()) = writing.next() => {}
            () = due, if writing.len() < limits::GATHERINGS_IN_FLIGHT_MAX => {
                next = Instant::now() + GATHER;
                writing.push(write(heads.take()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

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
        // A task that has not noticed yet does not begin anew.
        assert_eq!(heads.take().asked.len(), 0);
        assert_eq!(heads.gather(vec![news(7)]).now_or_never(), Some(Err(Failure::NotReady)));
    }

    #[tokio::test]
    async fn there_is_one_gathering_in_a_while_and_at_most_two_in_the_log() {
        const GATHERED: usize = 40;
        let (heads, begin) = (Heads::default(), Instant::now());
        let (writes, under_way) = (Mutex::new(Vec::new()), AtomicUsize::new(0));
        let write = async |mut waiting: Waiting| {
            let now_under_way = under_way.fetch_add(1, Ordering::Relaxed) + 1;
            assert!(now_under_way <= limits::GATHERINGS_IN_FLIGHT_MAX);
            let news = waiting.gathered.take();
            let seen = (begin.elapsed(), waiting.asked.len(), news.len(), now_under_way);
            writes.lock().expect("not poisoned").push(seen);
            // The log takes long for the third.
            let is_slow = writes.lock().expect("not poisoned").len() == 3;
            tokio::time::sleep(if is_slow { GATHER * 5 / 2 } else { GATHER / 10 }).await;
            under_way.fetch_sub(1, Ordering::Relaxed);
            waiting.answer(Ok(()));
        };
        let asks = async {
            let asks = (0..GATHERED as u32).map(async |n| {
                tokio::time::sleep(GATHER * n / 10).await;
                let told = heads.gather(vec![news(n.into())]).await;
                assert_eq!(told, Ok(()));
                assert!(begin.elapsed() >= GATHER * n / 10 + GATHER / 10, "answered before it was written");
            });
            futures::future::join_all(asks).await;
            tokio::time::sleep(GATHER * 4).await;
            assert_eq!(heads.gather(vec![news(99)]).await, Ok(()));
        };
        tokio::select! {
            () = gather(&heads, write) => panic!("it has no end"),
            () = asks => {}
        }
        let writes = writes.into_inner().expect("not poisoned");
        assert!(writes.windows(2).all(|two| two[1].0 - two[0].0 >= GATHER), "{writes:?}");
        assert!(writes.iter().all(|(_, _, news, _)| *news == 1), "one conversation: {writes:?}");
        assert!(writes.iter().any(|(.., under_way)| *under_way == 2), "{writes:?}");
        assert_eq!(writes.iter().map(|(_, asked, ..)| asked).sum::<usize>(), GATHERED + 1);
        assert!(writes.len() <= 2 + GATHERED / 10 + 1, "{writes:?}");
        assert_eq!(writes.last().map(|last| last.1), Some(1), "nothing came for a while");
    }
}
