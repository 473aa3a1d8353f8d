//! When a person or a supervisor asks the process to stop: Ctrl-C or SIGTERM. In the simulator only the first exists.

use std::io;

/// Completes at the first request to stop. Listens from the first poll on.
#[cfg(not(madsim))]
pub async fn stop() -> io::Result<()> {
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        biased;
        done = tokio::signal::ctrl_c() => done,
        _ = term.recv() => Ok(()),
    }
}

#[cfg(madsim)]
pub async fn stop() -> io::Result<()> {
    tokio::signal::ctrl_c().await
}
