//! The workload `many`: more conversations than are warm. Either among a few users, each pair of whom has one, or all of one
//! user (`--one-user`), who comes back at the end with nothing remembered and is told of every one of them.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::{Shape, Workload, offline, setup};
use crate::engine::Engine;

const LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Direct conversations; the sends of an open loop go to one after the other
    #[arg(long, default_value_t = 100_000)]
    pub conversations: usize,
    /// All of them are of one user, who sends; everybody is online
    #[arg(long)]
    pub one_user: bool,
    #[command(flatten)]
    pub shape: Shape,
}

impl Options {
    pub fn workload(&self) -> Arc<dyn Workload> {
        Arc::new(Many { conversations: self.conversations, one_user: self.one_user })
    }
}

struct Many {
    conversations: usize,
    one_user: bool,
}

impl Workload for Many {
    fn name(&self) -> String {
        let whose = if self.one_user { " of one user" } else { "" };
        format!("many, {} conversations{whose}", self.conversations)
    }

    fn devices(&self) -> usize {
        if self.one_user { 1 + self.conversations } else { enough(self.conversations) }
    }

    fn prepare(&self, engine: &mut Engine) -> anyhow::Result<()> {
        if self.one_user {
            let one = engine.device(engine.name('o', 0)?, 0);
            for at in 0..self.conversations {
                let other = engine.device(engine.name('p', at)?, at);
                engine.direct([one, other], false);
            }
        } else {
            let users = enough(self.conversations);
            for at in 0..users {
                let name = engine.name('m', at)?;
                engine.device(name, at);
            }
            for (a, b) in every_pair(users).take(self.conversations) {
                engine.direct([a, b], false);
            }
        }
        setup::online(engine, 0..engine.devices.len())?;
        setup::introduce(engine)
    }

    fn after(&self, engine: &mut Engine) -> anyhow::Result<()> {
        if !self.one_user {
            return Ok(());
        }
        let limit = engine.clock.now().after(LIMIT);
        engine.turn_until(limit, Engine::is_settled)?;
        engine.ack_now(0);
        let soon = engine.clock.now().after(Duration::from_millis(500));
        engine.turn_until(soon, |_| false)?;
        engine.dismiss(0);
        let begin = engine.clock.now();
        engine.invite([0]);
        engine.turn_until(begin.after(LIMIT), |engine| engine.online == engine.devices.len())?;
        let seconds = engine.clock.now().since(begin) as f64 / 1e6;
        engine.returned = Some(offline::returned(engine, &[0], begin, seconds));
        Ok(())
    }
}

/// The fewest users with so many pairs.
fn enough(pairs: usize) -> usize {
    (2..).find(|users| users * (users - 1) / 2 >= pairs).unwrap_or(2)
}

/// Neighbours on the list of users first, then those two apart, and so on.
fn every_pair(users: usize) -> impl Iterator<Item = (usize, usize)> {
    (1..users).flat_map(move |distance| (0..users - distance).map(move |first| (first, first + distance)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_pair_comes_once_and_there_are_enough() {
        for pairs in [1, 2, 3, 10, 100_000] {
            let users = enough(pairs);
            let all: Vec<_> = every_pair(users).take(pairs).collect();
            assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), pairs, "{users} users");
            assert!(all.iter().all(|(a, b)| a < b && *b < users));
        }
    }
}
