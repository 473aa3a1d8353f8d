//! What a pump of the fan-out may tell its target without a look at the rows: the entries that effects brought, for the users
//! that the last look found. Pure.
//!
//! Invariant: what is given here is what the rows would say, but for entries that came since. It holds because
//! - an effect comes after its entry is committed and applied here, and brings none where membership parts are owed to the
//!   target: so along a run of entries without a hole, the roster of the target does not change;
//! - a hole, a repeat or a doubt makes a miss, and so does a request that failed: then the rows are read.
//!
//! Bounded in bytes and in users; what does not fit is a miss too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flotilla_machine::command::{Notify, NotifyUser};
use flotilla_machine::conversation::tables::entry::weight;
use flotilla_machine::query::DirtyItem;
use flotilla_proto::entry::Entry;
use flotilla_proto::ids::*;
use flotilla_proto::limits;

use super::pending::{Pending, Taken};

/// Entries of one conversation, one after the other. None: something is missing, and must be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Run(Option<Vec<Arc<Entry>>>);

impl Run {
    pub fn of(entry: Option<Arc<Entry>>) -> Self {
        Self(entry.map(|entry| vec![entry]))
    }

    fn join(&mut self, next: Self) {
        self.0 = match (self.0.take(), next.0) {
            (Some(mut run), Some(next)) if follows(&run, &next) => {
                run.extend(next);
                Some(run)
            }
            _ => None,
        };
    }

    fn bytes(&self) -> usize {
        self.0.iter().flatten().map(|entry| weight(entry)).sum()
    }
}

fn follows(run: &[Arc<Entry>], next: &[Arc<Entry>]) -> bool {
    let ends = (run.last().map(|entry| entry.seq.next()), next.first().map(|entry| entry.seq));
    matches!(ends, (Some(end), Some(first)) if end == first) && run.len() + next.len() <= limits::PAGE_ENTRIES_MAX
}

/// Conversations whose rows were made or raised, for the pump of one target.
pub struct Wake {
    pending: Pending<ConvId, Run>,
    /// Of the entries that wait. One that is added while others are taken may be left out of it.
    bytes: AtomicUsize,
}

impl Default for Wake {
    fn default() -> Self {
        Self { pending: Pending::new(limits::DIRTY_NAMED_MAX), bytes: AtomicUsize::new(0) }
    }
}

impl Wake {
    pub fn add(&self, conv: ConvId, entry: Option<Arc<Entry>>) {
        let fits = |entry: &Arc<Entry>| {
            let bytes = weight(entry);
            self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= limits::FRESH_BYTES_MAX
        };
        self.pending.add(conv, Run::of(entry.filter(fits)), Run::join);
    }

    /// Has the pump look at everything.
    pub fn overflow(&self) {
        self.pending.overflow();
    }

    pub async fn take(&self) -> Taken<ConvId, Run> {
        let taken = self.pending.take().await;
        self.bytes.store(0, Ordering::Relaxed);
        taken
    }

    /// None: nothing waits.
    pub fn try_take(&self) -> Option<Taken<ConvId, Run>> {
        let taken = self.pending.try_take()?;
        self.bytes.store(0, Ordering::Relaxed);
        Some(taken)
    }
}

/// Whom to tell of a conversation.
#[derive(Debug)]
struct Known {
    /// Its head when they were read, and after each entry that was told since.
    head: Seq,
    /// As they were told last: none has a part, and each names the latest own message that the target may not have heard of.
    users: Vec<NotifyUser>,
}

/// What came of a look.
#[derive(Debug, Default)]
pub struct Given {
    pub items: Vec<DirtyItem>,
    /// Conversations whose rows must be read.
    pub missed: Vec<ConvId>,
    pub bytes_left: usize,
}

#[derive(Debug, Default)]
pub struct Fresh {
    /// Conversations whose rows rose and were not looked at since.
    named: BTreeMap<ConvId, Run>,
    bytes: usize,
    known: BTreeMap<ConvId, Known>,
    users: usize,
}

impl Fresh {
    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    pub fn on_named(&mut self, named: BTreeMap<ConvId, Run>) {
        for (conv, mut run) in named {
            let before = self.take_run(&conv);
            if self.bytes + before.as_ref().map_or(0, Run::bytes) + run.bytes() > limits::FRESH_BYTES_MAX {
                run = Run::default();
            }
            let run = match before {
                Some(mut before) => {
                    before.join(run);
                    before
                }
                None => run,
            };
            self.put_run(conv, run);
        }
    }

    fn take_run(&mut self, conv: &ConvId) -> Option<Run> {
        let run = self.named.remove(conv)?;
        self.bytes -= run.bytes();
        Some(run)
    }

    fn put_run(&mut self, conv: ConvId, run: Run) {
        self.bytes += run.bytes();
        self.named.insert(conv, run);
    }

    /// The news of named conversations, in order of their names, as many as go at once. They fill half of the bytes at most: the
    /// rest is for those that must be read, so that these do not wait for as long as there is enough without them.
    pub fn give(&mut self, bytes_max: usize) -> Given {
        let mut given = Given { bytes_left: bytes_max, ..Given::default() };
        let mut later = Vec::new();
        for _ in 0..limits::NOTIFY_CONVERSATIONS_MAX {
            let Some((conv, run)) = self.named.pop_first() else { break };
            let bytes = run.bytes();
            self.bytes -= bytes;
            let weight = bytes + self.known.get(&conv).map_or(0, |known| users_weight(&conv, &known.users));
            let fits = bytes_max - given.bytes_left + weight <= bytes_max / 2;
            if !fits && run.0.is_some() && !given.items.is_empty() {
                later.push((conv, run));
                continue;
            }
            match if fits { self.told_by(&conv, run) } else { None } {
                Some(item) => {
                    given.bytes_left -= item.as_ref().map_or(0, |_| weight);
                    given.items.extend(item);
                }
                None => {
                    self.forget(&conv);
                    given.missed.push(conv);
                }
            }
        }
        later.into_iter().for_each(|(conv, run)| self.put_run(conv, run));
        given
    }

    /// None: not known well enough. An item is missing where a look has seen these entries already.
    fn told_by(&mut self, conv: &ConvId, run: Run) -> Option<Option<DirtyItem>> {
        let run = run.0?;
        let (first, last) = (run.first()?, run.last()?);
        let (head, n_head, last_id, last_ts) = (last.seq, last.n, last.msg_id, last.ts);
        let known = self.known.get_mut(conv)?;
        if first.seq > known.head.next() {
            return None;
        }
        let news: Vec<_> = run.into_iter().filter(|entry| entry.seq > known.head).collect();
        if news.is_empty() {
            return Some(None);
        }
        known.head = head;
        for entry in news.iter().filter(|entry| entry.kind == "message") {
            if let Some(user) = known.users.iter_mut().find(|user| user.user == entry.from) {
                user.n_sent = entry.n;
            }
        }
        let notify = Notify { conv: conv.clone(), head, n_head, last_id, last_ts, users: known.users.clone() };
        let entries = news.into_iter().map(Arc::unwrap_or_clone).collect();
        Some(Some(DirtyItem { notify, parts: Seq::ZERO, entries }))
    }

    /// What does not fit any more, or was missed and is not answered for, comes up again.
    pub fn again(&mut self, conv: ConvId) {
        self.take_run(&conv);
        self.put_run(conv, Run::default());
    }

    /// Rows as they were read, before anything is taken out of them. They go to the target, or have gone.
    pub fn on_read(&mut self, items: &[DirtyItem]) {
        for DirtyItem { notify, parts, .. } in items {
            self.forget(&notify.conv);
            if *parts > Seq::ZERO || notify.users.len() > limits::FRESH_USERS_MAX {
                continue;
            }
            if self.users + notify.users.len() > limits::FRESH_USERS_MAX {
                self.known.clear();
                self.users = 0;
            }
            self.users += notify.users.len();
            self.known.insert(notify.conv.clone(), Known { head: notify.head, users: notify.users.clone() });
        }
    }

    /// News were lost.
    pub fn on_overflow(&mut self) {
        self.known.clear();
        self.users = 0;
        self.named.values_mut().for_each(|run| *run = Run::default());
        self.bytes = 0;
    }

    /// A request with news of it failed: the next one must hold all of that again, which the rows say.
    pub fn forget(&mut self, conv: &ConvId) {
        if let Some(known) = self.known.remove(conv) {
            self.users -= known.users.len();
        }
    }
}

fn users_weight(conv: &ConvId, users: &[NotifyUser]) -> usize {
    conv.as_str().len() + users.iter().map(|user| 64 + user.user.as_str().len()).sum::<usize>()
}

#[cfg(test)]
mod tests;
