//! One user of a conversation in pull mode, whose rows, pushed entries and answers come late and by ways of their own: whatever the
//! order, nothing is told that is not the user's, and a member ends up with a subscription.

use flotilla_proto::entry::Entry;
use proptest::prelude::*;

use super::tests::{answer, conv, entry, says, user};
use super::*;
use flotilla_proto::member::Interval;

/// The device of the user, and that of another one who stays for good.
const OWN: u64 = 1;
const OTHER: u64 = 2;

#[derive(Debug, Clone)]
enum Step {
    Says,
    Adds,
    Removes,
    /// The user's row, with its newest part, is looked at.
    Row,
    /// The conversation's leader answers what is asked for; the answer is on its way.
    Ask,
    /// The n-th of the answers on their way comes, or is lost.
    Answer(usize),
    Lose(usize),
    /// So many entries are pushed, or get lost on their way.
    Push(usize),
    Hole(usize),
    /// Another leader: all is asked for again.
    All,
}

struct World {
    all: Subscriptions,
    log: Vec<Arc<Entry>>,
    /// The user's stays.
    part: MembershipPart,
    /// The part that the row told of last.
    row: Seq,
    answers: Vec<(Subscription, Option<Standing>)>,
    pushed: usize,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            all: Subscriptions::default(),
            log: vec![says(1)],
            part: MembershipPart { mode: Mode::Pull, ..Default::default() },
            row: Seq::ZERO,
            answers: Vec::new(),
            pushed: 1,
        };
        world.all.want(OTHER, &user("cyd"), &conv(), Seq(1));
        world
    }

    fn append(&mut self, what: Option<What>) {
        let seq = self.log.len() as u64 + 1;
        self.log.push(match what {
            None => says(seq),
            Some(what) => entry(seq, what),
        });
    }

    fn standing(&self, ask: &Subscription) -> Option<Standing> {
        let (bob, ever) = (user("bob"), !self.part.intervals.is_empty());
        let always = MembershipPart { mseq: Seq(1), intervals: vec![stay(1)], mode: Mode::Pull, role: None };
        let of = |part: &MembershipPart| StandingOf { part: part.clone(), n_sent: Count(0) };
        let users = ask.users.iter().map(|user| match *user == bob {
            true => ever.then(|| of(&self.part)),
            false => Some(of(&always)),
        });
        answer(self.log.len() as u64, users.collect())
    }

    /// Nothing is told that is not of a stay, whatever is told.
    fn check(&self, tells: &[Tell]) {
        for tell in tells.iter().filter(|tell| tell.session == OWN) {
            let Push::Head { entries, .. } = &tell.push else { panic!("a head") };
            assert!(entries.iter().all(|entry| self.part.receives(entry.seq)), "{entries:?} of {:?}", self.part);
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Says => self.append(None),
            Step::Adds if !self.part.is_member() => {
                self.append(Some(What::Add { users: vec![user("bob")] }));
                self.part.mseq = Seq(self.log.len() as u64);
                self.part.intervals.push(stay(self.part.mseq.0));
            }
            Step::Removes if self.part.is_member() => {
                self.append(Some(What::Remove { user: user("bob") }));
                let last = self.log.last().cloned().expect("just appended");
                end(&mut self.part, &last);
            }
            Step::Adds | Step::Removes => {}
            // It is looked at when it has changed, and once for each change: what is lost then is lost.
            Step::Row => {
                if self.row < self.part.mseq && self.part.is_pulled() {
                    self.all.want(OWN, &user("bob"), &conv(), self.part.mseq);
                }
                self.row = self.part.mseq;
            }
            Step::Ask => self.ask(false, false),
            Step::All => self.ask(true, false),
            Step::Answer(n) if !self.answers.is_empty() => {
                let (ask, standing) = self.answers.remove(n % self.answers.len());
                let tells = self.all.on_answer(&ask, standing);
                self.check(&tells);
            }
            Step::Lose(n) if !self.answers.is_empty() => {
                self.answers.remove(n % self.answers.len());
            }
            Step::Answer(_) | Step::Lose(_) => {}
            Step::Push(n) => {
                let to = (self.pushed + n).min(self.log.len());
                let (tells, _) = self.all.on_pulled(&conv(), &self.log[self.pushed..to]);
                self.check(&tells);
                self.pushed = to;
            }
            Step::Hole(n) => self.pushed = (self.pushed + n).min(self.log.len()),
        }
    }

    fn ask(&mut self, all: bool, renew: bool) {
        let asks = self.all.asks(|_| true, all, renew);
        let answers: Vec<_> = asks.into_iter().map(|ask| (self.standing(&ask), ask)).collect();
        self.answers.extend(answers.into_iter().map(|(standing, ask)| (ask, standing)));
    }

    /// What is owed comes, nothing is lost any more.
    fn settle(&mut self) {
        self.step(&Step::Row);
        while !self.answers.is_empty() {
            self.step(&Step::Answer(0));
        }
        self.step(&Step::Push(usize::MAX / 2));
        // What is owed, two renewals that find a hole, and what they found to be owed.
        for _ in 0..4 {
            self.ask(false, true);
            while !self.answers.is_empty() {
                self.step(&Step::Answer(0));
            }
        }
    }
}

fn stay(from: u64) -> Interval {
    Interval { from: Seq(from), n_before: Count(0), until: None, n_until: Count(0), history_from: Seq(from) }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => Just(Step::Says),
        3 => Just(Step::Adds),
        3 => Just(Step::Removes),
        4 => Just(Step::Row),
        4 => Just(Step::Ask),
        4 => (0usize..4).prop_map(Step::Answer),
        1 => (0usize..4).prop_map(Step::Lose),
        4 => (1usize..4).prop_map(Step::Push),
        1 => (1usize..3).prop_map(Step::Hole),
        1 => Just(Step::All),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_member_ends_up_with_a_subscription_and_others_without_one(steps in steps()) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.step(step));
        world.settle();
        let head = Seq(world.log.len() as u64);
        prop_assert_eq!(world.all.view(OTHER, &conv()).map(|view| view.head), Some(head));
        let own = world.all.view(OWN, &conv()).map(|view| view.head);
        prop_assert_eq!(own, world.part.is_member().then_some(head), "{:?}", world.part);
    }
}
