//! Operators who change what the cluster consists of: a machine is replaced, a replica gets a new id, a group grows. Two of
//! them may be at work at once and know nothing of each other.
//!
//! The product has no command that takes a node or a replica away for good, so nobody here does.

use std::time::Duration;

use flotilla_machine::command::Control;
use flotilla_machine::{Command, Reply};
use flotilla_node::backend::CallError;
use flotilla_node::cli::ask::ask;
use flotilla_node::cli::rejoin::{self, RejoinArgs};
use flotilla_node::cluster::wire::AdminRequest;
use flotilla_proto::ids::{NodeId, ReplicaId, ShardId};
use tokio::time::{Instant, sleep, timeout};

use super::Cluster;

const RETRY: Duration = Duration::from_millis(500);
/// So long an operator tries to have a command taken.
const PATIENCE: Duration = Duration::from_secs(10);

impl Cluster {
    /// A new machine with an empty disk in place of a dead one, taken back by the others.
    pub fn wipe(&self, node: usize) {
        self.say(format!("replaces node{} by an empty machine", self.seats[node].number));
        self.watch.wiped(self.seats[node].number);
        self.seats[node].disk.wipe();
    }

    /// As `flotilla cluster rejoin` does it, again until it is done. `admins`: others ask other nodes for the same meanwhile.
    pub async fn take_back(&self, node: usize, admins: usize) {
        let others = (1..admins).map(|admin| self.readmit(node, admin));
        futures::future::join(self.rejoins(node), futures::future::join_all(others)).await;
    }

    async fn rejoins(&self, node: usize) {
        let number = self.seats[node].number;
        for _ in 0..120 {
            let args = RejoinArgs { nodes: self.addrs(), node: number, insecure_peers: true };
            match self.on_tool(async move { rejoin::run(args).await }).await {
                Ok(()) => return self.say(format!("has node{number} taken back")),
                // Another admin was quicker.
                Err(error) if format!("{error:#}").contains("nothing to take back") => return,
                Err(error) => self.say(format!("cannot have node{number} taken back yet: {error:#}")),
            }
            sleep(RETRY).await;
        }
    }

    /// An admin who looks at nothing before: also where the node has lost nothing, which must change nothing.
    pub async fn readmit(&self, node: usize, admin: usize) {
        let via = (node + admin) % self.seats.len();
        let (at, number) = (self.addrs().swap_remove(via), self.seats[node].number);
        let request = AdminRequest::Readmit { node: NodeId(number) };
        for _ in 0..10 {
            let (at, request) = (at.clone(), request.clone());
            let asked = self.on_tool(async move { ask(&at.addr, Some(at.node), &request, true).await }).await;
            match asked {
                Ok(_) => return self.say(format!("has node{number} taken back by node{}", self.seats[via].number)),
                Err(_) => sleep(RETRY).await,
            }
        }
    }

    /// The replicas of a shard as some running node knows them, those that are on their way out left out.
    fn placed(&self, shard: ShardId) -> Vec<ReplicaId> {
        let tables = self.seats.iter().filter_map(|seat| seat.running()?.tables.current());
        let Some(state) = tables.max_by_key(|state| state.version) else { return Vec::new() };
        let placed = state.placement.iter().find(|(of, _)| *of == shard);
        let replicas = placed.map(|(_, replicas)| replicas.clone()).unwrap_or_default();
        replicas.into_iter().filter(|replica| !state.retiring.contains(&(shard, *replica))).collect()
    }

    /// The node's replica of a shard gets a new id, and the node starts again: it comes back as a learner, beside which the old
    /// one leaves the group. So many admins ask for it at once. False if nobody took it.
    pub async fn replace(&self, node: usize, shard: ShardId, admins: usize) -> bool {
        let number = NodeId(self.seats[node].number);
        let Some(old) = self.placed(shard).into_iter().find(|replica| replica.node == number) else { return false };
        self.say(format!("replaces replica {old} of shard {shard}"));
        self.allocate(shard, number, Some(old), admins).await
    }

    /// A group gets one more replica, on the first node from this one on that has none. Gives that node, also where nobody has
    /// answered.
    pub async fn grow(&self, from: usize, shard: ShardId) -> Option<usize> {
        let placed = self.placed(shard);
        let mut nodes = (0..self.seats.len()).map(|step| (from + step) % self.seats.len());
        let node = nodes.find(|node| placed.iter().all(|replica| replica.node.0 != self.seats[*node].number))?;
        self.say(format!("gives shard {shard} a replica on node{}", self.seats[node].number));
        if placed.is_empty() {
            return None;
        }
        self.allocate(shard, NodeId(self.seats[node].number), None, 1).await;
        Some(node)
    }

    /// Through different nodes at once.
    async fn allocate(&self, shard: ShardId, node: NodeId, replaces: Option<ReplicaId>, admins: usize) -> bool {
        let command = Command::Control(Control::AllocateReplica { shard, node, replaces });
        let asked = (0..admins).map(|admin| self.command(admin, command.clone()));
        futures::future::join_all(asked).await.into_iter().any(|taken| taken)
    }

    /// When it returns, nothing that was asked is still on its way: it could be taken after the node has started again, and a node
    /// looks for a new replica only when it starts.
    async fn command(&self, admin: usize, command: Command) -> bool {
        let end = Instant::now() + PATIENCE;
        let mut waits = Vec::new();
        let mut given = false;
        for via in (0..self.seats.len()).cycle().skip(admin) {
            if given || Instant::now() > end {
                break;
            }
            if let Some(node) = self.seats[via].running() {
                let command = command.clone();
                let asked = async move { node.shard_command(ShardId::CONTROL, &command).await };
                let mut asked = self.machines[via].spawn(asked);
                // It may die or stand still while it is asked.
                match timeout(Duration::from_secs(3), &mut asked).await {
                    Ok(answer) => given = self.is_given(answer.ok()),
                    Err(_) => waits.push(asked),
                }
            }
            if !given {
                sleep(RETRY).await;
            }
        }
        for late in waits {
            given |= self.is_given(timeout(PATIENCE, late).await.ok().and_then(Result::ok));
        }
        given
    }

    fn is_given(&self, answer: Option<Result<Reply, CallError>>) -> bool {
        let Some(Ok(Reply::Replica(replica))) = answer else { return false };
        self.say(format!("is given replica {replica}"));
        true
    }

    /// A group whose members are not those that the table wishes for; only groups all of whose replicas may run.
    pub fn unwished(&self) -> Option<String> {
        let core = self.core();
        let tables = self.seats.iter().filter_map(|seat| seat.running()?.tables.current());
        let state = tables.max_by_key(|state| state.version)?;
        for (shard, replicas) in &state.placement {
            if replicas.iter().any(|replica| !core.contains(&replica.node.0)) {
                continue;
            }
            if let Some((_, leaving)) = state.retiring.iter().find(|(of, _)| of == shard) {
                return Some(format!("replica {leaving} of shard {shard} has not left"));
            }
            let leader = self.leader_of(*shard).and_then(|node| self.seats[node].running());
            let Some(group) = leader.and_then(|node| node.groups.get(*shard)) else {
                return Some(format!("shard {shard} has no leader"));
            };
            let (mut voters, mut wished) = (group.facts().voters, replicas.clone());
            voters.sort();
            wished.sort();
            if voters != wished {
                return Some(format!("shard {shard} is to have {wished:?} and has {voters:?}"));
            }
        }
        None
    }
}
