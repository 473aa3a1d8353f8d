//! Boot numbers: which directory of a node's, and which start of it.
//!
//! The high half counts the data directories that the node has had, the low half the starts of one. Invariant: whatever a lost
//! directory still says of itself, the next one's numbers are above. The counter-example, with one count for both: 1. a node starts
//! for the fifth time and asks to be registered, 2. its directory is lost before the request arrives, 3. the cluster, which has seen
//! four starts, takes the empty directory back as the fifth, 4. the request arrives: the number of the new life has been seen,
//! and it is refused as a copy of itself for ever. Peers would do the same with its connections.

use std::fmt;

const START_BITS: u32 = 32;

/// Below all numbers of the directory after the one that `seen` is of. None: they are used up.
pub fn of_next_directory(seen: u64) -> Option<u64> {
    let next = (seen >> START_BITS) + 1;
    (next <= u64::MAX >> START_BITS).then_some(next << START_BITS)
}

/// As people read it: `directory.start`, the first directory is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown(pub u64);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{}", (self.0 >> START_BITS) + 1, self.0 & (u64::MAX >> START_BITS));
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_above_all_starts_of_the_one_before_until_there_are_no_more() {
        for seen in [0, 1, 5, u64::from(u32::MAX)] {
            assert_eq!(of_next_directory(seen), Some(1 << 32), "{seen}");
        }
        assert_eq!(of_next_directory((7 << 32) + 9), Some(8 << 32));
        assert_eq!(of_next_directory(u64::MAX - (1 << 32)), Some(u64::MAX << 32));
        assert_eq!(of_next_directory(u64::MAX), None);
        assert_eq!((Shown(5).to_string(), format!("{:>6}", Shown((1 << 32) + 2))), ("1.5".into(), "   2.2".into()));
    }
}
