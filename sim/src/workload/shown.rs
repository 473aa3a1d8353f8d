//! What of the load has really happened, and what of it went wrong in a way that no history can hold.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::report::Counts;

#[derive(Default)]
struct Inner {
    counts: BTreeMap<&'static str, u64>,
    broken: Vec<String>,
}

/// A cheap handle to the same counts.
#[derive(Clone, Default)]
pub struct Shown(Arc<Mutex<Inner>>);

impl Shown {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A holder only counts.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A part of the load has happened, see [`crate::options::LOADS`].
    pub fn add(&self, part: &'static str) {
        *self.inner().counts.entry(part).or_default() += 1;
    }

    /// A promise that was broken, its name before the colon.
    pub fn broken(&self, what: String) {
        self.inner().broken.push(what);
    }

    pub fn counts(&self) -> Counts {
        self.inner().counts.iter().map(|(part, count)| ((*part).to_owned(), *count)).collect()
    }

    pub fn violations(&self) -> Vec<String> {
        self.inner().broken.clone()
    }
}
