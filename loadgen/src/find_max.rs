//! `--find-max`: the highest rate of an open loop at which a bound still holds. Doubles until it breaks, then halves the
//! distance, on a cluster that goes on from step to step.

use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use crate::cluster::Cluster;
use crate::report::Report;
use crate::report::asserts::Assertion;
use crate::schedule::Schedule;
use crate::workload::{self, Shape, Workload};

/// A step holds its rate only if so much of it was accepted.
const KEPT_UP: f64 = 0.97;

#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Options {
    /// Raise the rate until the bound breaks, and print the knee; --rate is where it begins
    #[arg(long)]
    pub find_max: bool,
    /// What must hold
    #[arg(long, default_value = "deliver.p99<100ms", requires = "find_max", value_name = "FIGURE<BOUND")]
    pub bound: Assertion,
    /// Steps after the first that breaks it
    #[arg(long, default_value_t = 4, requires = "find_max", value_name = "N")]
    pub halvings: u32,
}

#[derive(Debug, Clone, Serialize)]
pub struct Step {
    pub rate: f64,
    pub held: bool,
    pub report: Report,
}

/// Which rate comes next: pure, so that the search is what is tested.
#[derive(Debug, Clone)]
struct Search {
    /// The highest that held and the lowest that broke.
    held: f64,
    broke: Option<f64>,
    next: f64,
    halvings: u32,
}

impl Search {
    fn new(first: f64, halvings: u32) -> Self {
        Self { held: 0.0, broke: None, next: first, halvings }
    }

    fn on_step(&mut self, held: bool) {
        if held {
            self.held = self.next;
        } else {
            self.broke = Some(self.next);
        }
        self.next = match self.broke {
            None => self.next * 2.0,
            Some(broke) => {
                let next = (self.held + broke) / 2.0;
                // Until anything holds the way down is free; below one a second nothing is looked for.
                self.halvings = match self.held > 0.0 {
                    true => self.halvings.saturating_sub(1),
                    false if next < 1.0 => 0,
                    false => self.halvings,
                };
                next
            }
        };
    }

    fn is_over(&self) -> bool {
        self.broke.is_some() && self.halvings == 0
    }
}

pub async fn run(
    options: &Options,
    workload: Arc<dyn Workload>,
    shape: &Shape,
    cluster: &mut Cluster,
) -> anyhow::Result<(f64, Vec<Step>)> {
    let first = shape.rate.as_ref().map_or(500.0, Schedule::highest);
    let mut search = Search::new(first, options.halvings + 1);
    let mut steps = Vec::new();
    println!("{:>10} {:>12} {:>12} {:>12} {:>12}", "rate/s", "accepted/s", "accept p99", "deliver p99", "server CPU");
    while !search.is_over() {
        let rate = search.next.round();
        let shape = Shape { rate: Some(Schedule::constant(rate)), in_flight: None, ..shape.clone() };
        let report = workload::run(workload.clone(), &shape, cluster, None).await?;
        let held = options.bound.judge(&report).0 && report.accepted_per_s >= rate * KEPT_UP && report.ok();
        println!(
            "{rate:>10.0} {:>12.0} {:>9.1} ms {:>9.1} ms {:>10.0} %  {}",
            report.accepted_per_s,
            report.accept_ms.p99,
            report.deliver_ms.p99,
            report.server.as_ref().map_or(0.0, |server| server.cpu_percent),
            if held { "holds" } else { "breaks" }
        );
        search.on_step(held);
        steps.push(Step { rate, held, report });
    }
    Ok((search.held, steps))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knee(of: f64, first: f64) -> (f64, usize) {
        let mut search = Search::new(first, 5);
        let mut steps = 0;
        while !search.is_over() {
            search.on_step(search.next <= of);
            steps += 1;
        }
        (search.held, steps)
    }

    #[test]
    fn the_knee_is_found_from_below_and_from_above() {
        let (held, steps) = knee(3_000.0, 500.0);
        assert!((2_800.0..=3_000.0).contains(&held) && steps < 12, "{held} after {steps}");
        let (held, _) = knee(3_000.0, 50_000.0);
        assert!((1_500.0..=3_000.0).contains(&held), "{held}");
        assert_eq!(knee(0.0, 1_000.0).0, 0.0, "nothing holds: the search ends all the same");
    }
}
