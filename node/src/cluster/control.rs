//! The node's part in the control group: registration, lease, tables; and what the control leader does beside.
//!
//! Invariant: an incarnation lapses only after a whole lease without renewal as the *present* control leader measured it;
//! only registration and lapse are entries. Without the control group's quorum nobody lapses.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flotilla_machine::command::Control;
use flotilla_machine::control::boot;
use flotilla_machine::query::ControlState;
use flotilla_machine::{Answer, Command, Query, Reply};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_raft::peer::{Link, PeerStatus, RefusalCode};
use tokio::time::Instant;

use super::wire::{Failure, NodeCast, NodeReply, NodeRequest};
use super::{Cluster, admin, leader::Leader, levels};

const RETRY: Duration = Duration::from_millis(200);

/// Renewals as the control leader heard them, in one term.
#[derive(Default)]
pub struct Renewals {
    inner: Mutex<(u64, BTreeMap<NodeId, (Incarnation, Instant)>)>,
}

impl Renewals {
    /// A new control leader waits one full lease: what an earlier term heard does not count.
    fn note(&self, term: u64, node: NodeId, incarnation: Incarnation) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.0 != term {
            *inner = (term, BTreeMap::new());
        }
        inner.1.insert(node, (incarnation, Instant::now()));
    }

    /// When this incarnation was heard last in this term.
    fn heard(&self, term: u64, node: NodeId, incarnation: Incarnation) -> Option<Instant> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (heard, at) = inner.1.get(&node).filter(|_| inner.0 == term)?;
        (*heard == incarnation).then_some(*at)
    }
}

/// Takes an incarnation, and another one whenever this one is said to be dead. The first time, this node's replicas open.
pub async fn run_registration(cluster: Arc<Cluster>) {
    if let Err(why) = check_boot(&cluster).await {
        return cluster.fatal(why);
    }
    let mut opened = false;
    loop {
        let register = Command::Control(Control::RegisterNode { node: cluster.info.clone(), boot: cluster.boot() });
        match cluster.shard_command(ShardId::CONTROL, &register).await {
            Ok(Reply::Registered { incarnation }) => {
                cluster.returning.store(false, Ordering::Relaxed);
                tracing::info!(node = %cluster.node, %incarnation, "registered");
                cluster.incarnation.send_replace(incarnation);
                fetch_until(&cluster, incarnation).await;
                if !std::mem::replace(&mut opened, true)
                    && let Err(why) = cluster.open_all().await
                {
                    return cluster.fatal(why);
                }
                wait_for_death(&cluster, incarnation).await;
                tracing::error!(node = %cluster.node, %incarnation, "this incarnation was declared dead, closing its sessions");
                cluster.incarnation.send_replace(Incarnation(0));
                cluster.sessions.close(|_| true, 4006);
            }
            Ok(Reply::Rejected(why)) => {
                // A late registration of a directory that came back before this one, and was lost too.
                if !rises_again(&cluster).await {
                    return cluster.fatal(format!("the cluster refuses this node: {why}"));
                }
            }
            _ => tokio::time::sleep(RETRY).await,
        }
    }
}

/// A returning directory takes a higher number if the cluster has seen its own by now.
async fn rises_again(cluster: &Cluster) -> bool {
    let boot = cluster.boot();
    cluster.returning.load(Ordering::Relaxed) && check_boot(cluster).await.is_ok() && cluster.boot() > boot
}

/// A process's boot number is higher than any that the cluster has seen of the node, unless its directory is an older
/// copy. Asked before the first registration, because that one may be repeated when its answer is lost.
async fn check_boot(cluster: &Cluster) -> Result<(), String> {
    let state = tokio::select! {
        biased;
        state = state_now(cluster) => state,
        who = among_strangers(cluster) => {
            let mine = cluster.plan.get().map_or(ClusterId(0), |plan| plan.cluster);
            return Err(format!(
                "the data directory of node {} belongs to cluster {mine}, and the nodes where its peers should be ({who}) belong \
                 to another one. Start the node with the --data-dir of that cluster, or with an empty one and then `flotilla \
                 cluster rejoin`; if the directory is the right one, another cluster has taken these addresses",
                cluster.node
            ));
        }
    };
    let seen = state.nodes.iter().find(|row| row.info.node == cluster.node).map_or(0, |row| row.boot);
    levels::check_known(state.settings.feature_level)?;
    cluster.take_tables(state).await;
    judge_boot(cluster, seen).await
}

/// The control group's state as it is now, not as this node's tables have it. Asks until there is an answer.
pub(super) async fn state_now(cluster: &Cluster) -> ControlState {
    loop {
        match cluster.shard_query(ShardId::CONTROL, Query::ControlState).await {
            Ok(Answer::ControlState(Some(state))) => return state,
            _ => tokio::time::sleep(RETRY).await,
        }
    }
}

/// Ends when the peers turn out to be [`strangers`]. They are given as long as one question to them may take.
async fn among_strangers(cluster: &Cluster) -> String {
    loop {
        tokio::time::sleep(Duration::from_millis(limits::REQUEST_DEADLINE_MS)).await;
        if let Some(who) = strangers(&cluster.peers.status()) {
            return who;
        }
    }
}

/// The peers' addresses, if most of the peers say that they belong to another cluster and none takes this node in. One alone
/// may be the stranger itself.
fn strangers(peers: &[PeerStatus]) -> Option<String> {
    let foreign = |link: &Link| matches!(link, Link::Refused(refusal) if refusal.code == RefusalCode::WrongCluster);
    let strange: Vec<_> = peers.iter().filter(|p| foreign(&p.link)).filter_map(|p| p.addr.clone()).collect();
    let connected = peers.iter().any(|p| matches!(p.link, Link::Connected { .. }));
    (2 * strange.len() > peers.len() && !connected).then(|| strange.join(", "))
}

/// The same question before anything is opened, to whichever peer answers first. The control group's own replica cannot
/// wait for [`check_boot`], and one that was rolled back must not meet its leader, which would find that entries which it
/// knows to be there are gone. Nobody there to ask: then nobody is there to be hurt, and the answer comes later.
pub(super) async fn ask_peers(cluster: &Cluster) -> Result<(), String> {
    let Some(state) = cluster.tables.current() else { return Ok(()) };
    let own = state.nodes.iter().map(|row| &row.info).find(|info| info.node == cluster.node);
    if let Some(own) = own.filter(|own| own.peer_addr != cluster.info.peer_addr)
        && let Some(twin) = admin::describe_peer(cluster, own).await
        && twin.plan.is_some_and(|plan| plan.cluster == state.cluster)
    {
        return Err(format!(
            "node {} runs already, at {}: two processes with one id would forget each other's votes. Stop one of them; a \
             copy of a data directory must never be started",
            own.node, own.peer_addr
        ));
    }
    let peers: Vec<_> = state.nodes.iter().map(|row| row.info.clone()).filter(|n| n.node != cluster.node).collect();
    let deadline = Instant::now() + Duration::from_millis(limits::BOOT_ANSWER_MS);
    while !peers.is_empty() && Instant::now() < deadline {
        let answers = futures::future::join_all(peers.iter().map(|peer| admin::describe_peer(cluster, peer))).await;
        // A cluster that is being made: nobody has seen anything.
        if answers.iter().all(|answer| answer.as_ref().is_some_and(|d| !d.lives)) {
            return Ok(());
        }
        let knowing: Vec<_> = answers.into_iter().flatten().filter(|d| d.lives).collect();
        if !knowing.is_empty() {
            let boots = knowing.iter().flat_map(|d| &d.boots).filter(|(node, _)| *node == cluster.node);
            let seen = boots.map(|(_, boot)| *boot).max().unwrap_or(0);
            return judge_boot(cluster, seen).await;
        }
        tokio::time::sleep(RETRY).await;
    }
    Ok(())
}

/// What a process makes of the boot number that the cluster has seen of its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judged {
    Newer,
    /// Another directory of the node came back before this one and was lost too, and its registration came late. This one holds
    /// no replica yet, so it may be a later one still.
    AnotherReturned,
    RolledBack,
}

fn judged(boot: u64, seen: u64, returning: bool) -> Judged {
    if seen < boot {
        Judged::Newer
    } else if returning {
        Judged::AnotherReturned
    } else {
        Judged::RolledBack
    }
}

async fn judge_boot(cluster: &Cluster, seen: u64) -> Result<(), String> {
    let (node, own) = (cluster.node, cluster.boot());
    match judged(own, seen, cluster.returning.load(Ordering::Relaxed)) {
        Judged::Newer => return Ok(()),
        Judged::AnotherReturned => {
            tracing::warn!(%node, boot = %boot::Shown(own), seen = %boot::Shown(seen), "another directory came back before");
            return cluster.take_next_directory(seen).await;
        }
        Judged::RolledBack => {}
    }
    let why = format!(
        "the data directory of node {node} was rolled back or copied: this is its boot {}, and the cluster has seen boot {}. \
         Votes that it gave since are gone, so nothing was started from it. Move it away, start the node with an empty one, \
         then run `flotilla cluster rejoin`; or stop the other process, if node {node} runs twice",
        boot::Shown(own),
        boot::Shown(seen)
    );
    cluster.local.refuse(&why).await.map_err(|error| format!("{why} (and this cannot be remembered: {error})"))?;
    Err(why)
}

/// The tables must show the own incarnation before they may declare it dead.
async fn fetch_until(cluster: &Cluster, incarnation: Incarnation) {
    let mut tables = cluster.tables.watch();
    let shown = |state: &Option<Arc<ControlState>>| {
        state.iter().flat_map(|s| &s.nodes).any(|row| row.info.node == cluster.node && row.incarnation >= incarnation)
    };
    cluster.control_changed.notify_one();
    // The sender lives in `cluster`: it cannot be gone.
    let _ = tables.wait_for(shown).await;
}

async fn wait_for_death(cluster: &Cluster, incarnation: Incarnation) {
    let mut tables = cluster.tables.watch();
    let lowest = |state: &Option<Arc<ControlState>>| {
        let row = state.iter().flat_map(|s| &s.nodes).find(|row| row.info.node == cluster.node);
        row.is_some_and(|row| row.incarnation > incarnation || row.lapsed)
    };
    loop {
        tokio::select! {
            biased;
            _ = tables.wait_for(lowest) => return,
            // A leader knows of it and this node's tables do not yet: fetch them, they decide.
            () = cluster.incarnation_refused.notified() => cluster.control_changed.notify_one(),
        }
    }
}

/// Renews the lease, and fetches the tables when they have changed.
pub async fn run_renewal(cluster: Arc<Cluster>, lease: Duration) {
    loop {
        refresh(&cluster).await;
        tokio::select! {
            biased;
            () = cluster.control_changed.notified() => {}
            () = tokio::time::sleep(lease / 5) => {}
        }
    }
}

async fn refresh(cluster: &Cluster) {
    let incarnation = *cluster.incarnation.borrow();
    let version = cluster.tables.version();
    let request = NodeRequest::Renew { node: cluster.node, incarnation, version };
    let deadline = Instant::now() + Duration::from_millis(limits::REQUEST_DEADLINE_MS);
    if let Ok(NodeReply::Renewed { state: Some(state) }) =
        cluster.at_leader(ShardId::CONTROL, request, deadline, true).await
    {
        cluster.take_tables(state).await;
    }
}

/// Limits on clients change with the tables' version. They are read beside the renewal: with a control leader of an older build,
/// which does not know the question, the lease would wait for them.
pub async fn run_limits(cluster: Arc<Cluster>) {
    let mut tables = cluster.tables.watch();
    loop {
        let level = tables.borrow_and_update().as_ref().map_or(0, |state| state.settings.feature_level);
        let known = level < limits::CLIENT_LIMITS_LEVEL || read_limits(&cluster).await;
        tokio::select! {
            biased;
            // The sender lives in `cluster`: it cannot be gone.
            _ = tables.changed() => {}
            () = tokio::time::sleep(RETRY), if !known => {}
        }
    }
}

async fn read_limits(cluster: &Cluster) -> bool {
    let Ok(Answer::ClientLimits(limits)) = cluster.shard_query(ShardId::CONTROL, Query::ClientLimits).await else {
        return false;
    };
    cluster.client_limits.send_if_modified(|known| std::mem::replace(known, limits.clone()) != limits);
    true
}

/// At the control leader: notes the renewal, and gives the tables to whoever has older ones.
pub async fn serve_renew(
    cluster: &Cluster,
    from: NodeId,
    node: NodeId,
    incarnation: Incarnation,
    version: u64,
) -> Result<NodeReply, Failure> {
    let leader = cluster.leading(ShardId::CONTROL)?;
    if from == node && incarnation > Incarnation(0) {
        cluster.renewals.note(leader.term, node, incarnation);
    }
    let state = control_state(&leader).await.ok_or(Failure::NotReady)?;
    Ok(NodeReply::Renewed { state: (state.version > version).then_some(state) })
}

async fn control_state(leader: &Leader) -> Option<ControlState> {
    match leader.group.query(&Query::ControlState).await {
        Ok(Answer::ControlState(state)) => state,
        _ => None,
    }
}

/// While this node leads the control group: the first tables, lapsed nodes, news of changed tables.
pub async fn run_leader(cluster: Arc<Cluster>, lease: Duration) {
    let mut timer = tokio::time::interval(lease / 5);
    let mut since: Option<(u64, Instant)> = None;
    let mut told = 0;
    loop {
        timer.tick().await;
        let Ok(leader) = cluster.leading(ShardId::CONTROL) else {
            since = None;
            continue;
        };
        let start = match since {
            Some((term, start)) if term == leader.term => start,
            _ => Instant::now(),
        };
        since = Some((leader.term, start));
        match control_state(&leader).await {
            None => first_tables(&cluster, &leader).await,
            Some(state) => {
                lapse_silent(&cluster, &leader, &state, start, lease).await;
                if state.version > told {
                    told = state.version;
                    tell(&cluster, &state);
                }
            }
        }
    }
}

async fn first_tables(cluster: &Cluster, leader: &Leader) {
    let Some(plan) = cluster.plan.get() else { return };
    let init = Control::Init {
        cluster: plan.cluster,
        epoch: plan.epoch,
        slots: plan.slots.clone(),
        settings: plan.settings.clone(),
        placement: plan.placement.clone(),
        nodes: plan.nodes.clone(),
        keys: plan.keys.clone(),
    };
    let Ok(bytes) = Command::Control(init).encode() else { return };
    match leader.group.propose(bytes).await {
        Ok(reply) => tracing::info!(cluster = %plan.cluster, ?reply, "wrote the cluster's first tables"),
        Err(error) => tracing::warn!(%error, "cannot write the cluster's first tables yet"),
    }
}

async fn lapse_silent(cluster: &Cluster, leader: &Leader, state: &ControlState, start: Instant, lease: Duration) {
    for row in state.nodes.iter().filter(|row| !row.lapsed && row.incarnation > Incarnation(0)) {
        let node = row.info.node;
        let heard = cluster.renewals.heard(leader.term, node, row.incarnation).unwrap_or(start).max(start);
        if heard.elapsed() <= lease {
            continue;
        }
        tracing::warn!(%node, incarnation = %row.incarnation, "no renewal for a lease: the node has lapsed");
        let lapse = Command::Control(Control::LapseNode { node, incarnation: row.incarnation });
        if let Ok(bytes) = lapse.encode() {
            // Lost or rejected: the next round sees it again.
            let _ = leader.group.propose(bytes).await;
        }
    }
}

fn tell(cluster: &Cluster, state: &ControlState) {
    for row in &state.nodes {
        cluster.cast(row.info.node, NodeCast::ControlChanged { version: state.version });
    }
}

#[cfg(test)]
mod tests {
    use flotilla_raft::peer::HelloRefusal;

    use super::*;

    fn peer(node: u16, link: Link) -> PeerStatus {
        PeerStatus { node: NodeId(node), addr: Some(format!("host{node}:1")), link, queued: 0, open: 0, attempts: 1 }
    }

    #[test]
    fn a_node_that_is_wiped_twice_is_taken_in_though_its_first_return_is_registered_late() {
        let next = |seen| boot::of_next_directory(seen).expect("not used up");
        // The cluster has seen five starts when both come back: the first one's registration is still under way.
        let (first, second) = (next(5), next(5));
        assert_eq!(judged(second, 5, true), Judged::Newer);
        assert_eq!(judged(second, first, true), Judged::AnotherReturned, "now it has come");
        let second = second.max(next(first));
        assert_eq!(judged(second, first, true), Judged::Newer);
        assert_eq!(judged(second + 1, second, false), Judged::Newer, "and starts again");
        // Either disk put back says so at its next start, and whatever it was in the middle of is forgotten by then.
        for old in [6, first + 1] {
            assert_eq!(judged(old, second, false), Judged::RolledBack);
        }
        assert_eq!(judged(second, second, false), Judged::RolledBack, "a copy of it");
    }

    #[test]
    fn a_directory_of_another_cluster_is_told_by_most_of_its_peers() {
        let foreign = || Link::Refused(HelloRefusal::new(RefusalCode::WrongCluster, "another cluster"));
        let away = || Link::Unreachable("no answer".into());
        let up = || Link::Connected { incarnation: Incarnation(1), version: 1 };
        assert_eq!(strangers(&[peer(1, foreign()), peer(2, foreign())]), Some("host1:1, host2:1".into()));
        assert_eq!(strangers(&[peer(1, foreign()), peer(2, away())]), None, "node 1 may be the stranger");
        assert_eq!(strangers(&[peer(1, foreign()), peer(2, up()), peer(4, foreign())]), None);
        assert_eq!(strangers(&[]), None);
    }
}
