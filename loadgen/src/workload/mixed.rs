//! The workload `mixed`: the shape of a day. Most sends are direct and answered, some go to groups; users type before they
//! send, read what they got, and now and then a phone loses its network and comes back.

use std::sync::Arc;

use clap::Args;

use super::{Shape, Workload, direct, setup};
use crate::engine::Engine;
use crate::engine::time::At;

/// Of 100 sends.
const TO_GROUPS: u64 = 15;
/// One send in so many is preceded by `typing`, followed by `read`.
const TYPING: u64 = 3;
const READ: u64 = 2;

#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Direct conversations, both sides send
    #[arg(long, default_value_t = 200)]
    pub pairs: usize,
    /// Groups among the same users
    #[arg(long, default_value_t = 10)]
    pub groups: usize,
    /// Members of each
    #[arg(long, default_value_t = 20)]
    pub members: usize,
    /// Of all devices, per cent that lose their connection in a minute
    #[arg(long, default_value_t = 10.0)]
    pub reconnects: f64,
    #[command(flatten)]
    pub shape: Shape,
}

impl Options {
    pub fn workload(&self) -> Arc<dyn Workload> {
        let Self { pairs, groups, members, reconnects, .. } = *self;
        Arc::new(Mixed { pairs, groups, members: members.clamp(2, 2 * pairs.max(1)), reconnects })
    }
}

struct Mixed {
    pairs: usize,
    groups: usize,
    members: usize,
    reconnects: f64,
}

impl Workload for Mixed {
    fn name(&self) -> String {
        let Self { pairs, groups, members, .. } = self;
        format!("mixed, {pairs} pairs, {groups} groups of {members}")
    }

    fn devices(&self) -> usize {
        2 * self.pairs
    }

    fn prepare(&self, engine: &mut Engine) -> anyhow::Result<()> {
        direct::pairs(engine, self.pairs, true)?;
        let devices = 2 * self.pairs;
        let groups = (0..self.groups).map(|group| {
            // Neighbours in different groups, so that each user is in few.
            let members: Vec<usize> = (0..self.members).map(|m| (group * self.members + m) % devices).collect();
            (members.clone(), members)
        });
        setup::groups(engine, &groups.collect::<Vec<_>>())?;
        setup::introduce(engine)
    }

    fn act(&self, engine: &mut Engine, n: u64, due: At, now: At) {
        let random: u64 = rand::random();
        let pick = |of: usize| (random >> 8) as usize % of.max(1);
        let conv = match random % 100 < TO_GROUPS && self.groups > 0 {
            true => self.pairs + pick(self.groups),
            false => pick(self.pairs),
        };
        let senders = engine.conversations[conv].senders.len();
        let sender = (random >> 40) as usize % senders;
        let at = engine.conversations[conv].senders[sender] as usize;
        if n.is_multiple_of(TYPING) {
            engine.typing(at, conv as u32);
        }
        engine.send(conv as u32, sender as u16, due, now);
        if n.is_multiple_of(READ) {
            engine.read(at, conv as u32);
        }
    }

    fn each_second(&self, engine: &mut Engine, _of_window: f64) {
        let now = engine.clock.now();
        let devices = engine.devices.len();
        let expected = devices as f64 * self.reconnects / 100.0 / 60.0;
        let count = expected as usize + usize::from(rand::random::<f64>() < expected.fract());
        for _ in 0..count {
            engine.break_off(rand::random_range(0..devices), now);
        }
    }
}
