//! Gathers what waits into proposals, stamps them, and gives every caller its reply.
//!
//! Invariants:
//! - At most `PROPOSALS_IN_FLIGHT_MAX` proposals are unanswered; what waits behind them forms the next batch. Nothing that
//!   a person waits for lingers while there is room; the shard's own work waits a moment for company ([`super::patience`]).
//! - A command is put into the log at most once. `NotLeader`, `Overloaded` and `Stopped` prove that it was not.
//! - A proposal is appended only in the term that it was stamped for.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flotilla_machine::{Command, Reply};
use flotilla_proto::ids::{ReplicaId, ShardId, Slot};
use flotilla_proto::limits::PROPOSALS_IN_FLIGHT_MAX;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::Leadership;
use super::admission::{Admission, Said};
use super::batch::{Batcher, Item};
use super::error::{ProposeError, propose_error};
use super::patience::Patience;
use super::stamp::Stamper;
use crate::path;
use crate::seam::clock::DisplayClock;
use crate::types::{Proposal, Raft, Replies, TypeConfig};

pub(super) type Answer = oneshot::Sender<Result<Reply, ProposeError>>;

pub(super) struct Queued {
    pub command: Bytes,
    /// Whose slot it concerns; see [`super::batch`].
    pub lane: Option<Slot>,
    pub is_patient: bool,
    pub at: Instant,
    pub answer: Answer,
}

impl Item for Queued {
    fn lane(&self) -> Option<Slot> {
        self.lane
    }

    fn bytes(&self) -> usize {
        self.command.len()
    }

    fn is_void(&self) -> bool {
        self.answer.is_closed()
    }
}

pub(super) struct Proposer {
    pub raft: Raft,
    pub shard: ShardId,
    pub own: ReplicaId,
    pub queue: mpsc::Receiver<Queued>,
    pub leadership: watch::Receiver<Leadership>,
    /// A leader with nothing to propose stamps a tick this often.
    pub tick: Duration,
    pub display: DisplayClock,
    /// See [`super::patience`].
    pub beat: Instant,
    pub admission: Arc<Admission>,
}

/// The callers of one proposal and what became of it.
struct Finished {
    answers: Vec<Answer>,
    outcome: Result<Replies, ProposeError>,
}

struct Running {
    proposer: Proposer,
    in_flight: FuturesUnordered<BoxFuture<'static, Finished>>,
    stamper: Stamper,
    last_proposal: Instant,
    /// Taken from the queue, and no place in the batch that it came to.
    held: Batcher<Queued>,
    patience: Patience<Queued>,
    said: Said,
}

/// What to do next.
enum Turn {
    Finished(Finished),
    Command(Queued),
    Held,
    Tick,
    Look,
    End,
}

impl Proposer {
    pub async fn run(self) {
        let patience = Patience::new(self.beat);
        let running = Running {
            proposer: self,
            in_flight: FuturesUnordered::new(),
            stamper: Stamper::default(),
            last_proposal: Instant::now(),
            held: Batcher::default(),
            patience,
            said: Said::default(),
        };
        running.run().await;
    }
}

impl Running {
    async fn run(mut self) {
        loop {
            match self.turn().await {
                Turn::Finished(finished) => finish(finished),
                Turn::Command(first) => self.on_command(first).await,
                Turn::Held => self.hand_in(None).await,
                Turn::Tick => self.on_tick().await,
                Turn::Look => {}
                Turn::End => break,
            }
        }
        while let Some(finished) = self.in_flight.next().await {
            finish(finished);
        }
    }

    async fn turn(&mut self) -> Turn {
        let leads = self.proposer.leadership.borrow_and_update().leads;
        let room = self.in_flight.len() < PROPOSALS_IN_FLIGHT_MAX;
        // Without leadership commands are refused at once, whatever is still in flight from before.
        if (room && !self.held.is_empty()) || (!leads && !self.patience.is_empty()) {
            return Turn::Held;
        }
        let due = self.patience.due().filter(|_| room);
        let tick_at = self.last_proposal + self.proposer.tick;
        tokio::select! {
            biased;
            Some(finished) = self.in_flight.next() => Turn::Finished(finished),
            changed = self.proposer.leadership.changed() => if changed.is_ok() { Turn::Look } else { Turn::End },
            first = self.proposer.queue.recv(), if room || !leads => first.map_or(Turn::End, Turn::Command),
            () = tokio::time::sleep_until(due.unwrap_or(tick_at)), if due.is_some() => Turn::Held,
            () = tokio::time::sleep_until(tick_at), if leads && self.in_flight.is_empty() => Turn::Tick,
        }
    }

    async fn on_command(&mut self, first: Queued) {
        if first.is_patient && self.proposer.leadership.borrow().leads {
            self.patience.add(first, Instant::now());
        } else {
            self.hand_in(Some(first)).await;
        }
    }

    async fn hand_in(&mut self, first: Option<Queued>) {
        let leadership = *self.proposer.leadership.borrow();
        // Commands whose callers have gone are left out.
        let (patience, queue) = (&mut self.patience, &mut self.proposer.queue);
        let batch = self.held.next(first, || patience.pop().or_else(|| queue.try_recv().ok()));
        if leadership.leads {
            self.propose(leadership.term, batch).await;
        } else {
            let leader = leadership.leader.filter(|leader| *leader != self.proposer.own);
            for queued in batch {
                queued.answer.send(Err(ProposeError::NotLeader { leader })).ok();
            }
        }
    }

    async fn on_tick(&mut self) {
        let leadership = *self.proposer.leadership.borrow();
        let command = Command::Tick.encode().expect("a tick has no content");
        let (answer, _nobody_waits) = oneshot::channel();
        self.propose(
            leadership.term,
            vec![Queued { command, lane: None, is_patient: false, at: Instant::now(), answer }],
        )
        .await;
    }

    fn note_waits(&mut self, batch: &[Queued], now: Instant) {
        let oldest = batch.iter().filter(|queued| !queued.is_patient).map(|queued| queued.at).min();
        // The shard's own work says nothing of how long others wait behind it.
        let Some(waited) = oldest.map(|at| now.saturating_duration_since(at)) else { return };
        if self.proposer.admission.on_proposal(waited, now) && self.said.again(now) {
            let shard = self.proposer.shard;
            tracing::warn!(%shard, ?waited, "overloaded: commands wait for too long, sends are refused now and then");
        }
    }

    async fn propose(&mut self, term: u64, batch: Vec<Queued>) {
        if batch.is_empty() {
            return;
        }
        let now = Instant::now();
        self.last_proposal = now;
        self.note_waits(&batch, now);
        let stamp = self.stamper.stamp(term, now, (self.proposer.display)());
        let (commands, answers): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|queued| (queued.command, queued.answer)).unzip();
        path::commands("proposed", &commands);
        let (responder, done) = ProgressResponder::<TypeConfig, ClientWriteResult<TypeConfig>>::complete_only();
        let write = self.proposer.raft.write(Proposal::new(stamp, commands)).with_leader(term).responder(responder);
        if write.await.is_err() {
            // The core did not take the message, so nothing was appended.
            return finish(Finished { answers, outcome: Err(ProposeError::Stopped) });
        }
        let own = self.proposer.own;
        self.in_flight.push(Box::pin(async move {
            let outcome = match done.await {
                Ok(Ok(response)) => Ok(response.data),
                Ok(Err(error)) => Err(propose_error(&error, own)),
                // The core took it and died.
                Err(_) => Err(ProposeError::Unknown),
            };
            Finished { answers, outcome }
        }));
    }
}

fn finish(Finished { answers, outcome }: Finished) {
    match outcome {
        Ok(Replies(replies)) => {
            assert_eq!(answers.len(), replies.len(), "one reply for each command");
            for (answer, reply) in answers.into_iter().zip(replies) {
                // A caller that has gone asks again with the same key.
                answer.send(Ok(reply)).ok();
            }
        }
        Err(error) => {
            for answer in answers {
                answer.send(Err(error)).ok();
            }
        }
    }
}
