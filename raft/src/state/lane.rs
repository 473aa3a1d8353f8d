//! Where the groups of a node apply: whatever waits is applied in one go and shares one buffered write.
//!
//! Invariants: a group has at most one piece of work here, so its entries stay in order; what is answered has been written; a
//! piece that fails leaves nothing of itself in the write. After a failed write every group in it is told, and stops.
//!
//! Several lanes, so that one machine's cores can apply at the same time; a shard stays in its lane.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flotilla_machine::{self as machine, Effect};
use flotilla_proto::ids::ShardId;
use flotilla_proto::limits::{APPLY_LANE_BYTES_MAX, APPLY_LANE_JOBS_MAX, APPLY_LANES};
use flotilla_storage::{Batch, Durability, Engine};
use tokio::sync::{mpsc, oneshot};

use super::Pointer;
use super::applier::{Order, apply_entries};
use crate::hooks::{Hooks, supervise};
use crate::runtime::after_the_ready;
use crate::seam::worker::Worker;
use crate::types::{Entry, Replies};

/// A handle to a node's lanes. Their tasks end with the last handle.
#[derive(Clone)]
pub struct ApplyLanes {
    lanes: Arc<[mpsc::Sender<Job>]>,
    hot: Arc<HotBytes>,
}

/// The memory for rows that are asked for again and again, of all groups of a node.
struct HotBytes {
    all: usize,
    groups: AtomicUsize,
}

/// One group's part of that memory, as large as those of the others: smaller when groups come, larger when they go.
pub(super) struct HotPart(Arc<HotBytes>);

impl HotPart {
    pub fn bytes(&self) -> usize {
        self.0.all / self.0.groups.load(Ordering::Relaxed).max(1)
    }
}

impl Drop for HotPart {
    fn drop(&mut self) {
        self.0.groups.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Entries of one group, and the state that they are applied to.
pub(super) struct Work {
    pub shard: ShardId,
    pub pointer: Pointer,
    pub kept: machine::Kept,
    /// Of `kept`, at most.
    pub hot_bytes: usize,
    pub order: Order,
    pub entries: Vec<Entry>,
    /// Encoded bytes of the entries.
    pub bytes: usize,
}

/// What one write of applied entries leaves for the async side.
pub(super) struct Done {
    pub pointer: Pointer,
    pub kept: machine::Kept,
    pub replies: Vec<Replies>,
    pub effects: Vec<Effect>,
}

type Answer = Result<Done, machine::Fatal>;

struct Job {
    work: Work,
    answer: oneshot::Sender<Answer>,
}

impl ApplyLanes {
    /// `hot_bytes`: see `Timings::hot_rows_bytes`.
    pub fn start(engine: Arc<dyn Engine>, hooks: Arc<dyn Hooks>, hot_bytes: usize) -> Self {
        let lane = |_| {
            let (queue, waiting) = mpsc::channel(APPLY_LANE_JOBS_MAX);
            let lane = Lane { engine: engine.clone(), waiting, worker: Worker::start("flotilla-apply") };
            supervise(hooks.clone(), None, "a lane of the appliers", lane.run());
            queue
        };
        let hot = Arc::new(HotBytes { all: hot_bytes, groups: AtomicUsize::new(0) });
        Self { lanes: (0..APPLY_LANES).map(lane).collect(), hot }
    }

    /// For as long as the group is open.
    pub(super) fn hot_part(&self) -> HotPart {
        self.hot.groups.fetch_add(1, Ordering::Relaxed);
        HotPart(self.hot.clone())
    }

    /// None: the lane has ended, which only a panic in it brings about.
    pub(super) async fn apply(&self, work: Work) -> Option<Answer> {
        let lane = &self.lanes[usize::from(work.shard.0) % self.lanes.len()];
        let (answer, done) = oneshot::channel();
        lane.send(Job { work, answer }).await.ok()?;
        done.await.ok()
    }
}

struct Lane {
    engine: Arc<dyn Engine>,
    waiting: mpsc::Receiver<Job>,
    worker: Worker,
}

impl Lane {
    async fn run(mut self) {
        while let Some(first) = self.waiting.recv().await {
            after_the_ready().await;
            let jobs = self.gather(first);
            let engine = self.engine.clone();
            // Answered on the thread that wrote: it knows first, and this task may have to queue for its turn.
            let work = move || {
                for (answer, done) in apply_all(&*engine, jobs) {
                    // A group that was stopped meanwhile has no use for it; the write stands.
                    let _ = answer.send(done);
                }
            };
            self.worker.write(&*self.engine, work).await;
        }
    }

    /// Takes whatever waits, up to the bounds.
    fn gather(&mut self, first: Job) -> Vec<Job> {
        let mut bytes = first.work.bytes;
        let mut jobs = vec![first];
        while jobs.len() < APPLY_LANE_JOBS_MAX && bytes < APPLY_LANE_BYTES_MAX {
            let Ok(next) = self.waiting.try_recv() else { break };
            bytes += next.work.bytes;
            jobs.push(next);
        }
        jobs
    }
}

fn apply_all(engine: &dyn Engine, jobs: Vec<Job>) -> Vec<(oneshot::Sender<Answer>, Answer)> {
    let mut batch = Batch::new();
    let mut applied = Vec::with_capacity(jobs.len());
    for Job { work, answer } in jobs {
        let done = apply_entries(engine, work).map(|(mut part, done)| {
            batch.append(&mut part);
            done
        });
        applied.push((answer, done));
    }
    let written = engine.write(batch, Durability::Unlogged);
    let if_written = |done: Result<Done, machine::Fatal>| {
        let done = done?;
        written.clone()?;
        Ok(done)
    };
    applied.into_iter().map(|(answer, done)| (answer, if_written(done))).collect()
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use flotilla_proto::ids::Generation;
    use flotilla_storage::{MemDisk, MemEngine};

    use super::*;
    use crate::snapshot::Generations;
    use crate::state::{AppliedMark, open};
    use crate::testkit::{Recorder, entry};
    use crate::types::log_id;

    fn work(engine: &Arc<dyn Engine>, shard: u16, index: u64) -> Work {
        let generations = Generations::new(engine.clone(), ShardId(shard));
        let pointer = open(&generations, Generation(1), &AppliedMark::default()).expect("an empty state");
        Work {
            shard: ShardId(shard),
            pointer,
            kept: machine::Kept::default(),
            hot_bytes: 1 << 20,
            order: Order::Consecutive,
            entries: vec![entry(1, index)],
            bytes: 100,
        }
    }

    #[tokio::test]
    async fn groups_that_wait_share_a_write_and_the_damage_of_one_is_its_own() {
        let engine: Arc<dyn Engine> = Arc::new(MemEngine::open(&MemDisk::new()).expect("a free disk"));
        let (sound, broken) = (work(&engine, 1, 0), work(&engine, 2, 0));
        // A proposal that this binary cannot read.
        let mut broken = broken;
        let openraft::EntryPayload::Normal(proposal) = &mut broken.entries[0].payload else { panic!("a proposal") };
        proposal.commands = vec![bytes::Bytes::from_static(b"\xffnonsense")].into();
        let jobs = [broken, sound].map(|work| {
            let (answer, done) = oneshot::channel();
            (Job { work, answer }, done)
        });
        let (jobs, _waiting): (Vec<_>, Vec<_>) = jobs.into_iter().unzip();
        let before = engine.last_write();
        let mut answers = apply_all(&*engine, jobs).into_iter().map(|(_, answer)| answer);
        assert!(matches!(answers.next(), Some(Err(machine::Fatal::Undecodable(_)))));
        let done = answers.next().expect("two answers").expect("applied");
        assert_eq!(done.pointer.applied, Some(log_id(1, 0)));
        assert!(engine.last_write() > before);
        let stored = |shard| Pointer::load(&*engine, ShardId(shard)).expect("reads").expect("stored").applied;
        assert_eq!((stored(1), stored(2)), (Some(log_id(1, 0)), None));
    }

    #[tokio::test]
    async fn every_group_hears_of_its_own_entries() {
        let engine: Arc<dyn Engine> = Arc::new(MemEngine::open(&MemDisk::new()).expect("a free disk"));
        let lanes = ApplyLanes::start(engine.clone(), Arc::new(Recorder::default()), 1 << 20);
        let asked = (1..20).map(|shard| {
            let (lanes, work) = (lanes.clone(), work(&engine, shard, 0));
            async move { lanes.apply(work).await.expect("the lane lives").expect("applied").pointer }
        });
        for pointer in futures::future::join_all(asked).await {
            assert_eq!(pointer.applied, Some(log_id(1, 0)));
        }
    }
}
