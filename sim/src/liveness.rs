//! The liveness phase: everything is healed, and now a bounded simulated time until all is as it must be.
//!
//! Conditions are met one after another, each within its own patience; a run names the first that is not.

use std::collections::BTreeMap;
use std::time::Duration;

use flotilla_client::history::{Op, Record, Recorder};
use flotilla_proto::fate::{Door, Fate};
use flotilla_proto::ids::{Cid, ConvId, DeviceId, Incarnation, NodeId, Seq, SessionNo, ShardId, UserId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep};

use crate::asked;
use crate::checkers::{World, finished, settled};
use crate::cluster::Cluster;
use crate::judge::heads;
use crate::options::Options;
use crate::views;
use crate::watched;
use crate::workload::Chat;

const SERVES: Duration = Duration::from_secs(30);
const DELIVERED: Duration = Duration::from_secs(15);
/// Where a device was open in two places: each hole that this leaves costs connections, with their back-off.
const TORN: Duration = Duration::from_secs(60);
const FRESH: Duration = Duration::from_secs(15);
const WISHED: Duration = Duration::from_secs(30);
const PAID: Duration = Duration::from_secs(20);
const ACKED: Duration = Duration::from_secs(20);
const SESSIONS: Duration = Duration::from_secs(30);
const EQUAL: Duration = Duration::from_secs(20);
/// A lease, in which a session's end may not have been noticed, and some.
const PRESENT: Duration = Duration::from_secs(15);
/// A renewal, and some.
const WATCHED: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(100);

/// The first condition that is not met in time.
pub async fn run(
    options: &Options,
    cluster: &Cluster,
    chat: &Chat,
    recorder: &Recorder,
    records: &mut Vec<Record>,
) -> Option<String> {
    let unmet = phases(options, cluster, chat, recorder, records).await.err();
    unmet.map(|what| format!("liveness: {what}"))
}

async fn phases(
    options: &Options,
    cluster: &Cluster,
    chat: &Chat,
    recorder: &Recorder,
    records: &mut Vec<Record>,
) -> Result<(), String> {
    until(cluster, "every node serves", SERVES, async || asleep(cluster)).await?;
    let patience = || if chat.people.iter().any(|person| person.is_torn()) { TORN } else { DELIVERED };
    delivered(cluster, patience(), chat, recorder, records).await?;
    cluster.trace.say("run        all is delivered");
    chat.catches_up(options, cluster).await;
    delivered(cluster, patience(), chat, recorder, records).await?;
    let terms = terms(cluster);
    let fresh = chat.send_fresh().await.map_err(|error| format!("fresh sends: {error:#}"))?;
    delivered(cluster, FRESH, chat, recorder, records).await?;
    refused(&fresh, records)?;
    cluster.trace.say("run        fresh sends work");
    storm(cluster, &terms)?;
    quiet(cluster, chat, recorder, records).await?;
    until(cluster, "memberships are as wished", WISHED, async || cluster.unwished()).await?;
    let nodes = cluster.core();
    let ask = |look: &dyn Fn(&World, u16) -> Option<String>| {
        cluster.watch.with_world(|world| nodes.iter().find_map(|node| look(world, *node)))
    };
    until(cluster, "nothing is owed", PAID, async || ask(&finished::owed)).await?;
    let devices = devices(chat).await;
    until(cluster, "cursors reach their heads", ACKED, async || {
        ask(&|world, node| finished::behind(world, node, &devices))
    })
    .await?;
    until(cluster, "sessions point at living nodes", SESSIONS, async || {
        let alive = alive(cluster);
        let look = |world: &World, node| {
            finished::lost_session(world, node, &alive).or_else(|| finished::unfenced(world, node, &alive))
        };
        ask(&look)
    })
    .await?;
    until(cluster, "somebody holds every session", SESSIONS, async || {
        records.extend(recorder.take());
        let told = told(records);
        ask(&|world, node| finished::unheld(world, node, &told))
    })
    .await?;
    // Strangers ack what they were not sent, and what they say counts for nothing.
    let users = chat.people.iter().map(|person| person.user.clone()).collect();
    until(cluster, "both sides say the same", PAID, async || {
        cluster.watch.with_world(|world| settled::differ(world, &users))
    })
    .await?;
    views::agree(cluster, chat).await?;
    records.extend(recorder.take());
    until(cluster, "what people have settled stays", PAID, async || asked::differ(cluster, chat, records).await)
        .await?;
    if chat.naming {
        until(cluster, "who is named is told so", PAID, async || asked::misnamed(cluster, chat).await).await?;
    }
    if chat.watched {
        until(cluster, "presence is true", PRESENT, async || asked::untrue(cluster, chat, None).await).await?;
    }
    until(cluster, "clients show what the rows say", PAID, async || {
        records.extend(recorder.take());
        cluster.watch.with_world(|world| views::stale(world, records))
    })
    .await?;
    until(cluster, "watchers know what is registered", WATCHED, async || {
        records.extend(recorder.take());
        cluster.watch.with_world(|world| watched::behind(world, records))
    })
    .await?;
    until(cluster, "replicas are equal", EQUAL, async || {
        cluster.watch.with_world(|world| finished::unequal(world, &nodes))
    })
    .await?;
    if chat.watched { goes(cluster, chat).await } else { Ok(()) }
}

/// Somebody with one device closes it, the last thing that happens: from then on others see that.
async fn goes(cluster: &Cluster, chat: &Chat) -> Result<(), String> {
    let devices = |user: &UserId| chat.people.iter().filter(|person| person.user == *user).count();
    let Some(person) = chat.people.iter().find(|person| devices(&person.user) == 1) else { return Ok(()) };
    person.handle().close().await;
    let gone = Some(&person.user);
    until(cluster, "presence of who has gone is true", PRESENT, async || asked::untrue(cluster, chat, gone).await).await
}

/// `unmet` says what is wrong, or nothing.
async fn until(
    cluster: &Cluster,
    what: &str,
    patience: Duration,
    mut unmet: impl AsyncFnMut() -> Option<String>,
) -> Result<(), String> {
    let end = Instant::now() + patience;
    while let Some(why) = unmet().await {
        // A flipped bit may be found only now, at any read: a supervisor starts the node again.
        (0..cluster.seats.len()).for_each(|node| cluster.revive(node));
        if Instant::now() > end {
            return Err(format!("{what}: not within {} s: {why}", patience.as_secs()));
        }
        sleep(LOOK).await;
    }
    let took = patience.saturating_sub(end.saturating_duration_since(Instant::now()));
    cluster.trace.say(format!("run        {what}: after {} ms", took.as_millis()));
    Ok(())
}

fn asleep(cluster: &Cluster) -> Option<String> {
    let core = cluster.core();
    let mut seats = cluster.seats.iter().filter(|seat| core.contains(&seat.number));
    let lost = seats.find(|seat| seat.running().is_none_or(|node| !node.is_ready()))?;
    Some(format!("node {} does not serve", lost.number))
}

fn alive(cluster: &Cluster) -> BTreeMap<NodeId, Incarnation> {
    let running = cluster.seats.iter().filter_map(|seat| seat.running());
    running.map(|node| (node.node, *node.incarnation.borrow())).collect()
}

/// The newest session that each device was told of.
fn told(records: &[Record]) -> BTreeMap<DeviceId, SessionNo> {
    let mut told = BTreeMap::new();
    for record in records {
        if let Op::Connected { device, session, .. } = &record.op {
            let newest = told.entry(*device).or_insert(*session);
            *newest = (*session).max(*newest);
        }
    }
    told
}

async fn devices(chat: &Chat) -> Vec<DeviceId> {
    let mut devices = Vec::new();
    for person in &chat.people {
        devices.extend(person.handle().status().await.and_then(|status| status.device));
    }
    devices.extend(chat.strangers.iter().filter_map(|stranger| stranger.device()));
    devices
}

async fn delivered(
    cluster: &Cluster,
    patience: Duration,
    chat: &Chat,
    recorder: &Recorder,
    records: &mut Vec<Record>,
) -> Result<(), String> {
    until(cluster, "all is delivered", patience, async || {
        records.extend(recorder.take());
        missing(cluster, chat, &heads(records)).await
    })
    .await
}

/// With nothing broken and everything delivered nobody has a reason to stand for election; once may be on its way.
const TERMS_MORE_MAX: u64 = 2;

fn terms(cluster: &Cluster) -> BTreeMap<ShardId, u64> {
    let mut terms = BTreeMap::new();
    for node in cluster.seats.iter().filter_map(|seat| seat.running()) {
        for group in node.groups.all() {
            let term = terms.entry(group.shard()).or_default();
            *term = group.leadership().term.max(*term);
        }
    }
    terms
}

/// No election storm.
fn storm(cluster: &Cluster, before: &BTreeMap<ShardId, u64>) -> Result<(), String> {
    let now = terms(cluster);
    match now.iter().find(|(shard, term)| before.get(shard).is_some_and(|b| **term > b + TERMS_MORE_MAX)) {
        Some((shard, term)) => Err(format!("an election storm in shard {shard}: term {term}, from {}", before[shard])),
        None => Ok(()),
    }
}

/// Of one message with nothing behind it that would show a hole, just after connections were broken: so often.
const PROBES: usize = 8;

/// A message that nothing follows must come by itself, whatever the frame that told of it has met with.
async fn quiet(cluster: &Cluster, chat: &Chat, recorder: &Recorder, records: &mut Vec<Record>) -> Result<(), String> {
    let mut rng = StdRng::seed_from_u64(cluster.seed.wrapping_add(77));
    let (core, shards) = (cluster.core(), cluster.shards);
    for _ in 0..PROBES {
        let node = usize::from(core[rng.random_range(0..core.len())]) - 1;
        let other = usize::from(core[rng.random_range(0..core.len())]) - 1;
        let wait = |rng: &mut StdRng, ms: u64| Duration::from_millis(rng.random_range(0..=ms));
        let conv = rng.random_range(0..chat.convs.len());
        let whisper = async || chat.whisper(conv).await.map_err(|error| format!("a probe: {error:#}"));
        match rng.random_range(0..9) {
            0 if node != other => {
                cluster.cut(node, other);
                sleep(wait(&mut rng, 1_500)).await;
                cluster.mend(node, other);
                sleep(wait(&mut rng, 600)).await;
                whisper().await?;
            }
            1 => {
                cluster.connections(Some(node), Fate::Reset);
                sleep(wait(&mut rng, 600)).await;
                whisper().await?;
            }
            // Whoever leads a shard cannot tell for an instant, and the gateways, which noticed, read too early.
            2..=4 => {
                let shard = ShardId(rng.random_range(1..=shards));
                whisper().await?;
                sleep(wait(&mut rng, 80)).await;
                cluster.dialled_connections(cluster.leader_of(shard).unwrap_or(node), Fate::Reset);
            }
            // Whoever leads a shard cannot connect to a gateway, which reaches it all the while and sees no connection of its own end.
            7 | 8 => {
                let shard = ShardId(rng.random_range(1..=shards));
                let leader = cluster.leader_of(shard).unwrap_or(node);
                if leader != other {
                    cluster.close_door_to(other, leader, Door::Refused);
                    sleep(wait(&mut rng, 300)).await;
                    whisper().await?;
                    sleep(wait(&mut rng, 1_000)).await;
                    cluster.open_door(other, Door::Refused);
                }
            }
            // In the middle of what the message itself sends.
            5 => {
                cluster.peer_connections(node, Fate::Cut(rng.random_range(0..=3_000)));
                sleep(wait(&mut rng, 20)).await;
                whisper().await?;
            }
            _ => {
                whisper().await?;
                sleep(wait(&mut rng, 60)).await;
                cluster.peer_connections(node, Fate::Reset);
            }
        }
        delivered(cluster, DELIVERED, chat, recorder, records).await?;
    }
    Ok(())
}

/// What is not delivered yet.
async fn missing(cluster: &Cluster, chat: &Chat, heads: &BTreeMap<ConvId, Seq>) -> Option<String> {
    for (index, person) in chat.people.iter().enumerate() {
        let Some(status) = person.handle().status().await else {
            return Some(format!("I3 no-loss: the device of {} is gone", person.user));
        };
        if status.unanswered > 0 {
            return Some(format!("{} commands of {} have no answer", status.unanswered, person.user));
        }
        if let Some(why) = status.stopped {
            return Some(format!("the device of {} has stopped: {why}", person.user));
        }
        for (conv, members) in &chat.convs {
            if chat.changing && conv.peers().is_none() {
                // Who may see what is in the log: cursors are asked later, and the oracle judges.
                continue;
            }
            let (Some(head), true) = (heads.get(conv), members.contains(&chat.user_of(index))) else { continue };
            // What a second place has acked does not come to the first.
            let stored = status.positions.get(conv).copied().unwrap_or(Seq(0)).max(person.has_elsewhere(conv));
            // What lies below the place that it was given first is not its own; whether that place is right is judged where it
            // is written (`checkers/inbox`). In a channel nothing may come above it.
            let stored = stored.max(cluster.watch.with_world(|world| world.begins(person.label(), conv)));
            if stored < *head {
                return Some(format!("I3 no-loss: {} has {conv} up to {stored}, accepted is {head}", person.user));
            }
        }
    }
    None
}

/// With nothing broken any more, a send is accepted.
fn refused(fresh: &[Cid], records: &[Record]) -> Result<(), String> {
    let accepted = |wanted: &Cid| records.iter().any(|r| matches!(&r.op, Op::Accepted { cid, .. } if cid == wanted));
    match fresh.iter().find(|cid| !accepted(cid)) {
        Some(cid) => Err(format!("the fresh send {cid} was not accepted")),
        None => Ok(()),
    }
}
