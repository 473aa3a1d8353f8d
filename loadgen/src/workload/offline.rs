//! The workload `offline`: recipients have been there once and are away while others send to them; then they all come back.
//! What is measured last is the return: entries a second until everything is there, and how long each device waited.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::{Shape, Workload, direct};
use crate::engine::Engine;
use crate::engine::tally::histogram;
use crate::report::Return;

const LIMIT: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Recipients, each with a sender of its own
    #[arg(long, default_value_t = 64)]
    pub recipients: usize,
    /// All recipients come back to the first node
    #[arg(long)]
    pub one_node: bool,
    #[command(flatten)]
    pub shape: Shape,
}

impl Options {
    pub fn workload(&self) -> Arc<dyn Workload> {
        Arc::new(Offline { recipients: self.recipients, one_node: self.one_node })
    }
}

struct Offline {
    recipients: usize,
    one_node: bool,
}

impl Workload for Offline {
    fn name(&self) -> String {
        let to = if self.one_node { ", back on one node" } else { "" };
        format!("offline, {} recipients{to}", self.recipients)
    }

    fn devices(&self) -> usize {
        2 * self.recipients
    }

    fn prepare(&self, engine: &mut Engine) -> anyhow::Result<()> {
        direct::pairs(engine, self.recipients, false)?;
        for at in away(engine) {
            // What it has is acked first: everything that comes later is new.
            engine.ack_now(at);
        }
        let soon = engine.clock.now().after(Duration::from_millis(500));
        engine.turn_until(soon, |_| false)?;
        for at in away(engine) {
            engine.dismiss(at);
            if self.one_node {
                engine.devices[at].node = 0;
                engine.devices[at].loyal = true;
            }
        }
        Ok(())
    }

    fn after(&self, engine: &mut Engine) -> anyhow::Result<()> {
        let limit = engine.clock.now().after(LIMIT);
        engine.turn_until(limit, |engine| engine.conversations.iter().all(|c| c.ledger.unanswered == 0))?;
        let begin = engine.clock.now();
        let away = away(engine);
        engine.greeting_max = usize::MAX;
        engine.invite(away.iter().copied());
        let limit = begin.after(LIMIT);
        engine.turn_until(limit, Engine::is_settled)?;
        let seconds = engine.clock.now().since(begin) as f64 / 1e6;
        engine.turn_until(limit, |engine| engine.online == engine.devices.len())?;
        engine.returned = Some(returned(engine, &away, begin, seconds));
        Ok(())
    }
}

fn away(engine: &Engine) -> Vec<usize> {
    engine.conversations.iter().map(|conversation| conversation.members[1] as usize).collect()
}

/// How a return of these devices went.
pub fn returned(engine: &Engine, devices: &[usize], begin: crate::engine::time::At, seconds: f64) -> Return {
    let mut took = histogram();
    let mut entries = 0;
    for at in devices {
        let device = &engine.devices[*at];
        entries += device.entries_since_hello;
        took.saturating_record(device.online_since.since(begin).max(1));
    }
    let s = |us: u64| us as f64 / 1e6;
    Return {
        devices: devices.len(),
        entries,
        seconds,
        entries_per_s: entries as f64 / seconds,
        p50_s: s(took.value_at_quantile(0.5)),
        p99_s: s(took.value_at_quantile(0.99)),
        max_s: s(took.max()),
    }
}
