//! A bounded queue that takes next to nothing while it is empty.
//!
//! A session has one for its pushes, and most sessions are silent most of the time: tokio's takes 800 bytes for each, room for 32
//! messages among them. Invariants: what was taken comes out once and in its order; never more than the bound waits; the
//! receiver ends only when nothing waits and the sender is gone. It does not know what it carries.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::mpsc::error::TrySendError;

/// With more room than this it is given back when the queue is empty.
const ROOM_KEPT: usize = 8;
/// So many in a row, and whoever else waits for the receiver's task has a turn.
const TURN: u8 = 64;

pub fn channel<T>(max: usize) -> (Sender<T>, Receiver<T>) {
    assert!(max > 0, "a queue without room takes nothing");
    let inner = Inner { waiting: VecDeque::new(), waker: None, receiver_is_gone: false, sender_is_gone: false };
    let shared = Arc::new(Shared { max, inner: Mutex::new(inner) });
    (Sender(shared.clone()), Receiver { shared, in_a_row: 0 })
}

struct Shared<T> {
    max: usize,
    inner: Mutex<Inner<T>>,
}

struct Inner<T> {
    waiting: VecDeque<T>,
    /// Of the receiver, while it waits.
    waker: Option<Waker>,
    receiver_is_gone: bool,
    sender_is_gone: bool,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one that puts in; whoever shares it locks around it.
pub struct Sender<T>(Arc<Shared<T>>);

impl<T> Sender<T> {
    pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        let mut inner = self.0.lock();
        if inner.receiver_is_gone {
            return Err(TrySendError::Closed(message));
        }
        if inner.waiting.len() >= self.0.max {
            return Err(TrySendError::Full(message));
        }
        inner.waiting.push_back(message);
        let waker = inner.waker.take();
        drop(inner);
        waker.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// How many more fit now.
    pub fn capacity(&self) -> usize {
        self.0.max - self.0.lock().waiting.len()
    }

    pub fn max_capacity(&self) -> usize {
        self.0.max
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.sender_is_gone = true;
        let waker = inner.waker.take();
        drop(inner);
        waker.into_iter().for_each(Waker::wake);
    }
}

pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    in_a_row: u8,
}

impl<T> Receiver<T> {
    /// None: the sender is gone, and nothing waits. Safe to cancel.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        if self.in_a_row >= TURN {
            self.in_a_row = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut inner = self.shared.lock();
        if let Some(message) = inner.take() {
            self.in_a_row += 1;
            return Poll::Ready(Some(message));
        }
        self.in_a_row = 0;
        if inner.sender_is_gone {
            return Poll::Ready(None);
        }
        if !inner.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            inner.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.shared.lock().waiting.len()
    }

    /// None: nothing waits now.
    #[cfg(test)]
    pub fn try_recv(&mut self) -> Option<T> {
        self.shared.lock().take()
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        inner.receiver_is_gone = true;
        let waiting = std::mem::take(&mut inner.waiting);
        inner.waker = None;
        drop(inner);
        drop(waiting);
    }
}

impl<T> Inner<T> {
    fn take(&mut self) -> Option<T> {
        let message = self.waiting.pop_front()?;
        if self.waiting.is_empty() && self.waiting.capacity() > ROOM_KEPT {
            self.waiting = VecDeque::new();
        }
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn what_was_put_in_comes_out_in_order_and_no_more_than_the_bound_waits() {
        let (tx, mut rx) = channel(100);
        for round in 0..3 {
            for n in 0..100 {
                assert_eq!(tx.capacity(), 100 - n);
                tx.try_send(round + n).expect("there is room");
            }
            assert!(matches!(tx.try_send(7), Err(TrySendError::Full(7))));
            for n in 0..100 {
                assert_eq!(rx.recv().await, Some(round + n));
            }
            assert_eq!((tx.capacity(), rx.shared.lock().waiting.capacity()), (100, 0), "and the room is given back");
        }
    }

    #[tokio::test]
    async fn whoever_waits_is_woken_by_a_message_and_by_the_end() {
        let (tx, mut rx) = channel(1);
        let waits = tokio::spawn(async move { (rx.recv().await, rx.recv().await) });
        tokio::task::yield_now().await;
        tx.try_send("last").expect("there is room");
        tokio::task::yield_now().await;
        drop(tx);
        let got = tokio::time::timeout(crate::testing::client::PATIENCE, waits).await;
        assert_eq!(got.expect("woken").expect("no panic"), (Some("last"), None));
    }

    #[tokio::test]
    async fn without_a_receiver_nothing_is_taken_or_kept() {
        let (tx, rx) = channel(2);
        let carried = Arc::new(());
        tx.try_send(carried.clone()).expect("there is room");
        drop(rx);
        assert_eq!(Arc::strong_count(&carried), 1);
        assert!(matches!(tx.try_send(carried), Err(TrySendError::Closed(_))));
    }

    #[tokio::test]
    async fn a_flood_leaves_others_a_turn() {
        let (tx, mut rx) = channel(1);
        let mut in_a_row = 0;
        loop {
            tx.try_send(()).expect("there is room");
            if futures::poll!(pin!(rx.recv())).is_pending() {
                break;
            }
            in_a_row += 1;
            assert!(in_a_row <= u32::from(TURN), "others wait for ever");
        }
        assert_eq!(futures::poll!(pin!(rx.recv())), Poll::Ready(Some(())), "and nothing is lost");
    }
}
