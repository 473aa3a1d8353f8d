//! The `flotilla` binary.

use clap::Parser;
use tracing_subscriber::EnvFilter;

/// openraft warns of every rpc of every group that a dead node does not answer, some forty lines a second; the peer
/// transport says it once. At a shutdown it calls what still came in an error; a core that ends by itself ends the process,
/// with a reason of its own.
const LOG: &str = "info,openraft=error,openraft::raft::raft_inner=off";

fn main() -> std::process::ExitCode {
    let filter = EnvFilter::try_from_env("FLOTILLA_LOG").unwrap_or_else(|_| EnvFilter::new(LOG));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match flotilla_node::cli::Cli::parse().run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flotilla: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
