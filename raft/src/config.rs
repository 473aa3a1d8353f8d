//! Settings of a group. Some are not optional: without them data was lost or writes stood still in experiments.

use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::limits::{APPEND_ENTRIES_MAX, HOT_ROWS_NODE_BYTES_MAX, SNAPSHOT_LOG_ENTRIES, SNAPSHOT_LOG_KEPT};
use flotilla_proto::plant::{self, Plant};
use openraft::{Config, ConfigError, SnapshotPolicy};

/// What the simulator makes smaller: durations, how often snapshots are taken, how much of a log is kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    pub heartbeat: Duration,
    pub election_min: Duration,
    pub election_max: Duration,
    /// For one whole snapshot to one follower.
    pub snapshot_timeout: Duration,
    /// A leader with nothing to propose stamps a tick this often. No row lives for less than an hour yet; those will need
    /// ticks every minute.
    pub tick: Duration,
    /// A snapshot is built after this many entries.
    pub snapshot_entries: u64,
    /// Entries kept behind a snapshot. Generous: a purge that overtakes a queued apply kills the group's core.
    pub kept_entries: u64,
    /// The newest entries of a group's log are kept in memory, for replication; `limits::LOG_CACHE_BYTES_MAX` or less.
    pub log_cache_bytes: usize,
    /// Rows that commands ask for again and again are kept in memory, so many bytes of all groups together;
    /// `limits::HOT_ROWS_NODE_BYTES_MAX` or less.
    pub hot_rows_bytes: usize,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(250),
            // A follower campaigns after the leader's lease (one `election_max`) and a random part of [min, max): so a dead
            // leader is replaced after 1.5 to 2 s, and a live one may be silent for six heartbeats. Where the port of a dead one
            // refuses connections nobody waits for that: `set::succession`.
            election_min: Duration::from_millis(500),
            election_max: Duration::from_millis(1_000),
            snapshot_timeout: Duration::from_secs(600),
            tick: Duration::from_secs(600),
            snapshot_entries: SNAPSHOT_LOG_ENTRIES,
            kept_entries: SNAPSHOT_LOG_KEPT,
            log_cache_bytes: 1024 * 1024,
            hot_rows_bytes: HOT_ROWS_NODE_BYTES_MAX,
        }
    }
}

impl Timings {
    /// Whoever has said nothing for longer is not live. As long as a follower waits for its leader at least: a bound near the time
    /// between two heartbeats takes a replica for dead whenever one of them is late, which on a busy machine is most of the time.
    pub fn silence_max(&self) -> Duration {
        self.election_min + self.election_max
    }

    /// openraft's settings for one group.
    pub fn config(&self, cluster: &str) -> Result<Arc<Config>, ConfigError> {
        let election_max = millis(self.election_max);
        let config = Config {
            cluster_name: cluster.to_owned(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: election_max,
            install_snapshot_timeout: millis(self.snapshot_timeout),
            max_payload_entries: APPEND_ENTRIES_MAX,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_entries),
            max_in_snapshot_log_to_keep: self.kept_entries,
            // Less far behind than this: entries; further: a snapshot. Above what is kept there is no choice anyway.
            replication_lag_threshold: self.snapshot_entries + self.kept_entries,
            // One range deletion for many entries.
            purge_batch_size: self.snapshot_entries.clamp(1, 256),
            // A restarted leader that resumes its vote hands out a log id a second time for another payload, because
            // entries are replicated before they are flushed locally: acknowledged writes vanish after a power loss.
            enable_leader_restore: Some(plant::on(Plant::LeaderRestore)),
            // Without it a one-way cut of a leader's inbound side, or a bridge partition, blocks writes for ever.
            quorum_loss_probe_interval: Some(2 * election_max),
            enable_pre_vote: Some(true),
            // A log that goes back means a replica that forgot a promise: it leaves and comes back under a new id.
            allow_log_reversion: Some(false),
            ..Config::default()
        };
        config.validate().map(Arc::new)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_that_are_not_optional_are_set() {
        let config = Timings::default().config("test").expect("the defaults are valid");
        assert_eq!(config.enable_leader_restore, Some(false));
        assert_eq!(config.enable_pre_vote, Some(true));
        assert_eq!(config.allow_log_reversion, Some(false));
        assert!(config.quorum_loss_probe_interval >= Some(2 * config.election_timeout_max));
        let timings = Timings::default();
        assert!(timings.silence_max() >= 5 * timings.heartbeat, "some of them may be late");
    }
}
