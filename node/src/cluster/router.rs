//! From a user or conversation to the leader of its shard, and back with one of three outcomes.
//!
//! Invariant: a command is proposed again only on a proof that the first proposal was not appended (`NotLeader`,
//! `Overloaded`, nothing sent), or had no effect because it came too early (`Moved`, [`levels`]). Everything else is `Unknown`.
//! Queries have no effect and may be asked again. One deadline in all.

use std::time::Duration;

use bytes::Bytes;
use flotilla_machine::{Answer, Command, Query, Rejection, Reply};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_proto::slots;
use flotilla_raft::Leadership;
use tokio::sync::watch;
use tokio::time::Instant;

use super::wire::{Failure, NodeReply, NodeRequest};
use super::{Cluster, levels};
use crate::backend::{CallError, Freshness, Route, Wanted};

/// Between two tries while a shard has no known leader or does not own its slots yet.
const PAUSE: Duration = Duration::from_millis(25);
/// The same where a node has too much on its way.
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// What one try at one node gave.
#[expect(clippy::large_enum_variant, reason = "lives on the stack for one try")]
enum Try {
    Reply(NodeReply),
    /// Nothing was appended; ask this node next, if known.
    NotHere(Option<NodeId>),
    Overloaded,
    /// Nothing was appended: too much is on its way to that node.
    Busy,
    Unknown,
}

impl Cluster {
    pub fn shard_of(&self, route: &Route) -> Option<ShardId> {
        self.tables.current()?.slots.shard(slot_of(route))
    }

    pub async fn route_command(&self, route: &Route, command: &Command, wanted: &Wanted) -> Result<Reply, CallError> {
        if matches!(command, Command::Append(_)) && self.pressure.is_high() {
            return Err(CallError::Overloaded);
        }
        let deadline = deadline();
        let (lane, level) = (slot_of(route), command.level_wanted());
        loop {
            let shard = self.shard_of(route).ok_or(CallError::Unavailable)?;
            // Known before it is asked: what it refuses from then on is not for want of a level.
            let at_level = self.levels.has(shard, level);
            let rejection = match encode(command, self.level()) {
                Ok(bytes) => match self.command_by(shard, Some(lane), bytes, deadline, wanted).await? {
                    Reply::Rejected(rejection) => rejection,
                    reply => return Ok(reply),
                },
                Err(rejection) => rejection,
            };
            if rejection == Rejection::Moved {
                pause_or_give_up(deadline).await?;
            } else if at_level
                || !levels::may_be_of_level(&rejection)
                || !self.comes_to_level(shard, level, deadline).await?
            {
                return Err(CallError::Rejected(rejection));
            }
        }
    }

    /// A command to a shard by its number, for the cluster's own work. Rejections come as `Reply::Rejected`.
    pub async fn shard_command(&self, shard: ShardId, command: &Command) -> Result<Reply, CallError> {
        let bytes = encode(command, self.level()).map_err(CallError::Rejected)?;
        self.command_by(shard, None, bytes, deadline(), &Wanted::ALWAYS).await
    }

    async fn command_by(
        &self,
        shard: ShardId,
        lane: Option<Slot>,
        command: Bytes,
        deadline: Instant,
        wanted: &Wanted,
    ) -> Result<Reply, CallError> {
        let request = NodeRequest::Execute { shard, lane, command };
        match self.at_leader_while(wanted, shard, request, deadline, false).await? {
            NodeReply::Reply(reply) => Ok(reply),
            _ => Err(CallError::Unknown),
        }
    }

    pub async fn route_query(&self, route: &Route, query: &Query, fresh: &Freshness) -> Result<Answer, CallError> {
        let deadline = deadline();
        loop {
            let shard = self.shard_of(route).ok_or(CallError::Unavailable)?;
            match self.query_by(shard, query.clone(), fresh, deadline).await? {
                Answer::Moved => pause_or_give_up(deadline).await?,
                answer => return Ok(answer),
            }
        }
    }

    pub async fn shard_query(&self, shard: ShardId, query: Query) -> Result<Answer, CallError> {
        self.query_by(shard, query, &Freshness::Linearizable, deadline()).await
    }

    /// Every shard holds some of the users: all are asked at once. `Unavailable` if none answers.
    pub async fn find_users(&self, prefix: &str, limit: u32) -> Result<(Vec<UserId>, bool), CallError> {
        let deadline = Instant::now() + Duration::from_millis(limits::PRESENCE_LOOK_MS);
        let asks = self.data_shards().into_iter().map(|shard| {
            let query = Query::FindUsers { prefix: prefix.to_owned(), limit };
            async move { self.query_by(shard, query, &Freshness::Any { min_seq: None }, deadline).await }
        });
        let answers = futures::future::join_all(asks).await;
        let (mut users, mut whole, mut any) = (Vec::new(), true, false);
        for answer in answers {
            match answer {
                Ok(Answer::Users(found)) => {
                    any = true;
                    users.extend(found);
                }
                _ => whole = false,
            }
        }
        if !any {
            return Err(CallError::Unavailable);
        }
        users.sort();
        // A slot on its way from one shard to another may be found in both.
        users.dedup();
        users.truncate(limit as usize);
        Ok((users, whole))
    }

    pub(super) async fn query_by(
        &self,
        shard: ShardId,
        query: Query,
        fresh: &Freshness,
        deadline: Instant,
    ) -> Result<Answer, CallError> {
        let linearizable = *fresh == Freshness::Linearizable;
        let request = NodeRequest::Query { shard, query, linearizable };
        match self.at_leader(shard, request, deadline, true).await? {
            NodeReply::Answer(answer) => Ok(answer),
            _ => Err(CallError::Unavailable),
        }
    }

    /// Asks the leader of a shard. `repeatable`: the request has no effect, or the same one however often it is done.
    pub async fn at_leader(
        &self,
        shard: ShardId,
        request: NodeRequest,
        deadline: Instant,
        repeatable: bool,
    ) -> Result<NodeReply, CallError> {
        self.at_leader_while(&Wanted::ALWAYS, shard, request, deadline, repeatable).await
    }

    async fn at_leader_while(
        &self,
        wanted: &Wanted,
        shard: ShardId,
        request: NodeRequest,
        deadline: Instant,
        repeatable: bool,
    ) -> Result<NodeReply, CallError> {
        let mut hint = None;
        let mut tries = 0usize;
        loop {
            // Nothing is appended whenever this is reached.
            if !wanted.get() {
                return Err(CallError::Unavailable);
            }
            let Some(node) = hint.take().or_else(|| self.leader_of(shard, tries)) else {
                pause_or_give_up(deadline).await?;
                tries += 1;
                continue;
            };
            let attempt_deadline = if repeatable { deadline.min(Instant::now() + ATTEMPT) } else { deadline };
            let tried = tokio::select! {
                biased;
                tried = self.try_node(node, &request, attempt_deadline) => tried,
                // It is paused or cut off: what it would answer, nobody knows, and nobody should wait for it.
                () = self.deposed(shard, node) => Try::Unknown,
            };
            match tried {
                Try::Reply(reply) => return Ok(reply),
                // Most of what there is too much of are commands of clients: to repeat them from here would be more of it.
                Try::Overloaded => return Err(CallError::Overloaded),
                Try::Busy if !repeatable => return Err(CallError::Overloaded),
                // The cluster's own questions (leases, presented sessions) must get through; seldom, for the same reason.
                Try::Busy => wait_or_give_up(BUSY_PAUSE, deadline).await?,
                Try::Unknown if !repeatable => return Err(CallError::Unknown),
                Try::NotHere(Some(leader)) if leader != node && tries.is_multiple_of(2) => hint = Some(leader),
                Try::NotHere(_) | Try::Unknown => pause_or_give_up(deadline).await?,
            }
            tries += 1;
        }
    }

    /// Ends some time after the own replica has heard of a later leader than `node`.
    async fn deposed(&self, shard: ShardId, node: NodeId) {
        if let Some(group) = self.groups.get(shard)
            && later_leader(group.watch_leadership(), node).await
        {
            // One that only hands over answers what it has begun.
            tokio::time::sleep(LAST_WORDS).await;
        } else {
            std::future::pending().await
        }
    }

    /// Whom to ask next.
    pub(super) fn leader_of(&self, shard: ShardId, tries: usize) -> Option<NodeId> {
        let own = self.groups.get(shard).map(|group| group.leader().map(|replica| replica.node));
        target(own, tries, || {
            let state = self.tables.current()?;
            state.placement.iter().find(|(s, _)| *s == shard).map(|(_, replicas)| replicas.clone())
        })
    }

    async fn try_node(&self, node: NodeId, request: &NodeRequest, deadline: Instant) -> Try {
        let reply = if node == self.node {
            let left = deadline.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, self.serve(node, request.clone())).await {
                Ok(reply) => reply,
                Err(_) => return Try::Unknown,
            }
        } else {
            match self.ask(node, request, deadline).await {
                Ok(reply) => reply,
                Err(AskError::NotSent) => return Try::NotHere(None),
                Err(AskError::Busy) => return Try::Busy,
                Err(AskError::Unknown) => return Try::Unknown,
            }
        };
        match reply {
            NodeReply::Failed(Failure::NotLeader { leader }) => Try::NotHere(leader),
            NodeReply::Failed(Failure::NotReady) => Try::NotHere(None),
            NodeReply::Failed(Failure::Overloaded) => Try::Overloaded,
            NodeReply::Failed(Failure::Unknown) => Try::Unknown,
            reply => Try::Reply(reply),
        }
    }
}

/// So often the own replica's word is taken before another replica is asked.
const OWN_TRIES: usize = 8;

/// The leader as this node's own replica knows it (`own`, if there is one), else the replicas of the placement in turn. The
/// own replica is not believed for ever: one that was removed, or waits to be added, hears of no leader again, and this
/// node's clients would be cut off from a healthy shard.
fn target(
    own: Option<Option<NodeId>>,
    tries: usize,
    replicas: impl FnOnce() -> Option<Vec<ReplicaId>>,
) -> Option<NodeId> {
    let turn = match own {
        Some(known) if tries % OWN_TRIES != OWN_TRIES - 1 => return known,
        Some(_) => tries / OWN_TRIES,
        None => tries,
    };
    let replicas = replicas()?;
    let replica = replicas.get(turn.checked_rem(replicas.len())?)?;
    Some(replica.node)
}

/// One try of a repeatable request; a node that died without closing its connection costs no more than this.
const ATTEMPT: Duration = Duration::from_millis(1_500);

/// For the answers of a leader that has a successor.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Waits for a term that is led by another node; false when there is nothing to wait for.
async fn later_leader(mut leadership: watch::Receiver<Leadership>, node: NodeId) -> bool {
    let term = leadership.borrow_and_update().term;
    loop {
        if leadership.changed().await.is_err() {
            return false;
        }
        let now = *leadership.borrow_and_update();
        if now.term > term && now.leader.is_some_and(|leader| leader.node != node) {
            return true;
        }
    }
}

/// Why a peer gave no answer.
pub enum AskError {
    /// Proof that nothing left this node, or was not taken there.
    NotSent,
    /// Likewise: too much is on its way there.
    Busy,
    Unknown,
}

fn slot_of(route: &Route) -> Slot {
    match route {
        Route::User(user) => slots::of_user(user),
        Route::Conv(conv) => slots::of_conversation(conv),
    }
}

fn deadline() -> Instant {
    Instant::now() + Duration::from_millis(limits::REQUEST_DEADLINE_MS)
}

/// Nothing enters a log that a replica of an older build could not decode.
fn encode(command: &Command, level: u32) -> Result<Bytes, Rejection> {
    command.check_level(level)?;
    let too_big = || Rejection::Validation("the request is too large".into());
    let bytes = command.encode().map_err(|_| too_big())?;
    if bytes.len() > limits::COMMAND_BYTES_MAX { Err(too_big()) } else { Ok(bytes) }
}

/// Waits a moment, or says that there is no time left. Only called where nothing has happened.
pub(super) async fn pause_or_give_up(deadline: Instant) -> Result<(), CallError> {
    wait_or_give_up(PAUSE, deadline).await
}

async fn wait_or_give_up(pause: Duration, deadline: Instant) -> Result<(), CallError> {
    if Instant::now() + pause >= deadline {
        return Err(CallError::Unavailable);
    }
    tokio::time::sleep(pause).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use flotilla_machine::command::{Control, PullRule};

    use super::*;

    #[test]
    fn what_older_builds_cannot_decode_leaves_no_node_of_their_cluster() {
        let limits = Command::Control(Control::SetClientLimits { changes: vec![] });
        let rule = Command::SetPullRule(PullRule::default());
        for (command, needed) in [(limits, limits::CLIENT_LIMITS_LEVEL), (rule, limits::PULL_LEVEL)] {
            let told = encode(&command, needed - 1).expect_err("refused").to_string();
            assert!(told.contains(&format!("needs level {needed}")), "{told}");
            assert!(encode(&command, needed).is_ok());
        }
        assert!(encode(&Command::Tick, 1).is_ok());
    }

    #[test]
    fn a_replica_that_hears_of_no_leader_does_not_cut_its_node_off() {
        let replicas = || Some([1, 2, 3].map(|n| ReplicaId::new(NodeId(n), Generation(1))).to_vec());
        let asked = |own: Option<NodeId>| -> Vec<u16> {
            (0..4 * OWN_TRIES).filter_map(|tries| target(Some(own), tries, replicas)).map(|n| n.0).collect()
        };
        assert_eq!(asked(None), [1, 2, 3, 1]);
        let stale = asked(Some(NodeId(9)));
        assert!(stale.iter().filter(|n| **n == 9).count() == 28 && [1, 2, 3].iter().all(|n| stale.contains(n)));
        let without: Vec<_> = (0..3).filter_map(|tries| target(None, tries, replicas)).map(|n| n.0).collect();
        assert_eq!(without, [1, 2, 3]);
    }

    #[tokio::test]
    async fn a_successor_ends_the_wait_for_a_leader_that_hangs() {
        let led = |term, node: u16| Leadership {
            term,
            leader: Some(ReplicaId::new(NodeId(node), Generation(1))),
            ..Leadership::default()
        };
        let (tell, told) = watch::channel(led(3, 1));
        let mut wait = tokio::spawn(later_leader(told, NodeId(1)));
        let waits = async |wait: &mut tokio::task::JoinHandle<bool>| {
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            !wait.is_finished()
        };
        tell.send_replace(Leadership { leader: None, ..led(4, 1) });
        assert!(waits(&mut wait).await, "an election is no answer yet");
        tell.send_replace(led(5, 1));
        assert!(waits(&mut wait).await, "it leads again");
        tell.send_replace(led(6, 2));
        assert!(wait.await.expect("no panic"));
        let (_, gone) = watch::channel(led(3, 1));
        assert!(!later_leader(gone, NodeId(1)).await);
    }
}
