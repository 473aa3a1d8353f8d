//! `--chaos`: nodes of a local cluster are killed one after the other and started again while clients send.
//!
//! What clients saw of a kill is, for each shard that the node led, the time from the last `accepted` before to the first one
//! after it, whoever sent it. A shard whose answers never paused for [`GAP`] counts as zero.

use std::time::{Duration, Instant};

use clap::Args;
use flotilla_proto::ids::NodeId;

use crate::cluster::{Cluster, Local};
use crate::engine::Engine;
use crate::engine::time::At;
use crate::report::{Band, Chaos, Report};

/// Shorter pauses are those of the load itself.
pub const GAP: Duration = Duration::from_millis(100);
/// What arrives this soon after a kill was on its way.
const ON_ITS_WAY: Duration = Duration::from_millis(20);
/// How long leaders may take to spread again before the next kill comes regardless.
const SPREAD: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Options {
    /// Kill and restart nodes meanwhile, one after the other (local cluster only)
    #[arg(long)]
    pub chaos: bool,
    /// Seconds that a killed node stays away
    #[arg(long, default_value_t = 3.0, requires = "chaos", value_name = "SECONDS")]
    pub down: f64,
    /// Seconds between a node's return and the next kill, at least
    #[arg(long, default_value_t = 4.0, requires = "chaos", value_name = "SECONDS")]
    pub calm: f64,
}

pub struct Kill {
    pub at: Instant,
    pub ready: Instant,
    pub node: u16,
    pub led: Vec<u16>,
}

/// Kills until `to`; the last node is back before this returns.
pub async fn reign(options: &Options, cluster: &mut Cluster, from: Instant, to: Instant) -> anyhow::Result<Vec<Kill>> {
    let (down, calm) = (Duration::from_secs_f64(options.down), Duration::from_secs_f64(options.calm));
    let local = cluster.local()?;
    let mut kills = Vec::new();
    tokio::time::sleep_until((from + calm).into()).await;
    for victim in (0..local.nodes.len()).cycle() {
        if Instant::now() + down + calm > to {
            break;
        }
        kills.push(kill(local, victim, down).await?);
        tokio::time::sleep(calm).await;
        // Not in time: the next kill finds whatever there is.
        let _ = tokio::time::timeout(SPREAD, local.spread()).await;
    }
    Ok(kills)
}

async fn kill(local: &mut Local, victim: usize, down: Duration) -> anyhow::Result<Kill> {
    let node = local.nodes[victim].number;
    let leaders = local.leaders().await?;
    let led = leaders.into_iter().filter(|(_, leader)| *leader == NodeId(node)).map(|(shard, _)| shard.0).collect();
    let at = Instant::now();
    local.kill(victim)?;
    tokio::time::sleep(down).await;
    local.spawn(victim)?;
    local.ready(victim).await?;
    Ok(Kill { at, ready: Instant::now(), node, led })
}

/// Puts the kills and what was seen of them into the report.
pub fn tell(report: &mut Report, kills: &[Kill], engine: &Engine, start: Instant) {
    let mut pauses = Vec::new();
    for kill in kills {
        let seconds = |at: Instant| at.saturating_duration_since(start).as_secs_f64();
        let what = format!("node {} away", kill.node);
        report.bands.push(Band { from_s: seconds(kill.at), to_s: seconds(kill.ready), what });
        let event = engine.clock.at(kill.at);
        // Shards that no conversation of the run is in saw nothing.
        let shards = kill.led.iter().filter(|shard| engine.tally.by_shard.contains_key(shard));
        pauses.extend(shards.map(|shard| pause(event, *shard, &engine.tally)));
    }
    pauses.sort_by(f64::total_cmp);
    report.chaos = Some(Chaos {
        kills: kills.len(),
        pauses: pauses.len(),
        unavailable_p50_s: pauses.get(pauses.len() / 2).copied().unwrap_or(0.0),
        unavailable_max_s: pauses.last().copied().unwrap_or(0.0),
    });
}

/// Seconds without `accepted` in a shard around an event.
fn pause(event: At, shard: u16, tally: &crate::engine::tally::Tally) -> f64 {
    let around = tally
        .shard_gaps
        .iter()
        .filter(|gap| gap.shard == shard && gap.from <= event.after(ON_ITS_WAY) && gap.to > event);
    match around.map(|gap| gap.to.since(gap.from)).max() {
        Some(us) => us as f64 / 1e6,
        // Nothing after it at all: until the end of what was seen.
        None if tally.by_shard.get(&shard).is_some_and(|last| *last < event) => {
            let end = tally.seconds.last().map_or(event, |second| second.at);
            end.since(tally.by_shard.get(&shard).copied().unwrap_or(event)) as f64 / 1e6
        }
        None => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tally::{Second, Tally, Window};

    #[test]
    fn a_pause_is_that_of_the_shard_around_the_kill() {
        let window = Window { from: At(0), to: At(60_000_000), is_open: false, gap: Some(GAP) };
        let mut tally = Tally::new();
        for at in [100, 150, 1_000, 2_600, 2_610, 2_650] {
            tally.of_shard(3, At(at * 1_000), &window);
        }
        for at in [100, 990] {
            tally.of_shard(4, At(at * 1_000), &window);
        }
        tally.seconds.push(Second { at: At(9_990_000), ..Second::default() });
        assert_eq!(pause(At(1_200_000), 3, &tally), 1.6);
        assert_eq!(pause(At(995_000), 3, &tally), 1.6, "an answer that was on its way ends nothing");
        assert_eq!(pause(At(2_620_000), 3, &tally), 0.0);
        assert_eq!(pause(At(1_200_000), 4, &tally), 9.0, "never again");
    }
}
