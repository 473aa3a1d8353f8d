//! Who watches how far members are, from this gateway, and what is known of it here.
//!
//! Pure: answers and casts of leaders in, news for sessions out. Invariants: a session is told something only if the leader has named
//! its user as a member with just that; marks only rise; a session that has missed something is told all with the next answer that
//! names its user. So a watcher that is right stays right, and one that is not is so again within a renewal.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_machine::query::{MarksOf, MarksView};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_proto::slots;

use super::wire::Subscription;

/// Marks for one session.
#[derive(Debug, PartialEq, Eq)]
pub struct Tell {
    pub session: u64,
    pub marks: Vec<MarksOf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Asked for in the next round, if nothing is answered before.
    Due,
    /// All is told with the next answer.
    Missed,
    Told,
}

struct Conv {
    slot: Slot,
    sessions: BTreeMap<u64, (UserId, State)>,
    /// The highest that was heard.
    known: BTreeMap<UserId, (Seq, Seq)>,
    /// Its leader may be a new one, who knows of no watcher.
    lost: bool,
    /// In pull mode nobody is told anything; it is asked now and then whether that is still so.
    pulled: bool,
}

#[derive(Default)]
pub struct Watches {
    convs: BTreeMap<ConvId, Conv>,
    by_session: BTreeMap<u64, BTreeSet<ConvId>>,
    pairs: usize,
    /// Of all conversations together.
    kept: usize,
}

impl Conv {
    fn new(conv: &ConvId) -> Self {
        let slot = slots::of_conversation(conv);
        Self { slot, sessions: BTreeMap::new(), known: BTreeMap::new(), lost: false, pulled: false }
    }

    fn is_due(&self) -> bool {
        self.lost || self.sessions.values().any(|(_, state)| *state == State::Due)
    }

    fn ask(&self, conv: &ConvId) -> Subscription {
        let asked = self.sessions.values().filter(|(_, state)| !self.pulled || *state == State::Due);
        let users: BTreeSet<&UserId> = asked.map(|(user, _)| user).collect();
        Subscription { conv: conv.clone(), users: users.into_iter().take(limits::STANDINGS_MAX).cloned().collect() }
    }

    /// What of this is news; as much is kept as there is room for.
    fn learn(&mut self, marks: &[MarksOf], kept: &mut usize) -> Vec<MarksOf> {
        let mut news = Vec::new();
        for of in marks {
            let known = self.known.get_mut(&of.user);
            let (delivered, read) = known.as_deref().copied().unwrap_or_default();
            let risen = (delivered.max(of.delivered), read.max(of.read));
            if known.is_some() && risen == (delivered, read) {
                continue;
            }
            match known {
                Some(known) => *known = risen,
                None if *kept < limits::RECEIPT_MARKS_KEPT_MAX => {
                    *kept += 1;
                    self.known.insert(of.user.clone(), risen);
                }
                None => {}
            }
            news.push(MarksOf { user: of.user.clone(), delivered: risen.0, read: risen.1 });
        }
        news
    }
}

impl Watches {
    /// Watches these conversations and no others. False: there are too many in all, and nothing has changed.
    pub fn set(&mut self, session: u64, by: &UserId, convs: &BTreeSet<ConvId>, max: usize) -> bool {
        let before = self.by_session.get(&session).map_or(0, BTreeSet::len);
        if self.pairs - before + convs.len() > max {
            return false;
        }
        self.forget(session);
        if convs.is_empty() {
            return true;
        }
        self.pairs += convs.len();
        for conv in convs {
            let c = self.convs.entry(conv.clone()).or_insert_with(|| Conv::new(conv));
            c.sessions.insert(session, (by.clone(), State::Due));
        }
        self.by_session.insert(session, convs.clone());
        true
    }

    pub fn forget(&mut self, session: u64) {
        let Some(gone) = self.by_session.remove(&session) else { return };
        self.pairs -= gone.len();
        for conv in gone {
            let Some(c) = self.convs.get_mut(&conv) else { continue };
            c.sessions.remove(&session);
            if c.sessions.is_empty() {
                self.kept -= c.known.len();
                self.convs.remove(&conv);
            }
        }
    }

    /// As [`Watches::forget`], unless another list is watched by now.
    pub fn forget_list(&mut self, session: u64, list: &BTreeSet<ConvId>) {
        if self.by_session.get(&session) == Some(list) {
            self.forget(session);
        }
    }

    pub fn len(&self) -> usize {
        self.convs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.convs.is_empty()
    }

    /// What is asked for the list that this user watches.
    pub fn asks_for(&self, by: &UserId, list: &BTreeSet<ConvId>) -> Vec<Subscription> {
        let mut asks: Vec<_> = list.iter().filter_map(|conv| Some(self.convs.get(conv)?.ask(conv))).collect();
        // Whoever else watches is asked for again; this one waits for its answer.
        for ask in asks.iter_mut().filter(|ask| !ask.users.contains(by)) {
            ask.users.pop();
            ask.users.push(by.clone());
        }
        asks
    }

    /// What is to be asked of the conversations with these slots: what is due, or everything.
    pub fn asks(&self, owned: impl Fn(Slot) -> bool, renew: bool) -> Vec<Subscription> {
        let due = self.convs.iter().filter(|(_, c)| owned(c.slot) && (renew || c.is_due()));
        due.map(|(conv, c)| c.ask(conv)).collect()
    }

    /// Their leader may be a new one.
    pub fn again(&mut self, owned: impl Fn(Slot) -> bool) {
        self.convs.values_mut().filter(|c| owned(c.slot)).for_each(|c| c.lost = true);
    }

    /// Read at the leader. `answered` is told in another way. None: there is no such conversation.
    pub fn on_answer(&mut self, ask: &Subscription, view: Option<&MarksView>, answered: Option<u64>) -> Vec<Tell> {
        let Self { convs, kept, .. } = self;
        let Some(c) = convs.get_mut(&ask.conv) else { return Vec::new() };
        let none = MarksView::default();
        let view = view.unwrap_or(&none);
        c.lost = false;
        let left_pull_mode = std::mem::replace(&mut c.pulled, view.pulled) && !view.pulled;
        let before = c.known.len();
        c.known.retain(|user, _| view.marks.iter().any(|of| of.user == *user));
        *kept -= before - c.known.len();
        let news = c.learn(&view.marks, kept);
        let mut tells = Vec::new();
        for (session, (user, state)) in &mut c.sessions {
            if !view.pulled && view.watchers.contains(user) {
                let marks = if *state == State::Told { news.clone() } else { view.marks.clone() };
                *state = State::Told;
                if !marks.is_empty() && Some(*session) != answered {
                    tells.push(Tell { session: *session, marks });
                }
            } else if ask.users.contains(user) {
                *state = State::Missed;
            } else if left_pull_mode || *state == State::Told && !news.is_empty() {
                // Whether it may know, this answer does not say.
                *state = State::Due;
            }
        }
        tells
    }

    /// A leader says that these have moved, and which of the users here may know it.
    pub fn on_marks(&mut self, conv: &ConvId, watchers: &[UserId], marks: &[MarksOf]) -> Vec<Tell> {
        let Self { convs, kept, .. } = self;
        let Some(c) = convs.get_mut(conv) else { return Vec::new() };
        let news = c.learn(marks, kept);
        if news.is_empty() {
            return Vec::new();
        }
        let mut tells = Vec::new();
        for (session, (user, state)) in &mut c.sessions {
            if watchers.contains(user) {
                tells.push(Tell { session: *session, marks: news.clone() });
            } else if *state == State::Told {
                *state = State::Missed;
            }
        }
        tells
    }

    /// It could not be told after all.
    pub fn untold(&mut self, session: u64, conv: &ConvId) {
        if let Some((_, state)) = self.convs.get_mut(conv).and_then(|c| c.sessions.get_mut(&session)) {
            *state = State::Missed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::parse(name).expect("valid")
    }

    fn conv(n: u128) -> ConvId {
        ConvId::group(&user("ann"), Cid(n))
    }

    fn list(convs: &[u128]) -> BTreeSet<ConvId> {
        convs.iter().map(|n| conv(*n)).collect()
    }

    fn marks(of: &[(&str, u64, u64)]) -> Vec<MarksOf> {
        let one = |(name, delivered, read): &(&str, u64, u64)| MarksOf {
            user: user(name),
            delivered: Seq(*delivered),
            read: Seq(*read),
        };
        of.iter().map(one).collect()
    }

    fn view(watchers: &[&str], of: &[(&str, u64, u64)]) -> MarksView {
        MarksView { pulled: false, watchers: watchers.iter().map(|name| user(name)).collect(), marks: marks(of) }
    }

    fn ask(watches: &Watches, n: u128) -> Subscription {
        watches.asks_for(&user("bob"), &list(&[n])).remove(0)
    }

    fn tell(session: u64, of: &[(&str, u64, u64)]) -> Tell {
        Tell { session, marks: marks(of) }
    }

    /// Ann with session 1, and bob with session 2, both told.
    fn two() -> Watches {
        let mut watches = Watches::default();
        for (session, name) in [(1, "ann"), (2, "bob")] {
            assert!(watches.set(session, &user(name), &list(&[7]), 10));
            let ask = ask(&watches, 7);
            let all = view(&["ann", "bob"], &[("ann", 3, 3), ("bob", 2, 1)]);
            watches.on_answer(&ask, Some(&all), Some(session));
        }
        assert!(watches.asks(|_| true, false).is_empty());
        watches
    }

    #[test]
    fn only_marks_that_move_are_told_and_they_never_go_back() {
        let mut watches = two();
        let both = [user("ann"), user("bob")];
        let news = watches.on_marks(&conv(7), &both, &marks(&[("bob", 3, 1), ("ann", 3, 3)]));
        assert_eq!(news, [tell(1, &[("bob", 3, 1)]), tell(2, &[("bob", 3, 1)])]);
        assert!(watches.on_marks(&conv(7), &both, &marks(&[("bob", 3, 1), ("ann", 2, 1)])).is_empty());
        let news = watches.on_marks(&conv(7), &both, &marks(&[("bob", 2, 2)]));
        assert_eq!(news[0], tell(1, &[("bob", 3, 2)]), "the highest of each");
        // What was lost comes with the renewal, and nothing else does.
        let renewal = watches.asks(|_| true, true).remove(0);
        assert_eq!(renewal.users, both);
        let all = view(&["ann", "bob"], &[("ann", 9, 3), ("bob", 3, 2)]);
        let told = watches.on_answer(&renewal, Some(&all), None);
        assert_eq!(told, [tell(1, &[("ann", 9, 3)]), tell(2, &[("ann", 9, 3)])]);
    }

    #[test]
    fn who_is_no_member_is_told_nothing_until_it_is_one_again_and_then_all() {
        let mut watches = two();
        let news = watches.on_marks(&conv(7), &[user("bob")], &marks(&[("bob", 3, 3)]));
        assert_eq!(news, [tell(2, &[("bob", 3, 3)])]);
        let renewal = watches.asks(|_| true, true).remove(0);
        let without = view(&["bob"], &[("bob", 3, 3)]);
        assert!(watches.on_answer(&renewal, Some(&without), None).is_empty());
        assert!(watches.asks(|_| true, false).is_empty(), "no hurry");
        let with = view(&["ann", "bob"], &[("ann", 3, 3), ("bob", 3, 3)]);
        assert_eq!(
            watches.on_answer(&renewal, Some(&with), None),
            [tell(1, &[("ann", 3, 3), ("bob", 3, 3)]), tell(2, &[("ann", 3, 3)])]
        );
    }

    #[test]
    fn what_a_session_could_not_take_comes_whole_with_the_next_answer() {
        let mut watches = two();
        watches.untold(2, &conv(7));
        let renewal = watches.asks(|_| true, true).remove(0);
        let all = [("ann", 3, 3), ("bob", 2, 1)];
        assert_eq!(watches.on_answer(&renewal, Some(&view(&["ann", "bob"], &all)), None), [tell(2, &all)]);
    }

    #[test]
    fn a_session_that_an_answer_does_not_speak_of_is_asked_for_again() {
        let mut watches = two();
        let old = ask(&watches, 7);
        assert!(watches.set(3, &user("eve"), &list(&[7]), 10));
        let of = [("ann", 3, 3), ("bob", 2, 1), ("eve", 1, 0)];
        let now = ask(&watches, 7);
        watches.on_answer(&now, Some(&view(&["ann", "bob", "eve"], &of)), Some(3));
        let of = [("ann", 4, 3), ("bob", 2, 1), ("eve", 1, 0)];
        watches.on_answer(&old, Some(&view(&["ann", "bob"], &of)), None);
        assert_eq!(watches.asks(|_| true, false).len(), 1, "eve was not told of 4");
        watches.again(|_| true);
        assert_eq!(watches.asks(|_| true, false).remove(0).users.len(), 3);
    }

    #[test]
    fn in_pull_mode_nobody_is_asked_for_by_name_until_it_ends() {
        let mut watches = two();
        let renewal = watches.asks(|_| true, true).remove(0);
        let pulled = MarksView { pulled: true, ..view(&["ann", "bob"], &[]) };
        assert!(watches.on_answer(&renewal, Some(&pulled), None).is_empty());
        let renewal = watches.asks(|_| true, true).remove(0);
        assert!(renewal.users.is_empty());
        let of = [("ann", 4, 4), ("bob", 4, 4)];
        assert!(watches.on_answer(&renewal, Some(&view(&[], &of)), None).is_empty());
        let again = watches.asks(|_| true, false).remove(0);
        let told = watches.on_answer(&again, Some(&view(&["ann", "bob"], &of)), None);
        assert_eq!(told, [tell(1, &of), tell(2, &of)]);
    }

    #[test]
    fn a_new_list_replaces_the_old_one_and_all_is_bounded() {
        let mut watches = two();
        assert!(!watches.set(3, &user("eve"), &list(&[1, 2]), 3));
        assert!(watches.set(2, &user("bob"), &list(&[1, 2]), 3));
        assert!(watches.on_marks(&conv(7), &[user("bob")], &marks(&[("bob", 9, 9)])).is_empty());
        watches.forget_list(2, &list(&[1]));
        assert_eq!(watches.len(), 3, "another list by now");
        watches.forget_list(2, &list(&[1, 2]));
        watches.forget(1);
        assert!(watches.is_empty());
        assert_eq!((watches.pairs, watches.kept), (0, 0));
    }
}
