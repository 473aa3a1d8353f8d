//! The planted bugs by name: what each does, in a sentence. They show that the simulator can fail.
//!
//! Where each is broken stands in the product's sources, at `plant::on(..)`; without `--cfg madsim` none of it exists.

use flotilla_proto::plant::{self, Plant};

pub struct Planted {
    pub name: &'static str,
    pub plant: Plant,
    pub sentence: &'static str,
}

/// One line for each: the branch in the product, its name, what it does.
macro_rules! planted {
    ($($plant:ident $name:literal $sentence:literal)*) => {
        pub const ALL: &[Planted] = &[$(Planted { name: $name, plant: Plant::$plant, sentence: $sentence }),*];
    };
}

planted! {
    AnswerBeforeSync "answer-before-sync"
        "log entries count as durable without ever being synced"
    CallbackBeforeSync "callback-before-sync"
        "openraft is told that entries are durable 5 ms before they are written"
    DropVote "drop-vote"
        "a restarted replica does not remember its term and vote"
    PurgePastDurable "purge-past-durable"
        "a purge takes the whole log, also what is not applied"
    SnapshotOnlySyncs "snapshot-only-syncs"
        "a snapshot syncs the log in place of flushing the state, so the log behind it goes before the state is durable"
    SnapshotNonAtomic "snapshot-non-atomic"
        "the pointer flips to a snapshot before the second half of its rows is written"
    ApplyTwice "apply-twice"
        "the applied index is stored one batch late, so a restart applies a batch again"
    LeaderRestore "leader-restore"
        "a restarted leader goes on in its old term without an election"
    CommitAlone "commit-alone"
        "a follower that does not answer counts as having the entries"
    UnseatOnRefusal "unseat-on-refusal"
        "a follower whose connections a leader refuses begins an election without asking the others first"
    SkipDedup "skip-dedup"
        "dedup rows of earlier terms are not looked at after a leader change"
    PermissionFirst "permission-first"
        "a retry of an accepted send is refused once its sender has been put out: permission before dedup"
    AfterIgnored "after-ignored"
        "a send is taken although the one it names in `after` was not"
    IdsFromWallClock "ids-from-wall-clock"
        "message ids and timestamps follow the leader's clock, also backwards"
    LostInterval "lost-interval"
        "joining again forgets the earlier stays"
    ReceiptsGoBack "receipts-go-back"
        "a repeated receipt lowers a member's watermark"
    OneMention "one-mention"
        "of several people whom a message names only the first is told"
    ClearDirtyEarly "clear-dirty-early"
        "a target's dirty row is cleared before the target has answered"
    SkipNotify "skip-notify"
        "each sixteenth head of a conversation is cleared without being sent to its target"
    PushUncommitted "push-uncommitted"
        "an entry is pushed to sessions before it is proposed"
    IgnoreStreamGap "ignore-stream-gap"
        "a gateway minds neither missing numbers nor a broken connection of a push stream"
    StaleRead "stale-read"
        "reads at the leader skip the ReadIndex, so a deposed leader answers"
    KeepaliveWithoutQuorum "keepalive-without-quorum"
        "a leader without a quorum goes on sending keepalives to gateways"
    CursorPastHead "cursor-past-head"
        "the ack of the newest entry moves the cursor one past it"
    ForgetFence "forget-fence"
        "a takeover of a node's incarnation neither fences nor sweeps the sessions of the old one"
    DeadIncarnation "dead-incarnation"
        "sessions of a dead incarnation are not swept: pushes are routed to it for ever"
    OldSessionActs "old-session-acts"
        "acks of a session that was replaced still move the cursor"
    CodeStays "code-stays"
        "a one-time code that was used can be used again"
    GuessForEver "guess-for-ever"
        "wrong tries of a one-time code are not counted"
    AckOnSend "ack-on-send"
        "sending an entry to a device counts as its ack"
    AckGateHole "ack-gate-hole"
        "a gateway sends a pushed entry although the one before it was not sent"
    WatchersForgotten "watchers-forgotten"
        "a gateway does not renew what its clients watch: lost signals about receipts are lost for good"
}

pub fn named(name: &str) -> Option<&'static Planted> {
    ALL.iter().find(|planted| planted.name == name)
}

/// Before the first node starts, on the thread of the run. False: there is no such bug.
pub fn switch_on(name: &str) -> bool {
    let found = named(name);
    plant::set(found.map(|planted| planted.plant));
    found.is_some()
}

/// The story that is about what this bug breaks: where it must fail even if no seed comes to it.
pub fn story(plant: Plant) -> Option<&'static str> {
    Some(match plant {
        Plant::ClearDirtyEarly => "leader_dies_between_accept_and_fan_out",
        Plant::AnswerBeforeSync => "two_nodes_of_three_lose_their_unsynced_tail",
        Plant::ApplyTwice => "whole_cluster_restarts",
        Plant::CommitAlone | Plant::StaleRead => "old_leader_answers_after_a_partition",
        Plant::UnseatOnRefusal => "a_follower_is_refused_by_a_leader_that_lives",
        Plant::KeepaliveWithoutQuorum => "minority_leader_cut_off_together_with_a_gateway",
        Plant::LostInterval => "leave_and_rejoin_with_late_notifications",
        Plant::PermissionFirst => "a_retry_after_a_kick",
        Plant::OldSessionActs => "device_moves_to_another_node_while_its_acks_are_in_flight",
        Plant::ForgetFence | Plant::DeadIncarnation => "a_device_goes_away_together_with_its_gateway",
        Plant::IdsFromWallClock => "clock_jumps_back_one_hour_on_the_leader",
        Plant::SkipNotify => "hello_races_a_notification_with_no_fault_at_all",
        Plant::CursorPastHead => "inbox_leader_dies_after_push_before_the_head_is_durable",
        Plant::SnapshotNonAtomic => "snapshot_install_crashes_half_way",
        Plant::AckOnSend => "gateway_dies_with_a_full_window",
        Plant::WatchersForgotten => "receipts_watched_across_the_death_of_a_leader",
        Plant::CodeStays | Plant::GuessForEver => "wrong_tries_and_the_age_of_a_code_survive_every_leader",
        _ => return None,
    })
}

pub fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|planted| planted.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_planted_bug_has_a_name_of_its_own() {
        for (at, planted) in ALL.iter().enumerate() {
            assert!(ALL[..at].iter().all(|other| other.name != planted.name && other.plant != planted.plant));
            assert_eq!(named(planted.name).map(|found| found.plant), Some(planted.plant));
        }
        assert!(named("none-such").is_none());
    }
}
