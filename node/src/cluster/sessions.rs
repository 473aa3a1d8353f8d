//! The sessions attached to this gateway, and the one place where pushes are handed to them.
//!
//! Invariant: a push that does not fit a session's queue is never forgotten silently: the session is marked and gets
//! `Resync` as soon as there is room; in pull mode, where no row tells of a head, each head that did not fit is handed again. A
//! session is attached before it is opened, so pushes without a known number are handed over too (the device is the same;
//! repeats are dropped further down).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flotilla_machine::effect::Ended;
use flotilla_machine::query::{MarksOf, MarksView, SessionSince, Standing};
use flotilla_proto::entry::Entry;
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_proto::slots;
use tokio::sync::mpsc::error::TrySendError;

use super::receipt_watches;
use super::subscriptions::{Subscriptions, Tell};
use super::watchers::{Seen, Watches};
use super::wire::{PushTo, Subscription};
use crate::backend::{Attach, AttachGuard, Push};
use crate::queue;

struct Attached {
    user: UserId,
    slot: Slot,
    device: DeviceId,
    number: Option<SessionNo>,
    rev: Rev,
    pushes: queue::Sender<Box<Push>>,
    /// Something did not fit the queue.
    lost: bool,
    /// Conversations in pull mode of which a head did not fit; at most the user's.
    heads_lost: BTreeSet<ConvId>,
    /// What ends the session and did not fit the queue: it must not become a mere `Resync`.
    ending: Option<Box<Push>>,
    /// Ends of sessions of this device heard before this one had its number: one of them may be its own.
    early: Vec<(SessionNo, Ended)>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    /// Boxed: ids rise, so nodes of this tree are half empty.
    sessions: BTreeMap<u64, Box<Attached>>,
    by_device: BTreeMap<DeviceId, Vec<u64>>,
    watches: Watches,
    subscriptions: Subscriptions,
    receipts: receipt_watches::Watches,
}

#[derive(Clone, Default)]
pub struct SessionTable(Arc<Mutex<Inner>>);

impl SessionTable {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn attach(&self, attach: Attach, pushes: queue::Sender<Box<Push>>) -> AttachGuard {
        let mut inner = self.lock();
        inner.next += 1;
        let id = inner.next;
        inner.by_device.entry(attach.device).or_default().push(id);
        let slot = slots::of_user(&attach.user);
        let session = Attached {
            user: attach.user,
            slot,
            device: attach.device,
            number: None,
            rev: Rev(0),
            pushes,
            lost: false,
            heads_lost: BTreeSet::new(),
            ending: None,
            early: Vec::new(),
        };
        inner.sessions.insert(id, Box::new(session));
        drop(inner);
        let table = self.clone();
        AttachGuard::new(id, move |id| table.detach(id))
    }

    fn detach(&self, id: u64) {
        let mut inner = self.lock();
        inner.watches.forget(id);
        inner.subscriptions.forget(id);
        inner.receipts.forget(id);
        if let Some(session) = inner.sessions.remove(&id)
            && let Some(ids) = inner.by_device.get_mut(&session.device)
        {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                inner.by_device.remove(&session.device);
            }
        }
    }

    pub fn confirm(&self, id: u64, number: SessionNo, rev: Rev) {
        if let Some(session) = self.lock().sessions.get_mut(&id) {
            session.number = Some(number);
            session.rev = session.rev.max(rev);
            // Why: 1. the open commits, 2. another connection takes over, and the end of this session is told, 3. only now
            // its number is known here. Forgetting the end would leave a connection that never gets anything.
            let early = std::mem::take(&mut session.early);
            if let Some((_, why)) = early.into_iter().find(|(ended, _)| *ended == number) {
                session.hand(Push::End(why));
            }
        }
    }

    pub fn len(&self) -> usize {
        self.lock().sessions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hands a push to the session it names, or to one of the device that has no number yet.
    pub fn deliver(&self, to: &PushTo, push: &Push) {
        let mut inner = self.lock();
        let Inner { sessions, by_device, .. } = &mut *inner;
        for id in by_device.get(&to.device).into_iter().flatten() {
            let Some(session) = sessions.get_mut(id) else { continue };
            match (session.number, push) {
                (None, Push::End(why)) => session.end_early(to.number, *why),
                (Some(number), _) if number != to.number => {}
                _ => {
                    session.hand(push.clone());
                }
            }
        }
    }

    /// The confirmed sessions whose users satisfy `owned`, to be presented to a shard's leader.
    pub fn to_present(&self, owned: impl Fn(Slot) -> bool) -> Vec<SessionSince> {
        let inner = self.lock();
        let confirmed = inner.sessions.values().filter(|s| owned(s.slot));
        confirmed
            .filter_map(|s| {
                let number = s.number?;
                Some(SessionSince { user: s.user.clone(), device: s.device, number, since: s.rev })
            })
            .collect()
    }

    /// After a presentation: sessions that were attached but not among the presented ones read for themselves.
    ///
    /// Why: 1. a session opens and reads its rows; 2. a push for it is lost; 3. the presentation, begun before the session
    /// was confirmed, ends with the stream live again and that push below its position: nobody would miss it.
    pub fn resync_others(&self, owned: impl Fn(Slot) -> bool, presented: &[SessionSince]) {
        let presented: std::collections::BTreeSet<_> = presented.iter().map(|s| (s.device, s.number)).collect();
        let mut inner = self.lock();
        for session in inner.sessions.values_mut().filter(|s| owned(s.slot)) {
            let was_presented = session.number.is_some_and(|n| presented.contains(&(session.device, n)));
            if !was_presented {
                session.hand(Push::Resync);
            }
        }
    }

    /// Closes every session whose user satisfies `owned`.
    pub fn close(&self, owned: impl Fn(Slot) -> bool, code: u16) {
        let mut inner = self.lock();
        for session in inner.sessions.values_mut().filter(|s| owned(s.slot)) {
            session.hand(Push::Close(code));
        }
    }

    /// The session watches these users, and no others. False: too many are watched from here.
    pub fn watch(&self, id: u64, by: &UserId, users: &[UserId]) -> bool {
        let mut inner = self.lock();
        // One that has gone meanwhile watches nobody.
        !inner.sessions.contains_key(&id) || inner.watches.set(id, by, users, limits::WATCHES_PER_NODE_MAX)
    }

    pub fn is_watched(&self, user: &UserId) -> bool {
        self.lock().watches.is_watched(user)
    }

    pub fn watched(&self, wanted: impl Fn(&UserId) -> bool) -> Vec<UserId> {
        self.lock().watches.users(wanted)
    }

    pub fn watch_pairs(&self, users: &[UserId]) -> Vec<(UserId, UserId)> {
        self.lock().watches.pairs_of(users.iter()).into_iter().collect()
    }

    /// What `by` sees of `user` now, for its sessions to whom it is news; `answered` is told in another way. False: a
    /// session's queue was full, look again.
    pub fn saw(&self, by: &UserId, user: &UserId, seen: Seen, answered: Option<u64>) -> bool {
        let mut inner = self.lock();
        let Inner { sessions, watches, .. } = &mut *inner;
        let mut all = true;
        for tell in watches.on_view(by, user, seen).into_iter().filter(|t| Some(t.watcher) != answered) {
            let Some(session) = sessions.get(&tell.watcher) else { continue };
            let push = Push::Presence { user: tell.user, seen };
            if let Err(TrySendError::Full(_)) = session.pushes.try_send(Box::new(push)) {
                watches.untold(tell.watcher, user);
                all = false;
            }
        }
        all
    }

    // Receipts.

    /// The session watches these conversations, and no others. What is to be asked for them; none: too many are watched from here.
    pub fn watch_receipts(&self, id: u64, by: &UserId, list: &BTreeSet<ConvId>) -> Option<Vec<Subscription>> {
        let mut inner = self.lock();
        if !inner.sessions.contains_key(&id) {
            // One that has gone meanwhile watches nothing.
            return Some(Vec::new());
        }
        let fit = inner.receipts.set(id, by, list, limits::RECEIPT_WATCHES_PER_NODE_MAX);
        fit.then(|| inner.receipts.asks_for(by, list))
    }

    /// Unless the session watches others by now.
    pub fn unwatch_receipts(&self, id: u64, list: &BTreeSet<ConvId>) {
        self.lock().receipts.forget_list(id, list);
    }

    /// How many conversations.
    pub fn receipts_watched(&self) -> usize {
        self.lock().receipts.len()
    }

    pub fn receipt_asks(&self, owned: impl Fn(Slot) -> bool, renew: bool) -> Vec<Subscription> {
        self.lock().receipts.asks(owned, renew)
    }

    /// The leader of these conversations may be a new one.
    pub fn receipts_again(&self, owned: impl Fn(Slot) -> bool) {
        self.lock().receipts.again(owned);
    }

    pub fn on_receipts_answer(&self, ask: &Subscription, view: Option<&MarksView>, answered: Option<u64>) {
        let mut inner = self.lock();
        let tells = inner.receipts.on_answer(ask, view, answered);
        inner.tell_receipts(&ask.conv, tells);
    }

    pub fn on_receipts(&self, conv: &ConvId, watchers: &[UserId], marks: &[MarksOf]) {
        let mut inner = self.lock();
        let tells = inner.receipts.on_marks(conv, watchers, marks);
        inner.tell_receipts(conv, tells);
    }

    // Conversations in pull mode.

    /// `mseq` of the user's part in the row that says so.
    pub fn want(&self, id: u64, user: &UserId, conv: &ConvId, mseq: Seq) -> Option<Standing> {
        let mut inner = self.lock();
        // One that has gone meanwhile wants nothing.
        inner.sessions.get(&id)?;
        inner.subscriptions.want(id, user, conv, mseq)
    }

    pub fn awaits(&self, id: u64, conv: &ConvId) -> bool {
        self.lock().subscriptions.awaits(id, conv)
    }

    pub fn standing(&self, id: u64, conv: &ConvId) -> Option<Standing> {
        self.lock().subscriptions.view(id, conv)
    }

    pub fn has_subscriptions(&self) -> bool {
        !self.lock().subscriptions.is_empty()
    }

    pub fn subscriptions(&self, owned: impl Fn(Slot) -> bool, all: bool, renew: bool) -> Vec<Subscription> {
        self.lock().subscriptions.asks(owned, all, renew)
    }

    pub fn on_standing(&self, ask: &Subscription, standing: Option<Standing>) {
        let mut inner = self.lock();
        let tells = inner.subscriptions.on_answer(ask, standing);
        inner.tell(tells);
    }

    /// True: entries are missing.
    pub fn on_pulled(&self, conv: &ConvId, entries: &[Arc<Entry>]) -> bool {
        let mut inner = self.lock();
        let (tells, hole) = inner.subscriptions.on_pulled(conv, entries);
        inner.tell(tells);
        hole
    }

    /// Gives `Resync` to sessions that lost a push and have room again, and the heads that did not fit. Called by a timer.
    pub fn repair(&self) {
        let mut inner = self.lock();
        let Inner { sessions, subscriptions, .. } = &mut *inner;
        for (id, session) in sessions.iter_mut() {
            if session.lost {
                let owed = session.ending.clone().unwrap_or_else(|| Box::new(Push::Resync));
                session.lost = session.pushes.try_send(owed).is_err();
            }
            // Half of the queue is left to what comes meanwhile: or that would be lost in its turn, for ever.
            let Attached { heads_lost, pushes, .. } = &mut **session;
            heads_lost.retain(|conv| {
                if pushes.capacity() <= pushes.max_capacity() / 2 {
                    return true;
                }
                match subscriptions.head_of(*id, conv) {
                    Some(push) => matches!(pushes.try_send(Box::new(push)), Err(TrySendError::Full(_))),
                    None => subscriptions.awaits(*id, conv),
                }
            });
        }
    }
}

impl Inner {
    /// What does not fit comes with the next renewal.
    fn tell_receipts(&mut self, conv: &ConvId, tells: Vec<receipt_watches::Tell>) {
        for receipt_watches::Tell { session, marks } in tells {
            let Some(attached) = self.sessions.get(&session) else { continue };
            let push = Push::Receipts { conv: conv.clone(), marks };
            if let Err(TrySendError::Full(_)) = attached.pushes.try_send(Box::new(push)) {
                self.receipts.untold(session, conv);
            }
        }
    }

    fn tell(&mut self, tells: Vec<Tell>) {
        for Tell { session, push } in tells {
            let Some(session) = self.sessions.get_mut(&session) else { continue };
            let conv = if let Push::Head { conv, .. } = &push { Some(conv.clone()) } else { None };
            if !session.hand(push) {
                session.heads_lost.extend(conv);
            }
        }
    }
}

impl Attached {
    /// False: it did not fit.
    fn hand(&mut self, push: Push) -> bool {
        let Err(TrySendError::Full(push)) = self.pushes.try_send(Box::new(push)) else { return true };
        if !matches!(*push, Push::Typing { .. }) {
            self.lost = true;
            if matches!(*push, Push::End(_) | Push::Close(_)) {
                self.ending.get_or_insert(push);
            }
        }
        false
    }

    fn end_early(&mut self, number: SessionNo, why: Ended) {
        if self.early.len() >= limits::EARLY_ENDS_MAX {
            self.early.remove(0);
        }
        self.early.push((number, why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_machine::query::StandingOf;
    use flotilla_proto::member::{Interval, MembershipPart, Mode};

    fn attach(table: &SessionTable, device: u128, room: usize) -> (AttachGuard, queue::Receiver<Box<Push>>) {
        let (tx, rx) = queue::channel(room);
        let user = UserId::parse("alice").expect("valid");
        let guard = table.attach(Attach { user, device: DeviceId(device), instance: Instance(1), attempt: 1 }, tx);
        (guard, rx)
    }

    fn to(device: u128, number: u64) -> PushTo {
        PushTo { device: DeviceId(device), number: SessionNo(number) }
    }

    #[test]
    fn a_push_that_did_not_fit_becomes_a_resync() {
        let table = SessionTable::default();
        let (_guard, mut rx) = attach(&table, 1, 1);
        table.deliver(&to(1, 1), &Push::Resync);
        table.deliver(&to(1, 1), &Push::Resync);
        table.repair();
        assert!(matches!(rx.try_recv().as_deref(), Some(Push::Resync)));
        table.repair();
        assert!(matches!(rx.try_recv().as_deref(), Some(Push::Resync)), "the lost one is announced once there is room");
        table.repair();
        assert!(rx.try_recv().is_none());
    }

    /// The leader says at this head that the user is a member since 1.
    fn stands(table: &SessionTable, user: &UserId, conv: &ConvId, head: u64) {
        let stay = Interval { from: Seq(1), n_before: Count(0), until: None, n_until: Count(0), history_from: Seq(1) };
        let part = MembershipPart { mseq: Seq(1), intervals: vec![stay], mode: Mode::Pull, role: None };
        let users = vec![Some(StandingOf { part, n_sent: Count(0) })];
        let (head, n_head, last_id, last_ts) = (Seq(head), Count(head), MsgId(head), TsMs(head));
        let standing = Standing { mode: Mode::Pull, head, n_head, last_id, last_ts, users };
        table.on_standing(&Subscription { conv: conv.clone(), users: vec![user.clone()] }, Some(standing));
    }

    #[test]
    fn a_head_that_was_lost_waits_while_those_of_others_are_asked_for() {
        let table = SessionTable::default();
        let (guard, mut rx) = attach(&table, 1, 4);
        let (other, _rx) = attach(&table, 2, 4);
        let [alice, bob] = ["alice", "bob"].map(|name| UserId::parse(name).expect("valid"));
        let conv = ConvId::channel(&alice, Cid(1));
        for (id, user) in [(guard.id, &alice), (other.id, &bob)] {
            table.want(id, user, &conv, Seq(1));
            stands(&table, user, &conv, 7);
        }
        // The stream begins anew, and the queue is full by then.
        table.subscriptions(|_| true, true, false);
        (0..4).for_each(|_| table.deliver(&to(1, 1), &Push::Resync));
        stands(&table, &alice, &conv, 9);
        while rx.try_recv().is_some() {}
        table.repair();
        assert!(matches!(rx.try_recv().as_deref(), Some(Push::Resync)));
        stands(&table, &bob, &conv, 9);
        table.repair();
        assert!(matches!(rx.try_recv().as_deref(), Some(Push::Head { head: Seq(9), .. })));
    }

    #[test]
    fn who_has_more_conversations_in_pull_mode_than_the_queue_holds_hears_of_each_once() {
        let table = SessionTable::default();
        let (guard, mut rx) = attach(&table, 1, 4);
        let alice = UserId::parse("alice").expect("valid");
        let convs: BTreeSet<ConvId> = (0..11).map(|n| ConvId::channel(&alice, Cid(n))).collect();
        for conv in &convs {
            table.want(guard.id, &alice, conv, Seq(1));
            stands(&table, &alice, conv, 7);
        }
        let (mut heads, mut resyncs) = (Vec::new(), 0);
        for _ in 0..20 {
            while let Some(push) = rx.try_recv() {
                match *push {
                    Push::Head { conv, head, .. } => heads.push((conv, head)),
                    Push::Resync => resyncs += 1,
                    other => panic!("not expected: {other:?}"),
                }
            }
            table.repair();
            assert!(rx.waiting() <= 3, "room is left for what comes meanwhile");
        }
        assert_eq!((heads.len(), resyncs), (convs.len(), 1), "and that is the end of it");
        heads.sort();
        assert_eq!(heads, convs.into_iter().map(|conv| (conv, Seq(7))).collect::<Vec<_>>());
    }

    #[test]
    fn an_end_that_did_not_fit_stays_an_end() {
        let table = SessionTable::default();
        let (guard, mut rx) = attach(&table, 1, 1);
        table.confirm(guard.id, SessionNo(1), Rev(0));
        table.deliver(&to(1, 1), &Push::Resync);
        table.deliver(&to(1, 1), &Push::End(Ended::Replaced));
        assert!(matches!(rx.try_recv().as_deref(), Some(Push::Resync)));
        table.repair();
        assert!(matches!(rx.try_recv().as_deref(), Some(Push::End(Ended::Replaced))));
    }

    #[test]
    fn an_end_heard_before_the_number_is_known_is_kept_for_it() {
        let table = SessionTable::default();
        let (guard, mut rx) = attach(&table, 1, 8);
        table.deliver(&to(1, 7), &Push::End(Ended::Superseded));
        table.deliver(&to(1, 8), &Push::End(Ended::Replaced));
        assert!(rx.try_recv().is_none(), "it may be the end of an older session");
        table.confirm(guard.id, SessionNo(8), Rev(3));
        assert!(matches!(rx.try_recv().as_deref(), Some(Push::End(Ended::Replaced))));
        let (other, mut rx) = attach(&table, 2, 8);
        table.deliver(&to(2, 1), &Push::End(Ended::Superseded));
        table.confirm(other.id, SessionNo(2), Rev(3));
        assert!(rx.try_recv().is_none(), "the end of the session before");
    }

    #[test]
    fn pushes_for_another_number_do_not_reach_a_confirmed_session() {
        let table = SessionTable::default();
        let (guard, mut rx) = attach(&table, 1, 8);
        table.deliver(&to(1, 7), &Push::Close(1));
        assert!(rx.try_recv().is_some(), "no number yet: the device is enough");
        table.confirm(guard.id, SessionNo(8), Rev(3));
        table.deliver(&to(1, 7), &Push::Close(1));
        assert!(rx.try_recv().is_none());
        assert_eq!(table.to_present(|_| true)[0].since, Rev(3));
        drop(guard);
        assert!(table.is_empty());
    }
}
