//! The simulator: whole clusters of the real node code on simulated time, network and disks, judged by the client's oracle.
//!
//! - `options` what a run does, drawn from its seed · `cluster` three nodes on simulated disks
//! - `checkers` what is checked while it runs
//! - `lasting` what people settle beside messages, and what must be left of it · `asked` what nodes answer of it
//! - `views` what clients are shown in the end · `watched` what watchers of receipts have heard by then
//! - `codes` logins by one-time code, as they stand in the history
//! - `workload` devices and what they send · `nemesis` what breaks · `judge` the verdict · `trace` what happened
//! - `plants` deliberate bugs, by name · `hunt` which seeds find them
//! - `scenarios` hand-written stories
//! - `boot` one life of a node · `run` from seed to verdict · `cli` the commands
//!
//! One seed, one process: generators and hash keys of a process are seeded once, so a second run in it would differ.
//! Everything is empty unless built with `--cfg madsim`.

#![cfg(madsim)]

pub mod asked;
pub mod boot;
pub mod checkers;
pub mod child;
pub mod cli;
pub mod cluster;
pub mod codes;
pub mod hunt;
pub mod judge;
pub mod lasting;
pub mod liveness;
pub mod nemesis;
pub mod options;
pub mod page;
pub mod plants;
pub mod regressions;
pub mod report;
pub mod run;
pub mod scenarios;
pub mod shrink;
pub mod swarm;
pub mod trace;
pub mod views;
pub mod watched;
pub mod workload;
