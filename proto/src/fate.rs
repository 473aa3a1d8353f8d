//! What becomes of a connection in the simulator: it is refused, or nobody answers; it is reset, perhaps in the middle of a
//! frame, goes dead without a word, or its bytes arrive late. In production there is none of this.
//!
//! Invariant: only one end of a connection is touched, so that the other end learns of it as it would from a network. It stands
//! in the crate that all others know, because nodes and clients have ends.
#![cfg(madsim)]

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fate {
    #[default]
    Fine,
    /// What arrives waits here until the fate changes.
    Late,
    /// Nothing arrives any more, and what is written goes nowhere.
    Dead,
    /// So many bytes are still written, then it is reset.
    Cut(usize),
    Reset,
}

/// What somebody meets who connects to an address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Door {
    #[default]
    Open,
    /// Refused at once.
    Refused,
    /// Nobody answers.
    Silent,
    /// Taken, and dead from the first byte on.
    Dead,
}

struct State {
    local: SocketAddr,
    peer: SocketAddr,
    fate: Fate,
    wakers: Vec<Waker>,
}

thread_local! {
    // The simulator runs all nodes on one thread. In the order in which connections were made.
    static ALL: RefCell<Vec<Weak<Mutex<State>>>> = const { RefCell::new(Vec::new()) };
}

type Rule = Rc<dyn Fn(SocketAddr) -> Door>;

thread_local! {
    static DOORS: RefCell<Option<Rule>> = const { RefCell::new(None) };
}

/// From now on this says what a connection to an address meets, asked on the machine that connects.
pub fn doors(rule: impl Fn(SocketAddr) -> Door + 'static) {
    DOORS.with(|doors| *doors.borrow_mut() = Some(Rc::new(rule)));
}

/// What a connection to `address` meets. A name is not known here: it meets an open door.
pub fn door(address: &str) -> Door {
    let rule = DOORS.with(|doors| doors.borrow().clone());
    rule.zip(address.parse().ok()).map_or(Door::Open, |(rule, address)| rule(address))
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // A holder cannot panic half-way.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Decides over every open connection by its own address, its peer's and its fate so far; none leaves it as it is.
pub fn change(decide: impl Fn(SocketAddr, SocketAddr, Fate) -> Option<Fate>) {
    let mut woken = Vec::new();
    ALL.with(|all| {
        let mut all = all.borrow_mut();
        all.retain(|state| state.strong_count() > 0);
        for state in all.iter().filter_map(Weak::upgrade) {
            let mut state = lock(&state);
            if let Some(fate) = decide(state.local, state.peer, state.fate) {
                state.fate = fate;
                woken.append(&mut state.wakers);
            }
        }
    });
    woken.into_iter().for_each(Waker::wake);
}

/// One end of a connection.
pub struct Held(Arc<Mutex<State>>);

impl Held {
    pub fn new(local: SocketAddr, peer: SocketAddr) -> Self {
        let state = Arc::new(Mutex::new(State { local, peer, fate: Fate::Fine, wakers: Vec::new() }));
        ALL.with(|all| all.borrow_mut().push(Arc::downgrade(&state)));
        Self(state)
    }

    /// A connection that has come through this door.
    pub fn behind(self, door: Door) -> Self {
        if door == Door::Dead {
            lock(&self.0).fate = Fate::Dead;
        }
        self
    }

    /// Whether what has arrived may be read. The waker is kept, for the fate may change while nothing arrives.
    pub fn read(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0);
        state.wakers.retain(|waker| !waker.will_wake(cx.waker()));
        state.wakers.push(cx.waker().clone());
        match state.fate {
            Fate::Fine | Fate::Cut(1..) => Poll::Ready(Ok(())),
            Fate::Late | Fate::Dead => Poll::Pending,
            Fate::Cut(0) | Fate::Reset => Poll::Ready(Err(reset())),
        }
    }

    /// How many of the bytes are to be written; none: they go nowhere and nobody is told.
    pub fn write(&self, bytes: usize) -> io::Result<Option<usize>> {
        let mut state = lock(&self.0);
        match state.fate {
            Fate::Fine | Fate::Late => Ok(Some(bytes)),
            Fate::Dead => Ok(None),
            Fate::Cut(0) | Fate::Reset => Err(reset()),
            Fate::Cut(left) => {
                let now = left.min(bytes);
                state.fate = Fate::Cut(left - now);
                if left == now {
                    // Whoever reads must hear of it too.
                    state.wakers.drain(..).for_each(Waker::wake);
                }
                Ok(Some(now))
            }
        }
    }
}

fn reset() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "reset by the simulator")
}
