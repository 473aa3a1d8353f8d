//! The feature level of shards, as their leaders told, and what a refusal means while a level is on its way to them.
//!
//! A level is the control group's first. Then it comes to the tables of each node and, with the settings, to each shard: in no
//! order, and to a node that is cut off last of all. Until it is there a shard refuses what only the level brings, and so does a
//! node that has not heard of it. Whoever is told that a value is not allowed drops the command, which a moment later would have
//! been taken; so such a refusal waits here, and becomes "unavailable" when there is no time left.
//!
//! Invariants: a level never falls, so what was heard of a shard holds for ever. A refusal for which a level may be the reason is
//! passed on only if the shard was known to be at the level before it was asked, or if the cluster is not.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use flotilla_machine::{Answer, Fatal, Query, Rejection, meta};
use flotilla_proto::ids::ShardId;
use tokio::time::Instant;

use super::Cluster;
use super::router::pause_or_give_up;
use crate::backend::{CallError, Freshness};

/// Where every cluster begins.
const LOWEST: u32 = 1;

/// The highest level that was heard of each shard.
#[derive(Debug, Default)]
pub struct Levels(Mutex<BTreeMap<ShardId, u32>>);

impl Levels {
    fn note(&self, shard: ShardId, level: u32) {
        let mut levels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = levels.entry(shard).or_insert(LOWEST);
        *known = level.max(*known);
    }

    /// False also where nothing was heard.
    pub fn has(&self, shard: ShardId, level: u32) -> bool {
        if level <= LOWEST {
            return true;
        }
        let levels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        levels.get(&shard).copied().unwrap_or(LOWEST) >= level
    }
}

/// Whether a level that is missing is refused like this: by name, or as a group that is full by the older bound.
pub fn may_be_of_level(rejection: &Rejection) -> bool {
    matches!(rejection, Rejection::Validation(_) | Rejection::ConversationFull)
}

/// An older build in a cluster that was raised above it would refuse what the others do, and must not become part of it. A raise
/// asks every node first; who was not of the cluster then, or was replaced since, is met here.
pub fn check_known(level: u32) -> Result<(), String> {
    meta::check_level(level).map_err(|newer: Fatal| format!("the cluster is ahead of this binary: {newer}"))
}

impl Cluster {
    /// Whether the cluster is at this level; then it returns once the shard is, too. An error says that nobody can tell now.
    pub(super) async fn comes_to_level(
        &self,
        shard: ShardId,
        level: u32,
        deadline: Instant,
    ) -> Result<bool, CallError> {
        if !self.is_at_level(level, deadline).await? {
            return Ok(false);
        }
        loop {
            match self.query_by(shard, Query::ShardState, &Freshness::Linearizable, deadline).await? {
                Answer::ShardState(state) => self.levels.note(shard, state.settings.feature_level),
                _ => return Err(CallError::Unavailable),
            }
            if self.levels.has(shard, level) {
                return Ok(true);
            }
            pause_or_give_up(deadline).await?;
        }
    }

    /// By the control group, if this node's tables do not say so already.
    async fn is_at_level(&self, level: u32, deadline: Instant) -> Result<bool, CallError> {
        if self.level() >= level {
            return Ok(true);
        }
        let fresh = Freshness::Linearizable;
        match self.query_by(ShardId::CONTROL, Query::ControlState, &fresh, deadline).await? {
            Answer::ControlState(Some(state)) => {
                let is_there = state.settings.feature_level >= level;
                self.take_tables(state).await;
                Ok(is_there)
            }
            _ => Err(CallError::Unavailable),
        }
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::limits;

    use super::*;

    #[test]
    fn a_level_above_what_this_binary_knows_is_refused_with_what_to_do() {
        assert_eq!(check_known(limits::FEATURE_LEVEL), Ok(()));
        let why = check_known(limits::FEATURE_LEVEL + 1).expect_err("unknown");
        assert!(why.contains("start a newer one"), "{why}");
    }

    #[test]
    fn a_level_never_falls_and_is_the_lowest_where_nothing_was_heard() {
        let (levels, shard) = (Levels::default(), ShardId(3));
        assert!(levels.has(shard, LOWEST) && !levels.has(shard, LOWEST + 1));
        levels.note(shard, 4);
        // An answer that was on its way for long.
        levels.note(shard, 3);
        assert!(levels.has(shard, 4) && !levels.has(shard, 5) && !levels.has(ShardId(4), 4));
    }
}
