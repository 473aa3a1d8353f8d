//! The command line: one file a command, no rule of the cluster here.

pub mod ask;
pub mod dev;
pub mod init;
pub mod start;
pub mod status;

use clap::{Parser, Subcommand};

/// Flotilla: a real-time chat server in one binary.
#[derive(Debug, Parser)]
#[command(name = "flotilla", version, about, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one node
    Start(Box<crate::config::StartArgs>),
    /// Make a cluster of nodes that are running and have none yet
    Init(init::InitArgs),
    /// Run a whole local cluster for development: nodes, demo users, ready to chat
    Dev(dev::DevArgs),
    /// Look at a cluster
    Cluster {
        #[command(subcommand)]
        command: ClusterCommand,
    },
}

#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Nodes, shards, leaders, lag
    Status(status::StatusArgs),
}

impl Cli {
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Start(args) => start::run(*args),
            Command::Init(args) => block_on(init::run(args)),
            Command::Dev(args) => block_on(dev::run(args)),
            Command::Cluster { command: ClusterCommand::Status(args) } => block_on(status::run(args)),
        }
    }
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
