//! The next single step from a group's committed membership to the wished one. Pure.
//!
//! Invariants: a step never makes a set of voters of which no majority is live and caught up; a replica votes only after it has
//! caught up as a learner; the leader never removes itself; one step at a time, and every wish whose replicas live is reached.
//! The wish is the placement table's, the truth is the group's own. It does not know how a step is done.

use std::collections::BTreeSet;

use flotilla_proto::ids::ReplicaId;

/// Who shall replicate a group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    pub voters: BTreeSet<ReplicaId>,
    /// Replicas that follow without a vote.
    pub learners: BTreeSet<ReplicaId>,
}

impl Wish {
    pub fn of_voters(voters: impl IntoIterator<Item = ReplicaId>) -> Self {
        Self { voters: voters.into_iter().collect(), learners: BTreeSet::new() }
    }

    fn contains(&self, id: &ReplicaId) -> bool {
        self.voters.contains(id) || self.learners.contains(id)
    }
}

/// What the leader sees of its group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// One set of voters, or two while a change is between its halves.
    pub configs: Vec<BTreeSet<ReplicaId>>,
    pub learners: BTreeSet<ReplicaId>,
    /// The newest membership is committed.
    pub settled: bool,
    pub leader: Option<ReplicaId>,
    /// Replicas that answer and hold nearly all of the log, the leader included.
    pub good: BTreeSet<ReplicaId>,
}

/// One change of a membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The wish is reached.
    Done,
    /// Nothing can be done safely now; the reason is for operators.
    Wait(&'static str),
    /// A change was left between its halves: finish it.
    Settle(BTreeSet<ReplicaId>),
    AddLearner(ReplicaId),
    /// Exactly these vote from now on; whoever leaves this set leaves the group.
    Voters(BTreeSet<ReplicaId>),
    /// The leader is to leave: another one first.
    HandOver(ReplicaId),
    RemoveLearner(ReplicaId),
}

/// The next step.
pub fn next(wish: &Wish, seen: &Seen) -> Step {
    let voters = match &seen.configs[..] {
        _ if !seen.settled => return Step::Wait("a change of the membership is under way"),
        [] => return Step::Wait("the group has no membership yet"),
        [voters] => voters,
        [.., last] => return Step::Settle(last.clone()),
    };
    if wish.voters.is_empty() {
        return Step::Wait("nobody is wished to vote");
    }
    if !majority_good(voters, &seen.good) {
        return Step::Wait("no majority of the voters is live and caught up");
    }
    let present = |id: &ReplicaId| voters.contains(id) || seen.learners.contains(id);
    if let Some(missing) = wish.voters.iter().chain(&wish.learners).find(|id| !present(id)) {
        return Step::AddLearner(*missing);
    }
    if let Some(step) = change_voters(wish, seen, voters) {
        return step;
    }
    match seen.learners.iter().find(|id| !wish.contains(id)) {
        Some(extra) => Step::RemoveLearner(*extra),
        None => Step::Done,
    }
}

/// A promotion, a removal, or both in one: a replacement keeps the number of voters.
fn change_voters(wish: &Wish, seen: &Seen, voters: &BTreeSet<ReplicaId>) -> Option<Step> {
    let ready = wish.voters.iter().find(|id| !voters.contains(id) && seen.good.contains(id));
    let waiting = wish.voters.iter().any(|id| !voters.contains(id));
    // The dead leave first; the leader last, and by another leader.
    let unwished = voters.iter().filter(|id| !wish.voters.contains(id));
    let leaving = unwished.min_by_key(|id| (seen.leader == Some(**id), seen.good.contains(id), **id));
    match (ready, leaving) {
        (None, None) if waiting => Some(Step::Wait("a wished voter has not caught up")),
        (None, None) => None,
        (Some(ready), None) => Some(grow_or_wait(voters, *ready, &seen.good)),
        (None, Some(_)) if waiting && voters.len() <= wish.voters.len() => {
            Some(Step::Wait("a wished voter has not caught up"))
        }
        (ready, Some(leaving)) if seen.leader == Some(*leaving) => Some(match (ready, successor(wish, seen, voters)) {
            (_, Some(successor)) => Step::HandOver(successor),
            (Some(ready), None) => grow_or_wait(voters, *ready, &seen.good),
            (None, None) => Step::Wait("no wished voter can take the leadership"),
        }),
        (ready, Some(leaving)) => {
            let mut next = voters.clone();
            next.remove(leaving);
            next.extend(ready);
            let safe = !next.is_empty() && majority_good(&next, &seen.good);
            Some(if safe {
                Step::Voters(next)
            } else {
                Step::Wait("without the leaving voter there would be no quorum")
            })
        }
    }
}

fn grow_or_wait(voters: &BTreeSet<ReplicaId>, ready: ReplicaId, good: &BTreeSet<ReplicaId>) -> Step {
    let mut next = voters.clone();
    next.insert(ready);
    if majority_good(&next, good) {
        Step::Voters(next)
    } else {
        Step::Wait("with one more voter there would be no quorum")
    }
}

fn successor(wish: &Wish, seen: &Seen, voters: &BTreeSet<ReplicaId>) -> Option<ReplicaId> {
    wish.voters.iter().find(|id| voters.contains(id) && seen.good.contains(id)).copied()
}

/// Whether the good ones among `voters` are a majority of them.
pub fn majority_good(voters: &BTreeSet<ReplicaId>, good: &BTreeSet<ReplicaId>) -> bool {
    voters.intersection(good).count() > voters.len() / 2
}

#[cfg(test)]
mod tests {
    use flotilla_proto::ids::{Generation, NodeId};
    use proptest::prelude::*;

    use super::*;

    fn r(node: u16, generation: u32) -> ReplicaId {
        ReplicaId::new(NodeId(node), Generation(generation))
    }

    fn set(ids: &[ReplicaId]) -> BTreeSet<ReplicaId> {
        ids.iter().copied().collect()
    }

    fn seen(voters: &[ReplicaId], learners: &[ReplicaId], good: &[ReplicaId]) -> Seen {
        Seen {
            configs: vec![set(voters)],
            learners: set(learners),
            settled: true,
            leader: voters.first().copied(),
            good: set(good),
        }
    }

    /// A group that does what it is told. Learners catch up unless they are dead.
    struct Model {
        seen: Seen,
        dead: BTreeSet<ReplicaId>,
    }

    impl Model {
        fn perform(&mut self, step: &Step) {
            match step {
                Step::AddLearner(id) => {
                    self.seen.learners.insert(*id);
                    if !self.dead.contains(id) {
                        self.seen.good.insert(*id);
                    }
                }
                Step::Voters(next) | Step::Settle(next) => {
                    assert!(majority_good(next, &self.seen.good), "{next:?} has no live majority");
                    assert!(self.seen.leader.is_none_or(|l| next.contains(&l)), "the leader removed itself");
                    let last = self.seen.configs.last().expect("has a membership").clone();
                    let fresh = next.difference(&last).collect::<Vec<_>>();
                    assert!(fresh.iter().all(|id| self.seen.learners.contains(id) && self.seen.good.contains(id)));
                    self.seen.learners.retain(|id| !next.contains(id));
                    self.seen.configs = vec![next.clone()];
                }
                Step::HandOver(to) => {
                    assert!(self.seen.configs[0].contains(to) && self.seen.good.contains(to));
                    self.seen.leader = Some(*to);
                }
                Step::RemoveLearner(id) => assert!(self.seen.learners.remove(id)),
                Step::Done | Step::Wait(_) => {}
            }
        }
    }

    fn replicas() -> impl Strategy<Value = BTreeSet<ReplicaId>> {
        proptest::collection::btree_set((1u16..7, 1u32..3).prop_map(|(n, g)| r(n, g)), 1..6)
    }

    proptest! {
        #[test]
        fn any_wish_of_live_replicas_is_reached_and_no_step_loses_the_quorum(
            voters in replicas(), wished in replicas(), learners in replicas(), dead in replicas(), joint in replicas(),
            half_way in any::<bool>(), with_learners in any::<bool>(), leader in any::<prop::sample::Index>(),
        ) {
            let extra: BTreeSet<_> = if with_learners { learners.difference(&wished).copied().collect() } else { BTreeSet::new() };
            let wish = Wish { voters: wished, learners: extra };
            // Old replicas may be dead, as long as the group works at all; wished ones live.
            let dead: BTreeSet<_> = dead.into_iter().filter(|id| !wish.contains(id)).collect();
            let mut configs = vec![voters.clone()];
            if half_way {
                configs.push(joint);
            }
            let all: BTreeSet<_> = configs.iter().flatten().copied().collect();
            let good: BTreeSet<_> = all.difference(&dead).copied().collect();
            prop_assume!(configs.iter().all(|c| majority_good(c, &good)));
            let last = configs.last().expect("one at least").clone();
            let leaders: Vec<_> = last.intersection(&good).copied().collect();
            let leader = Some(*leader.get(&leaders));
            let mut model = Model { seen: Seen { configs, learners: BTreeSet::new(), settled: true, leader, good }, dead };
            let mut steps = Vec::new();
            for _ in 0..64 {
                let step = next(&wish, &model.seen);
                model.perform(&step);
                let stop = matches!(step, Step::Done | Step::Wait(_));
                steps.push(step);
                if stop {
                    break;
                }
            }
            prop_assert_eq!(steps.last(), Some(&Step::Done), "{:?}", steps);
            prop_assert_eq!(&model.seen.configs, &vec![wish.voters.clone()]);
            prop_assert_eq!(&model.seen.learners, &wish.learners);
        }

        #[test]
        fn whatever_is_dead_no_step_makes_a_set_without_a_live_majority(
            voters in replicas(), wished in replicas(), learners in replicas(), dead in replicas(),
        ) {
            let learners: BTreeSet<_> = learners.difference(&voters).copied().collect();
            let good: BTreeSet<_> = voters.union(&learners).filter(|id| !dead.contains(id)).copied().collect();
            let leader = voters.intersection(&good).next().copied();
            let seen = Seen { configs: vec![voters.clone()], learners, settled: true, leader, good };
            let wish = Wish { voters: wished, learners: BTreeSet::new() };
            let mut model = Model { seen, dead };
            for _ in 0..64 {
                // The model asserts at every step.
                let step = next(&wish, &model.seen);
                model.perform(&step);
            }
        }
    }

    #[test]
    fn replica_of_a_new_generation_replaces_the_damaged_one_in_one_change() {
        let (a, b, old, new) = (r(1, 1), r(2, 1), r(3, 1), r(3, 2));
        let wish = Wish::of_voters([a, b, new]);
        assert_eq!(next(&wish, &seen(&[a, b, old], &[], &[a, b])), Step::AddLearner(new));
        let behind = next(&wish, &seen(&[a, b, old], &[new], &[a, b]));
        assert_eq!(behind, Step::Wait("a wished voter has not caught up"));
        assert_eq!(next(&wish, &seen(&[a, b, old], &[new], &[a, b, new])), Step::Voters(set(&[a, b, new])));
        assert_eq!(next(&wish, &seen(&[a, b, new], &[], &[a, b, new])), Step::Done);
    }

    #[test]
    fn leader_that_is_to_leave_hands_over_first() {
        let (a, b, c) = (r(1, 1), r(2, 1), r(3, 1));
        assert_eq!(next(&Wish::of_voters([b, c]), &seen(&[a, b, c], &[], &[a, b, c])), Step::HandOver(b));
        assert_eq!(next(&Wish::of_voters([b, c]), &seen(&[a, b, c], &[], &[a, c])), Step::HandOver(c));
        let cut_off = next(&Wish::of_voters([b, c]), &seen(&[a, b, c], &[], &[a]));
        assert_eq!(cut_off, Step::Wait("no majority of the voters is live and caught up"));
    }

    #[test]
    fn change_between_its_halves_is_finished_first() {
        let (a, b, c, d) = (r(1, 1), r(2, 1), r(3, 1), r(4, 1));
        let mut joint = seen(&[a, b, c], &[], &[a, b, c, d]);
        joint.configs.push(set(&[a, b, d]));
        assert_eq!(next(&Wish::of_voters([a, b, c]), &joint), Step::Settle(set(&[a, b, d])));
        joint.settled = false;
        assert!(matches!(next(&Wish::of_voters([a, b, c]), &joint), Step::Wait(_)));
    }
}
