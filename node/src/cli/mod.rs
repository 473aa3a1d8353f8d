//! The command line: one file a command, no rule of the cluster here.

pub mod api;
pub mod ask;
pub mod dev;
pub mod digest;
pub mod feature_level;
pub mod heaps;
pub mod init;
pub mod inspect;
pub mod limits;
pub mod open_files;
pub mod rejoin;
pub mod start;
pub mod status;
pub mod talk;

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
    /// Look into the data directory of a stopped node, without changing anything
    Inspect(inspect::InspectArgs),
    /// Look at a cluster, or repair it
    Cluster {
        #[command(subcommand)]
        command: ClusterCommand,
    },
    /// Write the API's documents: OpenAPI, AsyncAPI, JSON Schema, error codes
    Api(api::ApiArgs),
    /// Chat: conversations and a line to type in; in a pipe, plain lines
    Chat(talk::ChatArgs),
    /// Send one message; the answer is one JSON line
    Send(talk::SendArgs),
    /// Print everything that arrives, one JSON line an event
    Tail(talk::TailArgs),
}

#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Nodes, shards, leaders, lag
    Status(status::StatusArgs),
    /// Compare the state of all replicas of every shard
    Digest(digest::DigestArgs),
    /// Show or change, while it runs, how much clients may do
    Limits(limits::LimitsArgs),
    /// Show or raise the level of rules that the cluster keeps to
    FeatureLevel(feature_level::FeatureLevelArgs),
    /// Take a node back whose data directory is lost
    Rejoin(rejoin::RejoinArgs),
}

impl Cli {
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Start(args) => start::run(*args),
            Command::Init(args) => block_on(init::run(args)),
            Command::Dev(args) => block_on(dev::run(args)),
            Command::Inspect(args) => inspect::run(&args),
            Command::Api(args) => api::run(&args),
            Command::Cluster { command: ClusterCommand::Rejoin(args) } => block_on(rejoin::run(args)),
            Command::Cluster { command: ClusterCommand::Limits(args) } => block_on(limits::run(args)),
            Command::Cluster { command: ClusterCommand::FeatureLevel(args) } => block_on(feature_level::run(args)),
            Command::Cluster { command: ClusterCommand::Status(args) } => block_on(status::run(args)),
            Command::Cluster { command: ClusterCommand::Digest(args) } => block_on(digest::run(args)),
            Command::Chat(args) => block_on(talk::chat(args)),
            Command::Send(args) => block_on(talk::send(args)),
            Command::Tail(args) => block_on(talk::tail(args)),
        }
    }
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(work);
    // A thread that waits for standard input would hold the runtime up for ever. The process ends next; `shutdown_background`
    // is not known to the simulator's runtime.
    std::mem::forget(runtime);
    result
}
