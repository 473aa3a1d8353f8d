//! Where the time of one message goes: local nodes are traced (`flotilla::path`) under a light open loop, and their logs
//! are put together by cid, by log index and by position.
//!
//! All nodes are on one machine, so their clocks are one. A hop is the time between two stamps of the same message; a message
//! that lacks a stamp is left out of that hop only.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::Outcome;
use crate::cluster::Place;
use crate::workload::direct;

#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Direct conversations
    #[arg(long, default_value_t = 64)]
    pub pairs: usize,
    /// Sends a second of all of them
    #[arg(long, default_value_t = 100.0)]
    pub rate: f64,
    /// Seconds
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Logs of traced nodes instead of a run
    #[arg(long, value_name = "FILE")]
    pub log: Vec<PathBuf>,
}

/// One line of the table, in microseconds.
#[derive(Debug, Serialize)]
struct Hop {
    what: &'static str,
    count: u64,
    p50: u64,
    p99: u64,
    max: u64,
}

pub async fn command(options: &Options, place: &Place) -> anyhow::Result<Outcome> {
    let mut stamps = Stamps::default();
    for log in &options.log {
        stamps.read(log)?;
    }
    if options.log.is_empty() {
        let env = [("FLOTILLA_LOG", "warn,flotilla::path=trace"), ("NO_COLOR", "1")];
        let mut cluster = place.local(2 * options.pairs, &env).await?;
        cluster.local()?.spread().await?;
        let load = direct::Options::open(options.pairs, options.rate).lasting(2.0, options.seconds);
        direct::run(&load, &mut cluster).await?.print();
        for node in &cluster.local()?.nodes {
            stamps.read(&node.log)?;
        }
    }
    let hops = stamps.hops();
    println!("\n{:<58}{:>8}{:>10}{:>10}{:>10}", "hop, microseconds", "count", "p50", "p99", "max");
    for hop in &hops {
        println!("{:<58}{:>8}{:>10}{:>10}{:>10}", hop.what, hop.count, hop.p50, hop.p99, hop.max);
    }
    Outcome::new(!hops.is_empty(), &hops)
}

/// First time of each stage of one send.
#[derive(Debug, Default)]
struct Send {
    stages: BTreeMap<String, u64>,
    /// Where it was applied first: the leader is the node that proposed it.
    log: Option<(u16, u64)>,
    sender: String,
    leader: usize,
    receiver: Option<(String, u64)>,
}

type Place3 = (usize, u16, u64);

#[derive(Default)]
struct Stamps {
    nodes: usize,
    sends: BTreeMap<String, Send>,
    /// (stage, user, conv) -> (seq, time), in order.
    positions: BTreeMap<(String, String), Vec<(u64, u64)>>,
    /// (node, shard, index) -> time.
    append: BTreeMap<Place3, u64>,
    /// One stamp stands for all indexes up to it.
    durable: BTreeMap<Place3, u64>,
    applied: BTreeMap<Place3, u64>,
}

impl Stamps {
    fn read(&mut self, log: &Path) -> anyhow::Result<()> {
        let node = self.nodes;
        self.nodes += 1;
        for line in std::fs::read_to_string(log)?.lines() {
            let Some((head, fields)) = line.split_once(" TRACE flotilla::path: ") else { continue };
            let Some(at) = micros(head.trim()) else { continue };
            let fields: BTreeMap<&str, &str> = fields.split(' ').filter_map(|field| field.split_once('=')).collect();
            self.take(node, at, &fields);
        }
        Ok(())
    }

    fn take(&mut self, node: usize, at: u64, fields: &BTreeMap<&str, &str>) {
        let text = |name: &str| fields.get(name).map(|value| value.trim_matches('"').to_owned());
        let number = |name: &str| fields.get(name).and_then(|value| value.parse::<u64>().ok());
        let Some(stage) = text("stage") else { return };
        let index = number("shard").zip(number("index")).map(|(shard, index)| (shard as u16, index));
        if let Some(cid) = text("cid") {
            let send = self.sends.entry(cid).or_default();
            if stage == "frame" {
                send.sender = text("user").unwrap_or_default();
            }
            if stage == "proposed" {
                send.leader = node;
            }
            send.log = send.log.or(index);
            let user = text("user");
            if stage == "entry" && user.as_ref().is_some_and(|user| *user != send.sender) {
                send.receiver = user.clone().zip(number("seq"));
            }
            // Stages on the way to one user are told apart by the user.
            let key = match user {
                Some(user) if stage != "frame" => format!("{stage} {user}"),
                _ => stage,
            };
            let first = send.stages.entry(key).or_insert(at);
            *first = at.min(*first);
        } else if let Some((shard, index)) = index {
            let times = match stage.as_str() {
                "append" => &mut self.append,
                "durable" => &mut self.durable,
                _ => &mut self.applied,
            };
            times.entry((node, shard, index)).or_insert(at);
        } else if let (Some(user), Some(seq)) = (text("user"), number("seq")) {
            self.positions.entry((stage, user)).or_default().push((seq, at));
        }
    }

    /// The first stamp at or above an index.
    fn upward(times: &BTreeMap<Place3, u64>, (node, shard, index): Place3) -> Option<u64> {
        times.range((node, shard, index)..=(node, shard, u64::MAX)).next().map(|(_, at)| *at)
    }

    fn position(&self, stage: &str, user: &str, seq: u64) -> Option<u64> {
        let all = self.positions.get(&(stage.to_owned(), user.to_owned()))?;
        all.iter().filter(|(acked, _)| *acked >= seq).map(|(_, at)| *at).min()
    }

    fn hops(&self) -> Vec<Hop> {
        let mut hops: Vec<(&'static str, Histogram<u64>)> = Vec::new();
        let mut add = |what: &'static str, from: Option<u64>, to: Option<u64>| {
            let at = hops.iter().position(|(name, _)| *name == what).unwrap_or_else(|| {
                hops.push((what, Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in order")));
                hops.len() - 1
            });
            if let (Some(from), Some(to)) = (from, to) {
                hops[at].1.saturating_record(to.saturating_sub(from));
            }
        };
        for send in self.sends.values() {
            let stage = |name: &str| send.stages.get(name).copied();
            let Some((shard, index)) = send.log else { continue };
            let on = |node: usize| (node, shard, index);
            let appended = self.append.get(&on(send.leader)).copied();
            let synced = Self::upward(&self.durable, on(send.leader));
            let others: Vec<usize> = (0..self.nodes).filter(|node| *node != send.leader).collect();
            // A majority of three is the leader and the faster follower.
            let follower =
                others.iter().filter_map(|node| Some((Self::upward(&self.durable, on(*node))?, *node))).min();
            let follower_appended = follower.and_then(|(_, node)| self.append.get(&on(node)).copied());
            let follower_synced = follower.map(|(at, _)| at);
            let committed = synced.max(follower_synced);
            let applied = Self::upward(&self.applied, on(send.leader));
            add("frame decoded -> queued at the leader (route)", stage("frame"), stage("queued"));
            add("queued -> proposed", stage("queued"), stage("proposed"));
            add("proposed -> leader's log append", stage("proposed"), appended);
            add("leader: append -> synced", appended, synced);
            add("leader's append -> follower's append (replication)", appended, follower_appended);
            add("follower: append -> synced", follower_appended, follower_synced);
            add("majority synced -> apply begins", committed, stage("apply"));
            add("apply", stage("apply"), applied);
            add("applied -> accepted queued for the sender's socket", applied, stage("answered"));
            add("= frame decoded -> accepted", stage("frame"), stage("answered"));
            let Some((user, seq)) = &send.receiver else { continue };
            let to = |name: &str| stage(&format!("{name} {user}"));
            let entry = to("entry");
            add("applied -> notify leaves the conversation's leader", applied, to("notify"));
            add("notify -> at the user shard's leader", to("notify"), to("notified"));
            add("look for live sessions, push", to("notified"), to("pushed"));
            add("pushed -> entry queued for the receiver's socket", to("pushed"), entry);
            add("= applied -> entry queued", applied, entry);
            add("= frame decoded -> entry queued", stage("frame"), entry);
            let (ack, marks) = (self.position("ack", user, *seq), self.position("marks", user, *seq));
            let cursor = self.position("cursor", user, *seq);
            add("entry queued -> ack received (client gathers 200 ms)", entry, ack);
            add("ack -> marks leave the gateway (gathers 200 ms)", ack, marks);
            add("marks -> cursor committed", marks, cursor);
        }
        let of = |(what, h): (&'static str, Histogram<u64>)| Hop {
            what,
            count: h.len(),
            p50: h.value_at_quantile(0.5),
            p99: h.value_at_quantile(0.99),
            max: h.max(),
        };
        hops.into_iter().map(of).collect()
    }
}

/// Of `2026-01-31T12:34:56.123456Z`, microseconds of its day.
fn micros(stamp: &str) -> Option<u64> {
    let time = stamp.split_once('T')?.1.trim_end_matches('Z');
    let parts: Vec<&str> = time.split([':', '.']).collect();
    let [h, m, s, us] = parts.as_slice() else { return None };
    let seconds = h.parse::<u64>().ok()? * 3_600 + m.parse::<u64>().ok()? * 60 + s.parse::<u64>().ok()?;
    Some(seconds * 1_000_000 + us.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hop_is_the_time_between_two_stamps_of_one_send() {
        let mut stamps = Stamps { nodes: 1, ..Stamps::default() };
        for (us, line) in [
            ("000010", "stage=\"frame\" cid=c user=a"),
            ("000030", "stage=\"queued\" cid=c"),
            ("000031", "stage=\"proposed\" cid=c"),
            ("000040", "stage=\"append\" shard=3 index=7"),
            ("000240", "stage=\"durable\" shard=3 index=9"),
            ("000250", "stage=\"apply\" cid=c shard=3 index=7"),
        ] {
            let at = micros(&format!("2026-01-01T00:00:00.{us}Z")).expect("a time");
            stamps.take(0, at, &line.split(' ').filter_map(|field| field.split_once('=')).collect());
        }
        let hops = stamps.hops();
        let p50 = |what: &str| hops.iter().find(|hop| hop.what.starts_with(what)).map(|hop| hop.p50);
        assert_eq!(p50("frame decoded -> queued"), Some(20));
        assert_eq!(p50("leader: append -> synced"), Some(200));
        assert_eq!(p50("apply"), Some(0));
    }
}
