//! Receipts of groups that a person's device watches: a list that changes now and then, and is asked for again after each connect.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flotilla_client::device::{CallError, Handle};
use flotilla_proto::ids::ConvId;
use rand::RngExt;
use rand::rngs::StdRng;

use super::shown::Shown;

/// Outlives the device's processes, as what is on a person's screen does.
#[derive(Clone)]
pub struct Watching {
    convs: Arc<Mutex<Vec<ConvId>>>,
    /// One request at a time: the list that was asked for last is the one that is watched.
    asking: Arc<tokio::sync::Mutex<()>>,
    shown: Shown,
}

impl Watching {
    pub fn new(shown: Shown) -> Self {
        Self { convs: Arc::default(), asking: Arc::default(), shown }
    }

    fn convs(&self) -> MutexGuard<'_, Vec<ConvId>> {
        // A holder only copies.
        self.convs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn wants(&self, convs: Vec<ConvId>) {
        *self.convs() = convs;
    }

    /// A new connection watches nothing.
    pub async fn connected(&self, handle: &Handle) {
        if !self.convs().is_empty() {
            self.asks(handle).await;
        }
    }

    /// Of a list that is refused the first is left out: the person may be no member of it any more.
    pub async fn asks(&self, handle: &Handle) {
        let _one = self.asking.lock().await;
        loop {
            let list = self.convs().clone();
            match handle.watch_receipts(list.clone()).await {
                Err(CallError::Rejected(_)) if !list.is_empty() => {
                    let mut convs = self.convs();
                    if *convs == list {
                        convs.remove(0);
                    }
                }
                Ok(_) if !list.is_empty() => return self.shown.add("receipts"),
                // The next connection asks again.
                Ok(_) | Err(_) => return,
            }
        }
    }
}

/// Some of these, or none.
pub fn draw(rng: &mut StdRng, groups: &[ConvId], directs: &[ConvId]) -> Vec<ConvId> {
    let none = rng.random_bool(0.1);
    let some: Vec<ConvId> = groups.iter().filter(|_| rng.random_bool(0.8)).cloned().collect();
    let direct = directs.first().filter(|_| rng.random_bool(0.2)).cloned();
    if none { Vec::new() } else { some.into_iter().chain(direct).collect() }
}
