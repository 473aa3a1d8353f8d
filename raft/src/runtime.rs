//! openraft's runtime: the workspace's `tokio`, which is plain tokio in production and simulated under `--cfg madsim`.
//!
//! Also, with `seam::worker`, the place where blocking work leaves the async runtime. Channels, watches and mutexes are
//! openraft's tokio wrappers: they touch neither clocks nor tasks, so they are the same in both worlds.

use std::fmt;
use std::future::Future;
use std::io;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use flotilla_proto::limits::TURNS_BEFORE_A_WRITE;
use flotilla_storage::Engine;
use openraft_rt::{AsyncRuntime, OptionalSend};
use openraft_rt_tokio::{TokioMpsc, TokioMutex, TokioOneshot, TokioWatch};

/// Runs `work` where it may block: on tokio's blocking threads, inline in the simulator (which has no threads).
#[cfg(not(madsim))]
pub async fn blocking<T, F>(work: F) -> T
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is going down and will never poll this again.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(madsim)]
pub async fn blocking<T, F>(work: F) -> T
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    work()
}

/// As [`blocking`], for work that ends in a write or a sync: first waits as long as a simulated disk is stalled.
pub async fn blocking_write<T, F>(engine: &dyn Engine, work: F) -> T
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    stalled(engine).await;
    blocking(work).await
}

/// Waits as long as a simulated disk is stalled.
pub(crate) async fn stalled(engine: &dyn Engine) {
    let stall = engine.stall();
    if !stall.is_zero() {
        tokio::time::sleep(stall).await;
    }
}

/// Lets the tasks that are ready run first, so that what they are about to hand over shares the caller's write. Returns at
/// once when nothing is ready: it costs an idle node nothing, and a busy one a few microseconds for fewer, larger writes.
pub async fn after_the_ready() {
    for _ in 0..TURNS_BEFORE_A_WRITE {
        tokio::task::yield_now().await;
    }
}

/// The runtime as openraft's type parameter.
#[derive(Debug)]
pub struct Runtime {
    #[cfg(not(madsim))]
    tokio: tokio::runtime::Runtime,
}

impl AsyncRuntime for Runtime {
    type JoinError = tokio::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = tokio::task::JoinHandle<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = Instant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = Timeout<T>;
    type ThreadLocalRng = rand::rngs::ThreadRng;
    type Mpsc = TokioMpsc;
    type Watch = TokioWatch;
    type Oneshot = TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        tokio::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        tokio::time::sleep(duration)
    }

    fn sleep_until(deadline: Instant) -> Self::Sleep {
        tokio::time::sleep_until(deadline.0)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        Timeout::new(future, tokio::time::sleep(duration))
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Instant, future: F) -> Self::Timeout<R, F> {
        Timeout::new(future, tokio::time::sleep_until(deadline.0))
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        join_error.is_panic()
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        rand::rng()
    }

    #[cfg(not(madsim))]
    fn new(threads: usize) -> Self {
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()
            .expect("a test machine can start threads");
        Self { tokio }
    }

    #[cfg(not(madsim))]
    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.tokio.block_on(future)
    }

    #[cfg(madsim)]
    fn new(_threads: usize) -> Self {
        Self {}
    }

    #[cfg(madsim)]
    fn block_on<F, T>(&mut self, _future: F) -> T
    where
        F: Future<Output = T>,
    {
        panic!("a simulated node has no thread to block; openraft calls this in its own tests only")
    }

    /// The default would start an operating system thread for each call.
    async fn spawn_blocking<F, T>(work: F) -> Result<T, io::Error>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        Ok(blocking(work).await)
    }
}

/// A point on the monotonic clock, simulated or real.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(pub tokio::time::Instant);

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, rhs: Duration) -> Self {
        Self(self.0 + rhs)
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, rhs: Duration) {
        self.0 += rhs;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;
    fn sub(self, rhs: Duration) -> Self {
        Self(self.0 - rhs)
    }
}

impl Sub<Self> for Instant {
    type Output = Duration;
    fn sub(self, rhs: Self) -> Duration {
        self.0 - rhs.0
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, rhs: Duration) {
        self.0 -= rhs;
    }
}

impl openraft_rt::Instant for Instant {
    fn now() -> Self {
        Self(tokio::time::Instant::now())
    }
}

/// The time was up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("deadline has elapsed")
    }
}

/// A future with a deadline. Boxed, because the simulated timer has no nameable timeout.
pub struct Timeout<T> {
    future: Pin<Box<T>>,
    sleep: Pin<Box<tokio::time::Sleep>>,
}

impl<T> Timeout<T> {
    fn new(future: T, sleep: tokio::time::Sleep) -> Self {
        Self { future: Box::pin(future), sleep: Box::pin(sleep) }
    }
}

impl<T: Future> Future for Timeout<T> {
    type Output = Result<T::Output, Elapsed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(value) = self.future.as_mut().poll(cx) {
            return Poll::Ready(Ok(value));
        }
        self.sleep.as_mut().poll(cx).map(|()| Err(Elapsed))
    }
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use super::*;

    #[test]
    fn passes_openrafts_runtime_conformance_suite() {
        openraft_rt::testing::Suite::<Runtime>::test_all();
    }
}
