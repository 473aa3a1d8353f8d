//! A thread that does one kind of blocking work, one piece after the other.
//!
//! The writes of a node are many and short. On the runtime's pool each would wake another of its threads, the one that has
//! rested longest: all of them stay warm in no cache. Here it is always the same one.
//!
//! Invariant: when a worker has been dropped, its work has ended, so that whatever it held is free.

use flotilla_storage::Engine;

use crate::runtime;

/// Runs `work` of its owner where it may block: on a thread of its own, inline in the simulator (which has no threads).
pub struct Worker {
    #[cfg(not(madsim))]
    thread: Option<thread::Thread>,
}

impl Worker {
    /// If the system gives no thread, the runtime's pool does the work.
    pub fn start(name: &str) -> Self {
        #[cfg(madsim)]
        let _ = name;
        Self {
            #[cfg(not(madsim))]
            thread: thread::Thread::start(name),
        }
    }

    /// Does work that ends in a write or a sync: first waits as long as a simulated disk is stalled.
    pub async fn write<T, F>(&mut self, engine: &dyn Engine, work: F) -> T
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        runtime::stalled(engine).await;
        #[cfg(not(madsim))]
        if let Some(thread) = &mut self.thread {
            return thread.run(work).await;
        }
        runtime::blocking(work).await
    }
}

#[cfg(not(madsim))]
mod thread {
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::thread::{Builder, JoinHandle};

    use tokio::sync::{mpsc, oneshot};

    type Job = Box<dyn FnOnce() + Send>;

    pub struct Thread {
        /// None while it is dropped. Room for one: its owner waits for each piece.
        jobs: Option<mpsc::Sender<Job>>,
        handle: Option<JoinHandle<()>>,
    }

    impl Thread {
        pub fn start(name: &str) -> Option<Self> {
            let (jobs, mut waiting) = mpsc::channel::<Job>(1);
            let work = move || {
                while let Some(job) = waiting.blocking_recv() {
                    job();
                }
            };
            match Builder::new().name(name.to_owned()).spawn(work) {
                Ok(handle) => Some(Self { jobs: Some(jobs), handle: Some(handle) }),
                Err(error) => {
                    tracing::warn!(%error, name, "no thread for this work: it runs on the pool");
                    None
                }
            }
        }

        pub async fn run<T, F>(&mut self, work: F) -> T
        where
            F: FnOnce() -> T + Send + 'static,
            T: Send + 'static,
        {
            let (answer, done) = oneshot::channel();
            // The answer of a panic is the panic, in the task that asked.
            let job = move || drop(answer.send(catch_unwind(AssertUnwindSafe(work))));
            if let Some(jobs) = &self.jobs
                && jobs.send(Box::new(job)).await.is_ok()
                && let Ok(done) = done.await
            {
                return done.unwrap_or_else(|panic| resume_unwind(panic));
            }
            // The thread ends with `self` only, and answers each job.
            std::future::pending().await
        }
    }

    impl Drop for Thread {
        fn drop(&mut self) {
            self.jobs = None;
            // At most one piece is under way; its panic has been told to whoever asked for it.
            if let Some(handle) = self.handle.take() {
                let _ = handle.join();
            }
        }
    }
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use flotilla_storage::{MemDisk, MemEngine};

    use super::*;

    fn engine() -> MemEngine {
        MemEngine::open(&MemDisk::new()).expect("a free disk")
    }

    #[tokio::test]
    async fn work_runs_in_order_on_one_thread_that_has_the_name() {
        let (engine, mut worker) = (engine(), Worker::start("flotilla-log"));
        let mut seen = Vec::new();
        for n in 0..100 {
            seen.push(worker.write(&engine, move || (n, std::thread::current().id())).await);
        }
        assert!(seen.iter().enumerate().all(|(at, (n, thread))| at == *n && *thread == seen[0].1), "{seen:?}");
        let name = worker.write(&engine, || std::thread::current().name().map(str::to_owned)).await;
        assert_eq!(name.as_deref(), Some("flotilla-log"));
    }

    #[tokio::test]
    async fn a_panic_comes_back_and_the_next_piece_is_done() {
        let mut worker = Worker::start("test");
        let failed = tokio::spawn(async move {
            let engine = engine();
            let panics = tokio::spawn(async move {
                let _: () = worker.write(&engine, || panic!("on purpose")).await;
                worker
            });
            panics.await.err().map(|error| error.is_panic())
        });
        assert_eq!(failed.await.expect("joined"), Some(true));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_dropped_worker_holds_nothing() {
        let held = Arc::new(());
        let mut worker = Worker::start("test");
        let (engine, work) = (engine(), held.clone());
        let slow = async {
            worker
                .write(&engine, move || {
                    std::thread::sleep(Duration::from_millis(100));
                    drop(work);
                })
                .await
        };
        // Given up in the middle, as when a runtime goes down.
        assert!(tokio::time::timeout(Duration::from_millis(20), slow).await.is_err());
        drop(worker);
        assert_eq!(Arc::strong_count(&held), 1, "the piece that was under way has ended");
    }
}
