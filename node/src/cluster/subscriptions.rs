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
//!
//! A subscription begins with a row that says that its user is a member, and ends with a newer part that says otherwise. Rows
//! and pushes come by different ways, so the end of an older stay may be heard after the row of a newer one: [`Own::takes`] is
//! the one rule of what is newer.

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
    /// The newest change of membership that the user's row has told of.
    told: Seq,
    /// None: not answered yet, or not since the row told of a change.
    standing: Option<StandingOf>,
    /// Answered, and nothing was missed since.
    fresh: bool,
    /// Of the newest answer.
    top: Top,
}

impl Own {
    fn new(user: &UserId) -> Self {
        Self { user: user.clone(), told: Seq::ZERO, standing: None, fresh: false, top: Top::default() }
    }

    /// Whether an answer that was read at this head says where the user stands: one from below the row's news, or from below
    /// another answer, does not. Why: 1. bob, who is known here, is removed by 6 and in again by 7, 2. his row tells of 7,
    /// 3. an answer that was read at 6, or the pushed entry 6, comes late: it is not the end of what the row has begun, and no
    /// other row comes to begin it again.
    fn takes(&self, head: Seq) -> bool {
        head >= self.told.max(self.top.head)
    }

    /// The row's part is of this seq. What was answered below it counts no more.
    fn hear(&mut self, mseq: Seq) {
        self.told = self.told.max(mseq);
        if !self.takes(self.top.head) {
            (self.standing, self.fresh) = (None, false);
        }
    }

    fn take(&mut self, standing: &StandingOf, top: Top) {
        (self.standing, self.fresh, self.top) = (Some(standing.clone()), true, top);
    }
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
    /// The session of `user` wants to hear of `conv`, for its row says so with a part of `mseq`. What is known of it, or none:
    /// the leader must be asked.
    pub fn want(&mut self, session: u64, user: &UserId, conv: &ConvId, mseq: Seq) -> Option<Standing> {
        let c = self.convs.entry(conv.clone()).or_default();
        self.by_session.entry(session).or_default().insert(conv.clone());
        c.sessions.entry(session).or_insert_with(|| Own::new(user)).hear(mseq);
        self.view(session, conv)
    }

    /// Whether an answer is still to come.
    pub fn awaits(&self, session: u64, conv: &ConvId) -> bool {
        self.convs.get(conv).is_some_and(|c| c.sessions.contains_key(&session)) && self.view(session, conv).is_none()
    }

    /// What is known of the conversation for a session. None: not answered, or perhaps old.
    pub fn view(&self, session: u64, conv: &ConvId) -> Option<Standing> {
        let c = self.convs.get(conv).filter(|c| !c.stale)?;
        let own = c.sessions.get(&session).filter(|own| own.fresh)?;
        let standing = own.standing.clone()?;
        let Top { head, n_head, last_id, last_ts } = c.known?.max(own.top);
        Some(Standing { mode: Mode::Pull, head, n_head, last_id, last_ts, users: vec![Some(standing)] })
    }

    /// The head of a conversation for a session that lost it. None: not now, while an answer is awaited, or its own row knows.
    pub fn head_of(&self, session: u64, conv: &ConvId) -> Option<Push> {
        let standing = self.view(session, conv)?;
        let own = standing.users.first()?.as_ref()?;
        Some(head(conv, &own.part, (standing.head, standing.n_head), Vec::new()))
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
        for (session, s) in c.sessions.iter_mut().filter(|(_, s)| s.takes(top.head)) {
            let Some(own) = own.get(&s.user) else { continue };
            let Some(own) = own else {
                done.push(*session);
                continue;
            };
            s.take(own, top);
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
mod model;
#[cfg(test)]
pub(super) mod tests;
