mod cluster;

use std::collections::BTreeSet;
use std::time::Duration;

use flotilla_machine::{Command, Reply};
use flotilla_proto::limits;
use futures::future::join_all;
use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::oneshot;
use tokio::time::Instant;

use self::cluster::{Cluster, SHARD, encoded, knows, outcome, register, replica, send, timings};
use super::proposer::Queued;
use super::{Damaged, ProposeError, ReadError, StartError};
use crate::config::Timings;
use crate::keys;
use crate::state::mark_damaged;
use crate::testkit::{GENERATION, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_elect_write_and_read_back() {
    let cluster = Cluster::start(3, timings()).await;
    let leader = cluster.leader().await;
    assert_eq!(leader.propose(encoded(&register(1))).await, Ok(Reply::Done));
    leader.read_index().await.expect("a quorum is there");
    assert!(knows(&leader, 1).await);
    assert!(!knows(&leader, 2).await);
    assert!(leader.last_quorum_ack().is_some());
    cluster.converge().await;
    for follower in cluster.groups.values().filter(|group| !group.is_leader()) {
        assert!(knows(follower, 1).await);
        let index = leader.read_barrier().await.expect("a quorum is there");
        assert!(follower.wait_applied(index, Duration::from_secs(5)).await);
        let refused = follower.propose(encoded(&register(9))).await;
        assert_eq!(refused, Err(ProposeError::NotLeader { leader: Some(leader.replica()) }));
        assert_eq!(follower.read_index().await, Err(ReadError::NotLeader { leader: Some(leader.replica()) }));
    }
    assert!(!knows(&leader, 9).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_the_only_voter_is_its_own_quorum() {
    let cluster = Cluster::start(1, timings()).await;
    let leader = cluster.leader().await;
    let first = leader.last_quorum_ack().expect("it needs nobody's answer");
    assert!(leader.last_quorum_ack().is_some_and(|later| later > first), "at any time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_that_wait_share_entries_and_each_gets_its_own_reply() {
    let cluster = Cluster::start(3, timings()).await;
    let leader = cluster.leader().await;
    let before = leader.applied_index().expect("something is applied");
    let replies = join_all((0..2_000).map(|n| leader.propose(encoded(&register(n % 1_000))))).await;
    assert!(replies.iter().all(|reply| *reply == Ok(Reply::Done)), "a repeat of a request is done too");
    let after = leader.applied_index().expect("something is applied");
    assert!(after - before < 500, "{} entries for 2,000 commands", after - before);
    assert!(knows(&leader, 999).await);
    cluster.converge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shards_own_work_rides_with_what_goes_anyway_and_goes_alone_at_the_beat() {
    let cluster = Cluster::start(1, timings()).await;
    let leader = cluster.leader().await;
    let entries = async || leader.read_barrier().await.expect("it is its own quorum");
    let own_work = || leader.propose(encoded(&Command::Marks(vec![])));
    let before = entries().await;
    // Handed in together, the first two wait for the third.
    let (one, other, urgent) = tokio::join!(own_work(), own_work(), leader.propose(encoded(&register(1))));
    assert_eq!((one.is_ok(), other.is_ok(), urgent), (true, true, Ok(Reply::Done)));
    assert_eq!(entries().await - before, 1, "one entry for all three");
    assert!(own_work().await.is_ok(), "nothing else comes");
    assert_eq!(entries().await - before, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shards_own_work_that_waits_is_answered_when_the_leadership_ends() {
    let cluster = Cluster::start(3, timings()).await;
    let leader = cluster.leader().await;
    cluster.wire.isolate(leader.replica().node.0);
    let asked = join_all((0..3).map(|_| leader.propose(encoded(&Command::Marks(vec![])))));
    let another = || cluster.groups.values().any(|g| g.is_leader() && g.replica() != leader.replica());
    let deposed = async {
        eventually("the others elect", another).await;
        cluster.wire.heal();
    };
    let (answers, ()) = futures::future::join(asked, deposed).await;
    assert!(answers.iter().all(Result::is_err), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn isolated_leader_accepts_nothing_and_the_others_go_on() {
    let cluster = Cluster::start(3, timings()).await;
    let old = cluster.leader().await;
    cluster.wire.isolate(old.replica().node.0);
    for n in 0..20 {
        assert_ne!(outcome(&old, n).await, Some(Ok(Reply::Done)), "accepted without a quorum");
        if matches!(outcome(&old, n).await, Some(Err(ProposeError::NotLeader { .. }))) {
            break;
        }
    }
    let read = old.read_index().await;
    assert!(matches!(read, Err(ReadError::NoQuorum | ReadError::NotLeader { .. })), "{read:?}");
    assert_eq!(cluster.propose(register(100)).await, Reply::Done);
    assert_ne!(cluster.leader().await.replica(), old.replica());
    cluster.wire.heal();
    cluster.converge().await;
    assert!(knows(&old, 100).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepted_commands_survive_power_loss_of_all_replicas() {
    let mut cluster = Cluster::start(3, timings()).await;
    for round in 0..3 {
        let leader = cluster.leader().await;
        let accepted: Vec<u32> = (round * 100..round * 100 + 50).collect();
        for reply in join_all(accepted.iter().map(|n| leader.propose(encoded(&register(*n))))).await {
            assert_eq!(reply, Ok(Reply::Done));
        }
        for node in 1..=3 {
            cluster.crash(node).await;
        }
        for node in 1..=3 {
            cluster.open(node).await.expect("a power loss damages nothing");
        }
        let leader = cluster.leader().await;
        leader.read_index().await.expect("a quorum is there");
        for n in accepted {
            assert!(knows(&leader, n).await, "user {n} was accepted in round {round}");
        }
    }
    cluster.converge().await;
}

fn small_logs() -> Timings {
    Timings { snapshot_entries: 40, kept_entries: 5, ..timings() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn learner_behind_the_purged_log_catches_up_by_snapshot_and_becomes_a_voter() {
    let mut cluster = Cluster::start(3, small_logs()).await;
    for n in 0..300 {
        assert_eq!(cluster.propose(register(n)).await, Reply::Done);
    }
    let leader = cluster.leader().await;
    eventually("the log is purged", || leader.metrics().borrow_watched().purged.is_some()).await;
    cluster.open(4).await.expect("an empty disk opens");
    let leader = cluster.leader().await;
    leader.add_learner(replica(4)).await.expect("a quorum is there");
    cluster.converge().await;
    assert!(!cluster.nodes[&4].hooks.installed.lock().expect("no panic").is_empty(), "by snapshot");
    let voters = BTreeSet::from([replica(2), replica(3), replica(4)]);
    cluster.leader().await.change_membership(&voters, false).await.expect("a quorum is there");
    assert_eq!(cluster.propose(register(1_000)).await, Reply::Done);
    // The reply came when the leader had applied it; its metrics, and the others, follow.
    let applied = cluster.leader().await.read_barrier().await.expect("a quorum is there");
    assert!(cluster.groups[&4].wait_applied(applied, Duration::from_secs(20)).await, "the new voter follows");
    assert!(knows(&cluster.groups[&4], 1_000).await);
    for node in cluster.nodes.values() {
        assert_eq!(node.hooks.fatals(), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_goes_where_it_is_asked_to() {
    let cluster = Cluster::start(3, timings()).await;
    let old = cluster.leader().await;
    let next = cluster.groups.values().find(|group| !group.is_leader()).expect("two of three follow");
    old.transfer_leader(next.replica()).await.expect("runs");
    eventually("the other leads", || next.leadership().ready).await;
    assert_eq!(cluster.propose(register(1)).await, Reply::Done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_that_is_asked_to_hand_over_to_itself_goes_on() {
    let cluster = Cluster::start(1, timings()).await;
    let leader = cluster.leader().await;
    leader.transfer_leader(leader.replica()).await.expect("runs");
    let told = tokio::time::timeout(Duration::from_secs(10), cluster.propose(register(1))).await;
    assert_eq!(told, Ok(Reply::Done));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_sync_of_one_node_is_fatal_there_and_harmless_elsewhere() {
    let cluster = Cluster::start(3, timings()).await;
    let leader = cluster.leader().await;
    let node = leader.replica().node.0;
    cluster.disks[&node].inject(|faults| faults.fail_syncs = true);
    let _unknown = outcome(&leader, 1).await;
    eventually("the hook hears of it", || !cluster.nodes[&node].hooks.fatals().is_empty()).await;
    cluster.wire.isolate(node);
    assert_eq!(cluster.propose(register(2)).await, Reply::Done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_state_comes_back_from_a_whole_log() {
    let mut cluster = Cluster::start(3, timings()).await;
    assert_eq!(cluster.propose(register(1)).await, Reply::Done);
    cluster.converge().await;
    mark_damaged(&*cluster.nodes[&2].engine, SHARD);
    cluster.crash(2).await;
    cluster.open(2).await.expect("the log holds everything");
    cluster.converge().await;
    assert!(knows(&cluster.groups[&2], 1).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_that_the_replica_cannot_repair_alone_is_reported() {
    let mut cluster = Cluster::start(3, small_logs()).await;
    for n in 0..200 {
        assert_eq!(cluster.propose(register(n)).await, Reply::Done);
    }
    cluster.converge().await;
    eventually("the log is purged", || cluster.groups[&2].metrics().borrow_watched().purged.is_some()).await;
    cluster.nodes[&2].engine.sync().expect("synced");
    mark_damaged(&*cluster.nodes[&2].engine, SHARD);
    cluster.crash(2).await;
    let state = cluster.open(2).await;
    assert!(matches!(state, Err(StartError::Damaged(Damaged::State { .. }))), "{state:?}");

    let last = cluster.groups[&3].metrics().borrow_watched().last_log_index.expect("a log");
    cluster.crash(3).await;
    assert!(cluster.disks[&3].corrupt(&keys::log(SHARD, GENERATION, last), 50));
    let log = cluster.open(3).await;
    assert!(matches!(log, Err(StartError::Damaged(Damaged::Log { .. }))), "{log:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sends_are_refused_once_a_command_has_waited_for_too_long_and_nothing_else_is() {
    let cluster = Cluster::start(1, timings()).await;
    let leader = cluster.leader().await;
    let send = async || leader.propose(encoded(&send())).await;
    assert!(send().await.is_ok());
    let (answer, done) = oneshot::channel();
    let at = Instant::now() - 2 * Duration::from_millis(limits::SEND_WAIT_MS_MAX);
    let late = Queued { command: encoded(&register(1)), lane: None, is_patient: false, at, answer };
    assert!(leader.inner.proposals.try_send(late).is_ok(), "the queue is empty");
    assert_eq!(done.await, Ok(Ok(Reply::Done)));
    assert!(leader.waited() > Duration::from_millis(limits::SEND_WAIT_MS_MAX));
    assert_eq!(send().await, Err(ProposeError::Overloaded));
    assert!(leader.propose(encoded(&register(2))).await.is_ok(), "only sends are refused");
    assert!(send().await.is_ok(), "and it did not wait");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_leader_ticks_and_a_stopped_replica_says_so() {
    let quick = Timings { tick: Duration::from_millis(50), ..timings() };
    let cluster = Cluster::start(1, quick).await;
    let leader = cluster.leader().await;
    let before = leader.applied_index();
    eventually("ticks are applied", || leader.applied_index() > before.map(|index| index + 3)).await;
    leader.shutdown().await;
    let refused = leader.propose(encoded(&register(1))).await;
    assert!(matches!(refused, Err(ProposeError::Stopped | ProposeError::NotLeader { .. })), "{refused:?}");
    assert_eq!(cluster.nodes[&1].hooks.fatals(), Vec::<String>::new(), "a planned stop is not fatal");
}
