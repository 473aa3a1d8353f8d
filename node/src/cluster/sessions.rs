//! The sessions attached to this gateway, and the one place where pushes are handed to them.
//!
//! Invariant: a push that does not fit a session's queue is never forgotten silently: the session is marked and gets
//! `Resync` as soon as there is room. A session is attached before it is opened, so pushes without a known number are
//! handed over too (the device is the same; repeats are dropped further down).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flotilla_machine::query::SessionSince;
use flotilla_proto::ids::*;
use flotilla_proto::slots;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::wire::PushTo;
use crate::backend::{Attach, AttachGuard, Push};

struct Attached {
    user: UserId,
    slot: Slot,
    device: DeviceId,
    number: Option<SessionNo>,
    rev: Rev,
    pushes: mpsc::Sender<Push>,
    /// Something did not fit the queue.
    lost: bool,
}

#[derive(Default)]
struct Inner {
    next: u64,
    sessions: BTreeMap<u64, Attached>,
    by_device: BTreeMap<DeviceId, Vec<u64>>,
}

#[derive(Clone, Default)]
pub struct SessionTable(Arc<Mutex<Inner>>);

impl SessionTable {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn attach(&self, attach: Attach, pushes: mpsc::Sender<Push>) -> AttachGuard {
        let mut inner = self.lock();
        inner.next += 1;
        let id = inner.next;
        inner.by_device.entry(attach.device).or_default().push(id);
        let slot = slots::of_user(&attach.user);
        let session =
            Attached { user: attach.user, slot, device: attach.device, number: None, rev: Rev(0), pushes, lost: false };
        inner.sessions.insert(id, session);
        drop(inner);
        let table = self.clone();
        AttachGuard::new(id, move |id| table.detach(id))
    }

    fn detach(&self, id: u64) {
        let mut inner = self.lock();
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
            let known = session.number.is_some();
            if session.number.is_none_or(|number| number == to.number) && (known || !matches!(push, Push::End(_))) {
                session.hand(push.clone());
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

    /// Gives `Resync` to sessions that lost a push and have room again. Called by a timer.
    pub fn repair(&self) {
        let mut inner = self.lock();
        for session in inner.sessions.values_mut().filter(|s| s.lost) {
            session.lost = session.pushes.try_send(Push::Resync).is_err();
        }
    }
}

impl Attached {
    fn hand(&mut self, push: Push) {
        if let Err(TrySendError::Full(_)) = self.pushes.try_send(push) {
            self.lost = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attach(table: &SessionTable, device: u128, room: usize) -> (AttachGuard, mpsc::Receiver<Push>) {
        let (tx, rx) = mpsc::channel(room);
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
        table.deliver(&to(1, 1), &Push::Close(4001));
        table.repair();
        assert!(matches!(rx.try_recv(), Ok(Push::Resync)));
        table.repair();
        assert!(matches!(rx.try_recv(), Ok(Push::Resync)), "the lost one is announced once there is room");
        table.repair();
        assert!(rx.try_recv().is_err());
    }

    #[test]
    fn pushes_for_another_number_do_not_reach_a_confirmed_session() {
        let table = SessionTable::default();
        let (guard, mut rx) = attach(&table, 1, 8);
        table.deliver(&to(1, 7), &Push::Close(1));
        assert!(rx.try_recv().is_ok(), "no number yet: the device is enough");
        table.confirm(guard.id, SessionNo(8), Rev(3));
        table.deliver(&to(1, 7), &Push::Close(1));
        assert!(rx.try_recv().is_err());
        assert_eq!(table.to_present(|_| true)[0].since, Rev(3));
        drop(guard);
        assert!(table.is_empty());
    }
}
