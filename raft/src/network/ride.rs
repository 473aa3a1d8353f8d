//! Which requests of a replication stream go at once, and which ride with the next one.
//!
//! An append without entries tells a follower only how far the log is committed; the next append with entries says that too, and
//! more. Nobody waits for it: a follower applies what is committed so as to be ready, and a new leader applies the rest. So
//! such an append waits for one with entries, until the node's next beat. Then those of all groups go together, and share a frame, and
//! what the follower applies for them shares a write.
//!
//! Invariants: requests leave in the order in which openraft made them; one that was left out said nothing that the next did not
//! say; the last one of a stream always goes, so a heartbeat (a stream of its own) never waits.

use flotilla_proto::ids::ShardId;
use futures::{Stream, StreamExt, stream};
use openraft::raft::AppendEntriesRequest;
use tokio::time::{Instant, timeout};

use crate::group::next_beat;
use crate::types::TypeConfig;

type Append = AppendEntriesRequest<TypeConfig>;

/// Until when a request of this group may wait. `beat`: a time that all groups of the node share. The control group's never wait:
/// its followers act on what they apply.
pub fn patience(shard: ShardId, beat: Instant) -> impl Fn() -> Option<Instant> + Send + 'static {
    move || (shard != ShardId::CONTROL).then(|| next_beat(beat, Instant::now()))
}

/// The requests of `input` that leave, and when.
pub fn riding<S, P>(input: S, patience: P) -> impl Stream<Item = Append> + Send + Unpin + 'static
where
    S: Stream<Item = Append> + Send + Unpin + 'static,
    P: Fn() -> Option<Instant> + Send + 'static,
{
    let requests = Requests { input: Some(input), patience };
    Box::pin(stream::unfold(requests, async |mut requests| requests.next().await.map(|rpc| (rpc, requests))))
}

struct Requests<S, P> {
    /// None once it has ended: it must not be asked again.
    input: Option<S>,
    patience: P,
}

impl<S: Stream<Item = Append> + Unpin, P: Fn() -> Option<Instant>> Requests<S, P> {
    async fn next(&mut self) -> Option<Append> {
        let mut rpc = self.pull().await?;
        if !rpc.entries.is_empty() {
            return Some(rpc);
        }
        let Some(due) = (self.patience)() else { return Some(rpc) };
        while rpc.entries.is_empty() {
            match timeout(due.saturating_duration_since(Instant::now()), self.pull()).await {
                Ok(Some(next)) => rpc = next,
                // The end of the stream, or of the wait.
                Ok(None) | Err(_) => break,
            }
        }
        Some(rpc)
    }

    async fn pull(&mut self) -> Option<Append> {
        let next = self.input.as_mut()?.next().await;
        if next.is_none() {
            self.input = None;
        }
        next
    }
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;
    use futures::channel::mpsc::{UnboundedSender, unbounded};

    use super::*;
    use crate::testkit::entry;
    use crate::types::{Vote, log_id};

    fn append(prev: u64, entries: u64, commit: u64) -> Append {
        AppendEntriesRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: Some(log_id(1, prev)),
            entries: (1..=entries).map(|n| entry(1, prev + n)).collect(),
            leader_commit: Some(log_id(1, commit)),
        }
    }

    fn start(wait: Option<Duration>) -> (UnboundedSender<Append>, impl Stream<Item = Append> + Unpin) {
        let (made, input) = unbounded();
        (made, riding(input, move || wait.map(|wait| Instant::now() + wait)))
    }

    const LONG: Option<Duration> = Some(Duration::from_secs(3_600));

    fn said(rpc: Option<Append>) -> Option<(usize, u64)> {
        rpc.map(|rpc| (rpc.entries.len(), rpc.leader_commit.map_or(0, |id| id.index())))
    }

    #[tokio::test]
    async fn a_commit_rides_with_the_next_entries_and_they_do_not_wait() {
        let (made, mut out) = start(LONG);
        made.unbounded_send(append(4, 1, 4)).expect("open");
        assert_eq!(said(out.next().now_or_never().flatten()), Some((1, 4)), "entries go at once");
        made.unbounded_send(append(5, 0, 5)).expect("open");
        assert!(out.next().now_or_never().is_none(), "a commit waits");
        made.unbounded_send(append(5, 0, 5)).expect("open");
        made.unbounded_send(append(5, 2, 5)).expect("open");
        assert_eq!(said(out.next().now_or_never().flatten()), Some((2, 5)), "and goes with the entries, at once");
        assert!(out.next().now_or_never().is_none(), "alone, it does not go any more");
    }

    #[tokio::test]
    async fn a_commit_that_stays_alone_goes_in_the_end_and_the_newest_says_it() {
        let (made, mut out) = start(Some(Duration::from_millis(1)));
        made.unbounded_send(append(5, 0, 4)).expect("open");
        made.unbounded_send(append(5, 0, 5)).expect("open");
        assert_eq!(said(out.next().await), Some((0, 5)));
        made.unbounded_send(append(5, 1, 5)).expect("open");
        assert_eq!(said(out.next().now_or_never().flatten()), Some((1, 5)), "the stream goes on");
    }

    #[tokio::test]
    async fn the_last_request_of_a_stream_goes_at_once() {
        let mut heartbeat =
            riding(stream::iter([append(5, 0, 5)]), || Some(Instant::now() + Duration::from_secs(3_600)));
        assert_eq!(said(heartbeat.next().now_or_never().flatten()), Some((0, 5)));
        assert_eq!(said(heartbeat.next().now_or_never().flatten()), None);
    }

    #[tokio::test]
    async fn the_control_group_waits_for_nothing() {
        let now = Instant::now();
        assert_eq!(patience(ShardId::CONTROL, now)(), None);
        assert!(patience(ShardId(1), now)().is_some_and(|due| due > now));
        let (made, mut out) = start(None);
        made.unbounded_send(append(5, 0, 5)).expect("open");
        assert_eq!(said(out.next().now_or_never().flatten()), Some((0, 5)));
    }
}
