//! The workload `group`: groups of which everybody is online, spread over the nodes; some members send.

use std::sync::Arc;

use clap::Args;

use super::{Shape, Workload, setup};
use crate::engine::Engine;

#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Groups
    #[arg(long, default_value_t = 10)]
    pub groups: usize,
    /// Members of each
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(2..=500))]
    pub members: u16,
    /// Members that send
    #[arg(long, default_value_t = 1)]
    pub senders: u16,
    #[command(flatten)]
    pub shape: Shape,
}

impl Options {
    pub fn closed(groups: usize, members: u16, in_flight: usize) -> Self {
        Self { groups, members, senders: 1, shape: Shape::closed(in_flight) }
    }

    pub fn workload(&self) -> Arc<dyn Workload> {
        Arc::new(Group { groups: self.groups, members: self.members, senders: self.senders.clamp(1, self.members) })
    }
}

struct Group {
    groups: usize,
    members: u16,
    senders: u16,
}

impl Workload for Group {
    fn name(&self) -> String {
        let Self { groups, members, senders } = self;
        format!("group, {groups} of {members}, {senders} senders each")
    }

    fn devices(&self) -> usize {
        self.groups * usize::from(self.members)
    }

    fn prepare(&self, engine: &mut Engine) -> anyhow::Result<()> {
        let mut groups = Vec::new();
        for group in 0..self.groups {
            let mut members = Vec::new();
            for member in 0..usize::from(self.members) {
                let name = engine.name('g', group * usize::from(self.members) + member)?;
                members.push(engine.device(name, group + member));
            }
            let senders = members[..usize::from(self.senders)].to_vec();
            groups.push((members, senders));
        }
        setup::online(engine, groups.iter().flat_map(|(members, _)| members.clone()))?;
        setup::groups(engine, &groups)?;
        setup::introduce(engine)
    }
}
