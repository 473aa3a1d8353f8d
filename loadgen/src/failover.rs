//! Kills the leader of some shards with SIGKILL while clients of the other nodes send, and looks when each conversation of
//! those shards is `accepted` again. Then starts the node again and waits until leaders are spread as before.

use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use flotilla_proto::ids::NodeId;
use serde::Serialize;
use tokio::time::Instant;

use crate::Outcome;
use crate::cluster::{Cluster, Place};
use crate::engine::ledger::Faults;
use crate::engine::tally::Gap;
use crate::engine::time::At;
use crate::report::Report;
use crate::workload::{self, Hold, direct};

/// An answer to a send from before the kill that arrives this soon after it was on its way already.
const ON_ITS_WAY: Duration = Duration::from_millis(20);
const STEADY: Duration = Duration::from_secs(2);
/// How long the node stays away: above every answer that still counts.
const WATCHED: Duration = Duration::from_secs(8);
/// Shorter pauses are not looked at.
const GAP: Duration = Duration::from_millis(20);

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
    let mut cluster = place.cluster(2 * options.pairs).await?;
    let failover = run(options, &mut cluster).await?;
    Outcome::new(failover.faults.none() && failover.unanswered == 0, &failover)
}

pub async fn run(options: &Options, cluster: &mut Cluster) -> anyhow::Result<Failover> {
    let mut kills = Vec::new();
    let mut all = Vec::new();
    let (mut faults, mut unanswered, mut errors) = (Faults::default(), 0, std::collections::BTreeMap::new());
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
        faults.add(&part.faults);
        unanswered += part.unanswered;
        for (what, count) in part.errors {
            *errors.entry(what).or_insert(0) += count;
        }
    }
    all.sort_by(f64::total_cmp);
    let failover = Failover {
        kills,
        median_s: all.get(all.len() / 2).copied().unwrap_or(f64::NAN),
        max_s: all.last().copied().unwrap_or(f64::NAN),
        faults,
        unanswered,
    };
    println!(
        "next accepted after SIGKILL of a leader: median {:.2} s, max {:.2} s over {} conversations; {:?}, unanswered {}, errors {:?}",
        failover.median_s,
        failover.max_s,
        all.len(),
        failover.faults,
        failover.unanswered,
        errors
    );
    Ok(failover)
}

async fn one(options: &Options, cluster: &mut Cluster, victim: usize) -> anyhow::Result<(Kill, Vec<f64>, Report)> {
    cluster.local()?.spread().await?;
    let mut urls = cluster.urls.clone();
    urls.remove(victim);
    let load = direct::Options::closed(options.pairs, 1).lasting(0.0, 600.0);
    let hold = Hold { gap: Some(GAP), ..Hold::default() };
    let running = workload::start(load.workload(), &load.shape, &urls, hold.clone());
    let Ok(times) = running.started.await else {
        running.engine.await??;
        anyhow::bail!("the run ended before it began");
    };
    tokio::time::sleep_until((times.start + STEADY).into()).await;
    let local = cluster.local()?;
    let number = local.nodes[victim].number;
    let led: Vec<_> =
        local.leaders().await?.into_iter().filter(|(_, n)| *n == NodeId(number)).map(|(s, _)| s).collect();
    let killed = std::time::Instant::now();
    local.kill(victim)?;
    // As long as a client may wait; most know long before.
    tokio::time::sleep(WATCHED).await;
    let restarted = Instant::now();
    local.spawn(victim)?;
    local.ready(victim).await?;
    let back_s = restarted.elapsed().as_secs_f64();
    hold.stop.store(true, Ordering::Relaxed);
    let engine = running.engine.await??;
    let event = engine.clock.at(killed);
    let mut gaps = Vec::new();
    for (at, conversation) in engine.conversations.iter().enumerate() {
        if conversation.shard.is_some_and(|shard| led.contains(&shard)) {
            gaps.push(gap_after(event, at as u32, conversation.last_accepted, &engine.tally.gaps));
        }
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
    Ok((kill, gaps, Report::of("failover".into(), &engine, times)))
}

/// Seconds from the event to the first answer after it, except one that was on its way already. Pauses below [`GAP`] are none.
fn gap_after(event: At, conv: u32, last: At, gaps: &[Gap]) -> f64 {
    let of_it = gaps.iter().filter(|gap| gap.conv == conv && gap.from < event.after(ON_ITS_WAY) && gap.to > event);
    match of_it.max_by_key(|gap| gap.to) {
        Some(gap) => gap.to.since(event) as f64 / 1e6,
        // Never again.
        None if last < event => WATCHED.as_secs_f64(),
        None => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_that_counts_is_the_one_around_the_kill() {
        let gap = |from, to| Gap { conv: 1, from: At(from), to: At(to), left: At(from) };
        let gaps = [gap(0, 400_000), gap(990_000, 1_700_000), gap(2_000_000, 2_100_000)];
        assert_eq!(gap_after(At(1_000_000), 1, At(2_100_000), &gaps), 0.7);
        assert_eq!(gap_after(At(1_900_000), 1, At(2_100_000), &gaps), 0.0, "a later pause is another matter");
        assert_eq!(gap_after(At(3_000_000), 1, At(2_100_000), &gaps), WATCHED.as_secs_f64(), "never again");
        assert_eq!(gap_after(At(1_000_000), 2, At(2_100_000), &gaps), 0.0);
    }
}
