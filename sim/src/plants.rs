//! The planted bugs by name: what each does, in a sentence. They show that the simulator can fail.
//!
//! Where each is broken stands in the product's sources, at `plant::on(..)`; without `--cfg madsim` none of it exists.

use flotilla_proto::plant::{self, Plant};

pub struct Planted {
    pub name: &'static str,
    pub plant: Plant,
    pub sentence: &'static str,
}

const fn of(plant: Plant, name: &'static str, sentence: &'static str) -> Planted {
    Planted { name, plant, sentence }
}

pub const ALL: [Planted; 26] = [
    of(Plant::AnswerBeforeSync, "answer-before-sync", "log entries count as durable without ever being synced"),
    of(
        Plant::CallbackBeforeSync,
        "callback-before-sync",
        "openraft is told that entries are durable 5 ms before they are written",
    ),
    of(Plant::DropVote, "drop-vote", "a restarted replica does not remember its term and vote"),
    of(Plant::PurgePastDurable, "purge-past-durable", "a purge takes the whole log, also what is not applied"),
    of(
        Plant::SnapshotNonAtomic,
        "snapshot-non-atomic",
        "the pointer flips to a snapshot before the second half of its rows is written",
    ),
    of(
        Plant::ApplyTwice,
        "apply-twice",
        "the applied index is stored one batch late, so a restart applies a batch again",
    ),
    of(Plant::LeaderRestore, "leader-restore", "a restarted leader goes on in its old term without an election"),
    of(Plant::CommitAlone, "commit-alone", "a follower that does not answer counts as having the entries"),
    of(Plant::SkipDedup, "skip-dedup", "dedup rows of earlier terms are not looked at after a leader change"),
    of(
        Plant::PermissionFirst,
        "permission-first",
        "a retry of an accepted send is refused once its sender has been put out: permission before dedup",
    ),
    of(Plant::AfterIgnored, "after-ignored", "a send is taken although the one it names in `after` was not"),
    of(
        Plant::IdsFromWallClock,
        "ids-from-wall-clock",
        "message ids and timestamps follow the leader's clock, also backwards",
    ),
    of(Plant::LostInterval, "lost-interval", "joining again forgets the earlier stays"),
    of(Plant::ReceiptsGoBack, "receipts-go-back", "an older receipt lowers a member's watermarks"),
    of(Plant::ClearDirtyEarly, "clear-dirty-early", "a target's dirty row is cleared before the target has answered"),
    of(
        Plant::SkipNotify,
        "skip-notify",
        "each sixteenth head of a conversation is cleared without being sent to its target",
    ),
    of(Plant::PushUncommitted, "push-uncommitted", "an entry is pushed to sessions before it is proposed"),
    of(
        Plant::IgnoreStreamGap,
        "ignore-stream-gap",
        "a gateway does not mind that numbers of a push stream are missing",
    ),
    of(Plant::StaleRead, "stale-read", "reads at the leader skip the ReadIndex, so a deposed leader answers"),
    of(
        Plant::KeepaliveWithoutQuorum,
        "keepalive-without-quorum",
        "a leader without a quorum goes on sending keepalives to gateways",
    ),
    of(Plant::CursorPastHead, "cursor-past-head", "the ack of the newest entry moves the cursor one past it"),
    of(
        Plant::ForgetFence,
        "forget-fence",
        "a takeover of a node's incarnation neither fences nor sweeps the sessions of the old one",
    ),
    of(
        Plant::DeadIncarnation,
        "dead-incarnation",
        "sessions of a dead incarnation are not swept: pushes are routed to it for ever",
    ),
    of(Plant::OldSessionActs, "old-session-acts", "acks of a session that was replaced still move the cursor"),
    of(Plant::AckOnSend, "ack-on-send", "sending an entry to a device counts as its ack"),
    of(Plant::AckGateHole, "ack-gate-hole", "a gateway sends a pushed entry although the one before it was not sent"),
];

pub fn named(name: &str) -> Option<&'static Planted> {
    ALL.iter().find(|planted| planted.name == name)
}

/// Before the first node starts, on the thread of the run. False: there is no such bug.
pub fn switch_on(name: &str) -> bool {
    let found = named(name);
    plant::set(found.map(|planted| planted.plant));
    found.is_some()
}

pub fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|planted| planted.name)
}

/// For the command line.
pub fn list() -> String {
    ALL.iter().map(|planted| format!("{:<26} {}\n", planted.name, planted.sentence)).collect()
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
