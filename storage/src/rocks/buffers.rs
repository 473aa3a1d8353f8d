//! How large memtables are: small until much is written, so that a node with little to do needs little memory, and small
//! again while a snapshot comes in.
//!
//! A memtable is written out with what is still in it: of a row that was written again, or deleted, only the newest. Log
//! entries live for seconds and hot rows are written all the time, so a larger memtable spares the disk and the compactions
//! most of that. The rows of a snapshot are written once: for them a larger memtable is memory and nothing else.
//!
//! Invariant: only sizes depend on this. Which one is in force decides nothing that a read or a crash can see.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// Over this long is looked at what was written.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes a second from which on memtables are large. A large one takes the processors for longer when it is written out, which is
/// felt where there is still room for every message at once: with 5,000 sends a second on two cores the p99 of accept was 57 to
/// 88 ms with 8 and 16 MiB and 130 ms with 32 in one hour (in another, with this bound at 16 or at 32 MiB a second, it was
/// 88 to 170 ms both times). At full load it is 19,400 accepted a second in place of 15,000.
const MUCH: u64 = 16 * MIB;
/// Bytes a second below which, for so long, they become small again.
const LITTLE: u64 = MIB / 2;
const CALM: Duration = Duration::from_secs(60);

/// Seven to nine eighths of `bytes`: another size for each node.
///
/// Why: replicas are given the same rows at the same time. With one size all of them write their memtables out at the same
/// instants, and every message that needs a majority waits. Measured on two cores with three nodes, 600 sends a second: 60 to
/// 90 ms every two seconds, which alone made the p99.
pub fn apart(bytes: usize, number: u16) -> usize {
    // The golden ratio's multiples keep away from each other, however many there are.
    let turn = number.wrapping_mul(40_503);
    bytes / 8 * 7 + (bytes >> 18) * usize::from(turn)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    Small,
    Large,
}

/// What was written lately, and which size follows.
pub struct Buffers {
    bytes: AtomicU64,
    /// Snapshots that come in.
    bulk: AtomicUsize,
    state: Mutex<State>,
}

struct State {
    looked: Instant,
    size: Size,
    calm: Duration,
    /// The last change was refused: it is tried again at the next look, not with each write.
    refused: bool,
}

impl Buffers {
    pub fn new(now: Instant) -> Self {
        let state = State { looked: now, size: Size::Small, calm: Duration::ZERO, refused: false };
        Self { bytes: AtomicU64::new(0), bulk: AtomicUsize::new(0), state: Mutex::new(state) }
    }

    pub fn bulk(&self, begins: bool) {
        if begins {
            self.bulk.fetch_add(1, Ordering::Relaxed);
        } else {
            self.bulk.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Counts a write, and changes the size where another one is due. `resize` says whether it took; one at a time, so that the
    /// last size decided on is the one in force.
    pub fn wrote(&self, bytes: usize, now: Instant, resize: impl FnOnce(Size) -> bool) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        // Another writer is at it, or one panicked there: then the size stays. Nobody waits.
        let Ok(mut state) = self.state.try_lock() else { return };
        let bulk = self.bulk.load(Ordering::Relaxed) > 0;
        let elapsed = now.saturating_duration_since(state.looked);
        if elapsed < LOOK && !(bulk && state.size == Size::Large && !state.refused) {
            return;
        }
        let written = self.bytes.swap(0, Ordering::Relaxed);
        state.looked = now;
        let size = state.next(written, elapsed, bulk);
        if size != state.size {
            state.refused = !resize(size);
            if !state.refused {
                state.size = size;
            }
        }
    }
}

impl State {
    fn next(&mut self, written: u64, elapsed: Duration, bulk: bool) -> Size {
        let rate = (u128::from(written) * 1_000 / elapsed.as_millis().max(1)) as u64;
        self.calm = if rate < LITTLE { self.calm.saturating_add(elapsed) } else { Duration::ZERO };
        match self.size {
            _ if bulk => Size::Small,
            Size::Small if rate >= MUCH => Size::Large,
            Size::Large if self.calm >= CALM => Size::Small,
            same => same,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_of_a_cluster_have_memtables_of_different_sizes_within_bounds() {
        const BYTES: usize = 8 * MIB as usize;
        let mut sizes: Vec<_> = (1..=9).map(|node| apart(BYTES, node)).collect();
        sizes.sort_unstable();
        assert!(sizes.iter().all(|bytes| (BYTES / 8 * 7..=BYTES / 8 * 9).contains(bytes)), "{sizes:?}");
        let (three, all) = (apart_of(&[1, 2, 3]), apart_of(&[1, 2, 3, 4, 5, 6, 7, 8, 9]));
        assert!(three > BYTES / 20 && all > BYTES / 100, "{three} and {all} bytes between two");
    }

    /// The least difference between two nodes.
    fn apart_of(nodes: &[u16]) -> usize {
        let mut sizes: Vec<_> = nodes.iter().map(|node| apart(8 * MIB as usize, *node)).collect();
        sizes.sort_unstable();
        sizes.windows(2).map(|two| two[1] - two[0]).min().expect("two")
    }

    fn second(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// The size that a write leads to, if it is another one.
    fn change(buffers: &Buffers, bytes: usize, now: Instant) -> Option<Size> {
        let mut to = None;
        buffers.wrote(bytes, now, |size| {
            to = Some(size);
            true
        });
        to
    }

    #[test]
    fn memtables_grow_with_the_load_and_shrink_after_a_calm_minute() {
        let start = Instant::now();
        let buffers = Buffers::new(start);
        assert_eq!(change(&buffers, 64 << 20, start), None, "one burst at the start is no load yet");
        assert_eq!(change(&buffers, 1, start + second(100)), None, "spread over the time since, it is little");
        assert_eq!(change(&buffers, 32 << 20, start + second(101)), Some(Size::Large));
        assert_eq!(change(&buffers, 32 << 20, start + second(102)), None, "it is large already");
        assert_eq!(change(&buffers, 1 << 20, start + second(103)), None);
        for at in 104..163 {
            assert_eq!(change(&buffers, 1_000, start + second(at)), None, "not a minute yet: {at}");
        }
        assert_eq!(change(&buffers, 1_000, start + second(163)), Some(Size::Small));
    }

    #[test]
    fn a_snapshot_makes_them_small_at_once_and_for_as_long_as_it_comes() {
        let start = Instant::now();
        let buffers = Buffers::new(start);
        assert_eq!(change(&buffers, 32 << 20, start + second(1)), Some(Size::Large));
        buffers.bulk(true);
        buffers.bulk(true);
        assert_eq!(change(&buffers, 1, start + second(1)), Some(Size::Small), "in the middle of a second");
        buffers.bulk(false);
        assert_eq!(change(&buffers, 100 << 20, start + second(2)), None, "the other one still comes");
        buffers.bulk(false);
        assert_eq!(change(&buffers, 100 << 20, start + second(3)), Some(Size::Large));
    }

    #[test]
    fn what_was_refused_is_tried_again_a_second_later() {
        let start = Instant::now();
        let buffers = Buffers::new(start);
        assert_eq!(change(&buffers, 64 << 20, start + second(1)), Some(Size::Large));
        buffers.bulk(true);
        let mut asked = 0;
        for ms in [1_000, 1_001, 1_500, 1_999] {
            buffers.wrote(1, start + Duration::from_millis(ms), |_| {
                asked += 1;
                false
            });
        }
        assert_eq!(asked, 1, "not with each write");
        assert_eq!(change(&buffers, 1, start + second(2)), Some(Size::Small));
    }
}
