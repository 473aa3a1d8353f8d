//! Kills the leader of some shards with SIGKILL while clients of the other nodes send, and looks when each conversation of
//! those shards is `accepted` again. Then starts the node again and waits until leaders are spread as before.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use flotilla_proto::frame::Encoding;
use flotilla_proto::ids::{Blob, NodeId};
use serde::Serialize;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Outcome;
use crate::cluster::{Cluster, Place, shard_of};
use crate::direct::open_pairs;
use crate::judge::Faults;
use crate::pair::{Gap, Live, Pace, Run};
use crate::stats::{Report, Tally};

/// An answer to a send from before the kill that arrives this soon after it was on its way already.
const ON_ITS_WAY: Duration = Duration::from_millis(20);
const STEADY: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Times a leader is killed, another node each time
    #[arg(long, default_value_t = 5)]
    pub repeat: usize,
    /// Direct conversations
    #[arg(long, default_value_t = 48)]
    pub pairs: usize,
}

#[derive(Debug, Clone, Serialize)]
pub struct Kill {
    pub node: u16,
    pub shards_led: usize,
    /// Conversations of those shards.
    pub conversations: usize,
    /// From the kill to the next `accepted`, over those conversations, in seconds.
    pub first_s: f64,
    pub median_s: f64,
    pub max_s: f64,
    /// From the start of the process to ready.
    pub back_s: f64,
}

#[derive(Debug, Clone, Serialize)]
pub struct Failover {
    pub kills: Vec<Kill>,
    /// Of all conversations of all kills.
    pub median_s: f64,
    pub max_s: f64,
    pub faults: Faults,
    pub unanswered: u64,
}

pub async fn command(options: &Options, place: &Place) -> anyhow::Result<Outcome> {
    let mut cluster = place.cluster().await?;
    let failover = run(options, &mut cluster).await?;
    Outcome::new(failover.faults.none() && failover.unanswered == 0, &failover)
}

pub async fn run(options: &Options, cluster: &mut Cluster) -> anyhow::Result<Failover> {
    let mut kills = Vec::new();
    let mut all = Vec::new();
    let mut tally = Tally::new();
    for round in 0..options.repeat {
        let nodes = cluster.urls.len();
        let (kill, gaps, part) = one(options, cluster, (round + 1) % nodes).await?;
        println!(
            "  kill {}: node {} led {} shards, {} conversations: first {:.2} s, median {:.2} s, max {:.2} s; ready again in {:.2} s",
            round + 1,
            kill.node,
            kill.shards_led,
            kill.conversations,
            kill.first_s,
            kill.median_s,
            kill.max_s,
            kill.back_s
        );
        kills.push(kill);
        all.extend(gaps);
        tally.add(&part);
    }
    all.sort_by(f64::total_cmp);
    let report = Report::new("failover".into(), 1.0, &tally);
    let failover = Failover {
        kills,
        median_s: all.get(all.len() / 2).copied().unwrap_or(f64::NAN),
        max_s: all.last().copied().unwrap_or(f64::NAN),
        faults: report.faults,
        unanswered: report.unanswered,
    };
    println!(
        "next accepted after SIGKILL of a leader: median {:.2} s, max {:.2} s over {} conversations; {:?}, unanswered {}, errors {:?}",
        failover.median_s,
        failover.max_s,
        all.len(),
        failover.faults,
        failover.unanswered,
        report.errors
    );
    Ok(failover)
}

async fn one(options: &Options, cluster: &mut Cluster, victim: usize) -> anyhow::Result<(Kill, Vec<f64>, Tally)> {
    cluster.local()?.spread().await?;
    let mut urls = cluster.urls.clone();
    urls.remove(victim);
    let (stop, stopped) = watch::channel(false);
    let now = Instant::now();
    let shape = Run {
        pace_start: now,
        from: now,
        to: now + Duration::from_secs(600),
        stop: stopped,
        drain: Duration::from_secs(20),
        body: Blob::from(vec![b'x'; 256]),
        encoding: Encoding::Json,
        live: Arc::new(Live::default()),
    };
    let shape = Arc::new(shape);
    let pairs = open_pairs(&shape, &urls, options.pairs, |_| Pace::Closed { in_flight: 1 }).await?;
    let (happened, event) = watch::channel(None);
    let mut watched = Vec::new();
    let mut running = JoinSet::new();
    for mut pair in pairs {
        let (first, answered) = oneshot::channel();
        pair.gap = Some(Gap { event: event.clone(), on_its_way: ON_ITS_WAY, first: Some(first) });
        watched.push((pair.conv.clone(), answered));
        running.spawn(pair.run());
    }
    tokio::time::sleep(STEADY).await;
    let local = cluster.local()?;
    let number = local.nodes[victim].number;
    let led: Vec<_> =
        local.leaders().await?.into_iter().filter(|(_, n)| *n == NodeId(number)).map(|(s, _)| s).collect();
    happened.send_replace(Some(Instant::now()));
    local.nodes[victim].kill()?;
    let mut gaps = Vec::new();
    for (conv, answered) in watched {
        if shard_of(&conv).is_some_and(|shard| led.contains(&shard)) {
            let gap = tokio::time::timeout(LIMIT, answered).await;
            gaps.push(gap.ok().and_then(Result::ok).unwrap_or(LIMIT).as_secs_f64());
        }
    }
    let restarted = Instant::now();
    local.spawn(victim)?;
    local.ready(victim).await?;
    let back_s = restarted.elapsed().as_secs_f64();
    stop.send_replace(true);
    let mut tally = Tally::new();
    while let Some(part) = running.join_next().await {
        tally.add(&part?);
    }
    gaps.sort_by(f64::total_cmp);
    let kill = Kill {
        node: number,
        shards_led: led.len(),
        conversations: gaps.len(),
        first_s: gaps.first().copied().unwrap_or(f64::NAN),
        median_s: gaps.get(gaps.len() / 2).copied().unwrap_or(f64::NAN),
        max_s: gaps.last().copied().unwrap_or(f64::NAN),
        back_s,
    };
    Ok((kill, gaps, tally))
}
