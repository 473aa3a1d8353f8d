//! The `flotilla` binary.

use clap::Parser;
use flotilla_node::cli::talk::NotAll;
use flotilla_node::cli::{Cli, Command};
use tracing_subscriber::EnvFilter;

/// For RocksDB too, whose calls it takes over. Measured with glibc's: a quarter of all CPU went into it under load.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// openraft warns of every rpc of every group that a dead node does not answer, some forty lines a second; the peer
/// transport says it once. At a shutdown it calls what still came in an error; a core that ends by itself ends the process,
/// with a reason of its own. The same for heartbeats: their one error is an answer that came in after the group had stopped,
/// because its leader was told to or its node shuts down.
const LOG: &str = "info,openraft=error,openraft::raft::raft_inner=off,openraft::core::heartbeat=off";

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    // What a chat has to say stands on its screen.
    let usual = if matches!(cli.command, Command::Chat(_)) { "off" } else { LOG };
    let filter = EnvFilter::try_from_env("FLOTILLA_LOG").unwrap_or_else(|_| EnvFilter::new(usual));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    if matches!(cli.command, Command::Start(_)) {
        abort_on_panic();
    }
    match cli.run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flotilla: {error:#}");
            match error.downcast_ref::<NotAll>() {
                Some(not_all) => not_all.exit_code().into(),
                None => std::process::ExitCode::FAILURE,
            }
        }
    }
}

/// A node with a dead task looks alive to its peers and serves nobody: the worst failure. A dead process is noticed.
fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::force_capture();
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("without a name");
        eprintln!("flotilla: thread {name}: {panic}\n{backtrace}");
        eprintln!(
            "flotilla: this is a defect of flotilla; the process aborts, start it again and report the lines above"
        );
        std::process::abort();
    }));
}
