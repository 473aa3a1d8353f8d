//! A measurement, run by hand: the time from SIGKILL of a conversation's leader to the next `accepted` there, at default
//! timeouts and on an otherwise calm cluster. A message counts if it was given after the kill.
//!
//!     cargo test -p flotilla-tests --test failover -- --ignored --nocapture
//!
//! `FLOTILLA_FAILOVERS=N` repeats (default 20).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use flotilla_client::Outcome;
use flotilla_client::history::{Op, Record};
use flotilla_client::oracle::{Demand, judge};
use flotilla_proto::ids::{Cid, ConvId, Seq};
use flotilla_proto::limits;
use flotilla_proto::slots::SlotTable;
use flotilla_tests::cluster::Cluster;
use flotilla_tests::replicas;
use flotilla_tests::scene::{LIMIT, Scene, Seat, eventually, text, to, user};
use flotilla_tests::stalls::percentile;

/// Between two messages of one device.
const BEAT: Duration = Duration::from_millis(25);
/// Leaders have gone back to their places by then.
const CALM: Duration = Duration::from_secs(5);
const DOWN: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of several minutes"]
async fn time_from_the_leaders_death_to_the_next_accepted() -> anyhow::Result<()> {
    let repeats: usize = std::env::var("FLOTILLA_FAILOVERS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let mut cluster = Cluster::start(3).await?;
    let scene = Scene::new(cluster.urls());
    let conv = ConvId::direct(&user("alice"), &user("bob"));
    let shard = SlotTable::even(limits::SHARDS_DEFAULT).shard_of_conversation(&conv).context("a whole table")?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut talkers = Vec::new();
    for (name, number, peer) in [("alice", 1, "bob"), ("alice", 2, "bob"), ("bob", 1, "alice")] {
        let seat = scene.open(name, number).await?;
        talkers.push(tokio::spawn(talk(seat, peer, stop.clone())));
    }
    for _ in 0..repeats {
        tokio::time::sleep(CALM).await;
        let mut led = None;
        eventually("the shard has a leader", LIMIT, async || {
            led = replicas::leader(&cluster, u64::from(shard.0)).await.ok();
            led.is_some()
        })
        .await?;
        let at = led.context("just seen")?;
        scene.note(format!("kill {}", cluster.nodes[at].url()));
        cluster.nodes[at].kill()?;
        tokio::time::sleep(DOWN).await;
        cluster.spawn(at)?;
        cluster.all_ready().await?;
    }
    stop.store(true, Ordering::Relaxed);
    let (mut seats, mut head) = (Vec::new(), Seq::ZERO);
    for talker in talkers {
        let (seat, last) = talker.await??;
        seats.push(seat);
        head = head.max(last);
    }
    // Everything is received before the verdict.
    for seat in seats {
        seat.holds(&conv, head).await?;
        seat.handle.close().await;
    }
    let records = scene.recorder.take();
    report(&records);
    let verdict = judge(&records, Demand::default());
    anyhow::ensure!(verdict.holds(), "{verdict}");
    Ok(())
}

/// The device, and the last of what it said.
async fn talk(seat: Seat, peer: &'static str, stop: Arc<AtomicBool>) -> anyhow::Result<(Seat, Seq)> {
    let mut answers = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(BEAT).await;
        answers.push(seat.handle.submit(to(peer), text("still there?")).await?);
    }
    let mut last = Seq::ZERO;
    for answer in answers {
        match answer.answer().await {
            Outcome::Accepted(accepted) => last = last.max(accepted.seq),
            other => anyhow::bail!("{}: {other:?}", seat.label),
        }
    }
    Ok((seat, last))
}

/// One kill: who was connected where, and when each device had its next `accepted`, in milliseconds.
struct Death {
    at_us: u64,
    url: String,
    beside: BTreeMap<String, bool>,
    after_ms: BTreeMap<String, u64>,
}

fn report(records: &[Record]) {
    let mut connected: BTreeMap<&str, &str> = BTreeMap::new();
    let mut given: BTreeMap<Cid, u64> = BTreeMap::new();
    let mut deaths: Vec<Death> = Vec::new();
    for record in records {
        match &record.op {
            Op::Connected { url, .. } => drop(connected.insert(&record.device, url)),
            Op::Invoked { cid, .. } => drop(given.insert(*cid, record.at_us)),
            Op::Note { text } => {
                let Some(url) = text.strip_prefix("kill ") else { continue };
                let beside = connected.iter().map(|(device, at)| ((*device).to_owned(), *at == url)).collect();
                deaths.push(Death { at_us: record.at_us, url: url.to_owned(), beside, after_ms: BTreeMap::new() });
            }
            Op::Accepted { cid, .. } => {
                let Some(death) = deaths.last_mut() else { continue };
                if given.get(cid).is_some_and(|at| *at > death.at_us) {
                    let ms = (record.at_us - death.at_us) / 1_000;
                    death.after_ms.entry(record.device.clone()).or_insert(ms);
                }
            }
            _ => {}
        }
    }
    let show = |what: &str, mut times: Vec<u64>| {
        times.sort_unstable();
        let at = |percent| percentile(&times, percent);
        println!("{what}: {} times, min {} ms, median {} ms, max {} ms", times.len(), at(0), at(50), at(100));
    };
    for death in &deaths {
        println!("{} killed; next accepted by device: {:?}", death.url, death.after_ms);
    }
    let of = |beside: bool| -> Vec<u64> {
        let fits = |d: &Death| -> Vec<u64> {
            d.after_ms.iter().filter(|(l, _)| d.beside.get(*l) == Some(&beside)).map(|(_, ms)| *ms).collect()
        };
        deaths.iter().flat_map(fits).collect()
    };
    show("in the conversation", deaths.iter().filter_map(|d| d.after_ms.values().min().copied()).collect());
    show("for devices on another node", of(false));
    show("for devices on the killed node", of(true));
    let urls: BTreeSet<_> = deaths.iter().map(|d| &d.url).collect();
    println!("nodes that were killed: {}", urls.len());
}
