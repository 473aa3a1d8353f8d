//! How many heaps glibc's allocator may open in this process.
//!
//! It opens up to eight a core, as threads meet, and a heap keeps what was freed in it: buffers of a quarter of a MiB that
//! wander through the threads of storage and snapshots leave a trail in each. Measured with a snapshot of 340 MiB on two
//! cores: the receiver took 130 MiB on top of what it needs at rest, and 63 MiB with one heap.
//!
//! glibc reads the bound from the environment when a process begins, and the call that sets it later is not a safe one; so the
//! process begins once more, as the same process. Whoever sets the variable decides.

/// Returns in a process with a bound; must come before the first thread.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn bound() {
    use std::os::unix::process::CommandExt;
    const VARIABLE: &str = "MALLOC_ARENA_MAX";
    // Two, so that two threads seldom wait for each other; small blocks come from each thread's own cache anyway.
    const HEAPS: &str = "2";
    if std::env::var_os(VARIABLE).is_some() {
        return;
    }
    let again = std::env::current_exe().map(std::process::Command::new);
    let error = match again {
        Ok(mut again) => again.args(std::env::args_os().skip(1)).env(VARIABLE, HEAPS).exec(),
        Err(error) => error,
    };
    tracing::warn!(%error, "cannot bound the allocator's heaps, memory may grow more than it must");
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn bound() {}
