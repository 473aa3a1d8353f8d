//! The workload `storm`: many silent devices and a few pairs that send; in the middle of the run every silent device loses
//! its connection at the same instant and comes back at once. Sends go on meanwhile.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use clap::Args;

use super::{Shape, Workload, direct, offline, setup};
use crate::engine::Engine;
use crate::engine::time::At;

/// When it breaks loose, as a part of the window.
const AT: f64 = 0.3;
const LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Devices that reconnect
    #[arg(long, default_value_t = 3_000)]
    pub devices: usize,
    /// Pairs that send meanwhile
    #[arg(long, default_value_t = 16)]
    pub pairs: usize,
    #[command(flatten)]
    pub shape: Shape,
}

impl Options {
    pub fn workload(&self) -> Arc<dyn Workload> {
        Arc::new(Storm { devices: self.devices, pairs: self.pairs, broke: Mutex::new(None) })
    }
}

struct Storm {
    devices: usize,
    pairs: usize,
    broke: Mutex<Option<At>>,
}

impl Storm {
    fn silent(&self) -> std::ops::Range<usize> {
        2 * self.pairs..2 * self.pairs + self.devices
    }

    fn broke(&self) -> std::sync::MutexGuard<'_, Option<At>> {
        self.broke.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Workload for Storm {
    fn name(&self) -> String {
        format!("storm, {} devices beside {} pairs", self.devices, self.pairs)
    }

    fn devices(&self) -> usize {
        2 * self.pairs + self.devices
    }

    fn prepare(&self, engine: &mut Engine) -> anyhow::Result<()> {
        direct::pairs(engine, self.pairs, false)?;
        for at in 0..self.devices {
            let name = engine.name('s', at)?;
            engine.device(name, at);
        }
        setup::online(engine, self.silent())
    }

    fn each_second(&self, engine: &mut Engine, of_window: f64) {
        if of_window < AT || self.broke().is_some() {
            return;
        }
        let now = engine.clock.now();
        *self.broke() = Some(now);
        engine.greeting_max = usize::MAX;
        for at in self.silent() {
            engine.break_off(at, now);
        }
    }

    fn after(&self, engine: &mut Engine) -> anyhow::Result<()> {
        let Some(begin) = *self.broke() else { return Ok(()) };
        let all = self.devices();
        engine.turn_until(begin.after(LIMIT), |engine| engine.online >= all)?;
        let devices: Vec<usize> = self.silent().collect();
        let last = devices.iter().map(|at| engine.devices[*at].online_since).max().unwrap_or(begin);
        engine.returned = Some(offline::returned(engine, &devices, begin, last.since(begin) as f64 / 1e6));
        Ok(())
    }
}
