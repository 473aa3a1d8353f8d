//! How many heaps the allocator may open in this process, and how soon it gives back what was freed.
//!
//! An allocator opens several heaps a core, as threads meet, and a heap keeps what was freed in it: buffers of a quarter of a MiB
//! that wander through the threads of storage and snapshots leave a trail in each. Measured with a snapshot of 340 MiB on two
//! cores and glibc's: the receiver took 130 MiB on top of what it needs at rest, and 63 MiB with one heap. jemalloc, with 420 to
//! 500 MiB: 78 MiB as it comes, 45 to 54 MiB with what stands below.
//!
//! Both read their bounds from the environment when a process begins, and the calls that set them later are not safe ones; so the
//! process begins once more, as the same process. Whoever sets the variable decides.

/// Two, so that two threads seldom wait for each other; small blocks come from each thread's own cache anyway.
#[cfg(feature = "jemalloc")]
#[cfg_attr(not(all(target_os = "linux", target_env = "gnu")), expect(dead_code))]
const BOUND: (&str, &str) = ("MALLOC_CONF", "narenas:2,dirty_decay_ms:500,muzzy_decay_ms:0,background_thread:true");
#[cfg(not(feature = "jemalloc"))]
#[cfg_attr(not(all(target_os = "linux", target_env = "gnu")), expect(dead_code))]
const BOUND: (&str, &str) = ("MALLOC_ARENA_MAX", "2");

/// Returns in a process with a bound; must come before the first thread.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn bound() {
    use std::os::unix::process::CommandExt;
    let (variable, value) = BOUND;
    if std::env::var_os(variable).is_some() {
        return;
    }
    let again = std::env::current_exe().map(std::process::Command::new);
    let error = match again {
        Ok(mut again) => again.args(std::env::args_os().skip(1)).env(variable, value).exec(),
        Err(error) => error,
    };
    tracing::warn!(%error, "cannot bound the allocator's heaps, memory may grow more than it must");
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn bound() {}
