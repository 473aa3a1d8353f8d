//! From the seed to the options, in a fixed order.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{Disk, Fault, Options, POINTS, Timed};

impl Options {
    /// Draws everything in a fixed order.
    pub fn draw(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let nodes = 3;
        let mut options = Self {
            seed,
            nodes,
            shards: rng.random_range(1..=3),
            users: rng.random_range(3..=5),
            groups: rng.random_range(1..=2),
            sends: rng.random_range(60..=400),
            pause: Duration::from_millis(rng.random_range(20..=400)),
            group_percent: rng.random_range(20..=70),
            latency: Duration::from_micros(rng.random_range(100..=500))
                ..Duration::from_millis(rng.random_range(1..=20)),
            lanes: Vec::new(),
            plant: None,
        };
        // Swarm: each kind is switched off in half of the seeds, so that rare mixtures happen.
        let mut switch = || rng.random_bool(0.5);
        let death_kinds = [switch(), switch(), switch()];
        let net_kinds = [switch(), switch(), switch(), switch()];
        options.lanes.push(deaths(&mut rng, nodes, death_kinds));
        options.lanes.push(disturbances(&mut rng, nodes, net_kinds));
        options
    }
}

/// Faults on the disk or the process of a node.
fn deaths(rng: &mut StdRng, nodes: usize, kinds: [bool; 3]) -> Vec<Timed> {
    let mut lane = Vec::new();
    for _ in 0..rng.random_range(1..=4) {
        let node = rng.random_range(0..nodes);
        let keep_permille = rng.random_range(0..=1_000);
        let disk = if rng.random_bool(0.5) { Disk::Kept } else { Disk::Lost };
        let point = POINTS[rng.random_range(0..POINTS.len())].to_owned();
        let passes = rng.random_range(1..=40);
        let many = rng.random_range(2..=nodes);
        let fault = match rng.random_range(0..4) {
            0 if kinds[0] => Fault::CrashAt { node, point, passes, keep_permille },
            1 if kinds[1] => {
                Fault::Kill { nodes: (0..many).map(|i| (node + i) % nodes).collect(), disk, keep_permille }
            }
            2 if kinds[2] => Fault::Slow { node, by: Duration::from_millis(rng.random_range(5..=400)) },
            _ => Fault::Kill { nodes: vec![node], disk, keep_permille },
        };
        lane.push(timed(rng, fault));
    }
    lane
}

/// Faults between nodes.
fn disturbances(rng: &mut StdRng, nodes: usize, kinds: [bool; 4]) -> Vec<Timed> {
    let mut lane = Vec::new();
    for _ in 0..rng.random_range(1..=4) {
        let node = rng.random_range(0..nodes);
        let other = (node + rng.random_range(1..nodes.max(2))) % nodes;
        let (inward, outward) = [(true, true), (true, false), (false, true)][rng.random_range(0..3)];
        let permille = rng.random_range(1..=200);
        let off_ms = [3_600_000, -3_600_000, 86_400_000, -86_400_000, 9_000, -9_000][rng.random_range(0..6)];
        let drawn = match rng.random_range(0..4) {
            0 if kinds[0] => Some(Fault::Isolate { node, inward, outward }),
            1 if kinds[1] => Some(Fault::Cut { from: node, to: other }),
            2 if kinds[2] => Some(Fault::Loss { permille }),
            3 if kinds[3] => Some(Fault::Clock { node, off_ms }),
            _ => None,
        };
        if let Some(fault) = drawn {
            lane.push(timed(rng, fault));
        }
    }
    lane
}

fn timed(rng: &mut StdRng, fault: Fault) -> Timed {
    Timed {
        after: Duration::from_millis(rng.random_range(100..=5_000)),
        lasts: Duration::from_millis(rng.random_range(200..=12_000)),
        fault,
    }
}
