//! Waits for a node to pass a named point. Several lanes wait at once: the product has one hook, this shares it.

use std::cell::RefCell;
use std::time::Duration;

use flotilla_raft::seam::fault;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::cluster::place;

struct Waiter {
    id: u64,
    places: Vec<String>,
    point: String,
    left: u32,
    tell: mpsc::Sender<String>,
}

#[derive(Default)]
struct Waiters {
    all: Vec<Waiter>,
    last: u64,
}

thread_local! {
    // The simulator runs everything on one thread.
    static WAITERS: RefCell<Waiters> = RefCell::default();
}

/// Once per run.
pub fn listen() {
    fault::hook(|point| {
        WAITERS.with(|waiters| {
            let mut waiters = waiters.borrow_mut();
            if waiters.all.is_empty() {
                return;
            }
            let place = place();
            for waiter in waiters.all.iter_mut().filter(|w| w.point == point && w.places.contains(&place) && w.left > 0)
            {
                waiter.left -= 1;
                if waiter.left == 0 {
                    // One listener, one word.
                    let _ = waiter.tell.try_send(place.clone());
                }
            }
        });
    });
}

/// Waits until one of these machines, or several together, have passed the point so many times; says which did last. None
/// if they do not within `patience`.
pub async fn passed(places: Vec<String>, point: &str, passes: u32, patience: Duration) -> Option<String> {
    let (tell, mut told) = mpsc::channel(1);
    let id = WAITERS.with(|waiters| {
        let mut waiters = waiters.borrow_mut();
        waiters.last += 1;
        let id = waiters.last;
        waiters.all.push(Waiter { id, places, point: point.to_owned(), left: passes, tell });
        id
    });
    let passed = timeout(patience, told.recv()).await.ok().flatten();
    WAITERS.with(|waiters| waiters.borrow_mut().all.retain(|waiter| waiter.id != id));
    passed
}
