//! What is checked while a run goes on: every write of every node, everything that a client sees, and at each tick what the
//! groups say of themselves. Each promise has a file with its sentence at the top.
//!
//! - [`engine`] a node's engine, watched · [`decode`] its batches as events · [`world`] what is known of the whole cluster
//! - raft: [`votes`], [`leaders`], [`one_log`], [`trust`], [`quorum`], [`purge`], [`pointers`], [`agreement`]
//! - conversations: [`entries`], [`rules`] with their [`model`], [`fan_out`], [`mentions`]
//! - users: [`watermarks`], [`inbox`], [`cursors`], [`receipts`], [`sessions`], [`codes`]
//! - everywhere: [`bounded`] · clients: [`committed`], [`frames`], [`repeats`], [`reads`], [`live`], [`live_receipts`], [`last_hop`], [`settings`]
//! - at the end: [`finished`], [`settled`], [`blocks`], [`last_words`], [`presence`]
//!
//! Invariant: checkers only read, and nothing in the product waits for them. A checker is told of a write after it was
//! made, at the instant, before anybody else could act on it.

pub mod agreement;
pub mod blocks;
pub mod bounded;
pub mod codes;
pub mod committed;
pub mod cursors;
pub mod decode;
pub mod engine;
pub mod entries;
pub mod fan_out;
pub mod finished;
pub mod frames;
pub mod inbox;
pub mod last_hop;
pub mod last_words;
pub mod leaders;
pub mod live;
pub mod live_receipts;
pub mod mentions;
pub mod model;
pub mod one_log;
pub mod pointers;
pub mod presence;
pub mod purge;
pub mod quorum;
pub mod reads;
pub mod receipts;
pub mod repeats;
pub mod rules;
pub mod sessions;
pub mod settings;
pub mod settled;
#[cfg(test)]
mod testkit;
pub mod trust;
pub mod votes;
pub mod watermarks;
pub mod world;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use flotilla_client::history::Record;
use flotilla_proto::ids::ShardId;
use flotilla_raft::keys;
use flotilla_storage::{Batch, Durability, MemDisk, Read};

use crate::trace::Trace;
pub use decode::{Event, RowChange};
pub use world::{Facts, Site, World};

/// One promise. Each call gives how much it has verified, or what is wrong.
pub trait Checker: Send {
    /// As it stands in DESIGN.md or RELIABILITY.md.
    fn promise(&self) -> &'static str;

    /// A node has written something.
    fn on_event(&mut self, _world: &World, _site: &Site<'_>, _event: &Event) -> Result<u64, String> {
        Ok(0)
    }

    /// A client has seen or done something.
    fn on_record(&mut self, _world: &World, _record: &Record) -> Result<u64, String> {
        Ok(0)
    }

    /// A tick: what the groups of a running node say.
    fn on_facts(&mut self, _world: &World, _facts: &Facts) -> Result<u64, String> {
        Ok(0)
    }
}

fn all() -> Vec<Box<dyn Checker>> {
    vec![
        Box::new(votes::Votes::default()),
        Box::new(leaders::Leaders::default()),
        Box::new(one_log::OneLog::default()),
        Box::new(trust::Trust),
        Box::new(quorum::Quorum::default()),
        Box::new(purge::Purge),
        Box::new(pointers::Pointers::default()),
        Box::new(agreement::Agreement::default()),
        Box::new(entries::Entries::default()),
        Box::new(rules::Rules::default()),
        Box::new(fan_out::FanOut),
        Box::new(receipts::Receipts),
        Box::new(watermarks::Watermarks),
        Box::new(inbox::Inbox),
        Box::new(cursors::Cursors),
        Box::new(sessions::Sessions::default()),
        Box::new(committed::Committed),
        Box::new(frames::Frames::default()),
        Box::new(bounded::Window::default()),
        Box::new(repeats::Repeats::default()),
        Box::new(live::Live::default()),
        Box::new(live_receipts::LiveReceipts::default()),
        Box::new(last_hop::LastHop::default()),
        Box::new(settings::Settings),
        Box::new(mentions::Mentions),
        Box::new(codes::Codes::default()),
    ]
}

/// After so many violations of one run the rest is noise.
const VIOLATIONS_MAX: usize = 20;

struct Inner {
    world: World,
    checkers: Vec<Box<dyn Checker>>,
    verified: BTreeMap<&'static str, u64>,
    violations: Vec<(&'static str, String)>,
    trace: Trace,
}

/// A cheap handle to the checkers of a run.
#[derive(Clone)]
pub struct Watch(Arc<Mutex<Inner>>);

impl Watch {
    /// `disks` by node, from node 1 on.
    pub fn new(disks: Vec<MemDisk>, trace: &Trace) -> Self {
        Self::with(all(), disks, trace)
    }

    fn with(checkers: Vec<Box<dyn Checker>>, disks: Vec<MemDisk>, trace: &Trace) -> Self {
        let world = World::new(disks);
        let (verified, violations) = (BTreeMap::new(), Vec::new());
        Self(Arc::new(Mutex::new(Inner { world, checkers, verified, violations, trace: trace.clone() })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A checker that panicked has ended the run already.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node has opened its disk.
    pub(crate) fn on_opened(&self, node: u16, read: &dyn Read) {
        let mut inner = self.lock();
        let site = Site::new(node, read);
        let events = decode::opened(&mut inner.world, &site);
        for event in events {
            inner.tell(&site, &event);
        }
    }

    /// A node has written a batch; `before` is what [`decode::before`] kept of the state that it has changed.
    pub(crate) fn on_written(
        &self,
        node: u16,
        read: &dyn Read,
        batch: &Batch,
        before: &decode::Before,
        durability: Durability,
    ) {
        let mut inner = self.lock();
        let site = Site::new(node, read);
        let events = decode::written(&mut inner.world, &site, batch, before, durability);
        for event in events {
            inner.tell(&site, &event);
        }
    }

    /// The node's disk is about to be replaced by an empty one: what it had promised goes with it.
    pub fn wiped(&self, node: u16) {
        let mut inner = self.lock();
        inner.world.keep(node);
        inner.world.wiped.insert(node);
    }

    /// The node's disk is about to go back, see [`World::forgets`].
    pub fn forgets(&self, node: u16, same_boot: bool) {
        self.lock().world.forgets(node, same_boot);
    }

    /// A linearizable read was answered, see [`reads`].
    pub fn on_read(&self, read: &reads::Answered) {
        let inner = &mut *self.lock();
        note(&mut inner.verified, &mut inner.violations, &inner.trace, reads::PROMISE, read.judge());
    }

    /// Before a bit is flipped: the disk as it is.
    pub fn before_damage(&self, node: u16) {
        self.lock().world.keep(node);
    }

    /// A bit of a row of the node's replica of a shard was flipped: `now` is stored, `written` was.
    pub fn damaged(&self, node: u16, shard: ShardId, key: &[u8], (now, written): (Bytes, Bytes)) {
        let world = &mut self.lock().world;
        let kind = key.first().copied().unwrap_or_default();
        world.damaged.insert((node, shard), kind);
        if let Some((shard, generation)) = keys::parse_replica(key).filter(|_| kind != keys::STATE) {
            world.distrusted.insert((node, shard, generation));
        }
        world.flipped.insert((node, Bytes::copy_from_slice(key)), (now, written));
    }

    /// A fault of this kind begins, or one of them ends.
    pub fn broken(&self, kind: &'static str, begins: bool) {
        let broken = &mut self.lock().world.broken;
        let count = broken.entry(kind).or_default();
        *count = if begins { *count + 1 } else { count.saturating_sub(1) };
        broken.retain(|_, count| *count > 0);
    }

    /// A node hears no other node from now on, or does again.
    pub fn alone(&self, node: u16, begins: bool) {
        let alone = &mut self.lock().world.alone;
        if begins {
            alone.insert(node)
        } else {
            alone.remove(&node)
        };
    }

    pub fn on_record(&self, record: &Record) {
        let inner = &mut *self.lock();
        inner.world.on_record(record);
        for checker in &mut inner.checkers {
            let result = checker.on_record(&inner.world, record);
            note(&mut inner.verified, &mut inner.violations, &inner.trace, checker.promise(), result);
        }
    }

    pub fn on_facts(&self, facts: &Facts) {
        let inner = &mut *self.lock();
        for checker in &mut inner.checkers {
            let result = checker.on_facts(&inner.world, facts);
            note(&mut inner.verified, &mut inner.violations, &inner.trace, checker.promise(), result);
        }
    }

    pub fn on_figures(&self, figures: &bounded::Figures) {
        let inner = &mut *self.lock();
        note(&mut inner.verified, &mut inner.violations, &inner.trace, bounded::PROMISE, figures.judge());
    }

    /// What a check at the end of a run looks at.
    pub fn with_world<T>(&self, look: impl FnOnce(&World) -> T) -> T {
        look(&self.lock().world)
    }

    /// How much each checker has verified, by its promise.
    pub fn verified(&self) -> BTreeMap<&'static str, u64> {
        self.lock().verified.clone()
    }

    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.iter().map(|(promise, what)| format!("{promise}: {what}")).collect()
    }
}

impl Inner {
    fn tell(&mut self, site: &Site<'_>, event: &Event) {
        self.world.before_event(site, event);
        for checker in &mut self.checkers {
            let result = checker.on_event(&self.world, site, event);
            note(&mut self.verified, &mut self.violations, &self.trace, checker.promise(), result);
        }
        self.world.on_event(site, event);
    }
}

/// The first violation of a promise is kept, and as many promises as matter.
fn note(
    verified: &mut BTreeMap<&'static str, u64>,
    violations: &mut Vec<(&'static str, String)>,
    trace: &Trace,
    promise: &'static str,
    result: Result<u64, String>,
) {
    match result {
        Ok(0) => {}
        Ok(count) => *verified.entry(promise).or_default() += count,
        Err(what) => {
            if violations.len() < VIOLATIONS_MAX && violations.iter().all(|(known, _)| *known != promise) {
                trace.say(format!("checker    VIOLATION {promise}: {what}"));
                violations.push((promise, what));
            }
        }
    }
}
