//! Deliberate bugs, to show that the simulator finds them. Only a build with `--cfg madsim` holds any.
//!
//! Invariant: without that cfg [`on`] is a constant `false` and every planted branch vanishes. At most one plant is on in a
//! process, set once before the run. It stands in the crate that all others know, because rules may be broken anywhere.
//! What each plant is called and does in a sentence stands in the simulator.

/// One deliberate bug; the variant's name says what is wrong while it is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Plant {
    // The log and the disk.
    AnswerBeforeSync,
    CallbackBeforeSync,
    DropVote,
    PurgePastDurable,
    SnapshotOnlySyncs,
    SnapshotNonAtomic,
    ApplyTwice,
    LeaderRestore,
    CommitAlone,
    UnseatOnRefusal,
    // The conversation.
    SkipDedup,
    PermissionFirst,
    AfterIgnored,
    IdsFromWallClock,
    LostInterval,
    ReceiptsGoBack,
    OneMention,
    // The way to the users.
    ClearDirtyEarly,
    SkipNotify,
    PushUncommitted,
    IgnoreStreamGap,
    StaleRead,
    KeepaliveWithoutQuorum,
    // The user's state and sessions.
    CursorPastHead,
    ForgetFence,
    DeadIncarnation,
    OldSessionActs,
    CodeStays,
    GuessForEver,
    // The gateway.
    AckOnSend,
    AckGateHole,
    WatchersForgotten,
}

/// Is this bug on? Asked where it acts, after everything else that must hold for it to act: each `true` is counted.
#[cfg(not(madsim))]
#[inline(always)]
pub const fn on(_plant: Plant) -> bool {
    false
}

/// Is this bug planted at all? For what must be looked up before it is known whether the bug acts: nothing is counted.
#[cfg(not(madsim))]
#[inline(always)]
pub const fn planted(_plant: Plant) -> bool {
    false
}

/// In which term a cid was first applied, against the term of now: see [`Plant::SkipDedup`].
#[cfg(not(madsim))]
#[inline(always)]
pub const fn of_earlier_term(_cid: u128) -> bool {
    false
}

#[cfg(not(madsim))]
#[inline(always)]
pub const fn applying(_term: u64) {}

#[cfg(madsim)]
pub use simulated::{applying, hits, of_earlier_term, on, planted, set};

#[cfg(madsim)]
mod simulated {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;

    use super::Plant;

    thread_local! {
        // The simulator runs all nodes on one thread.
        static PLANTED: Cell<Option<Plant>> = const { Cell::new(None) };
        static HITS: Cell<u64> = const { Cell::new(0) };
        static TERM: Cell<u64> = const { Cell::new(0) };
        // A function of the logs, so all replicas see the same.
        static FIRST: RefCell<BTreeMap<u128, u64>> = const { RefCell::new(BTreeMap::new()) };
    }

    /// From now on this bug is there, on every node of the run.
    pub fn set(plant: Option<Plant>) {
        PLANTED.set(plant);
    }

    /// How often the bug has acted.
    pub fn hits() -> u64 {
        HITS.get()
    }

    pub fn planted(plant: Plant) -> bool {
        PLANTED.get() == Some(plant)
    }

    pub fn on(plant: Plant) -> bool {
        let on = planted(plant);
        if on {
            HITS.set(HITS.get() + 1);
        }
        on
    }

    /// Entries of this term are applied next.
    pub fn applying(term: u64) {
        TERM.set(term);
    }

    /// Notes the term in which the cid comes first; true if that was an earlier one than that of now.
    pub fn of_earlier_term(cid: u128) -> bool {
        if PLANTED.get() != Some(Plant::SkipDedup) {
            return false;
        }
        let first = FIRST.with(|first| *first.borrow_mut().entry(cid).or_insert(TERM.get()));
        first < TERM.get()
    }
}
