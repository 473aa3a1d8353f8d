//! The workload `channel`: channels of which everybody is online, spread over the nodes; their owners send.

use std::sync::Arc;

use clap::Args;

use super::{Shape, Workload, setup};
use crate::engine::Engine;

#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Channels
    #[arg(long, default_value_t = 1)]
    pub channels: usize,
    /// Members of each
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u16).range(2..=10_000))]
    pub members: u16,
    #[command(flatten)]
    pub shape: Shape,
}

impl Options {
    pub fn workload(&self) -> Arc<dyn Workload> {
        Arc::new(Channel { channels: self.channels, members: self.members })
    }
}

struct Channel {
    channels: usize,
    members: u16,
}

impl Workload for Channel {
    fn name(&self) -> String {
        format!("channel, {} of {}", self.channels, self.members)
    }

    fn devices(&self) -> usize {
        self.channels * usize::from(self.members)
    }

    fn prepare(&self, engine: &mut Engine) -> anyhow::Result<()> {
        let mut channels = Vec::new();
        for channel in 0..self.channels {
            let mut members = Vec::new();
            for member in 0..usize::from(self.members) {
                let name = engine.name('c', channel * usize::from(self.members) + member)?;
                members.push(engine.device(name, channel + member));
            }
            let senders = vec![members[0]];
            channels.push((members, senders));
        }
        setup::online(engine, channels.iter().flat_map(|(members, _)| members.clone()))?;
        setup::channels(engine, &channels)?;
        setup::introduce(engine)
    }
}
