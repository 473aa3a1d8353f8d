//! Faults on a cluster of real processes, one after another, drawn from a seed.
//!
//! Invariant: after each fault every node has a process again, and a node that ended by itself fails the run. What a seed
//! repeats is the schedule, not what the machine makes of it.

use std::time::Duration;

use anyhow::{Context, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::scene::Scene;

/// A graceful stop may take this long: sessions drain, leaderships move.
const STOP_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Fault {
    /// SIGKILL of these nodes at once, restart after the pause; some of them in the other order.
    Kill { nodes: Vec<usize>, down: Duration },
    /// Killed again while it starts.
    KillTwice { node: usize, down: Duration, alive: Duration },
    /// SIGSTOP: alive and silent.
    Pause { node: usize, silent: Duration },
    /// One silent, another one killed: no quorum until one is back.
    PauseAndKill { silent: usize, killed: usize, down: Duration },
    /// SIGTERM, wait for the exit, restart.
    Restart { node: usize },
}

pub struct Nemesis {
    dice: StdRng,
    pub kills: u64,
    pub pauses: u64,
    pub graceful: u64,
}

impl Nemesis {
    pub fn new(seed: u64) -> Self {
        Self { dice: StdRng::seed_from_u64(seed), kills: 0, pauses: 0, graceful: 0 }
    }

    fn ms(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.dice.random_range(range))
    }

    fn draw(&mut self) -> Fault {
        let (dice, node) = (self.dice.random_range(0..100), self.dice.random_range(0..3usize));
        let other = (node + self.dice.random_range(1..3usize)) % 3;
        let down = self.ms(300..3_000);
        match dice {
            0..32 => Fault::Kill { nodes: vec![node], down },
            32..46 => Fault::Kill { nodes: vec![node, other], down },
            46..56 => Fault::Kill { nodes: vec![0, 1, 2], down },
            56..64 => Fault::KillTwice { node, down, alive: self.ms(50..1_500) },
            64..76 => Fault::Pause { node, silent: self.ms(500..10_000) },
            76..82 => Fault::PauseAndKill { silent: node, killed: other, down },
            _ => Fault::Restart { node },
        }
    }

    /// One fault and its end, then some quiet.
    pub async fn strike(&mut self, cluster: &mut Cluster, scene: &Scene) -> anyhow::Result<()> {
        let fault = self.draw();
        // The next fault finds all nodes at work, or not yet: both count.
        let (patient, quiet) = (self.dice.random_bool(0.5), self.ms(1_000..4_500));
        scene.note(format!("{fault:?}"));
        self.act(fault.clone(), cluster, scene).await.with_context(|| format!("{fault:?}"))?;
        if patient {
            cluster.all_ready().await?;
        }
        sleep(quiet).await;
        for node in &mut cluster.nodes {
            let ended = node.exited()?;
            ensure!(ended.is_none(), "node {} ended by itself: {ended:?}\n{}", node.number, node.log_tail());
        }
        Ok(())
    }

    async fn act(&mut self, fault: Fault, cluster: &mut Cluster, scene: &Scene) -> anyhow::Result<()> {
        match fault {
            Fault::Kill { nodes, down } => {
                for at in &nodes {
                    self.kill(*at, cluster, scene)?;
                }
                sleep(down).await;
                for at in nodes {
                    start(at, cluster, scene)?;
                    sleep(self.ms(0..500)).await;
                }
            }
            Fault::KillTwice { node, down, alive } => {
                self.kill(node, cluster, scene)?;
                sleep(down).await;
                start(node, cluster, scene)?;
                sleep(alive).await;
                self.kill(node, cluster, scene)?;
                start(node, cluster, scene)?;
            }
            Fault::Pause { node, silent } => {
                self.pauses += 1;
                scene.note(format!("pause {}", node + 1));
                cluster.nodes[node].pause()?;
                sleep(silent).await;
                cluster.nodes[node].resume()?;
                scene.note(format!("resume {}", node + 1));
            }
            Fault::PauseAndKill { silent, killed, down } => {
                self.pauses += 1;
                scene.note(format!("pause {}", silent + 1));
                cluster.nodes[silent].pause()?;
                self.kill(killed, cluster, scene)?;
                sleep(down).await;
                start(killed, cluster, scene)?;
                sleep(down).await;
                cluster.nodes[silent].resume()?;
                scene.note(format!("resume {}", silent + 1));
            }
            Fault::Restart { node } => {
                self.graceful += 1;
                // A node that has not joined yet has nothing to hand over.
                cluster.ready(node).await?;
                scene.note(format!("stop {}", node + 1));
                let status = cluster.nodes[node].stop(STOP_LIMIT).await?;
                ensure!(status.success(), "asked to stop, it said {status}\n{}", cluster.nodes[node].log_tail());
                start(node, cluster, scene)?;
            }
        }
        Ok(())
    }

    fn kill(&mut self, at: usize, cluster: &mut Cluster, scene: &Scene) -> anyhow::Result<()> {
        self.kills += 1;
        scene.note(format!("kill {}", at + 1));
        let node = &mut cluster.nodes[at];
        let ended = node.exited()?;
        ensure!(ended.is_none(), "node {} ended by itself: {ended:?}\n{}", node.number, node.log_tail());
        node.kill()
    }
}

fn start(at: usize, cluster: &mut Cluster, scene: &Scene) -> anyhow::Result<()> {
    scene.note(format!("start {}", at + 1));
    cluster.spawn(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_the_schedule_and_every_kind_of_fault_comes() {
        let draw = |seed| -> Vec<Fault> {
            let mut nemesis = Nemesis::new(seed);
            (0..200).map(|_| nemesis.draw()).collect()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        let all = draw(7);
        assert!(all.iter().any(|f| matches!(f, Fault::Kill { nodes, .. } if nodes.len() == 3)));
        assert!(all.iter().any(|f| matches!(f, Fault::Restart { .. })));
        assert!(all.iter().any(|f| matches!(f, Fault::PauseAndKill { silent, killed, .. } if silent != killed)));
        assert!(all.iter().any(|f| matches!(f, Fault::KillTwice { .. } | Fault::Pause { .. })));
    }
}
