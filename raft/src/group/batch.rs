//! What goes into the next proposal. Pure: knows lanes and bytes, not what waits for an answer.
//!
//! Invariants: commands of one lane keep their order; one lane fills at most half of a batch while others wait, so that a
//! hot conversation cannot keep its whole shard waiting; a batch keeps the bounds of a proposal, but for a single command.

use std::collections::{BTreeMap, VecDeque};

use flotilla_proto::ids::Slot;
use flotilla_proto::limits::{PROPOSAL_BYTES_MAX, PROPOSAL_COMMANDS_MAX};

const LANE_MAX: usize = PROPOSAL_COMMANDS_MAX / 2;
/// Commands put off for the sake of others; with so many waiting, nothing more is taken from the queue.
const DEFERRED_MAX: usize = 4 * PROPOSAL_COMMANDS_MAX;

pub(super) trait Item {
    /// None: the shard's own work.
    fn lane(&self) -> Option<Slot>;
    fn bytes(&self) -> usize;
    /// Nobody waits for it any more, and nothing has happened yet.
    fn is_void(&self) -> bool;
}

/// Commands taken from the queue that found no place in an earlier batch.
pub(super) struct Batcher<T>(VecDeque<T>);

impl<T> Default for Batcher<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T: Item> Batcher<T> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next batch from what was put off and what `more` yields.
    pub fn next(&mut self, first: Option<T>, mut more: impl FnMut() -> Option<T>) -> Vec<T> {
        let mut old = std::mem::take(&mut self.0);
        let mut first = first;
        let mut taken = Taken::default();
        while !taken.full && self.0.len() + old.len() < DEFERRED_MAX {
            let Some(item) = old.pop_front().or_else(|| first.take()).or_else(&mut more) else { break };
            if !item.is_void() {
                taken.offer(item, &mut self.0);
            }
        }
        // Nobody else came: the hot lane may have the rest.
        while !taken.full
            && let Some(item) = self.0.pop_front()
        {
            taken.push(item, &mut self.0);
        }
        self.0.extend(old);
        self.0.extend(first);
        taken.batch
    }
}

struct Taken<T> {
    batch: Vec<T>,
    bytes: usize,
    lanes: BTreeMap<Slot, usize>,
    full: bool,
}

impl<T> Default for Taken<T> {
    fn default() -> Self {
        Self { batch: Vec::new(), bytes: 0, lanes: BTreeMap::new(), full: false }
    }
}

impl<T: Item> Taken<T> {
    /// Takes the item, or puts it off for its lane's sake.
    fn offer(&mut self, item: T, deferred: &mut VecDeque<T>) {
        if let Some(lane) = item.lane() {
            let count = self.lanes.entry(lane).or_default();
            *count += 1;
            if *count > LANE_MAX {
                return deferred.push_back(item);
            }
        }
        self.push(item, deferred);
    }

    fn push(&mut self, item: T, deferred: &mut VecDeque<T>) {
        if !self.batch.is_empty() && self.bytes + item.bytes() > PROPOSAL_BYTES_MAX {
            self.full = true;
            return deferred.push_front(item);
        }
        self.bytes += item.bytes();
        self.batch.push(item);
        self.full = self.batch.len() >= PROPOSAL_COMMANDS_MAX;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone, PartialEq)]
    struct Command {
        lane: u16,
        number: usize,
        bytes: usize,
        void: bool,
    }

    impl Item for Command {
        fn lane(&self) -> Option<Slot> {
            (self.lane > 0).then_some(Slot(self.lane))
        }

        fn bytes(&self) -> usize {
            self.bytes
        }

        fn is_void(&self) -> bool {
            self.void
        }
    }

    fn commands(lanes: impl IntoIterator<Item = u16>) -> VecDeque<Command> {
        let all = lanes.into_iter().enumerate();
        all.map(|(number, lane)| Command { lane, number, bytes: 10, void: false }).collect()
    }

    #[test]
    fn a_hot_lane_leaves_half_of_a_batch_to_others() {
        let mut queue = commands(std::iter::repeat_n(1, 600).chain([2, 2]));
        let mut batcher = Batcher::default();
        let batch = batcher.next(None, || queue.pop_front());
        assert!(batch.iter().filter(|c| c.lane == 2).count() == 2, "the others are not kept waiting");
        assert_eq!(batch.len(), PROPOSAL_COMMANDS_MAX, "and the hot lane has the rest");
    }

    #[test]
    fn a_batch_keeps_its_bytes() {
        let mut queue = commands([1, 2, 3]);
        queue.iter_mut().for_each(|c| c.bytes = PROPOSAL_BYTES_MAX / 2);
        let mut batcher = Batcher::default();
        assert_eq!(batcher.next(None, || queue.pop_front()).len(), 2);
        assert_eq!(batcher.next(None, || queue.pop_front()).len(), 1);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_lanes_keep_their_order(
            lanes in proptest::collection::vec(0u16..4, 0..3_000),
            large in proptest::collection::vec(any::<bool>(), 3_000),
            void in proptest::collection::vec(proptest::bool::weighted(0.1), 3_000),
        ) {
            let mut queue = commands(lanes);
            for command in &mut queue {
                command.bytes = if large[command.number] { PROPOSAL_BYTES_MAX / 100 } else { 1 };
                command.void = void[command.number];
            }
            let wanted: Vec<Command> = queue.iter().filter(|c| !c.void).cloned().collect();
            let mut batcher = Batcher::default();
            let mut got: Vec<Command> = Vec::new();
            loop {
                let first = queue.pop_front();
                let batch = batcher.next(first, || queue.pop_front());
                if batch.is_empty() && batcher.is_empty() && queue.is_empty() {
                    break;
                }
                prop_assert!(batch.len() <= PROPOSAL_COMMANDS_MAX);
                prop_assert!(batch.len() == 1 || batch.iter().map(|c| c.bytes).sum::<usize>() <= PROPOSAL_BYTES_MAX);
                got.extend(batch);
            }
            for lane in 1..4 {
                let of = |all: &[Command]| -> Vec<Command> { all.iter().filter(|c| c.lane == lane).cloned().collect() };
                prop_assert_eq!(of(&got), of(&wanted));
            }
            got.sort_by_key(|c| c.number);
            prop_assert_eq!(got, wanted);
        }
    }
}
