//! Gathers what waits into proposals, stamps them, and gives every caller its reply.
//!
//! Invariants:
//! - At most `PROPOSALS_IN_FLIGHT_MAX` proposals are unanswered; what waits behind them forms the next batch. Nothing
//!   lingers while there is room.
//! - A command is put into the log at most once. `NotLeader`, `Overloaded` and `Stopped` prove that it was not.
//! - A proposal is appended only in the term that it was stamped for.

use bytes::Bytes;
use flotilla_machine::{Command, Reply};
use flotilla_proto::ids::ReplicaId;
use flotilla_proto::limits::{PROPOSAL_BYTES_MAX, PROPOSAL_COMMANDS_MAX, PROPOSALS_IN_FLIGHT_MAX};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::error::{ProposeError, propose_error};
use super::stamp::Stamper;
use super::{Leadership, TickPeriod};
use crate::seam::clock::DisplayClock;
use crate::types::{Proposal, Raft, Replies, TypeConfig};

pub(super) type Answer = oneshot::Sender<Result<Reply, ProposeError>>;

pub(super) struct Queued {
    pub command: Bytes,
    pub answer: Answer,
}

pub(super) struct Proposer {
    pub raft: Raft,
    pub own: ReplicaId,
    pub queue: mpsc::Receiver<Queued>,
    pub leadership: watch::Receiver<Leadership>,
    pub tick: watch::Receiver<TickPeriod>,
    pub display: DisplayClock,
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
    /// Taken from the queue, but too large for the batch that it came to.
    held: Option<Queued>,
}

/// What to do next.
enum Turn {
    Finished(Finished),
    Command(Queued),
    Tick,
    Look,
    End,
}

impl Proposer {
    pub async fn run(self) {
        let running = Running {
            proposer: self,
            in_flight: FuturesUnordered::new(),
            stamper: Stamper::default(),
            last_proposal: Instant::now(),
            held: None,
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
        if room && let Some(held) = self.held.take() {
            return Turn::Command(held);
        }
        let tick_at = self.last_proposal + self.proposer.tick.borrow_and_update().0;
        tokio::select! {
            biased;
            Some(finished) = self.in_flight.next() => Turn::Finished(finished),
            changed = self.proposer.leadership.changed() => if changed.is_ok() { Turn::Look } else { Turn::End },
            // Without leadership commands are refused at once, whatever is still in flight from before.
            first = self.proposer.queue.recv(), if room || !leads => first.map_or(Turn::End, Turn::Command),
            changed = self.proposer.tick.changed() => if changed.is_ok() { Turn::Look } else { Turn::End },
            () = tokio::time::sleep_until(tick_at), if leads && self.in_flight.is_empty() => Turn::Tick,
        }
    }

    async fn on_command(&mut self, first: Queued) {
        let leadership = *self.proposer.leadership.borrow();
        let batch = self.gather(first);
        if leadership.leads {
            self.propose(leadership.term, batch).await;
        } else {
            let leader = leadership.leader.filter(|leader| *leader != self.proposer.own);
            for queued in batch {
                queued.answer.send(Err(ProposeError::NotLeader { leader })).ok();
            }
        }
    }

    /// What waits, up to the bounds of a proposal, without the commands whose callers have gone.
    fn gather(&mut self, first: Queued) -> Vec<Queued> {
        let mut bytes = 0;
        let mut batch = Vec::new();
        let mut next = Some(first);
        while let Some(queued) = next {
            if !queued.answer.is_closed() {
                if !batch.is_empty() && bytes + queued.command.len() > PROPOSAL_BYTES_MAX {
                    self.held = Some(queued);
                    break;
                }
                bytes += queued.command.len();
                batch.push(queued);
            }
            if batch.len() >= PROPOSAL_COMMANDS_MAX {
                break;
            }
            next = self.proposer.queue.try_recv().ok();
        }
        batch
    }

    async fn on_tick(&mut self) {
        let leadership = *self.proposer.leadership.borrow();
        let command = Command::Tick.encode().expect("a tick has no content");
        let (answer, _nobody_waits) = oneshot::channel();
        self.propose(leadership.term, vec![Queued { command, answer }]).await;
    }

    async fn propose(&mut self, term: u64, batch: Vec<Queued>) {
        if batch.is_empty() {
            return;
        }
        let now = Instant::now();
        self.last_proposal = now;
        let stamp = self.stamper.stamp(term, now, (self.proposer.display)());
        let (commands, answers): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|queued| (queued.command, queued.answer)).unzip();
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
