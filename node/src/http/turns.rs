//! Who has streams open on this node: so many in all, of one user and of one device.
//!
//! A device that opens one more than it may have gets it, and its oldest one ends: whoever connects again after its network was
//! gone must not wait until this node has noticed. Invariant: what is counted is what is open, also while it ends. Soft and
//! local: each node counts for itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flotilla_proto::ids::{DeviceId, UserId};
use flotilla_proto::limits;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("too many streams are open on this node")]
    Node,
    #[error("at most {} streams of one user on a node", limits::INBOX_STREAMS_PER_USER_MAX)]
    User,
}

struct Stream {
    number: u64,
    device: DeviceId,
    /// It gives way to a newer one.
    ends: Arc<AtomicBool>,
}

/// The open ones, oldest first. Only who has some is in it.
#[derive(Default)]
struct Open {
    all: usize,
    last: u64,
    of: BTreeMap<UserId, Vec<Stream>>,
}

#[derive(Default)]
pub struct Turns(Arc<Mutex<Open>>);

/// One open stream.
pub struct Turn {
    open: Arc<Mutex<Open>>,
    user: UserId,
    number: u64,
    ends: Arc<AtomicBool>,
}

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Turns {
    pub fn enter(&self, user: &UserId, device: DeviceId) -> Result<Turn, Refused> {
        let mut open = lock(&self.0);
        if open.all >= limits::INBOX_STREAMS_MAX {
            return Err(Refused::Node);
        }
        if open.of.get(user).is_some_and(|own| own.len() >= limits::INBOX_STREAMS_PER_USER_MAX) {
            return Err(Refused::User);
        }
        open.all += 1;
        open.last += 1;
        let number = open.last;
        let own = open.of.entry(user.clone()).or_default();
        let live = || own.iter().filter(|stream| stream.device == device && !stream.ends.load(Ordering::Relaxed));
        if live().count() >= limits::INBOX_STREAMS_PER_DEVICE_MAX
            && let Some(oldest) = live().next()
        {
            oldest.ends.store(true, Ordering::Relaxed);
        }
        let ends = Arc::new(AtomicBool::new(false));
        own.push(Stream { number, device, ends: ends.clone() });
        Ok(Turn { open: self.0.clone(), user: user.clone(), number, ends })
    }
}

impl Turn {
    /// A newer one has taken its place.
    pub fn has_ended(&self) -> bool {
        self.ends.load(Ordering::Relaxed)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        open.all -= 1;
        let Some(own) = open.of.get_mut(&self.user) else { return };
        own.retain(|stream| stream.number != self.number);
        if own.is_empty() {
            open.of.remove(&self.user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(n: usize) -> UserId {
        UserId::parse(&format!("u{n}")).expect("valid")
    }

    #[test]
    fn the_oldest_of_a_device_gives_way_and_a_user_has_few_also_while_they_end() {
        let turns = Turns::default();
        let enter = |device| turns.enter(&user(1), DeviceId(device));
        let mut open: Vec<Turn> = (0..5).map(|_| enter(1).expect("room")).collect();
        assert_eq!(open.iter().map(Turn::has_ended).collect::<Vec<_>>(), [true, true, true, false, false]);
        open.extend((2..=4).map(|device| enter(device).expect("room")));
        assert!(!open[3].has_ended(), "another device takes nobody's place");
        assert_eq!(enter(9).err(), Some(Refused::User));
        assert!(turns.enter(&user(2), DeviceId(1)).is_ok(), "another user");
        open.remove(0);
        open.push(enter(1).expect("one is gone"));
        assert!(open[2].has_ended() && !open[3].has_ended());
        open.clear();
        assert!(lock(&turns.0).of.is_empty() && lock(&turns.0).all == 0, "nobody is remembered");
    }

    #[test]
    fn a_node_has_a_bounded_number() {
        let turns = Turns::default();
        let open: Vec<Turn> = (0..limits::INBOX_STREAMS_MAX).flat_map(|n| turns.enter(&user(n), DeviceId(1))).collect();
        assert_eq!(open.len(), limits::INBOX_STREAMS_MAX);
        assert_eq!(turns.enter(&user(1_000_000), DeviceId(1)).err(), Some(Refused::Node));
    }
}
