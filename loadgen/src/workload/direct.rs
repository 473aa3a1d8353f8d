//! The workload `direct`: pairs of users, one sends, both are online on different nodes.

use std::sync::Arc;

use clap::Args;

use super::{Shape, Workload, setup};
use crate::cluster::Cluster;
use crate::engine::Engine;
use crate::report::Report;

#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Direct conversations, two users each
    #[arg(long, default_value_t = 64)]
    pub pairs: usize,
    #[command(flatten)]
    pub shape: Shape,
}

impl Options {
    pub fn open(pairs: usize, rate: f64) -> Self {
        Self { pairs, shape: Shape::open(rate) }
    }

    pub fn closed(pairs: usize, in_flight: usize) -> Self {
        Self { pairs, shape: Shape::closed(in_flight) }
    }

    pub fn lasting(self, warm_up: f64, seconds: f64) -> Self {
        Self { shape: self.shape.lasting(warm_up, seconds), ..self }
    }

    pub fn workload(&self) -> Arc<dyn Workload> {
        Arc::new(Direct { pairs: self.pairs })
    }
}

pub async fn run(options: &Options, cluster: &mut Cluster) -> anyhow::Result<Report> {
    super::run(options.workload(), &options.shape, cluster, None).await
}

struct Direct {
    pairs: usize,
}

impl Workload for Direct {
    fn name(&self) -> String {
        format!("direct, {} pairs", self.pairs)
    }

    fn devices(&self) -> usize {
        2 * self.pairs
    }

    fn prepare(&self, engine: &mut Engine) -> anyhow::Result<()> {
        pairs(engine, self.pairs, false)
    }
}

/// Pairs online and known to each other.
pub fn pairs(engine: &mut Engine, pairs: usize, both_send: bool) -> anyhow::Result<()> {
    let nodes = engine.nodes();
    let mut all = Vec::new();
    for at in 0..pairs {
        let [a, b] = seats(nodes, at);
        let (a, b) = (engine.device(engine.name('a', at)?, a), engine.device(engine.name('b', at)?, b));
        engine.direct([a, b], both_send);
        all.extend([a, b]);
    }
    setup::online(engine, all)?;
    setup::introduce(engine)
}

/// The nodes of both sides: different ones, every combination in turn.
pub fn seats(nodes: usize, at: usize) -> [usize; 2] {
    let nodes = nodes.max(1);
    [at % nodes, (at + 1 + at / nodes % nodes.saturating_sub(1).max(1)) % nodes]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_are_on_different_nodes_and_every_combination_comes() {
        let mut seen = std::collections::BTreeSet::new();
        for at in 0..6 {
            let [a, b] = seats(3, at);
            assert!(a != b && a < 3 && b < 3);
            seen.insert([a, b]);
        }
        assert_eq!(seen.len(), 6);
        assert_eq!(seats(1, 5), [0, 0]);
    }
}
