//! This gateway's subscriptions to conversations in pull mode, and what they mean for its sessions. Pure: answers and pushes
//! in, news for sessions out.
//!
//! Invariant: a session is told of an entry only if its user's part says so, and the part holds every change of membership up
//! to that entry: it comes with the conversation's answer (a ReadIndex at its leader), and from there on each entry that is
//! pushed is applied to all parts before anybody is told of it. So a member kicked at 60 gets nothing above 60.
//!
//! `known` is the entry up to which the parts are right. An answer that was read below it is not taken: 1. B's answer is read
//! at 8, 2. an entry 9 that kicks B is pushed and applied to all that are known here, 3. B's answer arrives and knows nothing of
//! 9. A hole in what is pushed makes all parts of the conversation be asked for again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use flotilla_machine::query::{Standing, StandingOf};
use flotilla_proto::entry::{Entry, What};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_proto::member::{MembershipPart, Mode};
use flotilla_proto::slots;

use super::wire::Subscription;
use crate::backend::Push;

/// News for one session.
#[derive(Debug)]
pub struct Tell {
    pub session: u64,
    pub push: Push,
}

/// The last entry of a conversation that is known, with what belongs to it: a client is never shown the time of one entry
/// with the seq of another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Top {
    head: Seq,
    n_head: Count,
    last_id: MsgId,
    last_ts: TsMs,
}

impl Top {
    fn of_entry(entry: &Entry) -> Self {
        Self { head: entry.seq, n_head: entry.n, last_id: entry.msg_id, last_ts: entry.ts }
    }

    fn of_standing(standing: &Standing) -> Self {
        let Standing { head, n_head, last_id, last_ts, .. } = *standing;
        Self { head, n_head, last_id, last_ts }
    }
}

struct Own {
    user: UserId,
    /// None: not answered yet.
    standing: Option<StandingOf>,
    /// Answered, and nothing was missed since.
    fresh: bool,
    /// Of the answer.
    top: Top,
}

#[derive(Default)]
struct Conv {
    sessions: BTreeMap<u64, Own>,
    known: Option<Top>,
    /// Something was missed: all parts are asked for again.
    stale: bool,
    /// Contiguous entries that were pushed while the parts are asked for.
    waiting: Vec<Arc<Entry>>,
    /// A head that the leader told of and that was not pushed by then.
    heard: Seq,
}

#[derive(Default)]
pub struct Subscriptions {
    convs: BTreeMap<ConvId, Conv>,
    by_session: BTreeMap<u64, BTreeSet<ConvId>>,
}

impl Subscriptions {
    /// The session of `user` wants to hear of `conv`. What is known of it, or none: the leader must be asked.
    pub fn want(&mut self, session: u64, user: &UserId, conv: &ConvId) -> Option<Standing> {
        let c = self.convs.entry(conv.clone()).or_default();
        self.by_session.entry(session).or_default().insert(conv.clone());
        let own = || Own { user: user.clone(), standing: None, fresh: false, top: Top::default() };
        c.sessions.entry(session).or_insert_with(own);
        self.view(session, conv)
    }

    /// What is known of the conversation for a session. None: not answered, or perhaps old.
    pub fn view(&self, session: u64, conv: &ConvId) -> Option<Standing> {
        let c = self.convs.get(conv).filter(|c| !c.stale)?;
        let own = c.sessions.get(&session).filter(|own| own.fresh)?;
        let standing = own.standing.clone()?;
        let Top { head, n_head, last_id, last_ts } = c.known?.max(own.top);
        Some(Standing { mode: Mode::Pull, head, n_head, last_id, last_ts, users: vec![Some(standing)] })
    }

    /// All heads that a session was told of: it may have lost some.
    pub fn heads_of(&self, session: u64) -> Vec<Tell> {
        let convs = self.by_session.get(&session).into_iter().flatten();
        let tell = |conv: &ConvId| {
            let standing = self.view(session, conv)?;
            let own = standing.users.first()?.as_ref()?;
            Some(Tell { session, push: head(conv, &own.part, (standing.head, standing.n_head), Vec::new()) })
        };
        convs.filter_map(tell).collect()
    }

    pub fn forget(&mut self, session: u64) {
        for conv in self.by_session.remove(&session).unwrap_or_default() {
            self.drop_one(&conv, session);
        }
    }

    fn drop_one(&mut self, conv: &ConvId, session: u64) {
        if let Some(c) = self.convs.get_mut(conv) {
            c.sessions.remove(&session);
            if c.sessions.is_empty() {
                self.convs.remove(conv);
            }
        }
    }

    fn drop_from(&mut self, conv: &ConvId, sessions: &[u64]) {
        for session in sessions {
            if let Some(convs) = self.by_session.get_mut(session) {
                convs.remove(conv);
                if convs.is_empty() {
                    self.by_session.remove(session);
                }
            }
            self.drop_one(conv, *session);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.convs.is_empty()
    }

    /// What to ask the leaders of some slots. `all`: the parts of all sessions, because pushes may have been missed; otherwise
    /// those that are owed, and with `renew` the bare names of the others.
    pub fn asks(&mut self, owned: impl Fn(Slot) -> bool, all: bool, renew: bool) -> Vec<Subscription> {
        let mut asks = Vec::new();
        for (conv, c) in &mut self.convs {
            if !owned(slots::of_conversation(conv)) {
                continue;
            }
            if all {
                c.miss();
            }
            let owed = c.sessions.values().filter(|own| !own.fresh);
            let users: BTreeSet<&UserId> = owed.map(|own| &own.user).collect();
            let users: Vec<UserId> = users.into_iter().cloned().collect();
            if users.is_empty() && !renew {
                continue;
            }
            if users.is_empty() {
                asks.push(Subscription { conv: conv.clone(), users: Vec::new() });
            }
            for users in users.chunks(limits::STANDINGS_MAX).map(<[_]>::to_vec) {
                asks.push(Subscription { conv: conv.clone(), users });
            }
        }
        asks
    }

    /// The leader's answer. None: there is no such conversation.
    pub fn on_answer(&mut self, ask: &Subscription, standing: Option<Standing>) -> Vec<Tell> {
        let Some(c) = self.convs.get_mut(&ask.conv) else { return Vec::new() };
        let Some(standing) = standing else {
            let sessions: Vec<u64> = c.sessions.keys().copied().collect();
            self.drop_from(&ask.conv, &sessions);
            return Vec::new();
        };
        let top = Top::of_standing(&standing);
        if c.known.is_some_and(|known| top.head < known.head) {
            return Vec::new();
        }
        if ask.users.is_empty() {
            c.check_heard(top.head);
        }
        let mut tells = Vec::new();
        let mut done = Vec::new();
        let own: BTreeMap<&UserId, &Option<StandingOf>> = ask.users.iter().zip(&standing.users).collect();
        for (session, s) in &mut c.sessions {
            let Some(own) = own.get(&s.user) else { continue };
            let Some(own) = own else {
                done.push(*session);
                continue;
            };
            (s.standing, s.fresh, s.top) = (Some((*own).clone()), true, top);
            let push = head(&ask.conv, &own.part, (top.head, top.n_head), Vec::new());
            tells.push(Tell { session: *session, push });
            if standing.mode == Mode::Push || !own.part.is_member() {
                done.push(*session);
            }
        }
        if c.known.is_none() {
            c.known = Some(top);
        }
        // All parts are right up to the lowest of their answers' heads, and what waits goes on from there.
        if c.stale && c.sessions.values().all(|s| s.fresh || s.standing.is_none()) {
            c.stale = false;
            c.known = c.sessions.values().filter(|s| s.fresh).map(|s| s.top).min().or(c.known);
        }
        let waiting = if c.stale { Vec::new() } else { std::mem::take(&mut c.waiting) };
        self.drop_from(&ask.conv, &done);
        tells.extend(self.on_pulled(&ask.conv, &waiting).0);
        tells
    }

    /// Committed entries, contiguous. True: some before them are missing, ask again.
    pub fn on_pulled(&mut self, conv: &ConvId, entries: &[Arc<Entry>]) -> (Vec<Tell>, bool) {
        let Some(c) = self.convs.get_mut(conv) else { return (Vec::new(), false) };
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return (Vec::new(), false) };
        let known = match c.known {
            Some(known) if !c.stale && first.seq <= known.head.next() => known.head,
            known => {
                let hole = known.is_some();
                if hole && !c.stale {
                    c.miss();
                }
                c.wait(entries);
                return (Vec::new(), hole);
            }
        };
        let news = &entries[entries.iter().take_while(|entry| entry.seq <= known).count()..];
        if news.is_empty() {
            return (Vec::new(), false);
        }
        news.iter().for_each(|entry| c.apply(entry));
        c.known = Some(Top::of_entry(last));
        let (mut tells, mut done) = (Vec::new(), Vec::new());
        for (session, own) in &c.sessions {
            let Some(StandingOf { part, .. }) = &own.standing else { continue };
            let mine: Vec<_> = news.iter().filter(|entry| part.receives(entry.seq)).cloned().collect();
            if !mine.is_empty() {
                tells.push(Tell { session: *session, push: head(conv, part, (last.seq, last.n), mine) });
            }
            if !part.is_member() {
                done.push(*session);
            }
        }
        self.drop_from(conv, &done);
        (tells, false)
    }
}

impl Conv {
    /// They are looked at once the parts are here. Above the bound, or behind a hole, only the newest are kept.
    fn wait(&mut self, entries: &[Arc<Entry>]) {
        let next = self.waiting.last().map_or(Seq::ZERO, |last| last.seq.next());
        if entries.first().is_some_and(|first| first.seq > next)
            || self.waiting.len() + entries.len() > limits::PULLED_WAITING_MAX
        {
            self.waiting.clear();
        }
        let next = self.waiting.last().map_or(Seq::ZERO, |last| last.seq.next());
        self.waiting.extend(entries.iter().filter(|entry| entry.seq >= next).cloned());
    }

    /// A head that a renewal told of, and that was not pushed by the next one, was missed.
    fn check_heard(&mut self, head: Seq) {
        if self.known.is_some_and(|known| self.heard > known.head) {
            self.miss();
        }
        self.heard = head;
    }

    /// No part is right any more.
    fn miss(&mut self) {
        self.stale = true;
        self.sessions.values_mut().for_each(|own| own.fresh = false);
    }

    /// Membership in line, and the reader's own messages.
    fn apply(&mut self, entry: &Entry) {
        let gone = match &entry.what {
            Some(What::Remove { user }) => Some(user),
            Some(What::Leave { .. }) => Some(&entry.from),
            _ => None,
        };
        for own in self.sessions.values_mut() {
            let Some(standing) = &mut own.standing else { continue };
            if entry.kind == "message" && entry.from == own.user {
                standing.n_sent = standing.n_sent.max(entry.n);
            }
            if gone == Some(&own.user) && entry.seq > standing.part.mseq {
                end(&mut standing.part, entry);
            }
        }
    }
}

fn end(part: &mut MembershipPart, entry: &Entry) {
    if let Some(stay) = part.intervals.last_mut().filter(|stay| stay.until.is_none()) {
        stay.until = Some(entry.seq);
        stay.n_until = entry.n;
    }
    part.mseq = entry.seq;
    part.role = None;
}

fn head(conv: &ConvId, part: &MembershipPart, (head, n_head): (Seq, Count), entries: Vec<Arc<Entry>>) -> Push {
    let (head, n_head) = (part.effective_head(head), part.effective_n(n_head));
    Push::Head { conv: conv.clone(), head, n_head, revs: Vec::new(), entries }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_proto::member::Interval;

    fn user(name: &str) -> UserId {
        UserId::parse(name).expect("valid")
    }

    fn conv() -> ConvId {
        ConvId::channel(&user("ann"), Cid(1))
    }

    fn member(from: u64) -> StandingOf {
        let stay =
            Interval { from: Seq(from), n_before: Count(0), until: None, n_until: Count(0), history_from: Seq(from) };
        let part = MembershipPart { mseq: Seq(from), intervals: vec![stay], mode: Mode::Pull, role: None };
        StandingOf { part, n_sent: Count(0) }
    }

    fn answer(head: u64, users: Vec<Option<StandingOf>>) -> Option<Standing> {
        let (head, n_head) = (Seq(head), Count(head));
        Some(Standing { mode: Mode::Pull, head, n_head, last_id: MsgId(head.0), last_ts: TsMs(1), users })
    }

    fn entry(seq: u64, what: What) -> Arc<Entry> {
        Arc::new(Entry {
            conv: conv(),
            seq: Seq(seq),
            n: Count(seq),
            msg_id: MsgId(seq),
            ts: TsMs(seq),
            from: user("ann"),
            device: DeviceId(1),
            cid: Cid(seq.into()),
            kind: what.kind().to_owned(),
            what: Some(what),
            body_hash: Hash32::default(),
            chain: Hash32::default(),
        })
    }

    fn says(seq: u64) -> Arc<Entry> {
        let body = Blob::from(b"x".to_vec());
        entry(seq, What::Message { kind: "message".into(), body, reply_to: None, mentions: vec![], media: None })
    }

    fn asked(users: &[&str]) -> Subscription {
        Subscription { conv: conv(), users: users.iter().map(|name| user(name)).collect() }
    }

    /// (session, effective head, seqs)
    fn told(tells: &[Tell]) -> Vec<(u64, u64, Vec<u64>)> {
        let one = |tell: &Tell| match &tell.push {
            Push::Head { head, entries, .. } => (tell.session, head.0, entries.iter().map(|e| e.seq.0).collect()),
            other => panic!("expected a head, got {other:?}"),
        };
        tells.iter().map(one).collect()
    }

    /// Bob (1) and cyd (2), at head 5.
    fn two() -> Subscriptions {
        let mut all = Subscriptions::default();
        for (session, name) in [(1, "bob"), (2, "cyd")] {
            assert!(all.want(session, &user(name), &conv()).is_none());
            let tells = all.on_answer(&asked(&[name]), answer(5, vec![Some(member(2))]));
            assert_eq!(told(&tells), [(session, 5, vec![])]);
        }
        all
    }

    #[test]
    fn a_member_kicked_at_7_gets_7_and_nothing_above() {
        let mut all = two();
        let kick = entry(7, What::Remove { user: user("bob") });
        let (tells, hole) = all.on_pulled(&conv(), &[says(6), kick, says(8)]);
        assert!(!hole);
        assert_eq!(told(&tells), [(1, 7, vec![6, 7]), (2, 8, vec![6, 7, 8])]);
        let (tells, _) = all.on_pulled(&conv(), &[says(8), says(9)]);
        assert_eq!(told(&tells), [(2, 9, vec![9])], "repeats are nobody's news");
        assert!(all.view(1, &conv()).is_none());
        assert_eq!(all.view(2, &conv()).map(|view| view.head), Some(Seq(9)));
    }

    #[test]
    fn an_answer_that_was_read_before_an_entry_that_is_known_is_not_taken() {
        let mut all = two();
        all.want(3, &user("dan"), &conv());
        all.on_pulled(&conv(), &[entry(6, What::Remove { user: user("dan") })]);
        assert!(all.on_answer(&asked(&["dan"]), answer(5, vec![Some(member(2))])).is_empty());
        assert!(all.view(3, &conv()).is_none());
        assert_eq!(all.asks(|_| true, false, false), [asked(&["dan"])], "asked for again");
    }

    #[test]
    fn a_hole_stops_everything_until_all_parts_were_told_again() {
        let mut all = two();
        let (tells, hole) = all.on_pulled(&conv(), &[says(7)]);
        assert!(tells.is_empty() && hole);
        assert!(all.view(1, &conv()).is_none());
        assert!(all.on_pulled(&conv(), &[says(8)]).1, "the parts may be wrong by now");
        assert!(all.on_pulled(&conv(), &[says(9)]).1);
        assert_eq!(all.asks(|_| true, false, false), [asked(&["bob", "cyd"])]);
        // The answer to one of them does not make the other's part right.
        assert_eq!(told(&all.on_answer(&asked(&["cyd"]), answer(7, vec![Some(member(2))]))), [(2, 7, vec![])]);
        assert!(all.view(1, &conv()).is_none() && all.on_pulled(&conv(), &[says(9)]).0.is_empty());
        // Bob was removed by 6, which nobody saw.
        let mut bob = member(2);
        end(&mut bob.part, &says(6));
        let tells = all.on_answer(&asked(&["bob", "cyd"]), answer(8, vec![Some(bob), Some(member(2))]));
        assert_eq!(told(&tells), [(1, 6, vec![]), (2, 8, vec![]), (2, 9, vec![9])], "what came meanwhile has waited");
        assert_eq!(told(&all.on_pulled(&conv(), &[says(10)]).0), [(2, 10, vec![10])]);
    }

    #[test]
    fn a_head_that_is_told_twice_and_never_pushed_is_a_hole_too() {
        let mut all = two();
        let renewal = asked(&[]);
        assert_eq!(all.asks(|_| true, false, true), std::slice::from_ref(&renewal));
        assert!(all.on_answer(&renewal, answer(6, vec![])).is_empty());
        assert!(all.asks(|_| true, false, false).is_empty(), "it may be on its way");
        let shown = all.view(1, &conv()).map(|view| (view.head, view.last_id));
        assert_eq!(shown, Some((Seq(5), MsgId(5))), "not the time of 6 with the head of 5");
        all.on_answer(&renewal, answer(6, vec![]));
        assert_eq!(all.asks(|_| true, false, false), [asked(&["bob", "cyd"])]);
    }

    #[test]
    fn a_conversation_back_in_push_mode_is_told_of_once_more_and_forgotten() {
        let mut all = two();
        let mut back = answer(9, vec![Some(member(2)), Some(member(2))]).expect("an answer");
        back.mode = Mode::Push;
        let ask = all.asks(|_| true, true, false).remove(0);
        assert_eq!(told(&all.on_answer(&ask, Some(back))).len(), 2);
        assert_eq!((all.convs.len(), all.by_session.len()), (0, 0));
        let mut all = two();
        all.forget(1);
        all.forget(2);
        assert_eq!((all.convs.len(), all.by_session.len()), (0, 0));
    }
}
